"""A CoAtNet of C-C-T-T layout on the digits that scikit-learn ships: the demo.

python -m experiments.train --config=experiments/recipes/digits.py --workdir=runs/digits
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.epochs = 30
    config.batch_size = 32
    config.image_size = 16
    config.dtype = "float32"
    config.label_smoothing = 0.1
    config.steps_per_call = 22

    config.dataset = ml_collections.ConfigDict()
    config.dataset.name = "digits"
    config.dataset.train_split = "train"
    config.dataset.eval_split = "test"
    config.dataset.data_dir = ""
    config.dataset.manual_dir = ""

    config.augment = ml_collections.ConfigDict()
    config.augment.flip = False
    config.augment.translate = 1

    config.model = ml_collections.ConfigDict()
    config.model.name = "coatnet-digits"
    config.model.depths = (2, 1, 1, 2, 1)
    config.model.widths = (16, 24, 48, 96, 128)
    config.model.strides = (1, 2, 2, 1, 1)
    config.model.layout = "C-C-T-T"
    config.model.kernel_initializer = "lecun_normal"

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 2e-3
    config.optimizer.min_learning_rate = 1e-5
    config.optimizer.warmup_steps = 88
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    return config
