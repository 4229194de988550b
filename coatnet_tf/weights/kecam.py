"""Weights of keras-cv-attention-models' CoAtNets (`.h5` files of Keras 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
import numpy as np

from coatnet_tf.layers import MBConv, TransformerBlock
from coatnet_tf.weights.imports import Assignment, block_position
from coatnet_tf.weights.keras_file import Loaded


def load_kecam(
    model: keras.Model, tensors: Mapping[str, np.ndarray], source: str = "the file", reset_head: bool = False
) -> Loaded:
    """Loads the weights of a CoAtNet of keras-cv-attention-models, every one, or refuses and changes nothing.

    Bias tables of another input size are resized (`resize_table`).

    Args:
        model: A model that `CoAtNet` built from the configuration `"kecam_coatnet0"`; without the top the
            classifier's weights are left aside.
        tensors: Weights by `layer/weight`, such as `"stem_1_conv/kernel"`.
        source: What to call the file in messages.
        reset_head: Whether to leave the classifier (the layer `predictions`) as it is, for other classes.

    Returns:
        A `Loaded`, which names what was resized and reset.

    Raises:
        ValueError: If a weight is missing, left over or of another shape; the message names it.
    """
    assignment = Assignment(model, tensors, source)
    for layer in model.layers:
        position = block_position(layer)
        if position is not None:
            prefix = f"stack_{position[0]}_block_{position[1]}_"
            (_mbconv if isinstance(layer, MBConv) else _transformer)(assignment, layer, prefix)
        elif layer.name.startswith("stem_conv"):
            _kernel(assignment, layer, f"stem_{int(layer.name[-2:])}_conv")
        elif layer.name.startswith("stem_norm"):
            _norm(assignment, layer, f"stem_{int(layer.name[-2:])}_bn")
        elif layer.name == "predictions" and reset_head:
            assignment.keep(layer.kernel, "predictions/kernel")
            assignment.keep(layer.bias, "predictions/bias")
        elif layer.name == "predictions":
            _kernel(assignment, layer, "predictions")
    if not any(layer.name == "predictions" for layer in model.layers):  # without the top
        assignment.ignore("predictions/kernel")
        assignment.ignore("predictions/bias")
    return assignment.load()


def _mbconv(assignment: Assignment, block: MBConv, prefix: str) -> None:
    if block.proj is not None:
        _kernel(assignment, block.proj, prefix + "shortcut_conv")
    _norm(assignment, block.pre_norm, prefix + "preact_bn")
    _kernel(assignment, block.expand_conv, prefix + "expand_conv")
    _norm(assignment, block.expand_norm, prefix + "expand_bn")
    assignment.put(block.depthwise_conv.kernel, prefix + "MB_dw_conv/depthwise_kernel")
    _norm(assignment, block.depthwise_norm, prefix + "MB_dw_bn")
    _kernel(assignment, block.se.reduce, prefix + "se_1_conv")
    _kernel(assignment, block.se.expand, prefix + "se_2_conv")
    _kernel(assignment, block.shrink_conv, prefix + "MB_pw_conv")


def _transformer(assignment: Assignment, block: TransformerBlock, prefix: str) -> None:
    attention = block.attention
    if block.proj is not None:
        _kernel(assignment, block.proj, prefix + "shortcut_conv")
    _norm(assignment, block.attention_norm, prefix + "preact_ln")
    name = prefix + "mhsa_qkv_conv/kernel"
    joined = assignment.take(name)
    if joined is not None:
        thirds = np.array_split(joined[0, 0], 3, axis=-1)
        for layer, part in zip((attention.query, attention.key, attention.value), thirds, strict=True):
            assignment.put_value(layer.kernel, name, part)
    name = prefix + "mhsa_pos_emb/positional_embedding"
    table = assignment.take(name)
    if table is not None and attention.relative_bias is not None:
        side = math.isqrt(table.shape[1])  # the network was trained on square images
        # Its distances are i-i', ours i'-i.
        table = table.reshape(table.shape[0], side, side)[:, ::-1, ::-1]
        assignment.put_table(attention.relative_bias.table, name, table)
    _kernel(assignment, attention.out, prefix + "mhsa_output")
    _norm(assignment, block.ffn_norm, prefix + "ffn_preact_ln")
    _kernel(assignment, block.ffn.expand, prefix + "ffn_1_conv")
    _kernel(assignment, block.ffn.shrink, prefix + "ffn_2_conv")


def _kernel(assignment: Assignment, layer: keras.layers.Layer, prefix: str) -> None:
    """From a dense layer or a convolution; 1x1 convolutions may be dense layers here."""
    rank = len(layer.kernel.shape)
    assignment.put(layer.kernel, f"{prefix}/kernel", lambda x: x[0, 0] if x.ndim == 4 and rank == 2 else x)
    if layer.use_bias:
        assignment.put(layer.bias, f"{prefix}/bias")


def _norm(assignment: Assignment, norm: keras.layers.Layer, prefix: str) -> None:
    names = {"gamma": norm.gamma, "beta": norm.beta}
    if isinstance(norm, keras.layers.BatchNormalization):
        names |= {"moving_mean": norm.moving_mean, "moving_variance": norm.moving_variance}
    for name, variable in names.items():
        assignment.put(variable, f"{prefix}/{name}")
