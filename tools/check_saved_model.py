"""Serves a run's held-out images from its exported SavedModel, without `coatnet_tf`, and reports.

    python -m tools.check_saved_model --workdir=runs/digits --saved_model=runs/digits/serving

The model comes from TensorFlow's loader alone. Its accuracy must be the one that training reported; the
result is then added to the run's `report.md`, with a contact sheet that shows every mistake first.
"""

from __future__ import annotations

from pathlib import Path

import ml_collections
import numpy as np
import tensorflow as tf
from absl import app, flags

from experiments import report, workdir
from experiments.data import pipeline, sources

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
    versions = [entry for entry in folder.glob("*") if entry.name.isdigit()]
    if not versions:
        raise FileNotFoundError(f"{folder} holds no version of a SavedModel; run tools.export_saved_model first.")
    return max(versions, key=lambda entry: int(entry.name))


def classify(version: Path, config: ml_collections.ConfigDict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classifies the held-out images of a run.

    Args:
        version: Folder of the SavedModel.
        config: The run's recipe.

    Returns:
        Images in [0, 255], labels and probabilities of all held-out images.
    """
    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    images, targets, probabilities = [], [], []
    for image, target, weight in pipeline.evaluation_batches(sources.prepare(config.dataset), config):
        image = tf.boolean_mask(image, weight > 0)  # the last batch is filled up
        scores = serve(images=tf.cast(image, tf.float32))["probabilities"]
        images.append(image.numpy())
        targets.append(tf.boolean_mask(target, weight > 0).numpy())
        probabilities.append(scores.numpy())
    return np.concatenate(images), np.concatenate(targets), np.concatenate(probabilities)


def add_to_report(folder: Path, version: Path, accuracy: float, mistakes: int, count: int) -> None:
    """Adds the section on serving to `report.md`, in place of an older one."""
    path = folder / workdir.REPORT
    text = path.read_text().split(_HEADING)[0]
    text += (
        f"{_HEADING}\n\nVersion {version.name}, loaded by a process of its own without `coatnet_tf`: "
        f"{count - mistakes} of {count} held-out images right, {accuracy:.2%}. Mistakes first:\n\n"
        "![Served images with predicted classes](served.png)\n"
    )
    path.write_text(text)


def check(folder: Path, saved_model: Path) -> str:
    """Serves the held-out images, compares the accuracy with training's and adds to the report.

    Args:
        folder: Folder of the finished run.
        saved_model: Folder of the versions.

    Returns:
        One line with the result.

    Raises:
        FileNotFoundError: If the run is not finished or there is no version.
        ValueError: If the accuracy is another.
    """
    config = workdir.read_recipe(folder, workdir.METRICS, workdir.CLASSES, workdir.REPORT)
    version = newest_version(saved_model)
    images, targets, probabilities = classify(version, config)

    right = probabilities.argmax(axis=-1) == targets.argmax(axis=-1)
    accuracy = float(right.mean())
    trained = workdir.result_of(workdir.read_metrics(folder))["eval_accuracy"]
    if abs(accuracy - trained) > 1.5 / len(right):  # one image may sit on the fence between two classes
        raise ValueError(f"The SavedModel's accuracy {accuracy:.2%} is not the {trained:.2%} that training reported.")
    first = np.argsort(right, kind="stable")[: report.CONTACT_SHEET]
    names = (folder / workdir.CLASSES).read_text().splitlines()
    report.plot_predictions(images[first], targets[first], probabilities[first], names, folder / "served.png")
    add_to_report(folder, version, accuracy, int((~right).sum()), len(right))
    return f"{version}: {right.sum()} of {len(right)} held-out images right, {accuracy:.2%}"


def main(argv: list[str]) -> None:
    del argv
    try:
        print(check(Path(flags.FLAGS.workdir), Path(flags.FLAGS.saved_model)))
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the finished run.")
    flags.DEFINE_string("saved_model", None, "Folder of the versions, the newest of which is taken.")
    flags.mark_flags_as_required(["workdir", "saved_model"])
    app.run(main)
