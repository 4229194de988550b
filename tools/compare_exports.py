"""Compares exports of one run on its held-out images: size, accuracy, and agreement with the first.

    python -m tools.compare_exports --workdir=runs/fashion_mnist serving/1 serving/2 serving/3

prints a table; each of the arguments is the folder of one version.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments import workdir
from tools import check_saved_model


def megabytes_of_weights(version: Path) -> float:
    """Size of a SavedModel's variables on disk."""
    return sum(file.stat().st_size for file in (version / "variables").iterdir()) / 1e6


def compare(folder: Path, versions: Sequence[Path]) -> list[str]:
    """The table as Markdown.

    Args:
        folder: Folder of the finished run.
        versions: Folders of exported versions; the first is what the others are compared with.

    Returns:
        Its lines.

    Raises:
        FileNotFoundError: If the run is not finished, or a version is missing.
    """
    config = workdir.read_recipe(folder)
    for path in (version / "saved_model.pb" for version in versions):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
    lines = ["| export | weights, MB | held-out accuracy | same class as the first |", "| --- | ---: | ---: | ---: |"]
    first = None
    for version in versions:
        _, targets, probabilities = check_saved_model.classify(version, config)
        predicted = probabilities.argmax(axis=-1)
        first = predicted if first is None else first
        right, same = (predicted == targets.argmax(axis=-1)).mean(), (predicted == first).mean()
        lines.append(f"| {version} | {megabytes_of_weights(version):.2f} | {right:.2%} | {same:.2%} |")
    return lines


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("Name the folders of the versions to compare.")
    try:
        print("\n".join(compare(Path(flags.FLAGS.workdir), [Path(name) for name in argv[1:]])))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the finished run.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
