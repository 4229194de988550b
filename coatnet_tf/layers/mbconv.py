"""MBConv with pre-activation (Eq. 5 of the paper) and its squeeze-and-excitation."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import keras

from coatnet_tf.layers import common, pooling
from coatnet_tf.layers.options import ConfiguredLayer, Options, PositiveInt, PositiveNumber, Shape, check
from coatnet_tf.layers.residual import ResidualBlock


@dataclasses.dataclass(frozen=True)
class SqueezeExciteConfig(Options):
    """Options of `SqueezeExcite`; the defaults are the paper's.

    Args:
        se_activation: Activation of the hidden layer.
    """

    se_activation: common.Activation = "silu"


@keras.saving.register_keras_serializable(package="coatnet_tf")
class SqueezeExcite(ConfiguredLayer):
    """Squeeze-and-excitation (Hu et al., arXiv:1709.01507): rescales channels by a gate of their means.

    `output = input * sigmoid(Dense(silu(Dense(mean(input)))))`, for inputs `[batch, H, W, C]`; the
    output has the shape and dtype of the input.

    Args:
        bottleneck: Width of the gate's hidden layer; a quarter of the block's output width in CoAtNet.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default.
        config: A `SqueezeExciteConfig`.
        **kwargs: Fields of `SqueezeExciteConfig`, and arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import SqueezeExcite
    >>> SqueezeExcite(4)(np.zeros((2, 8, 8, 64), "float32")).shape[1:] == (8, 8, 64)
    True
    """

    config_class = SqueezeExciteConfig

    def __init__(
        self,
        bottleneck: int,
        kernel_initializer: Any = None,
        config: SqueezeExciteConfig | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_initializer, config, **kwargs)
        check("bottleneck", bottleneck, PositiveInt)
        self.bottleneck = int(bottleneck)

    def prepare(self, input_shape: Shape) -> None:
        """Makes the layers of the gate for an input, unbuilt."""
        options: dict[str, Any] = {"dtype": self.dtype_policy}
        self.squeeze = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", keepdims=True, name="squeeze", **options
        )
        hidden = common.get_activation(self.config.se_activation)
        self.reduce = common.dense(
            self.bottleneck, self.kernel_initializer, activation=hidden, name="reduce", **options
        )
        self.expand = common.dense(
            input_shape[-1], self.kernel_initializer, activation="sigmoid", name="expand", **options
        )

    def gate(self) -> list[keras.layers.Layer]:
        """The layers from the input to the gate, `[batch, 1, 1, C]`, in order."""
        return [self.squeeze, self.reduce, self.expand]

    def build(self, input_shape: Shape) -> None:
        self.prepare(input_shape)
        self.restore_parts()
        common.build_chain(self.gate(), input_shape)
        common.finish_build(self)

    def call(self, inputs: Any) -> Any:
        return inputs * common.chain(self.gate(), inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bottleneck": self.bottleneck}


@dataclasses.dataclass(frozen=True)
class MBConvConfig(Options):
    """Options of `MBConv`; the defaults are the paper's, the other values belong to other people's trained networks.

    Args:
        downsampling: What carries the stride of the residual branch: `"expand_conv"` (Eq. 5, the paper's default),
            `"depthwise_conv"` (the variant marked with a dagger in Table 5: more MACs, more accurate) or
            `"avg_pool"` (a 2x2 average pool before the expansion).
        expansion: Inner width over output (or input) width.
        expansion_of: Whether `expansion` is of the `"output"` width, as in the paper's code, or of the `"input"` width.
        kernel_size: Kernel of the depthwise convolution.
        padding: Border of the depthwise convolution with stride 2: `"same"`, or `"centred"` as in PyTorch.
        pool: Pool of the shortcut: `"max"`, `"avg"` (2x2) or `"max3"` (3x3, as in PyTorch).
        activation: `"gelu_tanh"` (the paper's code), `"gelu"` (exact), `"silu"` or `"relu"`.
        pre_norm_activation: Whether an activation follows the first norm.
        conv_norm: `"batch_norm"`, `"sync_batch_norm"` (statistics over all replicas; TensorFlow backend only) or
            `"layer_norm"` (Table 8).
        conv_norm_epsilon: Epsilon of the norms; 1e-3 for BatchNorm and 1e-5 for LayerNorm by default.
        conv_bias: Whether the projections of the shortcut and of the residual branch have a bias.
        se_ratio: Hidden width of squeeze-and-excitation over output (or inner) width.
        se_ratio_of: Whether `se_ratio` is of the `"output"` width, as in the paper's code, or of the `"inner"` width.
        se_before_norm: Whether squeeze-and-excitation comes before the norm of the depthwise convolution.
        se: Further options of squeeze-and-excitation.
    """

    downsampling: Literal["expand_conv", "depthwise_conv", "avg_pool"] = "expand_conv"
    expansion: PositiveNumber = 4
    expansion_of: Literal["output", "input"] = "output"
    kernel_size: PositiveInt = 3
    padding: pooling.Padding = "same"
    pool: pooling.Pool = "max"
    activation: common.Activation = "gelu_tanh"
    pre_norm_activation: bool = False
    conv_norm: common.Norm = "batch_norm"
    conv_norm_epsilon: PositiveNumber | None = None
    conv_bias: bool = True
    se_ratio: PositiveNumber = 0.25
    se_ratio_of: Literal["output", "inner"] = "output"
    se_before_norm: bool = False
    se: SqueezeExciteConfig = SqueezeExciteConfig()


@keras.saving.register_keras_serializable(package="coatnet_tf")
class MBConv(ResidualBlock):
    """Inverted bottleneck with pre-activation, depthwise convolution and squeeze-and-excitation.

    Eq. 5 of the paper, completed by the code of Google's MaxViT release: norm, 1x1 expansion to `expansion` times the
    *output* width, norm, GELU, 3x3 depthwise convolution, norm, GELU, squeeze-and-excitation, 1x1 projection to
    `filters`. The shortcut is pooled where `strides` is 2 and projected where the width changes. Inputs are
    `[batch, H, W, C]`, outputs `[batch, H / strides, W / strides, filters]`.

    Args:
        filters: Output width.
        strides: 1 or 2.
        drop_path_rate: Stochastic depth rate of the residual branch.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default.
        config: An `MBConvConfig`.
        **kwargs: Fields of `MBConvConfig`, and arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range, or the input's height or width cannot be halved.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import MBConv
    >>> block = MBConv(96, strides=2, downsampling="depthwise_conv")
    >>> tuple(block(np.zeros((2, 56, 28, 64), "float32")).shape)
    (2, 28, 14, 96)
    """

    config_class = MBConvConfig

    def prepare(self, input_shape: Shape) -> None:
        config, channels = self.config, input_shape[-1]
        width = self.filters if config.expansion_of == "output" else channels
        inner = common.inner_width("expansion", config.expansion, width)
        strides = {config.downsampling: self.strides}  # 1 elsewhere
        self.prepare_shortcut(input_shape, config.pool, config.conv_bias)

        self.pre_norm = self._norm("pre_norm")
        self.pre_act = self._act("pre_act") if config.pre_norm_activation else None
        halves = strides.get("avg_pool", 1) > 1
        self.residual_pool = pooling.make_pool("avg", **self.named("residual_pool")) if halves else None
        self.expand_conv = common.conv(
            inner,
            1,
            self.kernel_initializer,
            strides=strides.get("expand_conv", 1),
            use_bias=False,
            **self.named("expand_conv"),
        )
        self.expand_norm = self._norm("expand_norm")
        self.expand_act = self._act("expand_act")
        centred = strides.get("depthwise_conv", 1) > 1 and config.padding == "centred"
        self.depthwise_padding = (
            pooling.make_padding(config.kernel_size, **self.named("depthwise_padding")) if centred else None
        )
        self.depthwise_conv = keras.layers.DepthwiseConv2D(
            config.kernel_size,
            strides=strides.get("depthwise_conv", 1),
            padding="valid" if centred else "same",
            use_bias=False,
            data_format="channels_last",
            depthwise_initializer=common.make_initializer(self.kernel_initializer),
            **self.named("depthwise_conv"),
        )
        self.depthwise_norm = self._norm("depthwise_norm")
        self.depthwise_act = self._act("depthwise_act")
        bottleneck = config.se_ratio * (self.filters if config.se_ratio_of == "output" else inner)
        self.se = SqueezeExcite(max(1, int(bottleneck)), self.kernel_initializer, config.se, **self.named("se"))
        self.shrink_conv = common.conv(
            self.filters, 1, self.kernel_initializer, use_bias=config.conv_bias, **self.named("shrink_conv")
        )
        self.drop_path = self.make_drop_path("drop_path")

    def _norm(self, name: str) -> keras.layers.Layer:
        return common.make_norm(self.config.conv_norm, self.config.conv_norm_epsilon, **self.named(name))

    def _act(self, name: str) -> keras.layers.Layer:
        return common.activation(self.config.activation, **self.named(name))

    def branches(self) -> list[list[keras.layers.Layer]]:
        norm = [self.depthwise_norm, self.depthwise_act]
        branch = common.present(
            *(self.pre_norm, self.pre_act, self.residual_pool),
            *(self.expand_conv, self.expand_norm, self.expand_act),
            *(self.depthwise_padding, self.depthwise_conv),
            *([self.se, *norm] if self.config.se_before_norm else [*norm, self.se]),
            *(self.shrink_conv, self.drop_path),
        )
        return [branch]
