"""Compares exports of one run on its held-out images: size, accuracy, and agreement with the first.

    python -m tools.compare_exports --workdir=runs/fashion_mnist serving/1 serving/2 serving/3

prints a table; each of the arguments is the folder of one version, for whichever runtime it was exported.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from experiments import logs, path_flags, workdir
from tools import model_files
from tools.serving import exported, held_out, signatures


def compare_exports(folder: Path, versions: Sequence[Path]) -> list[str]:
    """The table as Markdown.

    Args:
        folder: Folder of the finished run.
        versions: Folders of exported versions; the first is what the others are compared with.

    Returns:
        Its lines.

    Raises:
        FileNotFoundError: If the run is not finished, or a folder holds no export.
        ValueError: If an export does not take the run's images, or has other classes.
    """
    model_files.refuse_run_on_values(folder)
    config = workdir.read_recipe(folder, workdir.CLASSES)
    classes = workdir.read_lines(folder / workdir.CLASSES)
    for version in versions:
        exported.format_of(version)  # all of them, before the first takes its time
    lines = ["| export | weights, MB | held-out accuracy | same class as the first |", "| --- | ---: | ---: | ---: |"]
    first = None
    for version in versions:
        model = exported.load_export(version)
        names_file = signatures.names_file_of(version)
        if names_file and workdir.read_lines(names_file) != classes:
            raise ValueError(f"{version} has other classes than {folder}, or has them in another order.")
        view = held_out.view_of_export(version, model.image_shape[:2], config)
        batches = held_out.classify_held_out(model, folder, config, view)
        found = [(held_out.are_right(targets, given), given.argmax(axis=-1)) for _, targets, given in batches]
        right, predicted = (np.concatenate(parts) for parts in zip(*found, strict=True))
        first = predicted if first is None else first
        same = (predicted == first).mean()
        lines.append(f"| {version} | {exported.megabytes_of_weights(version):.2f} | {right.mean():.2%} | {same:.2%} |")
    return lines


def main(argv: list[str]) -> None:
    logs.show_ours()
    if len(argv) < 2:
        raise app.UsageError("Name the folders of the versions to compare.")
    try:
        versions = [Path(path_flags.expand(name)) for name in argv[1:]]
        print("\n".join(compare_exports(Path(flags.FLAGS.workdir), versions)))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    path_flags.define("workdir", None, "Folder of the finished run.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
