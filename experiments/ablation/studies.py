"""The studies: what each changes in a small network, and what the paper says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Study:
    """Variants of one network.

    Args:
        variants: Changes of the model by name; the first has none, and is the paper's own network.
        where: The table or figure of the paper, and what was measured.
        larger: A variant that should be more accurate than others, and those.
        published: The paper's accuracy in percent by variant; none where it has a curve only.
    """

    variants: Mapping[str, Mapping[str, Any]]
    where: str
    larger: tuple[str, tuple[str, ...]]
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)


STUDIES = {
    "relative_attention": Study(
        variants={"with": {}, "without": {"relative_attention": False}},
        where="Table 6: CoAtNet-2 on ImageNet-1K at 224",
        larger=("with", ("without",)),
        published={"with": 84.1, "without": 83.8},
    ),
    "layout": Study(
        variants={"V0": {}, "V1": {"depths": (2, 1, 2, 4, 1)}, "V2": {"depths": (2, 1, 4, 2, 1)}},
        where="Table 7: CoAtNet-2 on ImageNet-1K at 224",
        larger=("V0", ("V1", "V2")),
        published={"V0": 84.1, "V1": 83.4, "V2": 84.0},
    ),
    "head_size": Study(
        variants={"16": {}, "32": {"head_size": 32}},
        where="Table 8: CoAtNet-2 on ImageNet-1K at 224, heads of 32 and 64",
        larger=("16", ("32",)),
        published={"16": 84.1, "32": 83.9},
    ),
    "norm": Study(
        variants={"batch_norm": {}, "layer_norm": {"conv_norm": "layer_norm"}},
        where="Table 8: CoAtNet-2 on ImageNet-1K at 224",
        larger=("batch_norm", ()),
        published={"batch_norm": 84.1, "layer_norm": 84.1},
    ),
    "downsampling": Study(
        variants={"expand_conv": {}, "depthwise_conv": {"downsampling": "depthwise_conv"}},
        where="Tables 4 and 9: CoAtNet-0 on ImageNet-1K at 224",
        larger=("depthwise_conv", ("expand_conv",)),
        published={"expand_conv": 81.6, "depthwise_conv": 82.0},
    ),
    "stages": Study(
        variants={
            "C-C-T-T": {},
            "C-C-C-C": {"layout": "C-C-C-C"},
            "C-C-C-T": {"layout": "C-C-C-T"},
            "C-T-T-T": {"layout": "C-T-T-T"},
            # Equal blocks behind ViT's patches, as many as come to about the same parameters and multiply-adds.
            "ViT": {"layout": "T", "depths": (1, 7), "widths": (64, 64), "strides": (4, 1), "stem_kernel_size": 4},
        },
        where="Figure 1 (curves only): of few data the convolutional ones generalise best, C-C-C-C about as C-C-C-T, "
        "then C-C-T-T, then C-T-T-T, and ViT far behind",
        larger=("C-C-C-C", ("C-C-T-T", "C-T-T-T", "ViT")),
    ),
}
