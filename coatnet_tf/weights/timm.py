"""Weights of timm's CoAtNets (PyTorch state dicts)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
import numpy as np

from coatnet_tf.layers import MBConv, RelativePositionMLP, RelativeSelfAttention, TransformerBlock
from coatnet_tf.weights.imports import Assignment, block_position
from coatnet_tf.weights.keras_file import Loaded

_PREDICTIONS = "head.fc"


def load_timm(
    model: keras.Model, tensors: Mapping[str, np.ndarray], source: str = "the state dict", reset_head: bool = False
) -> Loaded:
    """Loads the state dict of a timm CoAtNet, every tensor of it, or refuses and changes nothing.

    Bias tables of another input size are resized as timm's own model would be, `resize_table`.

    Args:
        model: A model that `CoAtNet` built from the configuration of the same name; without the top the tensors of
            the head are left aside.
        tensors: Tensors of the state dict by name.
        source: What to call the file in messages.
        reset_head: Whether to leave the classifier (the layer `predictions`) as it is, for other classes.

    Returns:
        A `Loaded`, which names what was resized and reset.

    Raises:
        ValueError: If a tensor is missing, left over or of another shape; the message names it.
    """
    assignment = Assignment(model, tensors, source)
    for layer in model.layers:
        position = block_position(layer)
        if position is not None:
            prefix = f"stages.{position[0] - 1}.blocks.{position[1] - 1}."
            (_mbconv if isinstance(layer, MBConv) else _transformer)(assignment, layer, prefix)
        elif layer.name.startswith("stem_conv"):
            _conv(assignment, layer, f"stem.conv{int(layer.name[-2:])}")
        elif layer.name.startswith("stem_norm"):
            _norm(assignment, layer, f"stem.norm{int(layer.name[-2:])}")
        elif layer.name == "head_norm":
            _norm(assignment, layer, "head.norm" if "head.norm.weight" in tensors else "norm")
        elif layer.name == "head_hidden":
            _dense(assignment, layer, "head.pre_logits.fc")
        elif layer.name == "predictions" and reset_head:
            assignment.keep(layer.kernel, f"{_PREDICTIONS}.weight")
            assignment.keep(layer.bias, f"{_PREDICTIONS}.bias")
        elif layer.name == "predictions":
            _dense(assignment, layer, _PREDICTIONS)
    if not any(layer.name == "predictions" for layer in model.layers):  # without the top
        for name in tensors:
            if name.startswith(("head.", "norm.")):
                assignment.ignore(name)
    return assignment.load()


def _mbconv(assignment: Assignment, block: MBConv, prefix: str) -> None:
    if block.proj is not None:
        _conv(assignment, block.proj, prefix + "shortcut.expand")
    _norm(assignment, block.pre_norm, prefix + "pre_norm")
    _conv(assignment, block.expand_conv, prefix + "conv1_1x1")
    _norm(assignment, block.expand_norm, prefix + "norm1")
    # [C, 1, height, width] -> [height, width, C, 1]
    assignment.put(block.depthwise_conv.kernel, prefix + "conv2_kxk.weight", lambda x: x.transpose(2, 3, 0, 1))
    _norm(assignment, block.depthwise_norm, prefix + "norm2")
    se = prefix + ("se_early" if block.config.se_before_norm else "se")
    _dense(assignment, block.se.reduce, f"{se}.fc1")
    _dense(assignment, block.se.expand, f"{se}.fc2")
    _conv(assignment, block.shrink_conv, prefix + "conv3_1x1")


def _transformer(assignment: Assignment, block: TransformerBlock, prefix: str) -> None:
    if block.proj is not None:
        _conv(assignment, block.proj, prefix + "shortcut.expand")
    _norm(assignment, block.attention_norm, prefix + ("norm1" if block.pool is None else "norm1.norm"))
    _attention(assignment, block.attention, prefix + "attn.")
    _norm(assignment, block.ffn_norm, prefix + "norm2")
    _dense(assignment, block.ffn.expand, prefix + "mlp.fc1")
    _dense(assignment, block.ffn.shrink, prefix + "mlp.fc2")
    if block.attention_scale is not None and block.ffn_scale is not None:
        assignment.put(block.attention_scale.gamma, prefix + "ls1.gamma")
        assignment.put(block.ffn_scale.gamma, prefix + "ls2.gamma")


def _attention(assignment: Assignment, attention: RelativeSelfAttention, prefix: str) -> None:
    parts = (attention.query, attention.key, attention.value)
    for kind in ("weight", "bias"):
        name = f"{prefix}qkv.{kind}"
        joined = assignment.take(name)
        if joined is None:
            continue
        # q, k and v of one head stand together, then those of the next.
        if joined.size % (3 * attention.config.head_size):
            raise ValueError(
                f"{name} {joined.shape} does not hold q, k and v of heads of {attention.config.head_size}."
            )
        split = joined.reshape(-1, 3, attention.config.head_size, joined.size // joined.shape[0])
        for index, layer in enumerate(parts):
            value = split[:, index].reshape(-1, split.shape[-1]).T  # [input width, heads * head_size]
            if kind == "weight":
                assignment.put_value(layer.kernel, name, value)
            else:
                assignment.put_value(layer.bias, name, value[0])
    bias = attention.relative_bias
    if isinstance(bias, RelativePositionMLP):
        # timm's distances are i-i', ours i'-i.
        assignment.put(bias.hidden.kernel, f"{prefix}rel_pos.mlp.fc1.weight", lambda x: -x.T)
        assignment.put(bias.hidden.bias, f"{prefix}rel_pos.mlp.fc1.bias")
        _dense(assignment, bias.out, f"{prefix}rel_pos.mlp.fc2")
    elif bias is not None:
        name = f"{prefix}rel_pos.relative_position_bias_table"
        table = assignment.take(name)
        if table is not None:
            side = math.isqrt(table.shape[0])  # these networks were trained on square images
            table = table.T.reshape(table.shape[1], side, side)[:, ::-1, ::-1]
            assignment.put_table(bias.table, name, table)
    _dense(assignment, attention.out, prefix + "proj")


def _conv(assignment: Assignment, conv: keras.layers.Conv2D, prefix: str) -> None:
    assignment.put(conv.kernel, f"{prefix}.weight", lambda x: x.transpose(2, 3, 1, 0))
    if conv.use_bias:
        assignment.put(conv.bias, f"{prefix}.bias")


def _dense(assignment: Assignment, dense: keras.layers.Dense, prefix: str) -> None:
    """From a linear layer or a 1x1 convolution."""
    assignment.put(dense.kernel, f"{prefix}.weight", lambda x: x.reshape(x.shape[:2]).T)
    if dense.use_bias:
        assignment.put(dense.bias, f"{prefix}.bias")


def _norm(assignment: Assignment, norm: keras.layers.Layer, prefix: str) -> None:
    assignment.put(norm.gamma, f"{prefix}.weight")
    assignment.put(norm.beta, f"{prefix}.bias")
    if isinstance(norm, keras.layers.BatchNormalization):
        assignment.put(norm.moving_mean, f"{prefix}.running_mean")
        assignment.put(norm.moving_variance, f"{prefix}.running_var")
        assignment.ignore(f"{prefix}.num_batches_tracked")
