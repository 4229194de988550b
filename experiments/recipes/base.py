"""Every field that a recipe has, but for those of its model, with the values that most share.

A recipe states what it changes, and its model: fields of `coatnet_tf.make_config` and `CoAtNetConfig`.
"""

from __future__ import annotations

from collections.abc import Iterable

import ml_collections
from absl import flags

import coatnet_tf


class RecipeError(flags.Error):
    """What stands behind a recipe's file name is wrong: absl ends the program with the message alone."""


def check_name(owner: str, kind: str, name: str, known: Iterable[str]) -> None:
    """Refuses a part of what stands behind a recipe's file name.

    Args:
        owner: What has such parts.
        kind: What it calls them.
        name: The part.
        known: Those that `owner` has.

    Raises:
        RecipeError: If `name` is none of these.
    """
    known = tuple(known)
    if name not in known:
        raise RecipeError(f"{owner} has no {kind} {name!r}; it has {', '.join(known)}.")


def get_config() -> ml_collections.ConfigDict:
    """The fields; those left at `None` or empty are for the recipe to fill."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.epochs = ml_collections.config_dict.placeholder(int)
    config.batch_size = ml_collections.config_dict.placeholder(int)  # of all replicas together
    config.image_size = ml_collections.config_dict.placeholder(object)  # 288, or height and width: (288, 512)
    # What evaluation sees of an image, and training too without a crop of its own: see experiments/data/views.py.
    # Empty: as the weights of init_from were evaluated, or else the whole image, bilinear.
    config.eval_crop = ""  # "none": the whole image; "center" or a share such as "0.95": the middle
    config.interpolation = ""  # "bilinear" or "bicubic", of training too
    config.dtype = "float32"  # or "mixed_bfloat16"
    config.loss = "softmax"  # or "sigmoid"; "squared_error" learns numbers of a table in place of classes
    config.label_smoothing = 0.0
    config.batch_norm_momentum = 0.99  # of the averages that evaluation norms by; lower where a run has few steps
    config.ema_decay = 0.0  # of the averaged weights that are evaluated and kept; 0: none
    config.accumulation_steps = 1  # parts of a batch taken one after the other, to save memory
    config.rematerialise = False  # recompute the activations of the blocks, to save memory
    config.early_stop_patience = 0  # epochs without a lower held-out loss that end the run; 0: none
    config.steps_per_call = 100  # steps between two looks at the progress
    config.checkpoint_steps = 0  # steps between two checkpoints, beside those of the epochs; 0: none
    config.max_skipped_steps = 20  # in a row whose loss or gradient is not finite
    config.init_from = ""  # weights to begin with: a run's folder, a file, or a name of coatnet_tf.list_weights()
    config.reset_head = False  # with init_from: begin with a new classifier
    # What is trained, with init_from: "all", "head" (on features that are computed once), "last_blocks" (and the head),
    # or "lora" (the head, and small matrices beside the kernels of attention and feed-forward): experiments/tuning.py.
    config.tune = "all"
    config.head_views = 1  # of each image, in the features: the first is that of evaluation, the others are augmented
    config.tuned_blocks = 2  # how many the last ones are
    config.lora_rank = 8
    # Distillation: a finished run's folder, a .keras file, or a name of coatnet_tf.list_weights(), whose answers are
    # learned; its classes must be the same: docs/training.md.
    config.teacher = ""
    config.teacher_temperature = 1.0  # divides the logits of both
    config.teacher_weight = 1.0  # of the teacher in the loss; the labels have the rest
    config.teacher_sha256 = ""  # of its weights; the run fills it in

    config.dataset = ml_collections.ConfigDict()
    config.dataset.name = ""  # of TFDS or of this project, folder:PATH, or csv:FILE
    config.dataset.train_split = "train"
    config.dataset.eval_split = "validation"
    config.dataset.data_dir = ""  # where TFDS keeps prepared datasets; its default if empty
    config.dataset.manual_dir = ""  # files that TFDS does not download
    config.dataset.channels = 0  # that images have: 1, 3, more, or 0 for the dataset's own (a folder of pictures: 3)
    # With loss="squared_error" and csv:FILE: which columns are the numbers, with commas between; "value" if empty.
    config.dataset.value_columns = ""
    config.dataset.max_damaged_share = 0.001  # of the images
    # For classes of unequal size: "weights" in the loss, or "sampling" as many examples of each; in training alone.
    config.dataset.balance = "none"

    config.augment = ml_collections.ConfigDict()
    config.augment.crop = "none"  # "inception": a random part; "none": what evaluation sees
    config.augment.flip = False
    config.augment.translate = 0  # pixels
    config.augment.randaugment_layers = 0
    config.augment.randaugment_magnitude = 0.0
    config.augment.randaugment_pixel_scale = 1.0  # of translations and cutouts; size / 224 for small images
    config.augment.randaugment_probability = 1.0  # of each operation
    config.augment.mixup_alpha = 0.0
    config.augment.cutmix_alpha = 0.0  # with Mixup too, each pair of images has one of the two
    config.augment.random_erasing = 0.0  # probability

    config.model = ml_collections.ConfigDict()

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = ml_collections.config_dict.placeholder(float)  # peak
    config.optimizer.min_learning_rate = 1e-5
    config.optimizer.decay = "cosine"  # or "linear", "constant"
    config.optimizer.warmup_steps = 0
    config.optimizer.warmup_epochs = 0
    config.optimizer.weight_decay = 0.05
    config.optimizer.layer_decay = 1.0  # factor on the learning rate from each stage to the one before it; 1: none
    config.optimizer.clip_norm = 1.0
    return config


def family_model(name: str) -> ml_collections.ConfigDict:
    """A model of the paper's family, `coatnet0` to `coatnet7`, with the fields that recipes change."""
    model = ml_collections.ConfigDict()
    model.name = name.replace("coatnet", "coatnet-")
    model.drop_path_rate = 0.0
    model.downsampling = "expand_conv"
    model.relative_attention = True
    model.head_size = coatnet_tf.FAMILY[model.name].transformer.attention.head_size
    model.conv_norm = "batch_norm"
    return model
