"""ImageNet-1K from scratch at 224 (Table 10), for CoAtNet-0 to -3.

    python -m experiments.train --config=experiments/recipes/imagenet1k_pretrain.py:coatnet2 --workdir=DIR \
        --strategy=tpu --tpu=NAME --config.dataset.manual_dir=ARCHIVES

For a TPU slice of 32 cores or more (batch 4096). ARCHIVES holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar.
The paper's top-1 at 224: 81.6, 83.3, 84.1 and 84.5 % for -0, -1, -2 and -3.
"""

import ml_collections

from experiments.recipes import table10


def get_config(model: str = "coatnet0") -> ml_collections.ConfigDict:
    """The recipe of `coatnet0`, `coatnet1`, `coatnet2` or `coatnet3`."""
    config = table10.parse("imagenet1k_pretrain", model, sizes=(224,))
    config.dataset.name = "imagenet2012"
    return config
