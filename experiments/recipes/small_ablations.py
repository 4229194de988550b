"""Tables 6 to 9 and Figure 1 at the scale of two CPU cores: one change of a small network, few images of Fashion-MNIST.

    python -m experiments.ablation --study=relative_attention --seeds=5 --workdir=runs/ablation

runs them; `--config=experiments/recipes/small_ablations.py:relative_attention,without` is one of its runs. Tables
6 to 8 at the paper's scale are in `ablations.py`.
"""

import ml_collections

from experiments.data.fashion_mnist import DEFAULT_FOLDER
from experiments.recipes import base

PASSES_AN_EPOCH = 15  # over the images, so that evaluations are few
EPOCHS = 2
HELD_OUT = 5000  # of the test images

# By study and variant: changes of the model. The first variant is the same network in every study, the paper's own.
STUDIES = {
    "relative_attention": {"with": {}, "without": {"relative_attention": False}},
    "layout": {"V0": {}, "V1": {"depths": (2, 1, 2, 4, 1)}, "V2": {"depths": (2, 1, 4, 2, 1)}},
    "head_size": {"16": {}, "32": {"head_size": 32}},
    "norm": {"batch_norm": {}, "layer_norm": {"conv_norm": "layer_norm"}},
    "downsampling": {"expand_conv": {}, "depthwise_conv": {"downsampling": "depthwise_conv"}},
    "stages": {
        "C-C-T-T": {},
        "C-C-C-C": {"layout": "C-C-C-C"},
        "C-C-C-T": {"layout": "C-C-C-T"},
        "C-T-T-T": {"layout": "C-T-T-T"},
        # Equal blocks behind ViT's patches, as many as come to about the same parameters and multiply-adds.
        "ViT": {"layout": "T", "depths": (1, 7), "widths": (64, 64), "strides": (4, 1), "stem_kernel_size": 4},
    },
}


def get_config(variant: str = "relative_attention,with") -> ml_collections.ConfigDict:
    """The recipe of a study, a comma and a variant, and if wanted a comma and the number of training images."""
    study, name, *rest = [*variant.split(","), ""][:3]
    images = rest[0] or "1000"
    if study not in STUDIES or name not in STUDIES[study] or not images.isdigit():
        named = "; ".join(f"{study}: {', '.join(variants)}" for study, variants in STUDIES.items())
        raise ValueError(f"There is no ablation {variant!r}; name a study, a comma and a variant of it ({named}).")
    config = base.get_config()
    config.epochs = EPOCHS
    config.batch_size = 50
    config.image_size = 28
    config.label_smoothing = 0.1
    config.steps_per_call = 50

    config.dataset.name = "fashion_mnist_idx"
    config.dataset.train_split = "+".join([f"train[:{images}]"] * PASSES_AN_EPOCH)
    config.dataset.eval_split = f"test[:{HELD_OUT}]"
    config.dataset.manual_dir = DEFAULT_FOLDER

    config.augment.flip = True
    config.augment.translate = 1

    config.model.name = "coatnet-small"
    config.model.depths = (2, 1, 3, 3, 1)
    config.model.widths = (24, 32, 48, 64, 96)
    config.model.strides = (2, 1, 2, 1, 1)
    config.model.layout = "C-C-T-T"
    config.model.head_size = 16
    config.model.kernel_initializer = "lecun_normal"
    config.model.drop_path_rate = 0.1
    config.model.update(STUDIES[study][name])

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    return config
