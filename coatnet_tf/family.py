"""The family of the paper (Tables 3, 11 and 12)."""

from __future__ import annotations

from typing import Any

from coatnet_tf.config import CoAtNetConfig, StageConfig, StemConfig, make_config
from coatnet_tf.layers import AttentionConfig, TransformerConfig
from coatnet_tf.layers.options import replace
from coatnet_tf.pretrained.configs import RELATIVES


def _make_mixed_config(name: str, s1: int, s2: int, s3_mbconv: int, s3_transformer: int, s4: int) -> CoAtNetConfig:
    """CoAtNet-6 and -7: in S3 the MBConv part halves the resolution, the Transformer part only widens."""
    stages = (
        StageConfig("s1", "mbconv", 2, s1),
        StageConfig("s2", "mbconv", 4, s2),
        StageConfig("s3", "mbconv", 8, s3_mbconv),
        StageConfig("s3", "transformer", 42, s3_transformer, stride=1),
        StageConfig("s4", "transformer", 2, s4),
    )
    transformer = TransformerConfig(attention=AttentionConfig(head_size=128))
    return CoAtNetConfig(name, StemConfig(2, 192), stages, transformer=transformer)


FAMILY: dict[str, CoAtNetConfig] = {
    config.name: config
    for config in (
        make_config("coatnet-0", (2, 2, 3, 5, 2), (64, 96, 192, 384, 768)),
        make_config("coatnet-1", (2, 2, 6, 14, 2), (64, 96, 192, 384, 768)),
        make_config("coatnet-2", (2, 2, 6, 14, 2), (128, 128, 256, 512, 1024)),
        make_config("coatnet-3", (2, 2, 6, 14, 2), (192, 192, 384, 768, 1536)),
        make_config("coatnet-4", (2, 2, 12, 28, 2), (192, 192, 384, 768, 1536)),
        make_config("coatnet-5", (2, 2, 12, 28, 2), (192, 256, 512, 1280, 2048), head_size=64),
        # Table 12 prints D2048 for S4 of CoAtNet-6. That makes 1350 M parameters, 8 % below the 1.47 B
        # of Table 5; D3072 makes 1471 M and meets the FLOPs of Table 5 as well, so Table 5 is followed.
        _make_mixed_config("coatnet-6", s1=192, s2=384, s3_mbconv=768, s3_transformer=1536, s4=3072),
        _make_mixed_config("coatnet-7", s1=256, s2=512, s3_mbconv=1024, s3_transformer=2048, s4=3072),
    )
}


def get_config(config: str | CoAtNetConfig, **overrides: Any) -> CoAtNetConfig:
    """Looks a configuration up by name, with fields replaced.

    Args:
        config: `"coatnet-0"` .. `"coatnet-7"`, a name in `RELATIVES`, or a `CoAtNetConfig`.
        **overrides: Fields to replace, of `CoAtNetConfig` or of the options in it by their own names.

    Returns:
        A `CoAtNetConfig`.

    Raises:
        ValueError: If the name or a field is unknown, or the result is refused.

    Example:
    >>> import coatnet_tf
    >>> coatnet_tf.get_config("coatnet-3", downsampling="depthwise_conv").mbconv.downsampling
    'depthwise_conv'
    """
    if isinstance(config, str):
        known = {**FAMILY, **RELATIVES}
        if config not in known:
            raise ValueError(f"There is no configuration {config!r}; the known ones are {', '.join(known)}.")
        config = known[config]
    if not isinstance(config, CoAtNetConfig):
        raise ValueError(f"config must be the name of a configuration or a CoAtNetConfig; got {config!r}.")
    return replace(config, **overrides)
