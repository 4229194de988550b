"""Which part of a network a run trains: all of it, its head, its last blocks, or small additions (LoRA)."""

from __future__ import annotations

import math

import keras
import ml_collections
from keras import ops

from coatnet_tf.layers import FeedForward, RelativeSelfAttention, ResidualBlock
from experiments.model_config import make_model_config

ALL, HEAD, LAST_BLOCKS, LORA = WAYS = ("all", "head", "last_blocks", "lora")
_POOL = "head_pool"  # the last layer of the features


def prepare(network: keras.Model, config: ml_collections.ConfigDict) -> keras.Model:
    """Freezes what a run does not train.

    Args:
        network: The network from images to logits, with the weights that the run begins with: LoRA begins beside them.
        config: `tune`, `tuned_blocks` and `lora_rank`.

    Returns:
        The model that is trained: the network itself, or its head, from features to logits.
    """
    if config.tune == HEAD:
        return head_of(network)
    if config.tune == LAST_BLOCKS:
        _freeze_up_to(network, config.tuned_blocks)
    if config.tune == LORA:
        _add_lora(network, config.lora_rank)
    return network


def backbone_of(network: keras.Model) -> keras.Model:
    """The network up to the global pool: from images to features, `[batch, width]`."""
    return keras.Model(network.input, network.get_layer(_POOL).output)


def head_of(network: keras.Model) -> keras.Model:
    """The network behind the global pool, on the same variables: from features to logits."""
    names = [layer.name for layer in network.layers]
    features = x = keras.Input(network.get_layer(_POOL).output.shape[1:], name="features")
    for layer in network.layers[names.index(_POOL) + 1 :]:
        x = layer(x)
    return keras.Model(features, x, name=network.name)


def _freeze_up_to(network: keras.Model, tuned: int) -> None:
    """Freezes all in front of the last blocks."""
    blocks = [layer for layer in network.layers if isinstance(layer, ResidualBlock)]
    for layer in network.layers[: network.layers.index(blocks[-tuned])]:
        layer.trainable = False


def _add_lora(network: keras.Model, rank: int) -> None:
    """Freezes all but the head, and adds matrices of a rank to the kernels of attention and feed-forward."""
    names = [layer.name for layer in network.layers]
    added = [dense for layer in network._flatten_layers() for dense in _dense_layers(layer)]
    for layer in network.layers[: names.index(_POOL)]:
        for part in layer._flatten_layers():  # itself first
            if not part._layers and part not in added:
                part.trainable = False
    for dense in added:
        dense.enable_lora(rank)
        if dense.bias is not None:
            dense.bias.trainable = False


def _dense_layers(layer: keras.layers.Layer) -> list[keras.layers.Dense]:
    """Those of an attention or a feed-forward network."""
    if isinstance(layer, RelativeSelfAttention):
        return [layer.query, layer.key, layer.value, layer.out]
    return [layer.expand, layer.shrink] if isinstance(layer, FeedForward) else []


def with_lora(network: keras.Model) -> list[keras.layers.Dense]:
    """The layers that have matrices beside their kernel."""
    return [layer for layer in network._flatten_layers() if getattr(layer, "lora_enabled", False)]


def merge_lora(network: keras.Model) -> None:
    """Adds the product of each layer's matrices to its kernel, and empties it: the outputs stay as they are."""
    for layer in with_lora(network):
        layer._kernel.assign(layer.kernel)
        layer.lora_kernel_b.assign(ops.zeros_like(layer.lora_kernel_b.value))


def merged_variables(network: keras.Model) -> list[keras.Variable]:
    """What `merge_lora` changes."""
    return [variable for layer in with_lora(network) for variable in (layer._kernel, layer.lora_kernel_b)]


def plain_weights(network: keras.Model) -> list[keras.Variable]:
    """The weights that the network has without LoRA, in the same order."""
    beside = {id(v) for layer in with_lora(network) for v in (layer.lora_kernel_a, layer.lora_kernel_b)}
    return [weight for weight in network.weights if id(weight) not in beside]


def frozen_layers(model: keras.Model) -> tuple[set[str], str]:
    """What of a model runs in inference mode while the rest is trained.

    Returns:
        Names of the layers of which nothing is trained, and the name of the last before the first that is: gradients
        end there. None, and empty, if all is trained.
    """
    trained = [index for index, layer in enumerate(model.layers) if layer.trainable_variables]
    before = model.layers[: trained[0]]
    frozen = {layer.name for layer in model.layers if layer.weights and not layer.trainable_variables}
    if not frozen:
        return set(), ""
    return frozen | {layer.name for layer in before}, before[-1].name


def count_blocks(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Blocks of a recipe's network by kind, `"mbconv"` and `"transformer"`."""
    counts = {"mbconv": 0, "transformer": 0}
    for stage in make_model_config(config.model).stages:
        counts[stage.block] += stage.depth
    return counts


def describe(config: ml_collections.ConfigDict, model: keras.Model) -> str:
    """What is trained of a recipe's network, for people.

    Args:
        config: The recipe.
        model: From `prepare`.
    """
    count = f"{sum(math.prod(variable.shape) for variable in model.trainable_variables):,} numbers"
    views = f"{config.head_views} view{'s' if config.head_views > 1 else ''} of each image"
    blocks = f"{config.tuned_blocks} blocks" if config.tuned_blocks > 1 else "block"
    return {
        ALL: f"all, {count}",
        HEAD: f"the head alone, {count}, on features of {views} that were computed once",
        LAST_BLOCKS: f"the last {blocks} and the head, {count}",
        LORA: f"the head, and matrices of rank {config.lora_rank} beside the kernels of attention and feed-forward "
        f"(LoRA), {count}",
    }[config.tune]
