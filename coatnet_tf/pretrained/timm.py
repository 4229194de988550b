"""Names of the tensors of timm's CoAtNets (`timm/models/maxxvit.py`), PyTorch state dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import keras

from coatnet_tf.layers import (
    LayerScale,
    MBConv,
    RelativePositionBias,
    RelativePositionMLP,
    RelativeSelfAttention,
    TransformerBlock,
)
from coatnet_tf.pretrained.conversions import (
    Conversion,
    Counter,
    FlippedTable,
    JoinedHeads,
    Pointwise,
    Same,
    Transposed,
)
from coatnet_tf.pretrained.correspondence import Entry, Naming

_CONV = Transposed((2, 3, 1, 0))
_DEPTHWISE = Transposed((2, 3, 0, 1))  # [C, 1, height, width]


def _layers(model: keras.Model) -> Mapping[str, str]:
    with_hidden = any(layer.name == "head_hidden" for layer in model.layers)
    return {
        "stem_conv": "stem.conv{}",
        "stem_norm": "stem.norm{}",
        "head_norm": "head.norm" if with_hidden else "norm",
        "head_hidden": "head.pre_logits.fc",
        "predictions": "head.fc",
    }


def _mbconv(block: MBConv) -> Mapping[str, str]:
    gate = "se_early" if block.config.se_before_norm else "se"
    return {
        "proj": "shortcut.expand",
        "pre_norm": "pre_norm",
        "expand_conv": "conv1_1x1",
        "expand_norm": "norm1",
        "depthwise_conv": "conv2_kxk",
        "depthwise_norm": "norm2",
        "se.reduce": f"{gate}.fc1",
        "se.expand": f"{gate}.fc2",
        "shrink_conv": "conv3_1x1",
    }


def _transformer(block: TransformerBlock) -> Mapping[str, str]:
    return {
        "proj": "shortcut.expand",
        "attention_norm": "norm1" if block.pool is None else "norm1.norm",
        "attention": "attn",
        "attention_scale": "ls1",
        "ffn_norm": "norm2",
        "ffn.expand": "mlp.fc1",
        "ffn.shrink": "mlp.fc2",
        "ffn_scale": "ls2",
    }


def weights(layer: keras.layers.Layer, name: str) -> Iterator[Entry]:
    """Entries of a layer by its name in timm."""
    if isinstance(layer, RelativeSelfAttention):
        yield from _attention(layer, name)
    elif isinstance(layer, LayerScale):
        yield Entry(f"{name}.gamma", (layer.gamma,), Same())
    elif isinstance(layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization):
        yield Entry(f"{name}.weight", (layer.gamma,), Same())
        yield Entry(f"{name}.bias", (layer.beta,), Same())
        if isinstance(layer, keras.layers.BatchNormalization):
            yield Entry(f"{name}.running_mean", (layer.moving_mean,), Same())
            yield Entry(f"{name}.running_var", (layer.moving_variance,), Same())
            yield Entry(f"{name}.num_batches_tracked", (), Counter())
    else:
        conversion: Conversion = _CONV
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            conversion = _DEPTHWISE
        elif isinstance(layer, keras.layers.Dense):
            conversion = Pointwise(rank=2 if name.startswith("head.") else 4)
        yield from _kernel_and_bias(layer, name, conversion)


def _attention(attention: RelativeSelfAttention, name: str) -> Iterator[Entry]:
    parts, head_size = (attention.query, attention.key, attention.value), attention.config.head_size
    yield Entry(f"{name}.qkv.weight", tuple(part.kernel for part in parts), JoinedHeads(head_size, rank=4))
    if attention.query.use_bias:
        yield Entry(f"{name}.qkv.bias", tuple(part.bias for part in parts), JoinedHeads(head_size, rank=1))
    bias = attention.relative_bias
    if isinstance(bias, RelativePositionMLP):
        # timm's distances are i-i', ours i'-i.
        yield from _kernel_and_bias(bias.hidden, f"{name}.rel_pos.mlp.fc1", Pointwise(rank=2, sign=-1))
        yield from _kernel_and_bias(bias.out, f"{name}.rel_pos.mlp.fc2", Pointwise(rank=2))
    elif isinstance(bias, RelativePositionBias):
        yield Entry(f"{name}.rel_pos.relative_position_bias_table", (bias.table,), FlippedTable(heads_last=True))
    yield from weights(attention.out, f"{name}.proj")


def _kernel_and_bias(layer: keras.layers.Layer, name: str, conversion: Conversion) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", (layer.kernel,), conversion)
    if layer.use_bias:
        yield Entry(f"{name}.bias", (layer.bias,), Same())


TIMM = Naming(
    head=("head.", "norm."),
    layers=_layers,
    block=lambda stage, block: f"stages.{stage - 1}.blocks.{block - 1}.",
    mbconv=_mbconv,
    transformer=_transformer,
    weights=weights,
)
