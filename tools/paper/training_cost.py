"""What training costs: memory on each device, FLOPs, and the TPUv3-core-days that the paper reports for them."""

from __future__ import annotations

import dataclasses
import math

import coatnet_tf
from experiments import sizes
from tools.paper.published import CORE_DAYS
from tools.tpu.chips import TPUS, Accelerator

GIB = 2**30
SECONDS_PER_DAY = 86_400
# 18.4 and 22.8 TFLOP/s of a TPUv3 core's 61.5: what the core-days of CoAtNet-3 and -4 (heads of 32), and of -5 come to.
UTILISATION_OF_HEADS_32 = 18.4 / 61.5
UTILISATION_OF_LARGER_HEADS = 22.8 / 61.5
FORWARD_PASSES_PER_STEP = 3  # the backward pass costs two
JFT_3B = 3_000_000_000
# Of what a compiler must keep, what the TPU's needs: 1.16 to 1.35 times as much in the programs of docs/tpu.md.
COMPILERS_SHARE = 1.2
_RESERVED = 0.9  # of the memory; the rest is the program's, and what its allocator cannot use


ACCELERATORS = {
    **{name if name.startswith("tpu") else f"tpu_{name}": chip for name, chip in TPUS.items()},
    "h100": Accelerator(devices=1, tflops=989, gib=80),
    "h200": Accelerator(devices=1, tflops=989, gib=141),
}


@dataclasses.dataclass(frozen=True)
class TrainingMemory:
    """What training a model holds on each device, in bytes.

    Args:
        weights: Weights in float32, BatchNorm's averages included.
        gradients: Gradients in the dtype of the computation, in which they are summed.
        moments: AdamW's two moments in float32.
        averages: Averaged weights; 0 without.
        cast: Weights in the dtype of the computation, if that is another.
        image: Activations kept for the backward pass, for one image.
        image_rematerialised: The same when only the blocks' inputs are kept, and the inner activations of one.
    """

    weights: int
    gradients: int
    moments: int
    averages: int
    cast: int
    image: int
    image_rematerialised: int

    @property
    def states(self) -> int:
        """All that does not grow with the batch."""
        return self.weights + self.gradients + self.moments + self.averages + self.cast

    def largest_batch(self, device_bytes: float, rematerialise: bool) -> int:
        """Images that fit on a device; 0 if not one does."""
        image = self.image_rematerialised if rematerialise else self.image
        return max(0, int((_RESERVED * device_bytes - self.states) / image))

    def shards(self, device_bytes: float) -> int:
        """Devices that the states must be divided among, so that one image fits beside them."""
        return math.ceil(self.states / (_RESERVED * device_bytes - self.image_rematerialised))


def count_memory(
    config: coatnet_tf.CoAtNetConfig,
    image_size: int | sizes.Size,
    half: bool = True,
    averaged: bool = False,
    fused: bool = True,
    classes: int = 1000,
) -> TrainingMemory:
    """Counts what training holds.

    Args:
        config: The model.
        image_size: Height and width, as one number if they are equal.
        half: Whether activations are bfloat16 (`mixed_bfloat16`), rather than float32.
        averaged: Whether averaged weights are kept (`ema_decay`).
        fused: Whether a compiler recomputes all that is element-wise, as XLA does, so that only the outputs of
            convolutions, products and pools are kept, times `COMPILERS_SHARE`; TensorFlow's kernels keep the output of
            every layer, and three inner values of each GELU.
        classes: Number of classes.

    Returns:
        A `TrainingMemory`. Attention's logits and probabilities are counted as the other activations are.
    """
    layers = coatnet_tf.profile_layers(config, (*sizes.parse(image_size), 3), classes)
    trained = sum(cost.params for _, cost, _ in layers)
    weights = 4 * (trained + sum(cost.non_trainable_params for _, cost, _ in layers))
    size = 2 if half else 4
    held = size * (COMPILERS_SHARE if fused else 1)
    kept = [cost.kept if fused else cost.total_activations + 3 * cost.activated for _, cost, _ in layers]
    outputs = sum(math.prod(shape) for _, _, shape in layers)
    return TrainingMemory(
        weights=weights,
        gradients=size * trained,
        moments=8 * trained,
        averages=4 * trained if averaged else 0,
        cast=2 * trained if half else 0,
        image=round(held * sum(kept)),
        image_rematerialised=round(held * (outputs + max(kept))),
    )


def utilisation_of(config: coatnet_tf.CoAtNetConfig) -> float:
    """The share of the peak that a model reaches, by the paper's core-days."""
    return UTILISATION_OF_HEADS_32 if config.transformer.attention.head_size <= 32 else UTILISATION_OF_LARGER_HEADS


def training_flops(
    config: coatnet_tf.CoAtNetConfig, image_size: int | sizes.Size, rematerialise: bool = False
) -> float:
    """FLOPs of training on one image, two for a multiply-accumulate; recomputing costs one more forward pass."""
    macs = coatnet_tf.profile(config, (*sizes.parse(image_size), 3)).macs
    return 2.0 * macs * (FORWARD_PASSES_PER_STEP + (1 if rematerialise else 0))


def core_days(config: coatnet_tf.CoAtNetConfig, images: float) -> float:
    """TPUv3-core-days of training at 224 on a number of images, all epochs together.

    Example:
    >>> import coatnet_tf
    >>> from tools.paper.training_cost import core_days
    >>> round(core_days(coatnet_tf.get_config("coatnet-4"), 14 * 300e6))  # of JFT-300M; Table 5 has 950
    955
    """
    seconds = training_flops(config, 224) * images / (utilisation_of(config) * ACCELERATORS["tpu_v3"].tflops * 1e12)
    return seconds / SECONDS_PER_DAY


def implied_epochs(model: str) -> float:
    """Epochs on JFT-3B that the published core-days of CoAtNet-6 or -7 come to."""
    return CORE_DAYS[model] / core_days(coatnet_tf.get_config(model), JFT_3B)
