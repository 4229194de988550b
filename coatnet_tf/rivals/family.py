"""The rivals of Table 5.

| | patch | width | depth | MLP | heads | evaluated at |
| --- | --- | --- | --- | --- | --- | --- |
| ViT-L/16 | 16 | 1024 | 24 | 4096 | 16 | 512 |
| ViT-H/14 | 14 | 1280 | 32 | 5120 | 16 | 518 |
| ViT-G/14 | 14 | 1664 | 48 | 8192 | 16 | 518 |
| ResNet-50 + ViT-L/16 | 16 | 1024 | 24 | 4096 | 16 | 384 |

| | blocks | widths | group width | evaluated at |
| --- | --- | --- | --- | --- |
| NFNet-F4 | 5, 10, 30, 15 | 256, 512, 1536, 1536 | 128 | 512 |
| NFNet-F4+ | 5, 10, 30, 15 | 384, 768, 2048, 2048 | 128 | 512 |
"""

from __future__ import annotations

from typing import Any

from coatnet_tf.builder import make_factory
from coatnet_tf.rivals.nfnet import NFNetConfig
from coatnet_tf.rivals.resnet import ResNetConfig
from coatnet_tf.rivals.vit import ViTConfig

_LARGE: dict[str, Any] = {"width": 1024, "depth": 24, "mlp_width": 4096, "num_heads": 16}
_F4 = (5, 10, 30, 15)

_CONFIGS: tuple[ViTConfig | NFNetConfig, ...] = (
    ViTConfig(name="vit-l-16", patch_size=16, **_LARGE),
    ViTConfig(name="vit-h-14", patch_size=14, width=1280, depth=32, mlp_width=5120, num_heads=16),
    ViTConfig(name="vit-g-14", patch_size=14, width=1664, depth=48, mlp_width=8192, num_heads=16),
    ViTConfig(name="resnet50-vit-l-16", patch_size=1, resnet=ResNetConfig(stage_strides=(1, 2, 2, 1)), **_LARGE),
    NFNetConfig(name="nfnet-f4", depths=_F4, widths=(256, 512, 1536, 1536), stem_widths=(16, 32, 64, 128)),
    NFNetConfig(name="nfnet-f4-plus", depths=_F4, widths=(384, 768, 2048, 2048), stem_widths=(16, 32, 64, 192)),
)
RIVALS: dict[str, ViTConfig | NFNetConfig] = {config.name: config for config in _CONFIGS}

ViTL16 = make_factory(
    "ViTL16",
    RIVALS["vit-l-16"],
    """ViT-L/16 (arXiv:2010.11929): 305.2 M parameters, 362.0 B MACs at 512.

    Table 5: 307 M, 364 B.""",
)
ViTH14 = make_factory(
    "ViTH14",
    RIVALS["vit-h-14"],
    """ViT-H/14 (arXiv:2010.11929): 633.5 M parameters, 1016.7 B MACs at 518.

    Table 5: 632 M, 1021 B.""",
)
ViTG14 = make_factory(
    "ViTG14",
    RIVALS["vit-g-14"],
    """ViT-G/14 (arXiv:2106.04560): 1846 M parameters, 2822 B MACs at 518.

    With a class token: its parameters meet the 1.84 B of Table 5 and the 1843 M of its paper, and those of a network
    that pools by attention would not. The 5160 B of Table 5 are no MACs; see `docs/rivals.md`.""",
)
ResNet50ViTL16 = make_factory(
    "ResNet50ViTL16",
    RIVALS["resnet50-vit-l-16"],
    """ResNet-50 + ViT-L/16 (arXiv:2010.11929): 329.5 M parameters, 210.1 B MACs at 384.

    All of a ResNet-50, the last stage of which keeps the resolution: the reading that meets both the patches of 16
    and the 330 M of Table 5, which has no FLOPs. `docs/rivals.md` has the others.""",
)
NFNetF4 = make_factory(
    "NFNetF4",
    RIVALS["nfnet-f4"],
    """NFNet-F4 (arXiv:2102.06171): 316.1 M parameters, 215.2 B MACs at 512, as in its paper.""",
)
NFNetF4Plus = make_factory(
    "NFNetF4Plus",
    RIVALS["nfnet-f4-plus"],
    """NFNet-F4+ (arXiv:2102.06171): 527.0 M parameters, 367.4 B MACs at 512.

    Table 5: 527 M, 367 B.""",
)
