"""Which examples a run sees, and in which order: a function of seed and step that can begin anywhere.

Each epoch the files of the split are put in a new order. The split, so ordered, is cut into lanes of equal
length that are read side by side, and each lane into windows, each shuffled as a whole. A batch takes
the same number of examples from each lane, one lane after the other. To begin at a step, only the windows that hold it
are read. Each worker has one part of the batch; where the number of workers divides that of the lanes, it reads its own
lanes only. Either way a batch of the whole cluster holds the same examples in the same order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from experiments.data.readers import Example, Reader, permutation

_MAX_LANES = 64


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of a run's training examples.

    Args:
        reader: The training split.
        batch_size: Examples a step, all replicas together.
        group: Examples that stay together in one replica's batch; divides `batch_size`.
        seed: Seed of the run.
    """

    reader: Reader
    batch_size: int
    group: int
    seed: int

    @property
    def lanes(self) -> int:
        """Number of lanes: a power of two, at most one for each file."""
        lanes = 1
        while 2 * lanes <= min(_MAX_LANES, self.reader.num_files) and self.batch_size % (2 * lanes * self.group) == 0:
            lanes *= 2
        return lanes

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; the examples of the last, partial batch are left out, other ones each epoch."""
        return self.reader.count // self.lanes * self.lanes // self.batch_size

    def examples(self, first_step: int, workers: int = 1, worker: int = 0) -> tf.data.Dataset:
        """A worker's share, one part of each batch, of the endless stream of training examples.

        Args:
            first_step: Step of the run to begin at.
            workers: Number of workers.
            worker: Number of this one.

        Returns:
            Dataset of groups of `Example`, with the example's place in the run, `position`, int64.
        """
        own_lanes = self.lanes % workers == 0
        first, count = (worker * self.lanes // workers, self.lanes // workers) if own_lanes else (0, self.lanes)
        groups_of_batch = self.batch_size // self.group
        if count == 1:
            groups = self._lane(tf.constant(first, tf.int64), first_step)
        else:
            groups = tf.data.Dataset.range(first, first + count).interleave(
                lambda lane: self._lane(lane, first_step),
                cycle_length=count,
                block_length=groups_of_batch // self.lanes,
                num_parallel_calls=count,
                deterministic=True,
            )
        if own_lanes:
            return groups
        share = groups_of_batch // workers
        numbered = groups.enumerate().filter(lambda index, _: index % groups_of_batch // share == worker)
        return numbered.map(lambda _, group: group)

    def _lane(self, lane: tf.Tensor, first_step: int) -> tf.data.Dataset:
        of_batch = self.batch_size // self.lanes  # of each lane, each batch
        used = self.steps_per_epoch * of_batch  # of each lane, each epoch
        first_epoch, first_in_epoch = divmod(first_step, self.steps_per_epoch)
        first_in_lane = tf.constant(first_in_epoch * of_batch, tf.int64)
        zero = tf.zeros((), tf.int64)

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            seed = tf.stack([tf.constant(self.seed, tf.int64), number])
            begin = tf.where(number == first_epoch, first_in_lane, zero)

            def place(index: tf.Tensor, example: Example) -> Example:
                in_epoch = index // of_batch * self.batch_size + lane * of_batch + index % of_batch
                return {**example, "position": number * self.steps_per_epoch * self.batch_size + in_epoch}

            examples = self._read_lane(lane, begin, used, seed)
            return examples.enumerate(start=begin).map(place)

        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        return _one_by_one(epochs, epoch).batch(self.group, drop_remainder=True)

    def _read_lane(self, lane: tf.Tensor, begin: tf.Tensor, end: int, seed: tf.Tensor) -> tf.data.Dataset:
        """Examples `begin` to `end` of a lane in the order of an epoch."""
        length = self.reader.count // self.lanes
        if self.reader.window is None:
            return self.reader.read(lane * length + begin, lane * length + end, seed)
        window_length = max(1, self.reader.window // self.lanes)

        def window(index: tf.Tensor) -> tf.data.Dataset:
            first = index * window_length
            last = tf.minimum(first + window_length, length)
            examples = self.reader.read(lane * length + first, lane * length + last, seed).batch(window_length)
            window_seed = tf.random.experimental.stateless_fold_in(seed, lane * 2**32 + index)
            examples = examples.map(lambda window: _shuffled(window, window_seed)).unbatch()
            return examples.take(end - first).skip(tf.maximum(begin - first, tf.zeros((), tf.int64)))

        return _one_by_one(tf.data.Dataset.range(begin // window_length, -(-end // window_length)), window)


def _one_by_one(dataset: tf.data.Dataset, function: Callable[[tf.Tensor], tf.data.Dataset]) -> tf.data.Dataset:
    """Like `flat_map`, but in the background."""
    return dataset.interleave(function, cycle_length=1, num_parallel_calls=1, deterministic=True)


def _shuffled(examples: Example, seed: tf.Tensor) -> Example:
    order = permutation(tf.shape(examples["name"])[0], seed)
    return {field: tf.gather(values, order) for field, values in examples.items()}
