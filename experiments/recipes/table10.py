"""Table 10 of the paper: the values of its settings, by model, as changes of `base.get_config`.

Every setting trains on inception crops and flips, as the code base of the paper does. "Center crop" of the table
is taken for the evaluation: pre-training evaluates the central square at 224, fine-tuning the whole image.
CoAtNet-6 and -7 have no column in Table 10; they take CoAtNet-5's here, which nobody has measured.
"""

from __future__ import annotations

import ml_collections

from experiments.recipes import base

PRETRAIN_SIZE = 224

# What all models of a setting share.
SETTINGS = {
    "imagenet1k_pretrain": {
        "epochs": 300,
        "batch_size": 4096,
        "eval_crop": "center",
        "label_smoothing": 0.1,
        "augment": {"randaugment_layers": 2, "randaugment_magnitude": 15.0, "mixup_alpha": 0.8},
        "optimizer": {"learning_rate": 1e-3, "decay": "cosine", "warmup_steps": 10_000, "weight_decay": 0.05},
    },
    "imagenet1k_finetune": {
        "epochs": 30,
        "batch_size": 512,
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "augment": {"randaugment_layers": 2, "randaugment_magnitude": 15.0, "mixup_alpha": 0.8},
        "optimizer": {"learning_rate": 5e-5, "min_learning_rate": 5e-5, "decay": "constant", "weight_decay": 1e-8},
    },
    "imagenet21k_pretrain": {
        "epochs": 90,
        "batch_size": 4096,
        "eval_crop": "center",
        "loss": "sigmoid",
        "label_smoothing": 0.0001,
        "optimizer": {"learning_rate": 1e-3, "decay": "linear", "warmup_epochs": 5, "weight_decay": 0.01},
    },
    "imagenet21k_finetune": {
        "epochs": 30,
        "batch_size": 1024,
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "optimizer": {"learning_rate": 5e-5, "min_learning_rate": 5e-5, "decay": "constant", "weight_decay": 1e-8},
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
        "label_smoothing": 0.1,
        "ema_decay": 0.9999,
        "augment": {"randaugment_layers": 2, "randaugment_magnitude": 5.0},
        "optimizer": {"learning_rate": 5e-5, "min_learning_rate": 5e-5, "decay": "constant", "weight_decay": 1e-8},
    },
}

_RANDAUGMENT_2_5 = {"augment": {"randaugment_layers": 2, "randaugment_magnitude": 5.0}}
_IMAGENET1K = {f"coatnet{i}": {"model": {"drop_path_rate": rate}} for i, rate in enumerate((0.2, 0.3, 0.5, 0.7))}
_IMAGENET21K = {f"coatnet{i}": {"model": {"drop_path_rate": rate}} for i, rate in ((2, 0.3), (3, 0.5), (4, 0.7))}
_PT_RA = {"model": {"drop_path_rate": 0.7}, **_RANDAUGMENT_2_5}
_DAGGER = {"downsampling": "depthwise_conv"}
_LARGE = {"rematerialise": True}

# What a model changes.
MODELS = {
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


def recipe(setting: str, model: str, image_size: int = PRETRAIN_SIZE) -> ml_collections.ConfigDict:
    """The recipe of a model in a setting of Table 10, for TPUs.

    Args:
        setting: A key of `SETTINGS`.
        model: A key of the setting's `MODELS`.
        image_size: Height and width of the images.

    Returns:
        The recipe, without a dataset.

    Raises:
        ValueError: If the paper has no such model in that setting.
    """
    if model not in MODELS[setting]:
        raise ValueError(f"{setting} has no model {model!r}; it has {', '.join(MODELS[setting])}.")
    config = base.get_config()
    config.image_size = image_size
    config.dtype = "mixed_bfloat16"
    config.checkpoint_steps = 2000
    config.steps_per_call = 20  # how soon SIGTERM is noticed
    config.augment.crop = "inception"
    config.augment.flip = True
    config.model = base.family_model(model.partition("_")[0])
    config.update(SETTINGS[setting])
    config.update(MODELS[setting][model])
    return config


def parse(setting: str, argument: str, sizes: tuple[int, ...]) -> ml_collections.ConfigDict:
    """The recipe for what stands behind a recipe's file name: `MODEL` or `MODEL,SIZE`.

    Args:
        setting: A key of `SETTINGS`.
        argument: The model, then the evaluation size where there is a choice.
        sizes: The sizes to choose from, the default first.

    Returns:
        The recipe, without a dataset.

    Raises:
        ValueError: If model or size is unknown.
    """
    model, _, size = argument.partition(",")
    if size and size not in map(str, sizes):
        raise ValueError(f"{setting} is made for sizes {', '.join(map(str, sizes))}; got {size!r}.")
    return recipe(setting, model, int(size) if size else sizes[0])
