"""How good a network's features are for few images: nearest neighbours and a linear classifier on some of each class.

    python -m tools.few_shot --model=timm/coatnet_0_rw_224.sw_in1k --data=folder:/path/to/images
    python -m tools.few_shot --model=runs/mine --data=folder:/path/to/images --shots=1,5,10 --k=1,3 --seeds=10

Nothing is trained but the classifier. The vector of an image is the mean of the last feature map
(`coatnet_tf.embeddings`). Each seed draws so many training images of each class; the classifiers see these alone
and are asked about all held-out images. `k` nearest neighbours vote by cosine distance, those that are nearer with more
weight, its inverse. The linear classifier is big_vision's few-shot probe, least squares with an L2 penalty, on
standardised vectors; leave-one-out on the drawn images chooses the penalty, never the held-out ones. The interval is of
the mean over seeds (95 %, Student's t): of the draws, not of the held-out images.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import ml_collections
import numpy as np
import tqdm
from absl import app, flags
from sklearn import linear_model, neighbors, pipeline, preprocessing

import coatnet_tf
from coatnet_tf.pretrained import CATALOG, is_pretrained_name
from experiments import command_line, path_flags
from experiments.ablation.statistics import Summary
from experiments.data import folder, sources, views
from experiments.data import pipeline as images
from experiments.data.damage import DamagedImages
from experiments.data.readers import Reader
from tools import model_files

PENALTIES = np.logspace(-3, 6, 19)
BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Draws:
    """How often and how many images are drawn.

    Args:
        shots: Training images of each class, one number for each row of the table.
        neighbours: Numbers of nearest neighbours.
        seeds: Number of draws.
    """

    shots: Sequence[int] = (1, 5, 10)
    neighbours: Sequence[int] = (1,)
    seeds: int = 5

    def __post_init__(self) -> None:
        for name, values in (("shots", self.shots), ("k", self.neighbours), ("seeds", [self.seeds])):
            if not values or min(values) < 1:
                raise ValueError(f"--{name} must be at least 1; got {', '.join(map(str, values)) or 'nothing'}.")


def load_embeddings(name: str) -> tuple[keras.Model, views.View]:
    """The model of vectors of a network, and what it sees of an image.

    Args:
        name: Folder of a finished run, a `.keras` file, or a name that `coatnet_tf.list_weights` lists.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it is none that has features.
    """
    if is_pretrained_name(name):
        model = coatnet_tf.from_pretrained(name)
        return coatnet_tf.embeddings(model), views.of_weights(CATALOG[name], model.input_shape[1:3])
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(
            f"--model={name} is neither the folder of a finished run, nor a .keras file, nor a name that "
            "coatnet_tf.list_weights() lists."
        )
    file, _ = model_files.find(path if path.is_dir() else None, None if path.is_dir() else path, None)
    model = model_files.load(file)
    if not isinstance(model.input_shape, tuple) or len(model.input_shape) != 4 or None in model.input_shape[1:]:
        raise ValueError(f"{file} takes {model.input_shape}, not images of one size.")
    view = model_files.view_of(model, file)
    return coatnet_tf.embeddings(model_files.with_preprocessing(model, file)), view


def evaluate(
    train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], draws: Draws
) -> dict[str, dict[int, np.ndarray]]:
    """Accuracies of classifiers on few training images.

    Args:
        train: Vectors `[n, width]` and labels int `[n]` to draw from.
        held_out: Vectors and labels to be asked about.
        draws: What to draw.

    Returns:
        Accuracies in percent by seed, by classifier (`"k = 1"`, `"linear"`) and number of shots; a number of neighbours
        that is larger than that of drawn images has none.

    Example:
    >>> import numpy as np
    >>> from tools.few_shot import Draws, evaluate
    >>> vectors = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
    >>> labels = np.array([0, 0, 1, 1])
    >>> evaluate((vectors, labels), (vectors, labels), Draws(shots=[1], seeds=2))["k = 1"][1].tolist()
    [100.0, 100.0]
    """
    results: dict[str, dict[int, np.ndarray]] = {}
    for shots in draws.shots:
        by_seed: dict[str, list[float]] = {}
        for seed in range(draws.seeds):
            drawn = _draw(train[1], shots, seed)
            for name, classifier in _classifiers(draws.neighbours, len(drawn)).items():
                classifier.fit(train[0][drawn], train[1][drawn])
                by_seed.setdefault(name, []).append(100 * classifier.score(*held_out))
        for name, accuracies in by_seed.items():
            results.setdefault(name, {})[shots] = np.array(accuracies)
    return results


def _check_splits(train_split: str, eval_split: str) -> None:
    """Refuses to ask about images that may be drawn."""
    if folder.ALL in (train_split, eval_split) or train_split == eval_split:
        raise ValueError(
            f"--train_split={train_split} and --eval_split={eval_split} have images in common, each of which would "
            "find itself; name two splits."
        )


def check_shots(labels: Sequence[int] | np.ndarray, class_names: Sequence[str], draws: Draws) -> None:
    """Refuses more shots than a class has images.

    Args:
        labels: Of the training images.
        class_names: Names of the classes.
        draws: What is to be drawn.

    Raises:
        ValueError: If there are too few; it names the classes.
    """
    drawn = max(draws.shots) * len(class_names)
    if max(draws.neighbours) > drawn:
        raise ValueError(f"--k={max(draws.neighbours)} is more than the {drawn} images that are drawn at most.")
    most, counts = max(draws.shots), np.bincount(labels, minlength=len(class_names))
    lacking = [f"{name} ({count})" for name, count in zip(class_names, counts, strict=True) if count < most]
    if lacking:
        raise ValueError(
            f"--shots={most} of each class cannot be drawn: there are fewer training images of {', '.join(lacking[:5])}"
            f"{f' and {len(lacking) - 5} more classes' if len(lacking) > 5 else ''}."
        )


def _draw(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Places of so many images of each class."""
    generator = np.random.default_rng(seed)
    return np.concatenate(
        [generator.choice(np.flatnonzero(labels == label), shots, replace=False) for label in np.unique(labels)]
    )


def _classifiers(neighbours: Sequence[int], drawn: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"k = {k}": neighbors.KNeighborsClassifier(k, weights="distance", metric="cosine")
        for k in neighbours
        if k <= drawn
    }
    linear = linear_model.RidgeClassifierCV(alphas=PENALTIES)
    return found | {"linear": pipeline.make_pipeline(preprocessing.StandardScaler(), linear)}


def embed(
    model: keras.Model, view: views.View, source: sources.Source, split: str
) -> tuple[np.ndarray, np.ndarray, DamagedImages]:
    """Vectors of the images of a split.

    Args:
        model: From `load_embeddings`.
        view: Likewise.
        source: The dataset.
        split: `"train"` or `"eval"`.

    Returns:
        Vectors float32 `[n, width]`, labels int `[n]`, and the images that cannot be decoded, which have none.
    """
    reader: Reader = getattr(source, split)
    settings = ml_collections.ConfigDict(
        {"batch_size": BATCH_SIZE, "image_size": list(view.size), "eval_crop": view.crop}
    )
    settings.interpolation = view.interpolation
    damaged = DamagedImages(reader.count, max_share=1.0)
    vectors, labels = [], []
    with tqdm.tqdm(total=reader.count, unit=" images", desc=split) as progress:
        batches = images.evaluation_batches(dataclasses.replace(source, eval=reader), settings, damaged=damaged)
        for batch, targets, weights in batches:
            kept = weights.numpy() > 0
            vectors.append(model.predict_on_batch(batch.numpy().astype("float32"))[kept])
            labels.append(targets.numpy().argmax(axis=-1)[kept])
            progress.update(int(kept.sum()))
    return np.concatenate(vectors).astype("float32"), np.concatenate(labels), damaged


def _prepare(data: str, splits: tuple[str, str], channels: int, draws: Draws) -> sources.Source:
    """The dataset, if there are enough images of each class."""
    dataset = {"name": data, "train_split": splits[0], "eval_split": splits[1], "channels": channels}
    source = sources.prepare(ml_collections.ConfigDict({**dataset, "data_dir": "", "manual_dir": ""}))
    if source.multi_label:
        raise ValueError(f"Images of {source.name} can have several classes; few-shot classifiers suppose one.")
    if source.num_classes < 2:
        raise ValueError(f"{source.name} has one class, {source.class_names[0]!r}; two or more are to be told apart.")
    labels = [int(example["label"]) for example in source.train.read(0, source.train.count).as_numpy_iterator()]
    check_shots(labels, source.class_names, draws)
    return source


def describe(results: dict[str, dict[int, np.ndarray]], shots: Sequence[int]) -> str:
    """The table of `evaluate`'s results, in Markdown: mean and 95 % interval over the seeds."""
    lines = [f"| shots | {' | '.join(results)} |", "| ---: |" + " ---: |" * len(results)]
    for number in shots:
        cells = []
        for by_shots in results.values():
            summary = Summary("", by_shots[number], None) if number in by_shots else None
            several = summary is not None and len(summary.accuracies) > 1
            half = f" ± {summary.half_interval:.2f}" if summary and several else ""
            cells.append(f"{summary.mean:.2f}{half} %" if summary else "")
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    values = flags.FLAGS
    try:
        draws = Draws(_numbers("shots", values.shots), _numbers("k", values.k), values.seeds)
        model, view = load_embeddings(values.model)
        _check_splits(values.train_split, values.eval_split)
        source = _prepare(values.data, (values.train_split, values.eval_split), model.input_shape[-1], draws)
        train_vectors, train_labels, damaged = embed(model, view, source, "train")
        check_shots(train_labels, source.class_names, draws)  # some may be damaged
        held_out_vectors, held_out_labels, damaged_held_out = embed(model, view, source, "eval")
        results = evaluate((train_vectors, train_labels), (held_out_vectors, held_out_labels), draws)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(describe(results, draws.shots))
    left = damaged.names + damaged_held_out.names
    print(
        f"\n{len(held_out_labels)} held-out images, {source.num_classes} classes, {draws.seeds} draws from "
        f"{len(train_labels)} training images; vectors of {model.output_shape[-1]} numbers, of {view.describe()}."
        + (f" {len(left)} images cannot be decoded and are left out: {', '.join(left[:5])}." if left else "")
    )


def _numbers(flag: str, text: Sequence[str]) -> list[int]:
    try:
        return [int(word) for word in text]
    except ValueError:
        raise ValueError(f"--{flag} takes whole numbers with commas between them; got {','.join(text)}.") from None


if __name__ == "__main__":
    path_flags.define("model", None, "Folder of a finished run, .keras file, or a name of coatnet_tf.list_weights().")
    path_flags.define("data", None, "Dataset: folder:PATH, csv:FILE or tfds:NAME.")
    flags.DEFINE_string("train_split", "train", "Split to draw from.")
    flags.DEFINE_string("eval_split", "validation", "Split to be asked about.")
    flags.DEFINE_list("shots", "1,5,10", "Images of each class.")
    flags.DEFINE_list("k", "1", "Numbers of nearest neighbours.")
    flags.DEFINE_integer("seeds", 5, "Number of draws.")
    flags.mark_flags_as_required(["model", "data"])
    app.run(main)
