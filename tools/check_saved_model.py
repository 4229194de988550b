"""Serves a run's held-out images from its exported SavedModel, without `coatnet_tf`, and reports.

    python -m tools.check_saved_model --workdir=runs/digits --saved_model=runs/digits/serving

The model comes from TensorFlow's loader alone, and gets images of the size and dtype that its signature takes. Its
accuracy must be the one that training reported; the result is then added to the run's `report.md`, with a contact sheet
that shows mistakes first.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
from pathlib import Path

import numpy as np
from absl import app, flags

from experiments import command_line, path_flags, report, workdir
from experiments.data import views
from tools import model_files
from tools.serving import exported, held_out

_HEADING = "## Served by the SavedModel"


def newest_version(folder: Path) -> Path:
    """The folder of the highest version.

    Args:
        folder: Folder of the versions.

    Returns:
        The newest version's folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    versions = [entry for entry in folder.iterdir() if entry.name.isdigit()] if folder.is_dir() else []
    if not versions and (folder / "saved_model.pb").is_file():
        raise FileNotFoundError(f"{folder} is a version itself; give the folder of the versions, {folder.parent}.")
    if not versions:
        raise FileNotFoundError(f"{folder} holds no version of a SavedModel; run tools.export_saved_model first.")
    return max(versions, key=lambda entry: int(entry.name))


class ContactSheet:
    """The images to show, mistakes first; no more of them are kept.

    Args:
        size: How many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[bool, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {False: [], True: []}

    def add(self, images: np.ndarray, targets: np.ndarray, probabilities: np.ndarray, right: np.ndarray) -> None:
        """Takes of a batch what will be shown, in order.

        Args:
            images: `[n, height, width, channels]`.
            targets: `[n, classes]`.
            probabilities: `[n, classes]`.
            right: bool `[n]`, whether the image's class was found.
        """
        for found, kept in self._kept.items():
            for index in np.flatnonzero(right == found)[: self._size - len(kept)]:
                # Copies: a view would keep the whole batch.
                kept.append((images[index].copy(), targets[index].copy(), probabilities[index].copy()))

    def shown(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, targets and probabilities."""
        images, targets, probabilities = zip(*[*self._kept[False], *self._kept[True]][: self._size], strict=True)
        return np.stack(images), np.stack(targets), np.stack(probabilities)


def add_to_report(folder: Path, version: Path, result: str) -> None:
    """Adds the section on serving to `report.md`, in place of an older one."""
    path = folder / workdir.REPORT
    text = path.read_text().split(_HEADING)[0]
    text += (
        f"{_HEADING}\n\nVersion {version.name}, loaded by a process of its own without `coatnet_tf`: {result}. "
        "Mistakes first:\n\n![Served images with predicted classes](served.png)\n"
    )
    path.write_text(text)


def check(folder: Path, saved_model: Path) -> str:
    """Serves the held-out images, compares the accuracy with training's and adds to the report.

    An export that sees images otherwise, such as at another size, has an accuracy of its own, which is not compared.

    Args:
        folder: Folder of the finished run.
        saved_model: Folder of the versions.

    Returns:
        One line with the result.

    Raises:
        FileNotFoundError: If the run is not finished or there is no version.
        ValueError: If the accuracy is another, or the export does not take the run's images.
    """
    model_files.refuse_run_on_values(folder)
    config = workdir.read_recipe(folder, workdir.METRICS, workdir.CLASSES, workdir.REPORT)
    version = newest_version(saved_model)
    model = exported.load_saved_model(version)
    sheet, right_count, count = ContactSheet(report.CONTACT_SHEET), 0, 0
    view, trained_on = held_out.view_of_export(version, model.image_shape[:2], config), views.of_recipe(config)
    for images, targets, probabilities in held_out.classify_held_out(model, folder, config, view):
        right = held_out.are_right(targets, probabilities)
        sheet.add(images, targets, probabilities, right)
        right_count, count = right_count + int(right.sum()), count + len(right)

    accuracy = right_count / count
    result = f"{right_count} of {count} held-out images right, {accuracy:.2%}"
    if view != trained_on:
        result += f"; it sees {view.describe()}, and training evaluated {trained_on.describe()}"
    else:
        trained = workdir.result_of(workdir.read_metrics(folder))["eval_accuracy"]
        if abs(accuracy - trained) > 1.5 / count:  # one image may sit on the fence between two classes
            raise ValueError(
                f"The SavedModel's accuracy {accuracy:.2%} is not the {trained:.2%} that training reported."
            )
    names = workdir.read_lines(folder / workdir.CLASSES)
    report.plot_predictions(*sheet.shown(), names, folder / "served.png")
    add_to_report(folder, version, result)
    return f"{version}: {result}"


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    try:
        print(check(Path(flags.FLAGS.workdir), Path(flags.FLAGS.saved_model)))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    path_flags.define("workdir", None, "Folder of the finished run.")
    path_flags.define("saved_model", None, "Folder of the versions, the newest of which is taken.")
    flags.mark_flags_as_required(["workdir", "saved_model"])
    app.run(main)
