"""ImageNet-1K at 384 or 512 (Table 10), from weights pre-trained on ImageNet-1K at 224.

    python -m experiments.train --config=experiments/recipes/imagenet1k_finetune.py:coatnet2,512 --workdir=DIR \
        --init_from=PRETRAINED_DIR --strategy=tpu --tpu=NAME

For a TPU slice of 32 cores or more (batch 512). The bias tables are resized.
The paper's top-1 at 384: 83.9, 85.1, 85.7 and 85.8 % for -0 to -3; at 512: 85.9 % for -2, 86.0 % for -3.
"""

import ml_collections

from experiments.recipes import table10


def get_config(model: str = "coatnet0") -> ml_collections.ConfigDict:
    """The recipe of `coatnet0` to `coatnet3`, and behind a comma 384 (default), 512 or 224."""
    config = table10.parse("imagenet1k_finetune", model, sizes=(384, 512, 224))
    config.dataset.name = "imagenet2012"
    return config
