"""What MBConv and Transformer blocks share: `x <- Shortcut(x) + Branch(x)`."""

from __future__ import annotations

import abc
from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import common, pooling
from coatnet_tf.layers.options import (
    ConfiguredLayer,
    PositiveInt,
    Rate,
    Shape,
    Strides,
    check,
)
from coatnet_tf.layers.stochastic_depth import StochasticDepth


class ResidualBlock(ConfiguredLayer):
    """Residual branches, each an ordered list of layers, around a shortcut `Proj(Pool(x))`.

    The shortcut, beside the first branch, is pooled if `strides` is 2 and projected where the width changes; beside
    further branches it is the identity. Inputs are `[batch, H, W, C]`, outputs
    `[batch, H / strides, W / strides, filters]`.

    Args:
        filters: Output width.
        strides: 1 or 2.
        drop_path_rate: Stochastic depth rate of the residual branches, at least 0 and below 1.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default.
        config: The options of the block.
        **kwargs: Fields of the options to replace, by name, and arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range, or the input's height or width cannot be halved.
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        drop_path_rate: float = 0.0,
        kernel_initializer: Any = None,
        config: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_initializer, config, **kwargs)
        check("filters", filters, PositiveInt)
        check("strides", strides, Strides)
        check("drop_path_rate", drop_path_rate, Rate)
        self.filters = int(filters)
        self.strides = int(strides)
        self.drop_path_rate = drop_path_rate

    @abc.abstractmethod
    def prepare(self, input_shape: Shape) -> None:
        """Makes the layers of the block for an input, unbuilt."""

    @abc.abstractmethod
    def branches(self) -> list[list[keras.layers.Layer]]:
        """The layers of each residual branch, in the order in which they are called."""

    def shortcut(self) -> list[keras.layers.Layer]:
        """The layers of the shortcut beside the first branch."""
        return common.present(self.pool, self.proj)

    def prepare_shortcut(self, input_shape: Shape, pool: pooling.Pool, use_bias: bool) -> None:
        """Makes `pool` and `proj`, each where it is needed."""
        common.check_images(self.name, input_shape, self.strides)
        self.pool = pooling.make_pool(pool, **self.named("pool")) if self.strides > 1 else None
        self.proj: keras.layers.Layer | None = None
        if input_shape[-1] != self.filters:
            self.proj = common.conv(self.filters, 1, self.kernel_initializer, use_bias=use_bias, **self.named("proj"))

    def make_drop_path(self, name: str) -> StochasticDepth:
        """Stochastic depth, the last layer of a branch."""
        return StochasticDepth(self.drop_path_rate, **self.named(name))

    def build(self, input_shape: Shape) -> None:
        self.prepare(input_shape)
        self.restore_parts()
        first, *others = self.branches()
        common.build_chain(self.shortcut(), input_shape)
        shape = common.build_chain(first, input_shape)
        for branch in others:
            common.build_chain(branch, shape)
        common.finish_build(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        first, *others = self.branches()
        x = ops.add(common.chain(self.shortcut(), inputs), common.chain(first, inputs))
        for branch in others:
            x = ops.add(x, common.chain(branch, x))
        return x

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        halved = [None if size is None else size // self.strides for size in (height, width)]
        return (batch, *halved, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "drop_path_rate": self.drop_path_rate,
        }
