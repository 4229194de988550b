"""Names of the weights of keras-cv-attention-models' CoAtNets, `.h5` files of Keras 2: `layer/weight`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np

from coatnet_tf.layers import RelativePositionBias, RelativeSelfAttention
from coatnet_tf.pretrained.conversions import FlippedTable, Same
from coatnet_tf.pretrained.correspondence import Entry, Naming

_LAYERS = {"stem_conv": "stem_{}_conv", "stem_norm": "stem_{}_bn", "predictions": "predictions"}
_MBCONV = {
    "proj": "shortcut_conv",
    "pre_norm": "preact_bn",
    "expand_conv": "expand_conv",
    "expand_norm": "expand_bn",
    "depthwise_conv": "MB_dw_conv",
    "depthwise_norm": "MB_dw_bn",
    "se.reduce": "se_1_conv",
    "se.expand": "se_2_conv",
    "shrink_conv": "MB_pw_conv",
}
_TRANSFORMER = {
    "proj": "shortcut_conv",
    "attention_norm": "preact_ln",
    "attention": "mhsa",
    "attention.out": "mhsa_output",
    "ffn_norm": "ffn_preact_ln",
    "ffn.expand": "ffn_1_conv",
    "ffn.shrink": "ffn_2_conv",
}


class _Pointwise:
    """A 1x1 convolution `[1, 1, input, output]` that is a dense layer here."""

    def to_ours(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        return [tensor.reshape(tensor.shape[-2:])]

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return values[0][None, None]


class _Thirds(_Pointwise):
    """The same, of q, k and v one after another."""

    def to_ours(self, tensor: np.ndarray) -> Sequence[np.ndarray]:
        return np.split(tensor.reshape(tensor.shape[-2:]), 3, axis=-1)

    def to_theirs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(values, axis=-1)[None, None]


def _weights(layer: keras.layers.Layer, name: str) -> Iterator[Entry]:
    if isinstance(layer, RelativeSelfAttention):
        kernels = (layer.query.kernel, layer.key.kernel, layer.value.kernel)
        yield Entry(f"{name}_qkv_conv/kernel", kernels, _Thirds())
        if isinstance(layer.relative_bias, RelativePositionBias):
            table = (layer.relative_bias.table,)
            yield Entry(f"{name}_pos_emb/positional_embedding", table, FlippedTable(heads_last=False))
    elif isinstance(layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization):
        for weight in layer.weights:  # Keras 2 has the same names
            yield Entry(f"{name}/{weight.name}", (weight,), Same())
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        yield Entry(f"{name}/depthwise_kernel", (layer.kernel,), Same())
    else:
        is_conv = name.endswith("_conv") and isinstance(layer, keras.layers.Dense)
        yield Entry(f"{name}/kernel", (layer.kernel,), _Pointwise() if is_conv else Same())
        if layer.use_bias:
            yield Entry(f"{name}/bias", (layer.bias,), Same())


KECAM = Naming(
    head=("predictions/",),
    layers=lambda model: _LAYERS,
    block=lambda stage, block: f"stack_{stage}_block_{block}_",
    mbconv=lambda block: _MBCONV,
    transformer=lambda block: _TRANSFORMER,
    weights=_weights,
)
