r"""The ImageNet-1K recipe of the paper (Table 10) scaled down to Fashion-MNIST: the network of `fashion_mnist.py` with
Mixup, RandAugment, averaged weights and stochastic depth.

    export TF_XLA_FLAGS="--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit --tf_xla_ops_to_cluster=FUSIBLE"
    python -m experiments.train --config=experiments/recipes/fashion_mnist_1k.py --workdir=runs/fashion_1k

Seed 0: 92.97 % of the test images. What each part adds: docs/recipe_parts.md.
"""

import ml_collections

from experiments.recipes import fashion_mnist, table10


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    config = fashion_mnist.get_config()
    config.epochs = 16
    config.ema_decay = 0.998
    config.augment.translate = 1
    config.augment.randaugment_layers = 1
    config.augment.randaugment_magnitude = 4.0
    config.augment.randaugment_pixel_scale = config.image_size / table10.PRETRAIN_SIZE
    config.augment.mixup_alpha = 0.1
    config.model.drop_path_rate = 0.05
    return config
