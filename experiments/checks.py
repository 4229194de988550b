"""What every recipe has to fulfil, checked before any work: values in their ranges, batches that can be shared."""

from __future__ import annotations

import ml_collections

from experiments import augment, losses, sizes, tuning
from experiments.data import images, values, views
from experiments.engine.devices import Devices
from experiments.model_config import make_model_config, model_norms

CHOICES = {
    "dtype": ("float32", "mixed_bfloat16"),
    "interpolation": ("", *images.INTERPOLATIONS),
    "loss": losses.LOSSES,
    "tune": tuning.WAYS,
    "augment.crop": ("none", "inception"),
    "dataset.balance": ("none", "weights", "sampling"),
}
AT_LEAST_ONE = (
    "epochs",
    "batch_size",
    "steps_per_call",
    "accumulation_steps",
    "max_skipped_steps",
    "head_views",
    "tuned_blocks",
    "lora_rank",
)
AT_LEAST_ZERO = (
    "dataset.channels",
    "checkpoint_steps",
    "early_stop_patience",
    "augment.randaugment_layers",
    "augment.randaugment_magnitude",
    "augment.mixup_alpha",
    "augment.cutmix_alpha",
    "optimizer.min_learning_rate",
    "optimizer.weight_decay",
)
UP_TO_ONE = ("augment.randaugment_probability", "optimizer.layer_decay", "teacher_weight")  # and above 0
PROBABILITIES = ("augment.random_erasing",)
SHARES = ("label_smoothing", "batch_norm_momentum", "ema_decay", "dataset.max_damaged_share")  # at least 0 and below 1
ABOVE_ZERO = ("optimizer.learning_rate", "optimizer.clip_norm", "teacher_temperature")


def check_values(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no run could use."""

    def value_of(field: str) -> float:
        group, _, name = field.rpartition(".")
        value = (config[group] if group else config)[name]
        if value is None:
            raise ValueError(f"config.{field} is not set; give it in the recipe or with --config.{field}=...")
        return value

    for field, known in CHOICES.items():
        if value_of(field) not in known:
            raise ValueError(
                f"config.{field} must be one of {', '.join(filter(None, known))}; got {value_of(field)!r}."
            )
    ranges = (
        (AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
        (AT_LEAST_ZERO, lambda value: value >= 0, "at least 0"),
        (SHARES, lambda value: 0 <= value < 1, "at least 0 and below 1"),
        (ABOVE_ZERO, lambda value: value > 0, "above 0"),
        (UP_TO_ONE, lambda value: 0 < value <= 1, "above 0 and at most 1"),
        (PROBABILITIES, lambda value: 0 <= value <= 1, "at least 0 and at most 1"),
    )
    for fields, fits, words in ranges:
        for field in fields:
            if not fits(value_of(field)):
                raise ValueError(f"config.{field} must be {words}; got {value_of(field)}.")
    try:
        views.check_crop(config.eval_crop or views.WHOLE)
    except ValueError as error:
        raise ValueError(f"config.eval_crop {error}") from error
    size = value_of("image_size")
    try:
        shorter = min(sizes.parse(size))
    except ValueError as error:
        raise ValueError(f"config.image_size: {error}") from error
    if not 0 <= config.augment.translate < shorter:
        raise ValueError(
            f"config.augment.translate must be at least 0 and below the image size; got {config.augment.translate}."
        )
    _check_numbers(config)
    if config.reset_head and not config.init_from:
        raise ValueError("--reset_head has a meaning only with --init_from.")


def settle_values(config: ml_collections.ConfigDict) -> None:
    """Names the column of numbers if a recipe that learns numbers does not."""
    if config.loss == losses.SQUARED_ERROR and not values.columns_of(config.dataset):
        config.dataset.value_columns = values.DEFAULT_COLUMN


def _check_numbers(config: ml_collections.ConfigDict) -> None:
    """Refuses what is of classes where numbers are learned, and columns of numbers where classes are."""
    columns = values.columns_of(config.dataset)
    if config.loss != losses.SQUARED_ERROR:
        if columns:
            raise ValueError(
                f"config.dataset.value_columns={','.join(columns)} are numbers to learn, and config.loss={config.loss} "
                f"is of classes; set --config.loss={losses.SQUARED_ERROR}, or leave the columns out."
            )
        return
    if taken := sorted({"path", "split", "group", "file", "error"} & {name.lower() for name in columns}):
        raise ValueError(
            f"config.dataset.value_columns names {', '.join(taken)}, which mean something else in tables of labels "
            "or of predictions; call the numbers otherwise."
        )
    if len(set(columns)) < len(columns):
        raise ValueError(f"config.dataset.value_columns={','.join(columns)} names a column twice.")
    for field, none in (("label_smoothing", 0.0), ("dataset.balance", "none"), ("teacher", "")):
        group, _, name = field.rpartition(".")
        if (config[group] if group else config)[name] != none:
            raise ValueError(
                f"config.{field} is of classes, and config.loss={losses.SQUARED_ERROR} learns numbers; set "
                f"--config.{field}={none}."
            )


def check_tuning(config: ml_collections.ConfigDict, devices: Devices) -> None:
    """Refuses ways of training a part of the network that have no meaning for the recipe."""
    if config.tune == tuning.ALL:
        return
    if not config.init_from:
        raise ValueError(
            f"config.tune={config.tune} leaves most of the network as it is, and without --init_from that is random: "
            "give weights to begin with, or --config.tune=all."
        )
    blocks = tuning.count_blocks(config)
    if config.tune == tuning.LAST_BLOCKS and config.tuned_blocks > sum(blocks.values()):
        raise ValueError(
            f"config.tuned_blocks must be at most {sum(blocks.values())}, the blocks of {config.model.name}; got "
            f"{config.tuned_blocks}."
        )
    if config.tune == tuning.LORA and not blocks["transformer"]:
        raise ValueError(
            f"config.tune=lora adds to attention and feed-forward layers, and {config.model.name} has none; take head, "
            "last_blocks or all."
        )
    if config.tune == tuning.HEAD:
        if augment.mixes_pairs(config.augment):
            raise ValueError(
                "config.tune=head computes the features of each image once, and Mixup and CutMix would mix other ones "
                "each time; set config.augment.mixup_alpha and config.augment.cutmix_alpha to 0."
            )
        if config.teacher:
            raise ValueError(
                "config.tune=head computes the features of each image once, and a teacher sees those of each step; "
                "take another config.tune, or leave config.teacher out."
            )
        if config.dataset.balance == "sampling":
            raise ValueError(
                "config.tune=head computes the features of each image once, in the order that they are stored in; "
                "take --config.dataset.balance=weights."
            )
        if config.optimizer.layer_decay != 1:
            raise ValueError(
                "config.optimizer.layer_decay is between the stages of the network, and config.tune=head trains none "
                "of them; set it to 1."
            )
        if not devices.hold_features:
            raise ValueError(
                "config.tune=head computes all features in one process, on CPUs or GPUs; take --strategy=one_device, "
                "mirrored, or sharded with one process."
            )


def check_batch_size(config: ml_collections.ConfigDict, devices: Devices) -> None:
    """Refuses global batches that the replicas cannot share evenly, and shares that cannot be parted or paired."""
    replicas = devices.replicas
    if not config.batch_size or config.batch_size < 1 or config.batch_size % replicas:
        raise ValueError(
            f"config.batch_size {config.batch_size} is for all replicas together and must be a positive multiple of "
            f"their number, {replicas}."
        )
    share = config.batch_size // replicas
    if share % config.accumulation_steps:
        raise ValueError(
            f"A replica's share of {share} images cannot be parted into config.accumulation_steps "
            f"{config.accumulation_steps} equal parts; choose a divisor."
        )
    saves_memory = config.accumulation_steps > 1 or config.rematerialise
    norms = set(model_norms(make_model_config(config.model)).values())
    if saves_memory and norms != {"layer_norm"} and not devices.meets_in_parts:
        raise ValueError(
            "config.accumulation_steps and config.rematerialise do not go together with BatchNorm over several "
            "replicas of TensorFlow, except on TPU; take one device, --strategy=sharded, or conv_norm = 'layer_norm' "
            "in the recipe's model (Table 8: as accurate)."
        )
    if augment.mixes_pairs(config.augment) and share % 2:
        raise ValueError(
            f"Mixup and CutMix pair images, and a replica's share of {share} is odd; choose another batch size."
        )
