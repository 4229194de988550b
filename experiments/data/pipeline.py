"""Input pipeline: examples of a `Source` to batches of images in [0, 255].

Order and augmentation are functions of the seed and the position in the run, so a run that resumes, or one
on more workers, sees the batches it would have seen. Mixup, and the targets of CutMix, are mixed in the training step:
batches travel as bytes.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from experiments import augment, randaugment, sizes
from experiments.data import headers, images, other_formats, views
from experiments.data.damage import DamagedImages
from experiments.data.depth import DarkImages
from experiments.data.order import Order
from experiments.data.readers import BalancedFiles, ImageFiles, Reader
from experiments.data.sources import Source

_CHUNK = 32  # images decoded by one thread at a time, at most
_READY_BATCHES = 2  # prepared ahead of the step

_Load = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]  # an image of its position in the run, name and file


def training_order(source: Source, config: ml_collections.ConfigDict) -> Order:
    """The order of a run's examples; those that Mixup and CutMix pair stay together."""
    reader = source.train
    if config.dataset.balance == "sampling":
        assert isinstance(reader, ImageFiles)  # see `sources.check_for_training`
        reader = BalancedFiles(reader.paths, reader.labels)
    return Order(reader, config.batch_size, 2 if augment.mixes_pairs(config.augment) else 1, config.seed)


def _plain(source: Source, config: ml_collections.ConfigDict, python: bool) -> _Load:
    """What makes the image that evaluation sees."""
    load = _loader(views.of_recipe(config), source.channels, python, "none")
    return lambda position, name, encoded: load(encoded, tf.zeros(2, tf.int64))[0]


@functools.cache
def _loader(view: views.View, channels: int, python: bool, crop: str) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """`images.load` of a file and a seed, traced once for all pipelines of a process: a second of each start."""

    def load(encoded: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if crop == "inception":
            window = images.inception(seed, view.size)
            return images.load(encoded, channels, view.size, window, interpolation=view.interpolation, python=python)
        return view.load(encoded, channels, python=python)

    signature = [tf.TensorSpec((), tf.string), tf.TensorSpec((2,), tf.int64)]
    return tf.function(load, input_signature=signature, autograph=False)


def _augmented(source: Source, config: ml_collections.ConfigDict, python: bool) -> _Load:
    """What makes the training image of a position in the run."""
    settings = config.augment
    decode = _loader(views.of_recipe(config), source.channels, python, settings.crop)
    dark = DarkImages() if python else None

    def load(position: tf.Tensor, name: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(config.seed, tf.int64), position])
        crop_seed, flip_seed, move_seed, rand_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
        image, peak = decode(encoded, crop_seed)
        if dark is not None:
            image = _telling(dark, name, peak, image)
        if settings.flip:
            image = augment.random_flip(image, flip_seed)
        if settings.translate:
            image = augment.random_translate(image, move_seed, settings.translate)
        if settings.randaugment_layers:
            image = randaugment.randaugment(
                image,
                rand_seed,
                settings.randaugment_layers,
                settings.randaugment_magnitude,
                settings.randaugment_pixel_scale,
                settings.randaugment_probability,
            )
        if settings.random_erasing:
            erase_seed = tf.random.experimental.stateless_fold_in(rand_seed, 1)
            image = augment.random_erasing(image, erase_seed, settings.random_erasing)
        return image

    return load


def training_batches(
    source: Source,
    config: ml_collections.ConfigDict,
    first_step: int = 0,
    context: tf.distribute.InputContext | None = None,
    damaged: DamagedImages | None = None,
    python: bool = True,
) -> tf.data.Dataset:
    """Endless batches of augmented training images.

    Args:
        source: The dataset.
        config: `seed`, `batch_size` (all replicas together), `augment` and what `views.of_recipe` reads.
        first_step: Step of the run to begin at.
        context: Share of this worker, from `strategy.distribute_datasets_from_function`.
        damaged: Counts the images that cannot be decoded, in place of which there is one of weight 0;
            without it they are printed.
        python: Whether Python runs where the batches are made; without it only JPEG and PNG are read.

    Returns:
        Dataset of `(image, target, weight, share)`: uint8 `[batch, height, width, channels]`, uint8
        `[batch, classes]` with 1 for each class of the image, float32 `[batch]`, and float32 `[batch, 2]`,
        the shares of image and target in their mixtures with their neighbours (see `augment.mixup`). CutMix has mixed
        the images, but not the targets. With both, each pair has one of the two, as likely.
    """
    context = context or tf.distribute.InputContext()
    settings, view = config.augment, views.of_recipe(config)
    load = _augmented(source, config, python)
    order = training_order(source, config)

    def seed_of_pair(position: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.constant(config.seed, tf.int64), -1 - position // 2])  # apart from those of images

    def share(position: tf.Tensor) -> tf.Tensor:
        return augment.mixup_share(seed_of_pair(position), settings.mixup_alpha)

    def box(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Whether a pair has CutMix, and what it exchanges then."""
        seed, choice_seed = tf.unstack(tf.random.experimental.stateless_split(seed_of_pair(position), 2))
        begin, end = augment.cutmix_box(seed, settings.cutmix_alpha, view.size)
        has_it = tf.random.stateless_uniform((), choice_seed) < (0.5 if settings.mixup_alpha else 1.0)
        return has_it, begin, tf.where(has_it, end, begin)

    def mixed(image: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The images, with CutMix, and the shares in what is to be mixed."""
        shares = tf.ones((image.shape[0], 2))
        if settings.mixup_alpha:
            shares *= tf.map_fn(share, positions, fn_output_signature=tf.float32)[:, None]
        if settings.cutmix_alpha:
            have_it, *boxes = tf.map_fn(box, positions, fn_output_signature=(tf.bool, tf.int32, tf.int32))
            image, kept = augment.cutmix(image, *boxes)
            shares = tf.where(have_it[:, None], tf.stack([tf.ones_like(kept), kept], axis=1), shares)
        return image, shares

    def prepare(chunk: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        image, weight = _load_chunk(chunk, load, source, view.size, damaged, python)
        image, shares = mixed(image, chunk["position"])
        return image, _targets(chunk["label"], source), weight, shares

    examples = order.examples(first_step, context.num_input_pipelines, context.input_pipeline_id)
    batch_size = context.get_per_replica_batch_size(config.batch_size)
    return _batches(examples, batch_size, order.group, prepare)


def evaluation_batches(
    source: Source,
    config: ml_collections.ConfigDict,
    context: tf.distribute.InputContext | None = None,
    damaged: DamagedImages | None = None,
    python: bool = True,
) -> tf.data.Dataset:
    """All evaluation images once, in order, the last batch filled up with images of weight 0.

    Args:
        source: The dataset.
        config: `batch_size` (all replicas together) and what `views.of_recipe` reads.
        context: Share of this worker, from `strategy.distribute_datasets_from_function`.
        damaged: Counts the images that cannot be decoded, in place of which there is one of weight 0; without it
            their names are printed.
        python: Whether Python runs where the batches are made; without it only JPEG and PNG are read.

    Returns:
        Dataset of `(image, target, weight)`: uint8 `[batch, height, width, channels]`, uint8
        `[batch, classes]` (or `Values.standardised`), and float32 `[batch]`, 1 for an example and 0 for filling.
    """
    load = _plain(source, config, python)
    return _in_order(source.eval, load, source, config, 0, context or tf.distribute.InputContext(), damaged, python)


def view_batches(
    source: Source, config: ml_collections.ConfigDict, view: int, damaged: DamagedImages
) -> tf.data.Dataset:
    """All training images once, in order, in a view: the first is that of evaluation, the others are augmented.

    Args:
        source: The dataset.
        config: As of `training_batches`.
        view: Number of the view, from 0.
        damaged: As of `training_batches`.

    Returns:
        As of `evaluation_batches`.
    """
    load = _augmented(source, config, True) if view else _plain(source, config, True)
    first = view * source.train.count  # the positions at which a run would see the images in order
    return _in_order(source.train, load, source, config, first, tf.distribute.InputContext(), damaged, True)


def _in_order(
    reader: Reader,
    load: _Load,
    source: Source,
    config: ml_collections.ConfigDict,
    first: int,
    context: tf.distribute.InputContext,
    damaged: DamagedImages | None,
    python: bool,
) -> tf.data.Dataset:
    """All images of a split once, in order, at positions from `first` on, the last batch filled up."""

    def prepare(chunk: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        image, weight = _load_chunk(chunk, load, source, views.of_recipe(config).size, damaged, python)
        return image, _targets(chunk["label"], source), weight

    examples = reader.read(0, reader.count)
    label = examples.element_spec["label"]
    filling = tf.data.Dataset.from_tensors(
        {"image": tf.constant(""), "label": tf.zeros(label.shape, label.dtype), "name": tf.constant("")}
    )
    examples = examples.concatenate(filling.repeat(-reader.count % config.batch_size))
    examples = examples.enumerate(start=first).map(lambda position, example: {**example, "position": position})
    examples = examples.shard(context.num_input_pipelines, context.input_pipeline_id)
    batch_size = context.get_per_replica_batch_size(config.batch_size)
    return _batches(examples.batch(1), batch_size, 1, prepare)


def read_images(
    reader: Reader, source: Source, config: ml_collections.ConfigDict
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Images of a split as evaluation sees them, one by one: for a few of them sooner than batches are made.

    Args:
        reader: The split.
        source: The dataset.
        config: What `views.of_recipe` reads.

    Yields:
        Place in the split, uint8 image and target; what cannot be decoded is passed over.
    """
    load = _plain(source, config, True)
    for place, example in enumerate(reader.read(0, reader.count)):
        try:
            image = load(tf.constant(place), example["name"], example["image"])
        except tf.errors.OpError:
            continue
        yield place, image.numpy(), _targets(example["label"][None], source)[0].numpy()


def example_names(source: Source, config: ml_collections.ConfigDict, step: int) -> list[str]:
    """Names of the examples of one training step's batch, all workers together."""
    examples = training_order(source, config).examples(step).unbatch().take(config.batch_size)
    return [name.decode() for name in examples.map(lambda example: example["name"]).as_numpy_iterator()]


def describe(source: Source, config: ml_collections.ConfigDict) -> str:
    """How images come to the model's size and channels."""
    view = views.of_recipe(config)
    text = f"Training and evaluation see {view.describe()}"
    if config.augment.crop == "inception":
        size = f"{sizes.describe(view.size)} ({view.interpolation}, antialiased)"
        text = f"Training sees a random part (inception crop), resized to {size}, and evaluation {view.describe()}"
    text += f"; {source.channels} channel{'s' if source.channels > 1 else ''}."
    operations = randaugment.operations_for(source.channels)
    if config.augment.randaugment_layers and len(operations) < len(randaugment.OPERATIONS):
        text += f" RandAugment has {', '.join(operations)} alone: its other operations are of grey and RGB images."
    return text


def _batches(
    groups: tf.data.Dataset, batch_size: int, group: int, prepare: Callable[..., tuple[tf.Tensor, ...]]
) -> tf.data.Dataset:
    """Chunks of the examples prepared side by side, then put together to batches."""
    chunk = max(n for n in range(1, batch_size + 1) if batch_size % n == 0 and n <= _CHUNK and n % group == 0)
    chunks = groups.rebatch(chunk, drop_remainder=True)
    prepare = tf.autograph.experimental.do_not_convert(prepare)  # a second of each start
    chunks = chunks.map(prepare, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
    if chunk != batch_size:
        chunks = chunks.rebatch(batch_size, drop_remainder=True)
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread sleeps up to a minute, and the end of an iterator waits for it
    return chunks.prefetch(_READY_BATCHES).with_options(options)


def _load_chunk(
    chunk: dict[str, tf.Tensor],
    load: _Load,
    source: Source,
    size: sizes.Size,
    damaged: DamagedImages | None,
    python: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Images and weights; what cannot be decoded becomes a black image of weight 0.

    The images pass through a dataset of their own, because only a dataset can go on after an error.
    """
    count = chunk["image"].shape[0]
    shape = (*size, source.channels)
    loaded = tf.data.Dataset.from_tensor_slices((tf.range(count), chunk["position"], chunk["name"], chunk["image"]))
    loaded = loaded.map(lambda index, *example: (index, load(*example))).ignore_errors()
    # One more, so that there is a batch even if none can be decoded.
    extra = tf.data.Dataset.from_tensors((tf.constant(count), tf.zeros(shape, tf.uint8)))
    index, image = loaded.concatenate(extra).batch(count + 1).get_single_element()

    def fill() -> tuple[tf.Tensor, tf.Tensor]:
        weight = tf.scatter_nd(index[:, None], tf.ones_like(index, tf.float32), (count + 1,))[:count]
        is_lost = (weight == 0) & (chunk["name"] != "")  # filling has no name
        names, files = (tf.boolean_mask(chunk[field], is_lost) for field in ("name", "image"))
        report = tf.cond(tf.size(names) > 0, lambda: _report(names, files, source, damaged, python), lambda: False)
        with tf.control_dependencies([report]):
            return tf.scatter_nd(index[:, None], image, (count + 1, *shape))[:count], weight

    image, weight = tf.cond(tf.equal(tf.size(index), count + 1), lambda: (image[:count], tf.ones((count,))), fill)
    return tf.ensure_shape(image, (count, *shape)), tf.ensure_shape(weight, (count,))


def _report(
    names: tf.Tensor, files: tf.Tensor, source: Source, damaged: DamagedImages | None, python: bool
) -> tf.Tensor:
    if damaged is None:  # perhaps on another machine, where no Python of this one runs
        kinds = tf.map_fn(lambda file: headers.read(file).kind, files, fn_output_signature=tf.int32)
        needs_python = (kinds >= headers.HIDDEN) & (kinds < len(headers.KINDS) - 1) & (not python)
        why = tf.where(
            needs_python, tf.strings.join([tf.gather(headers.KINDS, kinds), ", which no TPU host reads"]), ""
        )
        said = tf.strings.join([names, " cannot be decoded and is left out", tf.where(needs_python, " (", ""), why])
        said = tf.strings.join([said, tf.where(needs_python, ").", ".")])
        with tf.control_dependencies([tf.print(said, output_stream=sys.stderr)]):
            return tf.constant(True)

    def add(names: Any, files: Any) -> bool:
        for name, file in zip(names, files, strict=True):
            damaged.add(name.decode(), other_formats.problem(file, source.channels))
        return True

    return tf.numpy_function(add, [names, files], tf.bool)


def _telling(dark: DarkImages, name: tf.Tensor, peak: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """The image, when the largest value of a file with 16 bits a value has been told."""

    def add(name: bytes, peak: Any) -> bool:
        dark.add(name.decode(), int(peak))
        return True

    told = tf.cond(peak > 0, lambda: tf.numpy_function(add, [name, peak], tf.bool), lambda: False)
    with tf.control_dependencies([told]):
        return tf.identity(image)


def _targets(labels: tf.Tensor, source: Source) -> tf.Tensor:
    """uint8 `[count, classes]` with 1 for each class of the example; of numbers float32 `[count, columns]`."""
    if source.values:
        return source.values.standardised(labels)
    if source.multi_label:
        return labels
    message = f"A label of dataset {source.name!r} is outside 0 to {source.num_classes - 1}."
    with tf.control_dependencies(
        [
            tf.debugging.assert_non_negative(labels, message),
            tf.debugging.assert_less(labels, tf.constant(source.num_classes, tf.int64), message),
        ]
    ):
        return tf.one_hot(labels, source.num_classes, dtype=tf.uint8)
