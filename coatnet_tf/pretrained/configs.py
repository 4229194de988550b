"""Networks of CoAtNet's kind that other people built and trained, as configurations."""

from __future__ import annotations

from typing import Any

from coatnet_tf.config import CoAtNetConfig, StageConfig, StemConfig, make_config
from coatnet_tf.layers.options import replace

# timm's networks (Wightman, `timm/models/maxxvit.py`). All were trained in PyTorch: strided convolutions are centred
# at the even pixels, and BatchNorm's epsilon is PyTorch's.
_TIMM: dict[str, Any] = {
    "padding": "centred",
    "conv_norm_epsilon": 1e-5,
    "stem_bias": False,
    "transformer_norm_epsilon": 1e-6,
    "ffn_activation": "gelu",
    "mbconv": {"pool": "avg"},
    "transformer": {"pool": "avg"},
}
# Its own designs, which widen behind the attention and expand from the input.
_RW: dict[str, Any] = {
    **_TIMM,
    "activation": "silu",
    "downsampling": "depthwise_conv",
    "expansion_of": "input",
    "se_ratio_of": "inner",
    "attention_width": "input",
    "head": "norm_pool",
}
_RW_EARLY: dict[str, Any] = {**_RW, "pre_norm_activation": True, "conv_bias": False, "se_activation": "relu"}
_RW_FIRST: dict[str, Any] = {**_RW_EARLY, "se_before_norm": True, "shortcut_bias": False}  # the first ones trained
_RW_LARGE: dict[str, Any] = {**_RW_EARLY, "se_activation": "silu"}
_AVG_POOL: dict[str, Any] = {"downsampling": "avg_pool"}
_MAX3: dict[str, Any] = {"mbconv": {"pool": "max3"}, "transformer": {"pool": "max3"}}
# Of the paper's shape.
_PAPER_SHAPED: dict[str, Any] = {**_TIMM, "activation": "gelu", "downsampling": "depthwise_conv"}
# keras-cv-attention-models' CoAtNet0, "guessed from article".
_KECAM: dict[str, Any] = {
    "preprocessing": "torch",
    "padding": "centred",
    "activation": "gelu",
    "conv_norm_epsilon": 1e-5,
    "stem_bias": False,
    "conv_bias": False,
    "downsampling": "depthwise_conv",
    "expansion_of": "input",
    "se_ratio": 0.0625,
    "se_ratio_of": "inner",
    "se_activation": "gelu",
    "ffn_activation": "gelu",
    "attention_width": "input",
    "attention_bias": False,
    "shortcut_bias": False,
    "ffn_bias": False,
    "head": "pool",
}

_NANO = (64, 128, 256, 512)
_SMALL = (96, 192, 384, 768)
_MEDIUM = (128, 256, 512, 1024)
_LARGE = (192, 384, 768, 1536)
_STEMS: dict[tuple[int, ...], tuple[int, int]] = {
    _NANO: (32, 64),
    _SMALL: (32, 64),
    _MEDIUM: (64, 128),
    _LARGE: (96, 192),
}


def _rw(name: str, blocks: tuple[int, ...], widths: tuple[int, ...], **fields: Any) -> CoAtNetConfig:
    """One of timm's own designs, whose stem widens in between."""
    return make_config(name, (2, *blocks), (0, *widths), **{"stem_width": _STEMS[widths], **fields})


def _paper_shaped(number: int, blocks: tuple[int, ...], stem: int, widths: tuple[int, ...]) -> CoAtNetConfig:
    return make_config(f"coatnet_{number}", (2, *blocks), (stem, *widths), **_PAPER_SHAPED)


def _nano_cc() -> CoAtNetConfig:
    """Each Transformer stage of this one begins with an MBConv block, which halves the resolution."""
    stages = (
        StageConfig("s1", "mbconv", 3, 64),
        StageConfig("s2", "mbconv", 4, 128),
        StageConfig("s3", "mbconv", 1, 256),
        StageConfig("s3", "transformer", 5, 256, stride=1),
        StageConfig("s4", "mbconv", 1, 512),
        StageConfig("s4", "transformer", 2, 512, stride=1),
    )
    return replace(CoAtNetConfig("coatnet_nano_cc", StemConfig(2, (32, 64)), stages), **{**_RW_EARLY, **_AVG_POOL})


RELATIVES: dict[str, CoAtNetConfig] = {
    config.name: config
    for config in (
        _rw("coatnet_pico_rw", (2, 3, 5, 2), _NANO, **_RW),
        _rw("coatnet_nano_rw", (3, 4, 6, 3), _NANO, **{**_RW, **_AVG_POOL}),
        _rw("coatnet_0_rw", (2, 3, 7, 2), _SMALL, **{**_RW_FIRST, **_AVG_POOL}),
        _rw("coatnet_1_rw", (2, 6, 14, 2), _SMALL, **_RW_FIRST),
        _rw("coatnet_2_rw", (2, 6, 14, 2), _MEDIUM, **_RW_LARGE),
        _rw("coatnet_3_rw", (2, 6, 14, 2), _LARGE, **_RW_LARGE, layer_scale=1e-6),
        _rw(
            "coatnet_bn_0_rw",
            (2, 3, 7, 2),
            _SMALL,
            **_RW_FIRST,
            transformer_norm="batch_norm",
            preprocessing="torch",
        ),
        _rw("coatnet_rmlp_nano_rw", (3, 4, 6, 3), _NANO, **_RW, relative_mlp_units=384),
        _rw("coatnet_rmlp_0_rw", (2, 3, 7, 2), _SMALL, **_RW_EARLY, relative_mlp_units=512),
        _rw("coatnet_rmlp_1_rw", (2, 6, 14, 2), _SMALL, **{**_RW_FIRST, **_AVG_POOL, **_MAX3}, relative_mlp_units=384),
        _rw("coatnet_rmlp_1_rw2", (2, 6, 14, 2), _SMALL, **_RW_EARLY, relative_mlp_units=512),
        _rw("coatnet_rmlp_2_rw", (2, 6, 14, 2), _MEDIUM, **_RW_LARGE, relative_mlp_units=512, layer_scale=1e-6),
        _rw("coatnet_rmlp_3_rw", (2, 6, 14, 2), _LARGE, **_RW_LARGE, relative_mlp_units=512, layer_scale=1e-6),
        _nano_cc(),
        _paper_shaped(0, (2, 3, 5, 2), 64, _SMALL),
        _paper_shaped(1, (2, 6, 14, 2), 64, _SMALL),
        _paper_shaped(2, (2, 6, 14, 2), 128, _MEDIUM),
        _paper_shaped(3, (2, 6, 14, 2), 192, _LARGE),
        _paper_shaped(4, (2, 12, 28, 2), 192, _LARGE),
        _paper_shaped(5, (2, 12, 28, 2), 192, (256, 512, 1280, 2048)),
        make_config("kecam_coatnet0", (2, 2, 3, 5, 2), (64, *_SMALL), **_KECAM),
    )
}
