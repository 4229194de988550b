"""MBConv with pre-activation (Eq. 5 of the paper) and its squeeze-and-excitation."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import common
from coatnet_tf.layers.residual import ResidualBlock, Shape
from coatnet_tf.layers.stochastic_depth import StochasticDepth

DOWNSAMPLING = ("expand_conv", "depthwise_conv")


@keras.saving.register_keras_serializable(package="coatnet_tf")
class SqueezeExcite(keras.layers.Layer):
    """Squeeze-and-excitation (Hu et al., arXiv:1709.01507): rescales channels by a gate of their means.

    `output = input * sigmoid(Dense(silu(Dense(mean(input)))))`, for inputs `[batch, H, W, C]`; the
    output has the shape and dtype of the input.

    Args:
        bottleneck: Width of the gate's hidden layer; a quarter of the block's output width in CoAtNet.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default, as in the released code.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import SqueezeExcite
    >>> SqueezeExcite(4)(np.zeros((2, 8, 8, 64), "float32")).shape[1:] == (8, 8, 64)
    True
    """

    def __init__(self, bottleneck: int, kernel_initializer: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_initializer = common.get_initializer(kernel_initializer)
        self.bottleneck = bottleneck

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        policy = self.dtype_policy
        self.squeeze = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", keepdims=True, dtype=policy, name="squeeze"
        )
        self.reduce = common.dense(self.bottleneck, "reduce", self.kernel_initializer, activation="silu", dtype=policy)
        self.expand = common.dense(channels, "expand", self.kernel_initializer, activation="sigmoid", dtype=policy)
        self.reduce.build((input_shape[0], 1, 1, channels))
        self.expand.build((input_shape[0], 1, 1, self.bottleneck))
        self.built = True

    def call(self, inputs: Any) -> Any:
        return inputs * self.expand(self.reduce(self.squeeze(inputs)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "bottleneck": self.bottleneck,
            "kernel_initializer": common.serialize_initializer(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="coatnet_tf")
class MBConv(ResidualBlock):
    """Inverted residual block with pre-activation, `x <- Proj(Pool(x)) + Conv(DepthConv(Conv(Norm(x))))`.

    Eq. 5 of the paper, completed by the authors' released code: norm, 1x1 expansion to `expansion`
    times the *output* width, norm, GELU, 3x3 depthwise convolution, norm, GELU,
    squeeze-and-excitation, 1x1 projection to `filters`. The shortcut is max-pooled where `strides` is
    2 and projected where the width changes. Inputs are `[batch, H, W, C]`, outputs
    `[batch, H / strides, W / strides, filters]`.

    Args:
        filters: Output width.
        strides: 1 or 2.
        downsampling: Convolution that carries the stride: `"expand_conv"` (the paper's default) or
            `"depthwise_conv"` (the variant marked with a dagger in Table 5: more MACs, more accurate).
        expansion: Inner width over output width.
        se_ratio: Hidden width of squeeze-and-excitation over output width.
        kernel_size: Kernel of the depthwise convolution.
        norm: `"batch_norm"`, `"sync_batch_norm"` (statistics over all replicas; TensorFlow backend
            only) or `"layer_norm"`.
        drop_path_rate: Stochastic depth rate of the residual branch.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default, as in the released code.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `downsampling`, `norm`, `strides` or `drop_path_rate` is out of range, or the
            input's height or width cannot be halved.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import MBConv
    >>> tuple(MBConv(96, strides=2)(np.zeros((2, 56, 28, 64), "float32")).shape)
    (2, 28, 14, 96)
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        downsampling: str = "expand_conv",
        expansion: int = 4,
        se_ratio: float = 0.25,
        kernel_size: int = 3,
        norm: str = "batch_norm",
        drop_path_rate: float = 0.0,
        kernel_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, strides, drop_path_rate, kernel_initializer, **kwargs)
        if downsampling not in DOWNSAMPLING:
            raise ValueError(f"downsampling must be one of {', '.join(DOWNSAMPLING)}; got {downsampling!r}.")
        self.downsampling = downsampling
        self.expansion = expansion
        self.se_ratio = se_ratio
        self.kernel_size = kernel_size
        self.norm = norm

        policy = self.dtype_policy
        prefix = f"{self.name}_"
        inner = expansion * filters
        expand_strides, depthwise_strides = (strides, 1) if downsampling == "expand_conv" else (1, strides)
        self.pre_norm = common.make_norm(norm, prefix + "pre_norm", dtype=policy)
        self.expand_conv = common.conv(
            inner,
            1,
            prefix + "expand_conv",
            self.kernel_initializer,
            strides=expand_strides,
            use_bias=False,
            dtype=policy,
        )
        self.expand_norm = common.make_norm(norm, prefix + "expand_norm", dtype=policy)
        self.depthwise_conv = keras.layers.DepthwiseConv2D(
            kernel_size,
            strides=depthwise_strides,
            padding="same",
            use_bias=False,
            data_format="channels_last",
            depthwise_initializer=common.make_initializer(self.kernel_initializer),
            dtype=policy,
            name=prefix + "depthwise_conv",
        )
        self.depthwise_norm = common.make_norm(norm, prefix + "depthwise_norm", dtype=policy)
        self.se = SqueezeExcite(
            max(1, int(filters * se_ratio)), kernel_initializer=kernel_initializer, dtype=policy, name=prefix + "se"
        )
        self.shrink_conv = common.conv(filters, 1, prefix + "shrink_conv", self.kernel_initializer, dtype=policy)
        self.drop_path = StochasticDepth(drop_path_rate, dtype=policy, name=prefix + "drop_path")

    def build(self, input_shape: Shape) -> None:
        self.build_shortcut(input_shape)
        shape = input_shape
        for layer in (
            self.pre_norm,
            self.expand_conv,
            self.expand_norm,
            self.depthwise_conv,
            self.depthwise_norm,
            self.se,
            self.shrink_conv,
            self.drop_path,
        ):
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.pre_norm(inputs, training=training)
        x = self.expand_conv(x)
        x = common.gelu(self.expand_norm(x, training=training))
        x = self.depthwise_conv(x)
        x = common.gelu(self.depthwise_norm(x, training=training))
        x = self.se(x)
        x = self.shrink_conv(x)
        return ops.add(self.shortcut(inputs), self.drop_path(x, training=training))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "downsampling": self.downsampling,
            "expansion": self.expansion,
            "se_ratio": self.se_ratio,
            "kernel_size": self.kernel_size,
            "norm": self.norm,
        }
