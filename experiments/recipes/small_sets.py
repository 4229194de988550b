"""Weights to fine-tune from, for the study of small sets: a narrow network of timm's kind on half of Fashion-MNIST.

    python -m tools.small_sets --workdir=runs/small_sets --clip_art=/usr/share/openclipart/png

runs it on 1,200 images of each of the classes 0 to 4, which none of the small sets has. The network is timm's
`coatnet_0_rw` with other depths and widths, so that timm can fine-tune the same weights: docs/small_sets.md.
"""

import ml_collections

from experiments.recipes import base


def get_config() -> ml_collections.ConfigDict:
    """The recipe; the dataset is given by `--data`."""
    config = base.get_config()
    config.epochs = 10
    config.batch_size = 64
    config.image_size = 64
    config.label_smoothing = 0.1

    config.augment.flip = True
    config.augment.translate = 4

    config.model.name = "coatnet-small-sets"
    config.model.depths = (2, 1, 1, 2, 1)
    config.model.widths = (0, 24, 32, 64, 128)
    config.model.stem_width = (8, 16)
    config.model.head_size = 16
    config.model.kernel_initializer = "lecun_normal"
    # The options of coatnet_tf.RELATIVES["coatnet_0_rw"]; a test compares.
    config.model.padding = "centred"
    config.model.activation = "silu"
    config.model.conv_norm_epsilon = 1e-5
    config.model.stem_bias = False
    config.model.conv_bias = False
    config.model.shortcut_bias = False
    config.model.pre_norm_activation = True
    config.model.downsampling = "avg_pool"
    config.model.expansion_of = "input"
    config.model.se_before_norm = True
    config.model.se_ratio_of = "inner"
    config.model.se_activation = "relu"
    config.model.mbconv = {"pool": "avg"}
    config.model.transformer = {"pool": "avg"}
    config.model.attention_width = "input"
    config.model.transformer_norm_epsilon = 1e-6
    config.model.ffn_activation = "gelu"
    config.model.head = "norm_pool"
    config.model.drop_path_rate = 0.0

    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 60
    return config
