"""Where the examples of a split lie, and how any run of them is read, still encoded, in a given order of files."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from experiments.data import folds

_FILES_AT_ONCE = 16
_RUNS = 20  # that a sample of a split is read in
_WINDOW_BYTES = 2**30

# `image` (the file's bytes), `label` (int64; of a multi-label dataset uint8 [classes]; of numbers float64 [columns]),
# `name` (for reports).
Example = dict[str, tf.Tensor]


class Reader(Protocol):
    """A split whose examples can be read from anywhere."""

    @property
    def count(self) -> int:
        """Number of examples."""

    @property
    def num_files(self) -> int:
        """Number of files that can be read side by side."""

    @property
    def window(self) -> int | None:
        """Number of examples to hold in memory and shuffle as a whole; `None` if `read` gives a random order."""

    def contents(self) -> Iterator[str]:
        """What the order of the examples depends on, line by line: files, and what is taken of each."""

    def read(self, first: Any, last: Any, seed: Any = None) -> tf.data.Dataset:
        """Examples `first` to `last`, exclusive, as `Example`.

        Args:
            first: int64 scalar.
            last: int64 scalar.
            seed: int64 `[2]` that the order of files follows; `None` for the order in which they are stored.
        """


def spread_places(count: int, most: int) -> list[int]:
    """At most so many places of a split, evenly spaced, since it can be sorted by class.

    >>> spread_places(10, 3), spread_places(2, 3)
    ([0, 4, 9], [0, 1])
    """
    return np.linspace(0, count - 1, min(most, count)).astype(int).tolist()


def spread(reader: Reader, most: int) -> Iterator[Example]:
    """At most so many examples of a split from all over it, in runs, as each start of reading takes its time."""
    if reader.count <= most:
        yield from reader.read(0, reader.count)
        return
    length = -(-most // _RUNS)
    for start in spread_places(reader.count - length + 1, most // length):
        yield from reader.read(start, start + length)


def have_common(one: Reader, other: Reader) -> bool:
    """Whether two splits share an example: a file, wherever links to it lie, or a part of a file of records."""
    if isinstance(one, RecordFiles) and isinstance(other, RecordFiles):
        theirs = other.ranges
        return any(
            first < theirs[file][1] and theirs[file][0] < last
            for file, (first, last) in one.ranges.items()
            if file in theirs
        )
    places = [{*map(folds.place_of, split.paths)} for split in (one, other) if isinstance(split, ImageFiles)]
    return len(places) == 2 and not places[0].isdisjoint(places[1])


def permutation(count: Any, seed: Any) -> tf.Tensor:
    """A permutation of `count` numbers that is a function of the seed, int64 `[2]`."""
    return tf.argsort(tf.random.stateless_uniform((count,), seed, 0, 2**62, dtype=tf.int64), stable=True)


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """A split of a TFDS dataset in TFRecord files.

    Args:
        builder: A prepared builder.
        split: Name or slice of a split.
    """

    builder: tfds.core.DatasetBuilder
    split: str

    @property
    def _files(self) -> Sequence[Any]:
        return self.builder.info.splits[self.split].file_instructions

    @property
    def count(self) -> int:
        return self.builder.info.splits[self.split].num_examples

    @property
    def num_files(self) -> int:
        return len(self._files)

    @property
    def window(self) -> int:
        splits = self.builder.info.splits
        mean_bytes = sum(splits[name].num_bytes for name in splits) / sum(splits[name].num_examples for name in splits)
        return min(self.count, max(1, int(_WINDOW_BYTES / max(1.0, mean_bytes))))

    @property
    def ranges(self) -> dict[str, tuple[int, float]]:
        """By the path of each file, the first of its examples, and the one behind the last."""
        return {
            file.filename: (file.skip, math.inf if file.take < 0 else file.skip + file.take) for file in self._files
        }

    def contents(self) -> Iterator[str]:
        for file in self._files:
            yield f"{os.path.basename(file.filename)} {file.skip} {file.take}"

    def read(self, first: Any, last: Any, seed: Any = None) -> tf.data.Dataset:
        files = self._files
        names = tf.constant([str(file.filename) for file in files])
        skipped, taken = (tf.constant([getattr(f, field) for f in files], tf.int64) for field in ("skip", "take"))
        if seed is not None:
            order = permutation(len(files), seed)
            names, skipped, taken = (tf.gather(values, order) for values in (names, skipped, taken))
        ends = tf.cumsum(taken)
        starts = ends - taken
        lower, upper = tf.maximum(starts, first), tf.minimum(ends, last)
        wanted = lower < upper
        parts = [tf.boolean_mask(x, wanted) for x in (names, skipped + lower - starts, upper - lower)]
        return tf.data.Dataset.from_tensor_slices(tuple(parts)).interleave(
            self._read_file, cycle_length=_FILES_AT_ONCE, num_parallel_calls=_FILES_AT_ONCE, deterministic=True
        )

    def _read_file(self, file: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(file, buffer_size=2**20).enumerate().skip(skip).take(take)
        features = self.builder.info.features

        def parse(index: tf.Tensor, record: tf.Tensor) -> Example:
            example = features.deserialize_example(record, decoders={"image": tfds.decode.SkipDecoding()})
            label = example["label"]
            if isinstance(features["label"], tfds.features.Sequence):
                label = tf.reduce_max(tf.one_hot(label, features["label"].feature.num_classes, dtype=tf.uint8), axis=0)
            if "file_name" in example:
                name = example["file_name"]
            else:
                name = tf.strings.join([file, ", record ", tf.strings.as_string(index)])
            return {"image": example["image"], "label": label, "name": name}

        return records.map(parse)


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Image files with one label each.

    Args:
        paths: Paths of the files.
        labels: Their labels.
    """

    paths: tuple[str, ...]
    labels: tuple[Any, ...]

    @property
    def count(self) -> int:
        return len(self.paths)

    @property
    def num_files(self) -> int:
        return len(self.paths)

    @property
    def window(self) -> None:
        return None

    def contents(self) -> Iterator[str]:
        for path, label in zip(self.paths, self.labels, strict=True):
            yield f"{path} {label}"

    def counts(self, num_classes: int) -> np.ndarray:
        """Number of the images of each class."""
        return np.bincount(np.array(self.labels, "int64"), minlength=num_classes)

    def _targets(self) -> tf.Tensor:
        """The labels, as of `Example`."""
        return tf.constant(self.labels, tf.int64)

    def _order(self, seed: Any) -> tf.Tensor:
        """Places of the files by a seed, int64 `[2]`."""
        return permutation(self.count, seed)

    def read(self, first: Any, last: Any, seed: Any = None) -> tf.data.Dataset:
        examples = {"name": tf.constant(self.paths), "label": self._targets()}
        order = tf.range(self.count) if seed is None else self._order(seed)
        wanted = {field: tf.gather(values, order[first:last]) for field, values in examples.items()}
        return tf.data.Dataset.from_tensor_slices(wanted).map(
            lambda example: {"image": _read_whole(example["name"]), **example},
            num_parallel_calls=_FILES_AT_ONCE,
            deterministic=True,
        )


@dataclasses.dataclass(frozen=True)
class MultiLabelFiles(ImageFiles):
    """Image files with any number of labels each.

    Args:
        paths: Paths of the files.
        labels: Their labels, a tuple of numbers each.
        num_classes: Number of classes.
    """

    num_classes: int

    def counts(self, num_classes: int) -> np.ndarray:
        return self._matrix.sum(axis=0, dtype="int64")

    def _targets(self) -> tf.Tensor:
        return tf.constant(self._matrix)

    @functools.cached_property
    def _matrix(self) -> np.ndarray:
        """The labels as uint8 `[count, classes]`."""
        matrix = np.zeros((self.count, self.num_classes), "uint8")
        for row, labels in zip(matrix, self.labels, strict=True):
            row[list(labels)] = 1
        return matrix


@dataclasses.dataclass(frozen=True)
class ValueFiles(ImageFiles):
    """Image files with numbers in place of labels, a tuple of floats each."""

    @property
    def numbers(self) -> np.ndarray:
        """float64 `[count, columns]`."""
        return np.array(self.labels, "float64")

    def _targets(self) -> tf.Tensor:
        return tf.constant(self.numbers)


@dataclasses.dataclass(frozen=True)
class BalancedFiles(ImageFiles):
    """The same number of files of each class, with a seed: of small classes some again, of large ones some.

    An order of `count` places has `count / classes` of each class, those first in number that stand first if it is no
    whole number. A file comes again when all others of its class have come as often.
    """

    def _order(self, seed: Any) -> tf.Tensor:
        slots, ranks, chosen = self._slots
        # By class and round, and at random within a round; then all classes among one another.
        slot_seed, order_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        keys = ranks * 2**32 + tf.random.stateless_uniform(ranks.shape, slot_seed, 0, 2**32, tf.int64)
        files = tf.gather(slots, tf.gather(tf.argsort(keys, stable=True), chosen))
        return tf.gather(files, permutation(self.count, order_seed))

    @functools.cached_property
    def _slots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Files in every round of their class, ranks by class and round, and which places by rank are taken."""
        labels = np.array(self.labels)
        classes, sizes = np.unique(labels, return_counts=True)
        wanted = np.full(len(classes), self.count // len(classes))
        wanted[: self.count % len(classes)] += 1
        slots, ranks, chosen = [], [], []
        first = rank = 0
        for name, size, number in zip(classes, sizes, wanted, strict=True):
            rounds = -(-number // size)
            slots.append(np.tile(np.flatnonzero(labels == name), rounds))
            ranks.append(np.repeat(np.arange(rank, rank + rounds), size))
            chosen.append(first + np.arange(number))
            first, rank = first + rounds * size, rank + rounds
        return np.concatenate(slots), np.concatenate(ranks).astype("int64"), np.concatenate(chosen)


def _read_whole(path: tf.Tensor) -> tf.Tensor:
    """The bytes of a file; none if it cannot be read, so that it counts as damaged and is named.

    It passes through a dataset of its own, because only a dataset can go on after an error.
    """
    read = tf.data.Dataset.from_tensors(path).map(tf.io.read_file).ignore_errors()
    return read.concatenate(tf.data.Dataset.from_tensors(tf.constant(""))).take(1).get_single_element()
