"""Tables 6, 7 and 8: one change of the model, on ImageNet-1K (CoAtNet-2) or ImageNet-21K (CoAtNet-3).

    python -m experiments.train --config=experiments/recipes/ablations.py:imagenet1k,layout_v1 --workdir=DIR \
        --strategy=tpu --tpu=NAME

Settings: `imagenet1k`, `imagenet21k`, and to fine-tune them (with --init_from) `imagenet1k_finetune`,
`imagenet21k_finetune`.
The paper's top-1 (1K, at 224) and precision@1 (21K) with the change, 84.1 and 53.0 % without it:
no_relative_attention 83.8, 52.8; layout_v1 83.4, 53.0; layout_v2 84.0; head_size_64 83.9; layer_norm 84.1 (1K).
"""

import ml_collections

from experiments.recipes import imagenet1k_finetune, imagenet1k_pretrain, imagenet21k_finetune, imagenet21k_pretrain

_COATNET2 = (128, 128, 256, 512, 1024)
_COATNET3 = (192, 192, 384, 768, 1536)

_SETTINGS = {
    "imagenet1k": (imagenet1k_pretrain, "coatnet2", _COATNET2),
    "imagenet1k_finetune": (imagenet1k_finetune, "coatnet2", _COATNET2),
    "imagenet21k": (imagenet21k_pretrain, "coatnet3", _COATNET3),
    "imagenet21k_finetune": (imagenet21k_finetune, "coatnet3", _COATNET3),
}
_LAYOUTS = {"layout_v1": (2, 2, 2, 18, 2), "layout_v2": (2, 2, 8, 12, 2)}
_CHANGES = {
    "no_relative_attention": {"relative_attention": False},
    "head_size_64": {"head_size": 64},
    "layer_norm": {"conv_norm": "layer_norm"},
}


def get_config(variant: str = "imagenet1k,no_relative_attention") -> ml_collections.ConfigDict:
    """The recipe of a setting with a change: a setting, a comma, and a change, as named above."""
    setting, _, change = variant.partition(",")
    if setting not in _SETTINGS or change not in (*_LAYOUTS, *_CHANGES):
        raise ValueError(
            f"There is no ablation {variant!r}; name one of {', '.join(_SETTINGS)}, a comma, and one of "
            f"{', '.join((*_CHANGES, *_LAYOUTS))}."
        )
    recipe, model, widths = _SETTINGS[setting]
    config = recipe.get_config(model)
    if change in _LAYOUTS:
        config.model.name += f"-{change}"
        config.model.depths, config.model.widths = _LAYOUTS[change], widths
    else:
        config.model.update(_CHANGES[change])
    return config
