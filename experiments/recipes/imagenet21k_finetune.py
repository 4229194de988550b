"""ImageNet-1K at 384 or 512 (Table 10), from weights pre-trained on ImageNet-21K.

    python -m experiments.train --config=experiments/recipes/imagenet21k_finetune.py:coatnet4_pt_ra_e150,512 \
        --workdir=DIR --init_from=PRETRAINED_DIR --reset_head --strategy=tpu --tpu=NAME

For a TPU slice of 64 cores or more (batch 1024). Augmentation is the same as in pre-training: one that was off there
hurts when it comes on. The paper's top-1 at 384: 87.1, 87.6 and 87.9 % for -2 to -4, 88.3 and 88.4 % for -4 with
PT-RA and PT-RA-E150; at 512: 87.3, 87.9, 88.1, 88.4 and 88.56 %.
"""

import ml_collections

from experiments.recipes import table10


def get_config(model: str = "coatnet2") -> ml_collections.ConfigDict:
    """The recipe of a model of `imagenet21k_pretrain.py`, and behind a comma 384 (default), 512 or 224."""
    config = table10.parse("imagenet21k_finetune", model, sizes=(384, 512, 224))
    config.dataset.name = "imagenet2012"
    return config
