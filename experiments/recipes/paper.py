r"""Table 10 of the paper, and its ablations of Tables 6 to 8, for TPUs: `paper.py:SETTING,MODEL[,SIZE][,CHANGE]`.

    python -m experiments.train --config=experiments/recipes/paper.py:imagenet1k_pretrain,coatnet0 --workdir=DIR \
        --strategy=tpu --tpu=NAME --config.dataset.manual_dir=ARCHIVES
    python -m experiments.train --config=experiments/recipes/paper.py:imagenet1k_finetune,coatnet2,512 --workdir=DIR \
        --strategy=tpu --tpu=NAME --init_from=PRETRAINED_DIR
    python -m experiments.train --config=experiments/recipes/paper.py:imagenet1k_pretrain,coatnet2,layout_v1 \
        --workdir=DIR --strategy=tpu --tpu=NAME

The paper's top-1 on ImageNet in percent, with the smallest TPU slice for the batch; none has been run in full here:

- `imagenet1k_pretrain` (32 cores): 81.6, 83.3, 84.1 and 84.5 for -0 to -3. ARCHIVES holds ILSVRC2012_img_train.tar and
  ILSVRC2012_img_val.tar.
- `imagenet1k_finetune` (32 cores; bias tables are resized): at 384 (default) 83.9, 85.1, 85.7 and 85.8 for -0 to -3; at
  512 85.9 for -2 and 86.0 for -3.
- `imagenet21k_pretrain` (64 cores): precision@1 on ImageNet-21K is 53.0 for -3. The dataset is prepared before, see
  `experiments/data/image_archives.py`, and found with --config.dataset.data_dir=gs://BUCKET/tfds.
- `imagenet21k_finetune` (64 cores; with --reset_head): at 384 (default) 87.1, 87.6 and 87.9 for -2 to -4, 88.3 and 88.4
  for -4 with PT-RA and PT-RA-E150; at 512 87.3, 87.9, 88.1, 88.4 and 88.56. Augmentation is the same as in
  pre-training: one that was off there hurts when it comes on.
- `jft_pretrain` (hundreds of cores): JFT is Google's own; --data=tfds:NAME takes any dataset whose label is a
  `tfds.features.Sequence` of classes (or one class). `coatnet3` is the table's -3 dagger, with its place of the stride.
- `jft_finetune` (64 cores; with --reset_head): at 512 (default) 88.81 (-3 dagger), 89.11 (-4) and 89.77 (-5) from
  JFT-300M, 90.45 (-6) and 90.88 (-7) from JFT-3B; at 384 88.52 (-3 dagger).

A change makes an ablation of CoAtNet-2 on ImageNet-1K or of CoAtNet-3 on ImageNet-21K. The paper's top-1 (1K, at 224)
and precision@1 (21K) with it; without they are 84.1 and 53.0:

- Table 6: `no_relative_attention` 83.8 and 52.8.
- Table 7: `layout_v1` 83.4 and 53.0, `layout_v2` 84.0 (1K).
- Table 8: `head_size_64` 83.9, `layer_norm` 84.1 (1K).

Every setting trains on inception crops and flips, as the code base of the paper does. "Center crop" of the table
is taken for the evaluation: pre-training evaluates the central square at 224, fine-tuning the whole image.
CoAtNet-6 and -7 have no column in Table 10; they take CoAtNet-5's here, which nobody has measured.
"""

from __future__ import annotations

from typing import Any

import ml_collections

from experiments.recipes import base

Changes = dict[str, Any]  # of the fields of `base.get_config`

PRETRAIN_SIZE = 224
# Those that a setting is made for, the default first.
SIZES = {
    "imagenet1k_pretrain": (PRETRAIN_SIZE,),
    "imagenet1k_finetune": (384, 512, 224),
    "imagenet21k_pretrain": (PRETRAIN_SIZE,),
    "imagenet21k_finetune": (384, 512, 224),
    "jft_pretrain": (PRETRAIN_SIZE,),
    "jft_finetune": (512, 384, 224),
}

TRAINING_IMAGES = {"imagenet1k": 1_281_167, "imagenet21k": 12_720_275, "jft": 300_000_000}

_IMAGENET = {"name": "imagenet2012"}
_FINETUNE_OPTIMIZER = {"learning_rate": 5e-5, "min_learning_rate": 5e-5, "decay": "constant", "weight_decay": 1e-8}

# What all models of a setting share.
SETTINGS: dict[str, Changes] = {
    "imagenet1k_pretrain": {
        "epochs": 300,
        "batch_size": 4096,
        "eval_crop": "center",
        "label_smoothing": 0.1,
        "dataset": _IMAGENET,
        "augment": {"randaugment_layers": 2, "randaugment_magnitude": 15.0, "mixup_alpha": 0.8},
        "optimizer": {"learning_rate": 1e-3, "decay": "cosine", "warmup_steps": 10_000, "weight_decay": 0.05},
    },
    "imagenet1k_finetune": {
        "epochs": 30,
        "batch_size": 512,
        "eval_crop": "none",
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "dataset": _IMAGENET,
        "augment": {"randaugment_layers": 2, "randaugment_magnitude": 15.0, "mixup_alpha": 0.8},
        "optimizer": _FINETUNE_OPTIMIZER,
    },
    "imagenet21k_pretrain": {
        "epochs": 90,
        "batch_size": 4096,
        "eval_crop": "center",
        "loss": "sigmoid",
        "label_smoothing": 0.0001,
        "dataset": {"name": "image_archives", "train_split": "train[:99%]", "eval_split": "train[99%:]"},
        "optimizer": {"learning_rate": 1e-3, "decay": "linear", "warmup_epochs": 5, "weight_decay": 0.01},
    },
    "imagenet21k_finetune": {
        "epochs": 30,
        "batch_size": 1024,
        "eval_crop": "none",
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "dataset": _IMAGENET,
        "optimizer": _FINETUNE_OPTIMIZER,
    },
    "jft_pretrain": {
        "epochs": 14,
        "batch_size": 4096,
        "eval_crop": "center",
        "loss": "sigmoid",
        "label_smoothing": 0.0001,
        "augment": {"randaugment_layers": 2, "randaugment_magnitude": 5.0},
        "optimizer": {"learning_rate": 5e-4, "decay": "linear", "warmup_steps": 20_000, "weight_decay": 0.01},
    },
    "jft_finetune": {
        "epochs": 30,
        "batch_size": 512,
        "eval_crop": "none",
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "dataset": _IMAGENET,
        "augment": {"randaugment_layers": 2, "randaugment_magnitude": 5.0},
        "optimizer": _FINETUNE_OPTIMIZER,
    },
}

_IMAGENET1K: dict[str, Changes] = {
    f"coatnet{i}": {"model": {"drop_path_rate": rate}} for i, rate in enumerate((0.2, 0.3, 0.5, 0.7))
}
_IMAGENET21K: dict[str, Changes] = {
    f"coatnet{i}": {"model": {"drop_path_rate": rate}} for i, rate in ((2, 0.3), (3, 0.5), (4, 0.7))
}
_PT_RA = {"model": {"drop_path_rate": 0.7}, "augment": {"randaugment_layers": 2, "randaugment_magnitude": 5.0}}
_DAGGER = {"downsampling": "depthwise_conv"}
_LARGE = {"rematerialise": True}

# What a model changes.
MODELS: dict[str, dict[str, Changes]] = {
    "imagenet1k_pretrain": _IMAGENET1K,
    "imagenet1k_finetune": {
        **_IMAGENET1K,
        "coatnet3": {**_IMAGENET1K["coatnet3"], "augment": {"randaugment_magnitude": 20.0}},
    },
    "imagenet21k_pretrain": {
        **_IMAGENET21K,
        "coatnet4_pt_ra": _PT_RA,
        "coatnet4_pt_ra_e150": {**_PT_RA, "epochs": 150},
    },
    "imagenet21k_finetune": {**_IMAGENET21K, "coatnet4_pt_ra": _PT_RA, "coatnet4_pt_ra_e150": _PT_RA},
    "jft_pretrain": {
        "coatnet3": {"model": {"drop_path_rate": 0.0, **_DAGGER}, "optimizer": {"learning_rate": 1e-3}},
        "coatnet4": {"model": {"drop_path_rate": 0.1}},
        "coatnet5": {"model": {"drop_path_rate": 0.0}, **_LARGE},
        "coatnet6": {"model": {"drop_path_rate": 0.0}, **_LARGE},
        "coatnet7": {"model": {"drop_path_rate": 0.0}, **_LARGE},
    },
    "jft_finetune": {
        "coatnet3": {"model": {"drop_path_rate": 0.1, **_DAGGER}},
        "coatnet4": {"model": {"drop_path_rate": 0.3}},
        "coatnet5": {"model": {"drop_path_rate": 0.2}, **_LARGE},
        "coatnet6": {"model": {"drop_path_rate": 0.2}, **_LARGE},
        "coatnet7": {"model": {"drop_path_rate": 0.2}, **_LARGE},
    },
}

# Tables 6 to 8: what a change does to the model, and the one model of a setting that the paper changes.
ABLATIONS: dict[str, Changes] = {
    "no_relative_attention": {"relative_attention": False},
    "layout_v1": {"depths": (2, 2, 2, 18, 2)},
    "layout_v2": {"depths": (2, 2, 8, 12, 2)},
    "head_size_64": {"head_size": 64},
    "layer_norm": {"conv_norm": "layer_norm"},
}
ABLATED = {
    "imagenet1k_pretrain": "coatnet2",
    "imagenet1k_finetune": "coatnet2",
    "imagenet21k_pretrain": "coatnet3",
    "imagenet21k_finetune": "coatnet3",
}
_WIDTHS = {"coatnet2": (128, 128, 256, 512, 1024), "coatnet3": (192, 192, 384, 768, 1536)}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The recipe of a model in a setting.

    Args:
        variant: `SETTING,MODEL`, then if wanted the size of the images and a change, each behind a comma.

    Raises:
        RecipeError: If the paper has no such setting, model or change, or the setting is not made for the size.
    """
    setting, _, rest = variant.partition(",")
    model, *options = rest.split(",")
    base.check_name("paper.py", "setting", setting, SETTINGS)
    base.check_name(setting, "model", model, MODELS[setting])
    config = base.get_config()
    config.image_size = SIZES[setting][0]
    config.dtype = "mixed_bfloat16"
    config.checkpoint_steps = 2000
    config.steps_per_call = 20  # how soon SIGTERM is noticed
    config.augment.crop = "inception"
    config.augment.flip = True
    config.model = base.family_model(model.partition("_")[0])
    config.update(SETTINGS[setting])
    config.update(MODELS[setting][model])
    if options and options[0].isdigit():
        size = options.pop(0)
        base.check_name(setting, "size", size, map(str, SIZES[setting]))
        config.image_size = int(size)
    if options:
        _change(config, setting, model, ",".join(options))
    return config


def _change(config: ml_collections.ConfigDict, setting: str, model: str, change: str) -> None:
    """Makes the recipe that of an ablation."""
    if ABLATED.get(setting) != model:
        changed = ", ".join(f"{setting},{model}" for setting, model in ABLATED.items())
        raise base.RecipeError(f"The paper has no change {change!r} of {setting},{model}; it changes {changed}.")
    base.check_name(f"{setting},{model}", "change", change, ABLATIONS)
    config.model.update(ABLATIONS[change])
    if "depths" in ABLATIONS[change]:  # a network of its own
        config.model.name += f"-{change}"
        config.model.widths = _WIDTHS[model]
