"""Self-attention over a 2-D grid with a relative position bias (Eq. 3 of the paper)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from coatnet_tf.layers import common

BIAS_REINDEXING = ("gather", "einsum")

Shape = tuple[Any, ...]  # None where a size is unknown


def check_reindexing(reindexing: str) -> None:
    """Refuses unknown ways of re-indexing."""
    if reindexing not in BIAS_REINDEXING:
        raise ValueError(f"reindexing must be one of {', '.join(BIAS_REINDEXING)}; got {reindexing!r}.")


def _relative_positions(size: int) -> np.ndarray:
    """`[size, size]` indices i' - i + size - 1 into one axis of the table."""
    positions = np.arange(size)
    return positions[None, :] - positions[:, None] + size - 1


@keras.saving.register_keras_serializable(package="coatnet_tf")
class RelativePositionBias(keras.layers.Layer):
    """Adds a relative position bias to the attention logits of a grid of positions.

    Each head has a table P, `[2H-1, 2W-1]`; the logit of position (i, j) attending to (i', j') gets
    `P[i'-i+H-1, j'-j+W-1]` added. The table is re-indexed in each call, so that gradients reach it.
    Inputs and outputs are `[batch, heads, H*W, H*W]`.

    Args:
        grid: `(H, W)`.
        num_heads: Number of heads.
        reindexing: `"gather"`, or `"einsum"` with one-hot matrices as on TPU (O(HW(H+W)) per head).
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `reindexing` is unknown.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import RelativePositionBias
    >>> layer = RelativePositionBias(grid=(7, 5), num_heads=2)
    >>> logits = layer(np.zeros((1, 2, 35, 35), "float32"))
    >>> tuple(layer.table.shape)
    (2, 13, 9)
    """

    def __init__(self, grid: tuple[int, int], num_heads: int, reindexing: str = "gather", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_reindexing(reindexing)
        self.grid = tuple(grid)
        self.num_heads = num_heads
        self.reindexing = reindexing

    def build(self, input_shape: Shape) -> None:
        height, width = self.grid
        self.table = self.add_weight(
            name="table",
            shape=(self.num_heads, 2 * height - 1, 2 * width - 1),
            initializer=common.make_initializer(),
        )
        self.built = True

    def bias(self) -> Any:
        """The table re-indexed for every pair of positions, `[heads, H*W, H*W]`."""
        height, width = self.grid
        rows, columns = _relative_positions(height), _relative_positions(width)
        table = ops.convert_to_tensor(self.table)
        if self.reindexing == "gather":
            index = rows[:, None, :, None] * (2 * width - 1) + columns[None, :, None, :]
            flat = ops.reshape(table, (self.num_heads, -1))
            bias = ops.take(flat, index.reshape(-1).astype("int32"), axis=1)
        else:
            row_of = ops.one_hot(rows, 2 * height - 1, dtype=table.dtype)
            column_of = ops.one_hot(columns, 2 * width - 1, dtype=table.dtype)
            bias = ops.einsum("ikp,hpq->hikq", row_of, table)
            bias = ops.einsum("jlq,hikq->hijkl", column_of, bias)
        return ops.reshape(bias, (self.num_heads, height * width, height * width))

    def call(self, inputs: Any) -> Any:
        return ops.add(inputs, self.bias())

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "grid": self.grid,
            "num_heads": self.num_heads,
            "reindexing": self.reindexing,
        }


@keras.saving.register_keras_serializable(package="coatnet_tf")
class RelativeSelfAttention(keras.layers.Layer):
    """Multi-head self-attention of the positions of an H x W grid, with a relative bias (Eq. 3).

    `softmax(q k^T / sqrt(head_size) + bias) v`, projected; q, k, v go straight from the input's width
    to `filters`. Inputs are `[batch, H, W, C]` with H and W known, outputs `[batch, H, W, filters]`.
    The bias is added and the softmax taken in float32 under every dtype policy.

    Args:
        filters: Output width.
        head_size: Channels of one head; divides `filters`.
        relative: `False` gives plain attention, with no position bias (Table 6).
        reindexing: How the bias table is re-indexed, `"gather"` or `"einsum"`; see `RelativePositionBias`.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default, as in the released code.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Images, `[batch, H, W, C]`.
        return_attention_scores: Whether to return the probabilities `[batch, heads, H*W, H*W]` in
            float32 as well.

    Raises:
        ValueError: If `head_size` does not divide `filters`, or H or W is unknown.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import RelativeSelfAttention
    >>> attention = RelativeSelfAttention(64, head_size=16)
    >>> output, scores = attention(np.zeros((2, 7, 5, 32), "float32"), return_attention_scores=True)
    >>> tuple(output.shape), tuple(scores.shape)
    ((2, 7, 5, 64), (2, 4, 35, 35))
    """

    def __init__(
        self,
        filters: int,
        head_size: int = 32,
        relative: bool = True,
        reindexing: str = "gather",
        kernel_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_initializer = common.get_initializer(kernel_initializer)
        if head_size < 1 or filters % head_size:
            raise ValueError(f"head_size must divide filters; got head_size={head_size}, filters={filters}.")
        check_reindexing(reindexing)
        self.filters = filters
        self.head_size = head_size
        self.relative = relative
        self.reindexing = reindexing
        self.num_heads = filters // head_size

        policy = self.dtype_policy
        self.query = common.dense(filters, "query", self.kernel_initializer, dtype=policy)
        self.key = common.dense(filters, "key", self.kernel_initializer, dtype=policy)
        self.value = common.dense(filters, "value", self.kernel_initializer, dtype=policy)
        self.relative_bias: RelativePositionBias | None = None  # built for the grid of the input
        self.out = common.dense(filters, "out", self.kernel_initializer, dtype=policy)

    def build(self, input_shape: Shape) -> None:
        common.check_halving(self.name, input_shape, strides=1)
        batch, height, width, channels = input_shape
        if height is None or width is None:
            raise ValueError(
                f"{self.name} needs a fixed height and width, which size its bias table; got {input_shape}."
            )
        for layer in (self.query, self.key, self.value):
            layer.build((batch, height * width, channels))
        if self.relative:
            self.relative_bias = RelativePositionBias(
                (height, width), self.num_heads, self.reindexing, dtype="float32", name="relative_bias"
            )
            self.relative_bias.build((batch, self.num_heads, height * width, height * width))
        self.out.build((batch, height * width, self.filters))
        self.built = True

    def _split_heads(self, x: Any) -> Any:
        """[batch, positions, filters] -> [batch, heads, positions, head_size]."""
        x = ops.reshape(x, (-1, x.shape[1], self.num_heads, self.head_size))
        return ops.transpose(x, (0, 2, 1, 3))

    def call(self, inputs: Any, return_attention_scores: bool = False) -> Any:
        _, height, width, channels = inputs.shape
        x = ops.reshape(inputs, (-1, height * width, channels))
        query = self._split_heads(self.query(x) * self.head_size**-0.5)
        key = self._split_heads(self.key(x))
        value = self._split_heads(self.value(x))

        logits = ops.matmul(query, ops.swapaxes(key, -1, -2))
        logits = ops.cast(logits, "float32")
        if self.relative_bias is not None:
            logits = self.relative_bias(logits)
        scores = ops.softmax(logits, axis=-1)

        x = ops.matmul(ops.cast(scores, value.dtype), value)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, height * width, self.filters))
        output = ops.reshape(self.out(x), (-1, height, width, self.filters))
        return (output, scores) if return_attention_scores else output

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "head_size": self.head_size,
            "relative": self.relative,
            "reindexing": self.reindexing,
            "kernel_initializer": common.serialize_initializer(self.kernel_initializer),
        }
