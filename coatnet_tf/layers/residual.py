"""What MBConv and Transformer blocks share: the shortcut, `Proj(Pool(x))`."""

from __future__ import annotations

from typing import Any

import keras

from coatnet_tf.layers import common, pooling

Shape = tuple[Any, ...]  # None where a size is unknown


class ResidualBlock(keras.layers.Layer):
    """A block whose shortcut is pooled if `strides` is 2 and projected where the width changes.

    Args:
        filters: Output width.
        strides: 1 or 2.
        pool: `"max"` (2x2, the paper's), `"avg"` (2x2) or `"max3"` (3x3, centred at the even pixels).
        shortcut_bias: Whether the projection of the shortcut has a bias.
        drop_path_rate: Stochastic depth rate of the residual branches.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `strides` or `pool` is out of range.
    """

    def __init__(
        self,
        filters: int,
        strides: int,
        pool: str,
        shortcut_bias: bool,
        drop_path_rate: float,
        kernel_initializer: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if strides not in (1, 2):
            raise ValueError(f"strides must be 1 or 2; got {strides!r}.")
        self.filters = filters
        self.strides = strides
        self.pool_type = pool
        self.shortcut_bias = shortcut_bias
        self.drop_path_rate = drop_path_rate
        self.kernel_initializer = common.get_initializer(kernel_initializer)
        common.check_known("pool", pool, pooling.POOLS)
        self.pool: keras.layers.Layer | None = None
        if strides > 1:
            self.pool = pooling.make_pool(pool, f"{self.name}_pool", dtype=self.dtype_policy)
        self.proj: keras.layers.Layer | None = None  # built where the width changes

    def build_shortcut(self, input_shape: Shape) -> None:
        """Checks the input's shape, and builds the projection if the width changes."""
        common.check_halving(self.name, input_shape, self.strides)
        if input_shape[-1] != self.filters:
            self.proj = common.conv(
                self.filters,
                1,
                f"{self.name}_proj",
                self.kernel_initializer,
                use_bias=self.shortcut_bias,
                dtype=self.dtype_policy,
            )
            self.proj.build(input_shape)

    def shortcut(self, inputs: Any) -> Any:
        """`Proj(Pool(x))`, each where it is needed."""
        x = inputs if self.pool is None else self.pool(inputs)
        return x if self.proj is None else self.proj(x)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        halved = [None if size is None else size // self.strides for size in (height, width)]
        return (batch, *halved, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "strides": self.strides,
            "pool": self.pool_type,
            "drop_path_rate": self.drop_path_rate,
            "kernel_initializer": common.serialize_initializer(self.kernel_initializer),
        }
