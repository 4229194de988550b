"""A CoAtNet of C-C-T-T layout on the digits that scikit-learn ships: the demo.

python -m experiments.train --config=experiments/recipes/digits.py --workdir=runs/digits
"""

import ml_collections

from experiments.recipes import base


def get_config() -> ml_collections.ConfigDict:
    """The recipe."""
    config = base.get_config()
    config.epochs = 30
    config.batch_size = 32
    config.image_size = 16
    config.label_smoothing = 0.1
    config.steps_per_call = 22

    config.dataset.name = "digits"
    config.dataset.eval_split = "test"

    config.augment.translate = 1

    config.model.name = "coatnet-digits"
    config.model.depths = (2, 1, 1, 2, 1)
    config.model.widths = (16, 24, 48, 96, 128)
    config.model.strides = (1, 2, 2, 1, 1)
    config.model.layout = "C-C-T-T"
    config.model.kernel_initializer = "lecun_normal"

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 88
    return config
