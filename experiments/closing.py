"""The end of a run: what the finished model says of its images, and the files that it leaves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import keras
import ml_collections
import numpy as np
from etils import epath

import coatnet_tf
from experiments import label_noise, metrics, report, tuning, workdir
from experiments.data import folder_files, pipeline, sources
from experiments.data.readers import ValueFiles
from experiments.data.values import Values
from experiments.engine.engine import Engine
from experiments.predictions import Predict, Predictions


@dataclasses.dataclass(frozen=True)
class Said:
    """What the finished model says.

    Args:
        examples: The first held-out images, their targets and probabilities, for the report.
        splits: Of all images of those splits, `"eval"` and `"train"`, that are looked at once more.
    """

    examples: tuple[np.ndarray, np.ndarray, np.ndarray]
    splits: Mapping[str, Predictions]


def ask(config: ml_collections.ConfigDict, source: sources.Source, engine: Engine, predict: Predict) -> Said:
    """Asks the finished model; all processes of a cluster have to.

    Args:
        config: The recipe.
        source: The dataset.
        engine: With the weights that the run leaves.
        predict: From `Engine.result`.

    Returns:
        A `Said`. Each split is gone through once at most, and not at all if the features of its images are known.
    """
    splits = {}
    if label_noise.looks_at(source.eval) or source.multi_label or source.values or config.tune == tuning.HEAD:
        splits["eval"] = engine.predictions("eval", predict)
    if label_noise.looks_at(source.train):
        splits["train"] = engine.predictions("train", predict)
    first = pipeline.read_images(source.eval, source, config)
    places, images, targets = map(np.stack, zip(*itertools.islice(first, report.CONTACT_SHEET), strict=True))
    outputs = splits["eval"].outputs[places] if "eval" in splits else predict(images)
    return Said((images, targets, outputs), splits)


def write(
    config: ml_collections.ConfigDict,
    source: sources.Source,
    engine: Engine,
    counts_damaged: bool,
    model: keras.Model,
    confusion: np.ndarray | None,
    said: Said,
    folder: epath.Path,
) -> None:
    """Writes `model.keras`, the names of its classes, and `report.md` with its pictures.

    Args:
        config: The recipe.
        source: The dataset.
        engine: With the weights that the run leaves.
        counts_damaged: As of `Devices`.
        model: From `Engine.result`.
        confusion: From `Engine.confusion`.
        said: From `ask`.
        folder: Folder of the run.
    """
    _write_model(model, source, said.examples[0], folder)
    of_files = {split: found for split, found in said.splits.items() if label_noise.looks_at(getattr(source, split))}
    disagreements = label_noise.find(source, config, of_files)
    further = label_noise.write(disagreements, source, folder)
    facts = {}
    if source.values:
        further = _write_values(source, source.values, said, folder)
    else:
        report.plot_predictions(*said.examples, source.class_names, folder / report.PREDICTIONS)
    if source.multi_label:
        held_out = said.splits["eval"]
        outputs, targets = held_out.outputs[held_out.read], held_out.targets[held_out.read]
        several = metrics.measure_several(outputs, targets, source.class_names)
        facts["Mean average precision"] = f"{several['mean_average_precision']:.2%}"
        facts["Accuracy"] = "the share of the images of which the likeliest class is one of theirs"
        further = ["## Classes", "", *report.class_table(several["by_class"]), "", *further]
    report.write(
        folder,
        title=f"{config.model.name} on {source.name}",
        rows=workdir.read_metrics(folder),
        confusion=confusion,
        class_names=source.class_names,
        further=further,
        facts={**facts, **_facts(config, source, engine, counts_damaged, folder)},
    )


def _write_values(source: sources.Source, values: Values, said: Said, folder: epath.Path) -> list[str]:
    """Writes the pictures of a run on numbers, and returns the lines of its report."""
    assert isinstance(source.eval, ValueFiles)
    images, _, predicted = said.examples
    held_out = said.splits["eval"]
    told, outputs = source.eval.numbers[held_out.read], held_out.outputs[held_out.read]
    report.plot_values(images, told[: len(images)], predicted, values.names, folder / report.PREDICTIONS)
    report.plot_told(told, outputs, values.names, folder / report.TOLD)
    measured = metrics.measure_values(outputs, told, values.means, values.deviations, values.names)
    return [
        "## Numbers",
        "",
        f"Of {measured['images']:,} held-out images, in the units of the table, whose numbers are in brackets above. "
        "Losses are squared errors, and curves absolute ones, in deviations of the training images: always saying the "
        "mean costs about 1. Confusion, top-5 accuracy and labels to look at are of classes, and left out.",
        "",
        *report.value_table(measured["by_value"]),
        "",
        f"![What the model says against what the table says]({report.TOLD})",
        "",
    ]


def _write_model(model: keras.Model, source: sources.Source, examples: np.ndarray, folder: epath.Path) -> None:
    """Writes the model for its users, the names of its outputs and a few images for the certificates of exports."""
    with (folder / workdir.PROBES).open("wb") as file:
        np.savez_compressed(file, images=examples[: workdir.CERTIFIED])
    unfinished = folder / f".unfinished-{workdir.MODEL}"
    model.save(unfinished)
    unfinished.replace(folder / workdir.MODEL)
    names = folder / (workdir.VALUES if source.values else workdir.CLASSES)
    names.write_text("\n".join(source.class_names) + "\n")


def _facts(
    config: ml_collections.ConfigDict,
    source: sources.Source,
    engine: Engine,
    counts_damaged: bool,
    folder: epath.Path,
) -> dict[str, str]:
    """What the report's table says of any run."""
    damaged = f"{len(engine.damaged.names) + len(engine.damaged_in_evaluation.names):,}"
    if not counts_damaged:
        damaged = "not counted, but named in the logs of the hosts"
    cost = coatnet_tf.profile(engine.network)
    left_out = folder_files.count_by_reason(source.left_out)
    chosen = {}
    if config.dataset.balance == "sampling":
        chosen["Classes"] = "as many training images of each in every epoch"
    if config.dataset.balance == "weights":
        weights = zip(source.class_names, sources.class_weights(source), strict=True)
        chosen["Weights of the classes in the training loss"] = ", ".join(f"{n} {w:.3g}" for n, w in weights)
    if engine.best is not None:
        rows = workdir.read_metrics(folder)
        chosen["Kept"] = (
            f"epoch {workdir.result_of(rows)['epoch']:g}, of the lowest held-out loss in {rows[-1]['epoch']:g} epochs: "
            "the held-out images chose it, so that what is measured on them is optimistic"
        )
    return {
        **chosen,
        "Parameters": f"{cost.params:,}",
        **({} if config.tune == tuning.ALL else {"Trained": tuning.describe(config, engine.model)}),
        "Multiply-accumulates an image": f"{cost.macs:,}",
        "How images come to the model": pipeline.describe(source, config),
        "Training images": f"{source.train.count:,}",
        "Held-out images": f"{source.eval.count:,}",
        **({"Files that are not read": f"{left_out}; see {workdir.LEFT_OUT}"} if left_out else {}),
        "Images left out, as they cannot be decoded": damaged,
        "Steps left out, as they were not finite": f"{engine.skipped.total:,}",
    }
