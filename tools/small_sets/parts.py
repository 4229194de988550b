"""What the study compares: fine-tuning with one part more, all parts together, and other people's ways."""

from __future__ import annotations

import gc
import json
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import ml_collections
from etils import epath
from sklearn import linear_model, pipeline, preprocessing

from coatnet_tf.pretrained.correspondence import make_tensors
from coatnet_tf.pretrained.tensor_files import write_tensors
from coatnet_tf.pretrained.timm import TIMM as NAMES_OF_TIMM
from experiments import engine, loop, tuning, workdir
from experiments.data import pipeline as batches
from experiments.data import sources
from experiments.recipes import small_folder
from tools import few_shot, fine_tune, model_files
from tools.fine_tuning.images import find_images
from tools.fine_tuning.start import find_start
from tools.small_sets.images import SmallSet

PLAIN, LONGER, TOGETHER, LOGISTIC = "plain", "twice the epochs", "together", "logistic regression"
OF_TIMM = {"timm": PLAIN, "timm, twice the time": LONGER}  # ways, and whose time they have
_ADDED = {
    "batch_norm_momentum": 0.9,
    "optimizer.layer_decay": 0.75,
    "augment.cutmix_alpha": 1.0,
    "augment.random_erasing": 0.25,
}
_WEIGHTS = {"dataset.balance": "weights"}
_OF_UNEQUAL_SETS: Mapping[str, Mapping[str, Any]] = {
    "class weights": _WEIGHTS,
    "sampling": {"dataset.balance": "sampling"},
}
# Fields that each part changes of what tools.fine_tune does by itself.
_PARTS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    LONGER: {},
    **{field.rpartition(".")[2].replace("_", " "): {field: value} for field, value in _ADDED.items()},
    **_OF_UNEQUAL_SETS,
    TOGETHER: _ADDED,
    "head": {"tune": tuning.HEAD},
    # The rate of the ways that train all weights, and 30 times it.
    **{f"head, rate {rate}": {"tune": tuning.HEAD, "optimizer.learning_rate": rate} for rate in (0.001, 0.03)},
    "last blocks": {"tune": tuning.LAST_BLOCKS},
    "LoRA": {"tune": tuning.LORA},
}
WAYS = (*_PARTS, LOGISTIC, *OF_TIMM)  # in the order of the table
_NO_RUN = epath.Path("unwritten")  # no checkpoint: a run takes less than a minute
_PEER = Path(__file__).parents[1] / "benchmarks" / "peers" / "timm_fine_tuning.py"

Measured = dict[str, float]  # `accuracy` in percent, `seconds` of processor time


def is_for(way: str, small: SmallSet) -> bool:
    """Whether a way has a meaning for a set."""
    return small.is_unequal or way not in _OF_UNEQUAL_SETS


def part_of(way: str, small: SmallSet) -> Mapping[str, Any]:
    """The fields that a way changes; all together has weights too where classes are unequal."""
    if way == LONGER:
        return {"epochs": 2 * small_folder.get_config(str(sum(small.train))).epochs}
    return {**_PARTS[way], **(_WEIGHTS if way == TOGETHER and small.is_unequal else {})}


def configure(start: Path, table: Path, seed: int, part: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The recipe that `tools.fine_tune` would take, without early stopping: held-out images choose nothing."""
    fixed = {"early_stop_patience": 0, "seed": seed}
    images = find_images(f"csv:{table}")
    return fine_tune.configure(images, find_start(str(start)), {**fixed, **part})


class FineTuning:
    """Fine-tuning with a part on one set, in this process: compiled once, then begun anew for each seed.

    The classifier begins with the same random weights for all seeds, but of a head alone. The seeds differ in the
    images that are trained on, in their order and in their augmentation.

    Args:
        start: Folder of the run whose weights it begins with.
        table: Of any seed, as only the images that are trained on differ.
        part: From `part_of`.
        seed: Of the classifier that it begins with, and of what a head's features are computed of.
    """

    def __init__(self, start: Path, table: Path, part: Mapping[str, Any], seed: int = 0) -> None:
        begun = time.process_time()
        self._start, self._part = start, part
        self._devices = engine.connect("one_device")
        config, source = self._prepare(table, seed)
        self._engine, _, _ = loop.build(config, _NO_RUN, self._devices, source)
        variables = [variable for group in self._engine.state().values() for variable in group]
        self._begin_with = [(variable, variable.numpy()) for variable in variables]
        self._engine.begin(0)
        self._engine.train(1)
        self.seconds = time.process_time() - begun  # of processor time, to build and to compile

    def _prepare(self, table: Path, seed: int) -> tuple[ml_collections.ConfigDict, sources.Source]:
        config = configure(self._start, table, seed, self._part)
        return config, loop.prepare(config, _NO_RUN, self._devices)

    def measure(self, table: Path, seed: int) -> Measured:
        """Trains on the images of a seed.

        Args:
            table: The images.
            seed: Of the training.

        Returns:
            What was measured on the held-out images; the seconds are with those of the compilation.

        Raises:
            RuntimeError: If gradients are not finite.
        """
        begun = time.process_time()
        config, source = self._prepare(table, seed)
        for variable, value in self._begin_with:
            variable.assign(value)
        if self._part.get("tune") == tuning.HEAD:
            self._engine.begin(0)
        else:
            self._engine.batches = iter(batches.training_batches(source, config))
        self._engine.train(config.epochs * batches.training_order(source, config).steps_per_epoch)
        if self._engine.skipped.total:
            raise RuntimeError(f"{table}, {dict(self._part)}: {self._engine.skipped.total} gradients were not finite.")
        accuracy = 100 * self._engine.evaluate_held_out()["eval_accuracy"]
        return {"accuracy": accuracy, "seconds": self.seconds + time.process_time() - begun}


def fine_tune_all(start: Path, tables: Mapping[int, Path], part: Mapping[str, Any]) -> Iterator[tuple[int, Measured]]:
    """Fine-tunes with a part on the tables of several seeds; gives each seed with what was measured."""
    trained: FineTuning | None = None
    for seed, table in tables.items():
        of_one_table = part.get("tune") == tuning.HEAD  # as its features are
        if trained is None or of_one_table:
            trained = None
            keras.backend.clear_session()
            gc.collect()
            trained = FineTuning(start, table, part, seed if of_one_table else 0)
        yield seed, trained.measure(table, seed)


def regress(start: Path, table: Path) -> Measured:
    """scikit-learn's logistic regression on the features of the frozen network, its penalty chosen by five folds."""
    begun = time.process_time()
    model, view = few_shot.load_embeddings(str(start))
    source = sources.prepare(configure(start, table, 0, {}).dataset)
    train, held_out = (few_shot.embed(model, view, source, split)[:2] for split in ("train", "eval"))
    with warnings.catch_warnings():  # of classes with fewer images than folds, and of names that will change
        warnings.simplefilter("ignore")
        classifier = pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegressionCV(Cs=10, cv=5, max_iter=1000)
        ).fit(*train)
    accuracy = 100 * classifier.score(*held_out)
    keras.backend.clear_session()
    return {"accuracy": accuracy, "seconds": time.process_time() - begun}


def ask_timm(python: str, start: Path, table: Path, seed: int, seconds: float) -> Measured:
    """Fine-tunes by timm on torch, in a process of its own.

    Args:
        python: Of an environment that has torch and timm.
        start: As of `FineTuning`; its weights are written beside its model for timm's network of the same shape.
        table: The images.
        seed: Of the training.
        seconds: Of processor time that it may take.

    Returns:
        What was measured on the held-out images.

    Raises:
        RuntimeError: If it fails; the message has the end of what it said.
    """
    weights = start / "timm.safetensors"
    if not weights.is_file():
        write_tensors(make_tensors(model_files.load(start / workdir.MODEL), NAMES_OF_TIMM), weights)
    command = [python, str(_PEER), str(table), str(weights), str(seed), f"{seconds:.1f}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])
