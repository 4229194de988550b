"""What a CoAtNet looks at in an image: Grad-CAM, attention rollout and the tables of relative attention.

Everything is computed for one image at a time, which bounds the memory that large models need. `picture.py` draws it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from coatnet_tf.layers import ConstantPadding2D, FoldedSelfAttention, MBConv, PointwiseDense, TransformerBlock


@dataclasses.dataclass(frozen=True)
class Attention:
    """The attention of one Transformer block, mean of some heads.

    Args:
        grid: (height, width) of the positions that attend to each other; behind the pool if the block has one.
        scores: `[height * width, height * width]`; row p says from where position p takes what. Rows sum to 1.
    """

    grid: tuple[int, int]
    scores: np.ndarray


def check_model(model: keras.Model, path: Any) -> None:
    """Refuses models that cannot be explained.

    Args:
        model: Any model.
        path: Where it is from, for messages.

    Raises:
        ValueError: If it is folded, has no block of CoAtNet or calls one several times, does not end in a
            classifier, or does not take one batch of images.
    """
    if any(isinstance(layer, ConstantPadding2D | FoldedSelfAttention | PointwiseDense) for layer in model.layers):
        raise ValueError(f"{path} is folded, which leaves no attention scores; explain the model it came from.")
    if not blocks_of(model):
        raise ValueError(f"{path} has no block of CoAtNet among its layers; give a model that coatnet_tf.CoAtNet made.")
    calls = [node.operation for nodes in model._nodes_by_depth.values() for node in nodes]  # of this model alone
    if any(calls.count(block) > 1 for block in blocks_of(model)):
        raise ValueError(f"{path} calls blocks of CoAtNet several times; explain a model that calls each once.")
    shape, output_shape = model.input_shape, model.output_shape
    if not isinstance(model.layers[-1], keras.layers.Dense) or not (
        isinstance(output_shape, tuple) and len(output_shape) == 2
    ):
        raise ValueError(
            f"{path} gives {output_shape} and not one score per class; explain a model with its classifier."
        )
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ValueError(f"{path} takes {shape}; one batch of images of one size is expected.")


def blocks_of(model: keras.Model) -> list[keras.layers.Layer]:
    """The blocks of a model, in order."""
    return [layer for layer in model.layers if isinstance(layer, MBConv | TransformerBlock)]


def stages_of(model: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    """The blocks of each stage, by its name, in order; a stage can have blocks of both kinds."""
    stages: dict[str, list[keras.layers.Layer]] = {}
    for block in blocks_of(model):
        stages.setdefault(block.name.rpartition("_block")[0], []).append(block)
    return stages


def default_stages(model: keras.Model) -> list[str]:
    """The last stage of MBConv blocks only, if there is one, and the last of all: S2 and S4 in the paper's family."""
    stages = stages_of(model)
    convolutional = [name for name, blocks in stages.items() if all(isinstance(block, MBConv) for block in blocks)]
    return list(dict.fromkeys([*convolutional[-1:], list(stages)[-1]]))


def transformers_of(model: keras.Model) -> list[TransformerBlock]:
    """The Transformer blocks of a model, in order."""
    return [block for block in blocks_of(model) if isinstance(block, TransformerBlock)]


def predict_and_grad_cam(
    model: keras.Model, image: np.ndarray, stages: Sequence[str], target: int | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Predicts, and shows which places speak for a class (Grad-CAM, Selvaraju et al., arXiv:1610.02391).

    The feature map is the output of a stage's last block. Its channels are weighted by the spatial mean of the
    gradient of the class's logit, which is taken before softmax or sigmoid, and the sum's positive part is the map.

    Args:
        model: A functional model that `check_model` does not refuse, for images in [0, 255].
        image: `[height, width, channels]` of the model's size, in [0, 255].
        stages: Names of stages.
        target: Index of the class; by default the one that the model predicts.

    Returns:
        Probabilities, float32 `[classes]`, and a map of each stage, float32 `[rows, columns]` of its grid, at
        least 0 and in units of the logit: 0 everywhere if nothing speaks for the class.
    """
    head, last = model.layers[-1], [stages_of(model)[name][-1] for name in stages]
    until = keras.Model(model.input, [*(block.output for block in last), head.input])
    x = tf.constant(image[None], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)  # so that models whose weights are frozen have gradients too
        *features, hidden = until(x, training=False)
        logits = tf.matmul(tf.cast(hidden, tf.float32), head.kernel) + (head.bias if head.use_bias else 0.0)
        if logits.shape[-1] == 1:  # of the second of two classes: both halves of it have the same softmax
            logits = tf.concat([-logits / 2, logits / 2], axis=-1)
        logit = tf.reduce_max(logits) if target is None else logits[0, target]
    as_softmax = head.activation is keras.activations.linear or head.units == 1
    activation = tf.nn.softmax if as_softmax else head.activation
    maps = []
    for feature, gradient in zip(features, tape.gradient(logit, features), strict=True):
        weights = tf.reduce_mean(tf.cast(gradient, tf.float32), axis=(1, 2), keepdims=True)
        maps.append(tf.nn.relu(tf.reduce_sum(weights * tf.cast(feature, tf.float32), axis=-1))[0].numpy())
    return activation(logits)[0].numpy(), maps


def attention(model: keras.Model, image: np.ndarray, heads: Sequence[int] = ()) -> list[Attention]:
    """The attention of every Transformer block for an image.

    Args:
        model: A functional model that `check_model` does not refuse, for images in [0, 255].
        image: `[height, width, channels]` of the model's size, in [0, 255].
        heads: Heads of which the mean is taken; all by default.

    Returns:
        One `Attention` for each block, in order; none for a model without such blocks.
    """
    blocks = transformers_of(model)
    if not blocks:
        return []
    until = keras.Model(model.input, [block.input for block in blocks])
    before = until(tf.constant(image[None], tf.float32), training=False)
    attentions = []
    for block, x in zip(blocks, keras.tree.flatten(before), strict=True):
        x = block.attention_norm(x)  # as TransformerBlock.call goes on
        x = x if block.pool is None else block.pool(x)
        _, scores = block.attention(x, return_attention_scores=True)
        chosen = scores[0].numpy()[list(heads)] if heads else scores[0].numpy()
        attentions.append(Attention(tuple(x.shape[1:3]), chosen.mean(axis=0)))
    return attentions


def rollout(attentions: Sequence[Attention], position: tuple[int, ...] = ()) -> np.ndarray:
    """Follows attention through all blocks (rollout, Abnar & Zuidema, arXiv:2005.00928).

    A block hands on half of what a position had, over its shortcut, and half of what it attended to: 0.5 A + 0.5 I,
    whose rows sum to 1 as those of A do. The product over the blocks says from where each position of the last grid
    has what. Where the resolution falls between two blocks, a position takes equal shares of those that were pooled
    to it, such as 2x2, so that the rollout goes on to the finer grid. Convolutions between two Transformer blocks
    count as such a pool, or as nothing where they keep the resolution.

    Args:
        attentions: One or more, in order, as `attention` returns them.
        position: (row, column) of the last grid, from which the map is seen; by default the mean of all.

    Returns:
        float `[rows, columns]` of the first grid: shares, which sum to 1.

    Example:
    >>> import numpy as np
    >>> from tools.explanations.maps import Attention, rollout
    >>> both_attend_to_the_second = Attention((1, 2), np.array([[0.0, 1.0], [0.0, 1.0]]))
    >>> rollout([both_attend_to_the_second], position=(0, 0)).tolist()
    [[0.5, 0.5]]
    """
    first, last = attentions[0].grid, attentions[-1].grid
    grid, joined = first, np.eye(first[0] * first[1])
    for block in attentions:
        step = 0.5 * block.scores + 0.5 * np.eye(len(block.scores))
        joined = step @ _pool(grid, block.grid) @ joined
        grid = block.grid
    seen = joined.mean(axis=0) if not position else joined[position[0] * last[1] + position[1]]
    return seen.reshape(first)


def _pool(fine: tuple[int, int], coarse: tuple[int, int]) -> np.ndarray:
    """`[positions of coarse, positions of fine]`: equal shares of the positions that are pooled to one."""
    rows, columns = (np.kron(np.eye(c), np.full((1, f // c), c / f)) for f, c in zip(fine, coarse, strict=True))
    return np.kron(rows, columns)


def bias_tables(model: keras.Model) -> dict[str, np.ndarray]:
    """The learned tables of the first and the last Transformer block of each stage.

    Args:
        model: A model with blocks of CoAtNet.

    Returns:
        `[heads, 2H-1, 2W-1]` by name of the block; its entry `[h, H-1+a, W-1+b]` is what head h adds to the logit
        of a position attending to the one a rows below and b columns to the right. Empty for models without
        Transformer blocks, or with relative_attention=False.
    """
    tables = {}
    for blocks in stages_of(model).values():
        of_stage = [block for block in blocks if isinstance(block, TransformerBlock) and block.attention.relative_bias]
        for block in of_stage[:1] + of_stage[1:][-1:]:
            bias: Any = block.attention.relative_bias
            tables[block.name] = keras.ops.convert_to_numpy(bias.positional_table())
    return tables
