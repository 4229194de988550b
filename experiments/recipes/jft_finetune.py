"""ImageNet-1K at 512 or 384 (Table 10), from weights pre-trained on a dataset such as JFT.

    python -m experiments.train --config=experiments/recipes/jft_finetune.py:coatnet4,512 --workdir=DIR \
        --init_from=PRETRAINED_DIR --reset_head --strategy=tpu --tpu=NAME

For a TPU slice of 64 cores or more (batch 512). The paper's top-1 at 512: 88.81 % (-3 dagger), 89.11 % (-4),
89.77 % (-5), 90.45 % (-6), 90.88 % (-7); at 384: 88.52 % (-3 dagger).
"""

import ml_collections

from experiments.recipes import table10


def get_config(model: str = "coatnet3") -> ml_collections.ConfigDict:
    """The recipe of `coatnet3` (with down-sampling in the depthwise convolution) to `coatnet7`."""
    config = table10.parse("jft_finetune", model, sizes=(512, 384, 224))
    config.dataset.name = "imagenet2012"
    return config
