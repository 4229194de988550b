"""Evaluates the model of a finished run on its held-out split, or on other data of the same classes.

    python -m experiments.evaluate --workdir=runs/fashion_mnist
    python -m experiments.evaluate --workdir=runs/flowers --data=folder:/data/flowers --split=test
    python -m experiments.evaluate --workdir=runs/flowers --data=folder:/data/new_flowers --split=all

Writes into `--output` (`WORKDIR/evaluation`, and for other images a folder beside it that is named after them):
`evaluation.md` with top-1 and its 95 % interval, balanced accuracy, top-5, loss, calibration error and a table by
class, `evaluation.json` with the same numbers, and `confusion.png`. Where an image can have several classes: mean
average precision, loss and the table. Where numbers are learned: mean absolute error and R² with intervals, and
`values.png`, told against predicted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from typing import Any

import keras
import ml_collections
import numpy as np
import tqdm
from absl import app, flags
from etils import epath

from coatnet_tf.weights.keras_file import enumerate_names  # its package registers the layers of model.keras
from experiments import command_line, metrics, path_flags, report, workdir
from experiments.data import folder_files, folder_splits, pipeline, sources
from experiments.data.damage import DamagedImages
from experiments.data.readers import ValueFiles, have_common
from experiments.stops import RunStopped

MAX_BATCH_SIZE = 64  # one device has to hold it


def evaluate(run: epath.Path, output: epath.Path, data: str = "", split: str = "") -> dict[str, Any]:
    """Evaluates the model of a finished run.

    Args:
        run: Folder of the run.
        output: Folder for the report; made if it is missing.
        data: Dataset in place of the run's, `tfds:NAME`, `folder:PATH` or `csv:FILE`.
        split: Split in place of the run's held-out one.

    Returns:
        What `metrics.measure` returns, or `metrics.measure_several` if an image can have several classes, or
        `metrics.measure_values` of numbers, `damaged_images` (their names), `left_out` (how many files of a folder are
        not read, and why), `data`, `split` and `model` (its SHA-256), and whether what is measured is optimistic:
        `chose_the_weights`, by early stopping or by trying what to train, `trained_on`, as some were trained on.

    Raises:
        FileNotFoundError: If the run is not finished, or data is missing.
        ValueError: If the data has other classes or channels than the model.
        RunStopped: If more images cannot be decoded than the recipe allows.
    """
    names_file = workdir.outputs_file(run)
    config = workdir.read_recipe(run, workdir.MODEL, names_file)
    dataset, of_run = config.dataset, config.dataset.copy_and_resolve_references()
    chosen_on = (_place(dataset.name), dataset.eval_split)
    dataset.name, dataset.eval_split = data or dataset.name, split or dataset.eval_split
    on_others = (_place(dataset.name), dataset.eval_split) != chosen_on
    files = sources.of_files(dataset.name)
    if files is None:
        dataset.train_split = dataset.eval_split  # which alone is read
    elif on_others:
        files[0].check_split(files[1], dataset.train_split, dataset.eval_split)
    config.batch_size = min(config.batch_size, MAX_BATCH_SIZE)
    source = sources.prepare(config.dataset)
    if files is not None and not on_others:
        workdir.check_data(run, source, "give the images to measure in a folder of their own, as --data")
    class_names = tuple(workdir.read_lines(run / names_file))
    if source.class_names != class_names:
        raise ValueError(_describe_difference(source, class_names))
    if source.multi_label and config.loss == "softmax":
        raise ValueError(f"Images of {source.name} can have several classes, and the model gives each one (softmax).")
    model = _load(run / workdir.MODEL)
    if model.input_shape[-1] != source.channels:
        raise ValueError(f"{source.name} has {source.channels} channels and the model takes {model.input_shape[-1]}.")

    output.mkdir(parents=True, exist_ok=True)
    damaged = DamagedImages(source.eval.count, config.dataset.max_damaged_share)
    outputs, targets = _predict(model, source, config, damaged)
    if source.values:
        of_training = json.loads((run / workdir.DATA).read_text())["values"]
        measured = metrics.measure_values(outputs, targets, of_training["mean"], of_training["deviation"], class_names)
    elif source.multi_label:
        measured = metrics.measure_several(outputs, targets, class_names)
    else:
        measured = metrics.measure(outputs, targets.argmax(axis=-1), class_names)
    measured["damaged_images"] = damaged.names
    measured["left_out"] = folder_files.count_by_reason(source.left_out)
    trained_on, chosen_by = _seen(source, of_run) if on_others else (False, True)
    is_chosen = bool(config.get("early_stop_patience")) or (run.parent / workdir.TRIES).exists()
    measured |= {"trained_on": trained_on, "chose_the_weights": is_chosen and chosen_by}
    digest = hashlib.sha256((run / workdir.MODEL).read_bytes()).hexdigest()
    measured |= {"data": dataset.name, "split": dataset.eval_split, "model": digest}
    workdir.write_whole(output / "evaluation.json", json.dumps(measured, indent=2) + "\n")
    if source.values:
        report.plot_told(targets, outputs, class_names, output / report.TOLD)
    elif not source.multi_label:
        confusion = metrics.confusion_matrix(outputs, targets.argmax(axis=-1))
        report.plot_confusion(confusion, class_names, output / "confusion.png")
    title = f"{config.model.name} on {source.name}, {config.dataset.eval_split}"
    workdir.write_whole(output / "evaluation.md", _describe(title, measured))
    if source.left_out:
        workdir.write_whole(output / workdir.LEFT_OUT, folder_files.describe(source.left_out))
    return measured


def _place(data: str) -> str:
    """A dataset by where its files lie, however that is written."""
    kind, _, path = data.partition(":")
    return f"{kind}:{os.path.realpath(path)}" if kind in ("folder", "csv") and "://" not in path else data


def _seen(source: sources.Source, of_run: ml_collections.ConfigDict) -> tuple[bool, bool]:
    """Whether images to measure are among those that a run was trained on, and among those that it held out."""
    try:
        begun_with = sources.prepare(of_run)
    except (OSError, ValueError):  # these are not there any more, so that others are measured
        return False, False
    return have_common(source.eval, begun_with.train), have_common(source.eval, begun_with.eval)


def _refuse_to_replace(output: epath.Path, data: str) -> None:
    """Refuses a default folder that holds the evaluation of other images, whose folder has the same name."""
    file = output / "evaluation.json"
    before = json.loads(file.read_text())["data"] if file.is_file() else data
    if _place(before) != _place(data):
        raise FileExistsError(f"{output} holds the evaluation of {before}, which is another; give --output.")


def _describe_difference(source: sources.Source, class_names: tuple[str, ...]) -> str:
    """Which classes a dataset and a model do not share, in a sentence."""
    parts = [
        f"{whose} has {len(names)} classes{_some(names, others)}"
        for whose, names, others in (
            (source.name, source.class_names, class_names),
            ("the model", class_names, source.class_names),
        )
    ]
    hint = ""
    if all(map(folder_splits.purpose_of, source.class_names)):
        hint = f" {source.name} has splits; give one of them as --data, such as {source.name}/{source.class_names[0]}."
    return f"{parts[0]}, and {parts[1]}; they must be the same, in the same order.{hint}"


def _some(names: Sequence[str], others: Sequence[str]) -> str:
    own = [repr(name) for name in names if name not in others]
    return f", of which the other lacks {enumerate_names(own)}" if own else ""


def folder_of(run: epath.Path, data: str = "", split: str = "") -> epath.Path:
    """Where an evaluation is written by default: `evaluation`, or of other images than the held-out ones beside it.

    Args:
        run: Folder of the run.
        data: As of `evaluate`.
        split: Likewise.
    """
    named = [name.rstrip("/").rpartition("/")[2].rpartition(":")[2] for name in (data, split) if name]
    return run / re.sub(r"\W+", "_", "_".join(["evaluation", *named]))


def _load(path: epath.Path) -> keras.Model:
    with workdir.on_this_machine(path) as local:
        workdir.refuse_damaged_model(local)
        return keras.models.load_model(local, compile=False)


def _predict(
    model: keras.Model, source: sources.Source, config: ml_collections.ConfigDict, damaged: DamagedImages
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and targets, `[images, classes]` each; or numbers in their units, predicted and told."""
    found = []
    with tqdm.tqdm(total=source.eval.count, unit=" images", unit_scale=True) as progress:
        for images, targets, weights in pipeline.evaluation_batches(source, config, damaged=damaged):
            found.append(
                (model.predict_on_batch(images.numpy().astype("float32")), targets.numpy(), weights.numpy() > 0)
            )
            progress.update(int(found[-1][2].sum()))  # neither filling nor damaged
            if problem := damaged.problem():
                raise RunStopped(problem)
    outputs, told, kept = (np.concatenate(parts)[: source.eval.count] for parts in zip(*found, strict=True))
    if isinstance(source.eval, ValueFiles):
        told = source.eval.numbers  # as the table has them, not standardised by its own images
    return outputs[kept], told[kept]


def describe_top1(measured: dict[str, Any]) -> str:
    """Top-1 with its interval and what weakens it, for people."""
    low, high = measured["top1_interval"]
    why = why_optimistic(measured)
    return f"{measured['top1']:.2%} (95 % interval: {low:.2%} to {high:.2%}{f'; {why}' if why else ''})"


def why_optimistic(measured: dict[str, Any]) -> str:
    """What weakens a measurement, in words; empty if nothing does."""
    if measured.get("trained_on"):
        return "optimistic, as images of these were trained on"
    return "optimistic, as these images chose the weights" if measured["chose_the_weights"] else ""


def describe_result(measured: dict[str, Any]) -> str:
    """What was measured in one line: top-1, of several classes an image the mean average precision, or of numbers."""
    if "top1" in measured:
        return f"top-1 {describe_top1(measured)}"
    if "by_value" in measured:
        return "; ".join(_describe_value(*item) for item in measured["by_value"].items()) + _in_brackets(measured)
    return f"mean average precision {measured['mean_average_precision']:.2%}{_in_brackets(measured)}"


def _in_brackets(measured: dict[str, Any]) -> str:
    """`why_optimistic` behind a number."""
    why = why_optimistic(measured)
    return f" ({why})" if why else ""


def _describe_value(name: str, of_value: dict[str, Any]) -> str:
    """A column of numbers in one line."""
    interval, r2 = of_value["mean_absolute_error_interval"], of_value["r2"]
    low_and_high = f"95 % interval: {interval[0]:.4g} to {interval[1]:.4g}; " if interval else ""
    text = f"{name}: mean absolute error {of_value['mean_absolute_error']:.4g} ({low_and_high}always the mean: "
    text += f"{of_value['error_of_the_mean']:.4g})"
    if r2 is None:
        return text
    low, high = of_value["r2_interval"]
    return f"{text}, R² {r2:.3f} ({low:.3f} to {high:.3f})"


def _describe(title: str, measured: dict[str, Any]) -> str:
    """The text of `evaluation.md`."""
    lines = [f"# {report.cell(title)}", "", "| | |", "| --- | --- |", f"| Images | {measured['images']:,} |"]
    lines += [f"| Left out, as they cannot be decoded | {len(measured['damaged_images']):,} |"]
    if measured["left_out"]:
        lines += [f"| Files that are not read | {measured['left_out']}; see {workdir.LEFT_OUT} |"]
    if "by_value" in measured:
        lines += [
            f"| Loss (squared error in deviations; of always saying the mean about 1) | {measured['loss']:.4f} |",
            "",
        ]
        lines += [*report.value_table(measured["by_value"]), ""]
        if why := why_optimistic(measured):
            lines += [f"All are {why}.", ""]
        return "\n".join([*lines, f"![What the model says against what the table says]({report.TOLD})"]) + "\n"
    if "top1" not in measured:
        lines += [f"| Mean average precision | {measured['mean_average_precision']:.2%}{_in_brackets(measured)} |"]
        lines += [f"| Loss | {measured['loss']:.4f} |", "", *report.class_table(measured["by_class"])]
        return "\n".join(lines) + "\n"
    lines += [f"| Top-1 | {describe_top1(measured)} |"]
    lines += [
        f"| Balanced accuracy (mean recall) | {measured['balanced_accuracy']:.2%} |",
        f"| Top-5 | {measured['top5']:.2%} |",
    ]
    lines += [f"| Loss | {measured['loss']:.4f} |"]
    lines += [f"| Calibration error | {measured['calibration_error']:.4f} |", ""]
    lines += ["![Counts by true and predicted class](confusion.png)", ""]
    lines += report.class_table(measured["by_class"])
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    run = epath.Path(flags.FLAGS.workdir)
    data, split = flags.FLAGS.data or "", flags.FLAGS.split
    output = epath.Path(flags.FLAGS.output) if flags.FLAGS.output else folder_of(run, data, split)
    try:
        if not flags.FLAGS.output:
            _refuse_to_replace(output, data or workdir.read_recipe(run).dataset.name)
        measured = evaluate(run, output, data, split)
    except (ValueError, OSError, RunStopped) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    further = f"loss {measured['loss']:.4f}"
    if "top1" in measured:
        calibration = f"calibration error {measured['calibration_error']:.4f}"
        further = f"top-5 {measured['top5']:.2%}, {further}, {calibration}"
    print(f"{measured['images']} images: {describe_result(measured)}, {further}; see {output}/evaluation.md")


if __name__ == "__main__":
    path_flags.define("workdir", None, "Folder of the finished run.")
    path_flags.define("output", None, "Folder for the report; WORKDIR/evaluation, or of other images one beside it.")
    path_flags.define("data", None, "Dataset in place of the run's: tfds:NAME, folder:PATH or csv:FILE.")
    flags.DEFINE_string("split", "", "Split in place of the run's held-out one.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
