"""Large-scale sigmoid pre-training at 224, as on JFT (Table 10), for CoAtNet-3 dagger and -4 to -7.

    python -m experiments.train --config=experiments/recipes/jft_pretrain.py:coatnet4 --workdir=DIR \
        --data=tfds:NAME --strategy=tpu --tpu=NAME --config.dataset.data_dir=gs://BUCKET/tfds

JFT is Google's own: NAME is any dataset whose label is a `tfds.features.Sequence` of classes (or one class).
For hundreds of TPU cores. The paper's top-1 on ImageNet after fine-tuning at 512: 88.81 % (-3 dagger), 89.11 % (-4),
89.77 % (-5) on JFT-300M; 90.45 % (-6) and 90.88 % (-7) on JFT-3B.
"""

import ml_collections

from experiments.recipes import table10


def get_config(model: str = "coatnet3") -> ml_collections.ConfigDict:
    """The recipe of `coatnet3` (with down-sampling in the depthwise convolution) to `coatnet7`."""
    return table10.parse("jft_pretrain", model, sizes=(224,))
