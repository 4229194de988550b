"""Numbers that the paper publishes (arXiv:2106.04803v2). None of them was measured here."""

from __future__ import annotations

from typing import NamedTuple


class Result(NamedTuple):
    """A published model at an evaluation size; its FLOPs are multiply-accumulates.

    Args:
        model: Name of the configuration.
        size: Evaluation size in pixels.
        downsampling: Place of the stride in MBConv.
        params: Parameters in millions.
        macs: Multiply-accumulates in billions.
        top1: ImageNet top-1 accuracy in percent by training data (`"1K"`, `"21K"`, `"JFT"`), the best
            of the recipes that the paper lists.
    """

    model: str
    size: int
    downsampling: str
    params: float
    macs: float
    top1: dict[str, float]


RESULTS = (
    Result("coatnet-0", 224, "expand_conv", 25, 4.2, {"1K": 81.6}),
    Result("coatnet-0", 224, "depthwise_conv", 25, 4.6, {"1K": 82.0}),
    Result("coatnet-0", 384, "expand_conv", 25, 13.4, {"1K": 83.9}),
    Result("coatnet-1", 224, "expand_conv", 42, 8.4, {"1K": 83.3}),
    Result("coatnet-1", 224, "depthwise_conv", 42, 8.8, {"1K": 83.5}),
    Result("coatnet-1", 384, "expand_conv", 42, 27.4, {"1K": 85.1}),
    Result("coatnet-2", 224, "expand_conv", 75, 15.7, {"1K": 84.1}),
    Result("coatnet-2", 224, "depthwise_conv", 75, 16.6, {"1K": 84.1}),
    Result("coatnet-2", 384, "expand_conv", 75, 49.8, {"1K": 85.7, "21K": 87.1}),
    Result("coatnet-2", 512, "expand_conv", 75, 96.7, {"1K": 85.9, "21K": 87.3}),
    Result("coatnet-3", 224, "expand_conv", 168, 34.7, {"1K": 84.5}),
    Result("coatnet-3", 384, "expand_conv", 168, 107.4, {"1K": 85.8, "21K": 87.6}),
    Result("coatnet-3", 384, "depthwise_conv", 168, 114, {"JFT": 88.52}),
    Result("coatnet-3", 512, "expand_conv", 168, 203.1, {"1K": 86.0, "21K": 87.9}),
    Result("coatnet-3", 512, "depthwise_conv", 168, 214, {"JFT": 88.81}),
    Result("coatnet-4", 384, "expand_conv", 275, 189.5, {"21K": 88.4}),
    Result("coatnet-4", 512, "expand_conv", 275, 360.9, {"21K": 88.56, "JFT": 89.11}),
    Result("coatnet-5", 512, "expand_conv", 688, 812, {"JFT": 89.77}),
    Result("coatnet-6", 512, "expand_conv", 1470, 1521, {"JFT": 90.45}),
    Result("coatnet-7", 512, "expand_conv", 2440, 2586, {"JFT": 90.88}),
)

# TPUv3-core-days of pre-training (Table 5), at 224: -3 (dagger), -4, -5 for 14 epochs of JFT-300M, -6 and -7 on JFT-3B.
CORE_DAYS = {"coatnet-3": 580, "coatnet-4": 950, "coatnet-5": 1820, "coatnet-6": 6600, "coatnet-7": 20_100}
ON_JFT_3B = ("coatnet-6", "coatnet-7")  # for epochs that the paper does not say


class Rival(NamedTuple):
    """A rival of Table 5, pre-trained on JFT-300M (ViT-G/14: JFT-3B).

    Args:
        model: Name in `coatnet_tf.rivals.RIVALS`.
        size: Evaluation size in pixels.
        params: Parameters in millions.
        macs: FLOPs as printed, in billions; `None` where there are none.
        top1: ImageNet top-1 accuracy in percent.
        core_days: TPUv3-core-days of pre-training; `None` where there are none.
    """

    model: str
    size: int
    params: float
    macs: float | None
    top1: float
    core_days: float | None


RIVALS = (
    Rival("resnet50-vit-l-16", 384, 330, None, 87.12, None),
    Rival("vit-l-16", 512, 307, 364, 87.76, 680),
    Rival("vit-h-14", 518, 632, 1021, 88.55, 2500),
    Rival("nfnet-f4-plus", 512, 527, 367, 89.2, 1860),
    # Its FLOPs count a multiply-add as two (docs/rivals.md); its core-days are read off a figure, "more than".
    Rival("vit-g-14", 518, 1840, 5160, 90.45, 30_000),
)
