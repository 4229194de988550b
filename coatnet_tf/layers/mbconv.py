"""MBConv with pre-activation (Eq. 5 of the paper) and its squeeze-and-excitation."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import common, pooling
from coatnet_tf.layers.residual import ResidualBlock, Shape
from coatnet_tf.layers.stochastic_depth import StochasticDepth

DOWNSAMPLING = ("expand_conv", "depthwise_conv", "avg_pool")
EXPANSION_OF = ("output", "input")
SE_RATIO_OF = ("output", "inner")


@keras.saving.register_keras_serializable(package="coatnet_tf")
class SqueezeExcite(keras.layers.Layer):
    """Squeeze-and-excitation (Hu et al., arXiv:1709.01507): rescales channels by a gate of their means.

    `output = input * sigmoid(Dense(silu(Dense(mean(input)))))`, for inputs `[batch, H, W, C]`; the
    output has the shape and dtype of the input.

    Args:
        bottleneck: Width of the gate's hidden layer; a quarter of the block's output width in CoAtNet.
        activation: Activation of the hidden layer: `"silu"` (the paper's code), `"relu"`, `"gelu"`, `"gelu_tanh"`.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default, as in the released code.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import SqueezeExcite
    >>> SqueezeExcite(4)(np.zeros((2, 8, 8, 64), "float32")).shape[1:] == (8, 8, 64)
    True
    """

    def __init__(
        self, bottleneck: int, activation: str = "silu", kernel_initializer: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.activation = activation
        self.kernel_initializer = common.get_initializer(kernel_initializer)
        self.bottleneck = bottleneck

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        policy = self.dtype_policy
        self.squeeze = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", keepdims=True, dtype=policy, name="squeeze"
        )
        activation = common.get_activation(self.activation)
        self.reduce = common.dense(
            self.bottleneck, "reduce", self.kernel_initializer, activation=activation, dtype=policy
        )
        self.expand = common.dense(channels, "expand", self.kernel_initializer, activation="sigmoid", dtype=policy)
        self.reduce.build((input_shape[0], 1, 1, channels))
        self.expand.build((input_shape[0], 1, 1, self.bottleneck))
        common.finish_build(self)

    def call(self, inputs: Any) -> Any:
        return inputs * self.expand(self.reduce(self.squeeze(inputs)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "bottleneck": self.bottleneck,
            "activation": self.activation,
            "kernel_initializer": common.serialize_initializer(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="coatnet_tf")
class MBConv(ResidualBlock):
    """Inverted residual block with pre-activation, `x <- Proj(Pool(x)) + Conv(DepthConv(Conv(Norm(x))))`.

    Eq. 5 of the paper, completed by the authors' released code: norm, 1x1 expansion to `expansion` times the *output*
    width, norm, GELU, 3x3 depthwise convolution, norm, GELU, squeeze-and-excitation, 1x1 projection to `filters`.
    The shortcut is pooled where `strides` is 2 and projected where the width changes. Inputs are
    `[batch, H, W, C]`, outputs `[batch, H / strides, W / strides, filters]`. The defaults are the paper's; what
    else there is belongs to other people's trained networks.

    Args:
        filters: Output width.
        strides: 1 or 2.
        downsampling: What carries the stride of the residual branch: `"expand_conv"` (the paper's default),
            `"depthwise_conv"` (the variant marked with a dagger in Table 5: more MACs, more accurate) or
            `"avg_pool"` (a 2x2 average pool before the expansion).
        expansion: Inner width over output (or input) width.
        expansion_of: Whether `expansion` is of the `"output"` width, as in the paper's code, or of the `"input"` width.
        se_ratio: Hidden width of squeeze-and-excitation over output (or inner) width.
        se_ratio_of: Whether `se_ratio` is of the `"output"` width, as in the paper's code, or of the `"inner"` width.
        se_activation: Activation of squeeze-and-excitation.
        se_before_norm: Whether squeeze-and-excitation comes before the norm of the depthwise convolution.
        kernel_size: Kernel of the depthwise convolution.
        padding: Border of the depthwise convolution with stride 2: `"same"`, or `"centred"` as in PyTorch.
        pool: Pool of the shortcut: `"max"`, `"avg"` (2x2) or `"max3"` (3x3, as in PyTorch).
        activation: `"gelu_tanh"` (the paper's code), `"gelu"`, `"silu"` or `"relu"`.
        pre_norm_activation: Whether an activation follows the first norm.
        use_bias: Whether the projections of the shortcut and of the residual branch have a bias.
        norm: `"batch_norm"`, `"sync_batch_norm"` (statistics over all replicas; TensorFlow backend
            only) or `"layer_norm"`.
        norm_epsilon: Epsilon of the norms; 1e-3 for BatchNorm and 1e-5 for LayerNorm by default.
        drop_path_rate: Stochastic depth rate of the residual branch.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default, as in the released code.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range, or the input's height or width cannot be halved.

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
        expansion_of: str = "output",
        se_ratio: float = 0.25,
        se_ratio_of: str = "output",
        se_activation: str = "silu",
        se_before_norm: bool = False,
        kernel_size: int = 3,
        padding: str = "same",
        pool: str = "max",
        activation: str = "gelu_tanh",
        pre_norm_activation: bool = False,
        use_bias: bool = True,
        norm: str = "batch_norm",
        norm_epsilon: float | None = None,
        drop_path_rate: float = 0.0,
        kernel_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, strides, pool, use_bias, drop_path_rate, kernel_initializer, **kwargs)
        common.check_known("downsampling", downsampling, DOWNSAMPLING)
        common.check_known("expansion_of", expansion_of, EXPANSION_OF)
        common.check_known("se_ratio_of", se_ratio_of, SE_RATIO_OF)
        common.check_known("padding", padding, pooling.PADDINGS)
        self.downsampling = downsampling
        self.expansion = expansion
        self.expansion_of = expansion_of
        self.se_ratio = se_ratio
        self.se_ratio_of = se_ratio_of
        self.se_activation = se_activation
        self.se_before_norm = se_before_norm
        self.kernel_size = kernel_size
        self.padding = padding
        self.activation = activation
        self.pre_norm_activation = pre_norm_activation
        self.use_bias = use_bias
        self.norm = norm
        self.norm_epsilon = norm_epsilon
        self._act = common.get_activation(activation)

        policy = self.dtype_policy
        prefix = f"{self.name}_"
        self.pre_norm = common.make_norm(norm, prefix + "pre_norm", norm_epsilon, dtype=policy)
        self.residual_pool: keras.layers.Layer | None = None
        if strides > 1 and downsampling == "avg_pool":
            self.residual_pool = pooling.make_pool("avg", prefix + "residual_pool", dtype=policy)
        if expansion_of == "output":
            self.expand_conv = self._make_expand_conv(expansion * filters)
        self.expand_norm = common.make_norm(norm, prefix + "expand_norm", norm_epsilon, dtype=policy)
        depthwise_strides = strides if downsampling == "depthwise_conv" else 1
        self.depthwise_padding: keras.layers.Layer | None = None
        if depthwise_strides > 1 and padding == "centred":
            self.depthwise_padding = pooling.make_padding(kernel_size, prefix + "depthwise_padding", dtype=policy)
        self.depthwise_conv = keras.layers.DepthwiseConv2D(
            kernel_size,
            strides=depthwise_strides,
            padding="valid" if self.depthwise_padding else "same",
            use_bias=False,
            data_format="channels_last",
            depthwise_initializer=common.make_initializer(self.kernel_initializer),
            dtype=policy,
            name=prefix + "depthwise_conv",
        )
        self.depthwise_norm = common.make_norm(norm, prefix + "depthwise_norm", norm_epsilon, dtype=policy)
        if se_ratio_of == "output":
            self.se = self._make_se(max(1, int(filters * se_ratio)), kernel_initializer)
        self.shrink_conv = common.conv(
            filters, 1, prefix + "shrink_conv", self.kernel_initializer, use_bias=use_bias, dtype=policy
        )
        self.drop_path = StochasticDepth(drop_path_rate, dtype=policy, name=prefix + "drop_path")

    def inner_width(self, input_width: int) -> int:
        """Channels of the depthwise convolution."""
        return self.expansion * (self.filters if self.expansion_of == "output" else input_width)

    def se_width(self, input_width: int) -> int:
        """Width of the hidden layer of squeeze-and-excitation."""
        of = self.filters if self.se_ratio_of == "output" else self.inner_width(input_width)
        return max(1, int(of * self.se_ratio))

    def _make_expand_conv(self, width: int) -> keras.layers.Conv2D:
        return common.conv(
            width,
            1,
            f"{self.name}_expand_conv",
            self.kernel_initializer,
            strides=self.strides if self.downsampling == "expand_conv" else 1,
            use_bias=False,
            dtype=self.dtype_policy,
        )

    def _make_se(self, width: int, kernel_initializer: Any) -> SqueezeExcite:
        return SqueezeExcite(
            width, self.se_activation, kernel_initializer, dtype=self.dtype_policy, name=f"{self.name}_se"
        )

    def build(self, input_shape: Shape) -> None:
        self.build_shortcut(input_shape)
        if self.expansion_of == "input":
            self.expand_conv = self._make_expand_conv(self.inner_width(input_shape[-1]))
        if self.se_ratio_of == "inner":
            self.se = self._make_se(self.se_width(input_shape[-1]), self.kernel_initializer)
        shape = input_shape
        for layer in (
            self.pre_norm,
            self.residual_pool,
            self.expand_conv,
            self.expand_norm,
            self.depthwise_padding,
            self.depthwise_conv,
            self.depthwise_norm,
            self.se,
            self.shrink_conv,
            self.drop_path,
        ):
            if layer is not None:
                layer.build(shape)
                shape = layer.compute_output_shape(shape)
        common.finish_build(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.pre_norm(inputs, training=training)
        if self.pre_norm_activation:
            x = self._act(x)
        if self.residual_pool is not None:
            x = self.residual_pool(x)
        x = self._act(self.expand_norm(self.expand_conv(x), training=training))
        if self.depthwise_padding is not None:
            x = self.depthwise_padding(x)
        x = self.depthwise_conv(x)
        if self.se_before_norm:
            x = self._act(self.depthwise_norm(self.se(x), training=training))
        else:
            x = self.se(self._act(self.depthwise_norm(x, training=training)))
        x = self.shrink_conv(x)
        return ops.add(self.shortcut(inputs), self.drop_path(x, training=training))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "downsampling": self.downsampling,
            "expansion": self.expansion,
            "expansion_of": self.expansion_of,
            "se_ratio": self.se_ratio,
            "se_ratio_of": self.se_ratio_of,
            "se_activation": self.se_activation,
            "se_before_norm": self.se_before_norm,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
            "activation": self.activation,
            "pre_norm_activation": self.pre_norm_activation,
            "use_bias": self.use_bias,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
        }
