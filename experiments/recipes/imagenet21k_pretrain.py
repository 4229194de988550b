"""ImageNet-21K from scratch at 224 (Table 10), for CoAtNet-2 to -4, and -4's PT-RA and PT-RA-E150.

    python -m experiments.train --config=experiments/recipes/imagenet21k_pretrain.py:coatnet4_pt_ra_e150 \
        --workdir=DIR --strategy=tpu --tpu=NAME --config.dataset.data_dir=gs://BUCKET/tfds

For a TPU slice of 64 cores or more (batch 4096). The dataset is prepared before; see
`experiments/data/image_archives.py`. The paper's precision@1 of CoAtNet-3 is 53.0 %.
"""

import ml_collections

from experiments.recipes import table10


def get_config(model: str = "coatnet2") -> ml_collections.ConfigDict:
    """The recipe of `coatnet2`, `coatnet3`, `coatnet4`, `coatnet4_pt_ra` or `coatnet4_pt_ra_e150`."""
    config = table10.parse("imagenet21k_pretrain", model, sizes=(224,))
    config.dataset.name = "image_archives"
    config.dataset.train_split = "train[:99%]"
    config.dataset.eval_split = "train[99%:]"
    return config
