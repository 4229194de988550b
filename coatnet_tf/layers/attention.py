"""Self-attention over a 2-D grid with a relative position bias (Eq. 3 of the paper)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from coatnet_tf.layers import common, half_precision
from coatnet_tf.layers.options import ConfiguredLayer, Options, PositiveInt, Shape, check
from coatnet_tf.layers.parts import LayerOfLayers

BiasReindexing = Literal["gather", "einsum"]


def _relative_positions(size: int) -> np.ndarray:
    """`[size, size]` indices i' - i + size - 1 into one axis of the table."""
    positions = np.arange(size)
    return positions[None, :] - positions[:, None] + size - 1


@keras.saving.register_keras_serializable(package="coatnet_tf")
class RelativePositionBias(LayerOfLayers):
    """Adds a relative position bias to the attention logits of a grid of positions.

    Each head has a table P, `[2H-1, 2W-1]`; the logit of position (i, j) attending to (i', j') gets
    `P[i'-i+H-1, j'-j+W-1]` added. The table is re-indexed in each call, so that gradients reach it.
    Inputs and outputs are `[batch, heads, H*W, H*W]`.

    Args:
        grid: `(H, W)`.
        num_heads: Number of heads.
        bias_reindexing: `"gather"`, or `"einsum"` with one-hot matrices as on TPU (O(HW(H+W)) per head).
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import RelativePositionBias
    >>> layer = RelativePositionBias(grid=(7, 5), num_heads=2)
    >>> logits = layer(np.zeros((1, 2, 35, 35), "float32"))
    >>> tuple(layer.table.shape)
    (2, 13, 9)
    """

    def __init__(
        self, grid: tuple[int, int], num_heads: int, bias_reindexing: BiasReindexing = "gather", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check("grid", tuple(grid), tuple[PositiveInt, ...])
        check("num_heads", num_heads, PositiveInt)
        check("bias_reindexing", bias_reindexing, BiasReindexing)
        self.grid = tuple(map(int, grid))
        self.num_heads = int(num_heads)
        self.bias_reindexing = bias_reindexing

    def build(self, input_shape: Shape) -> None:
        height, width = self.grid
        self.table = self.add_weight(
            name="table",
            shape=(self.num_heads, 2 * height - 1, 2 * width - 1),
            initializer=common.make_initializer(),
        )
        self.built = True

    def positional_table(self) -> Any:
        """P of every head, `[heads, 2H-1, 2W-1]`."""
        return ops.convert_to_tensor(self.table)

    def bias(self) -> Any:
        """The table re-indexed for every pair of positions, `[heads, H*W, H*W]`."""
        height, width = self.grid
        rows, columns = _relative_positions(height), _relative_positions(width)
        table = self.positional_table()
        if self.bias_reindexing == "gather":
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
        return ops.add(self.bias(), inputs)  # Keras would take a bias of one position behind them for one of channels

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "grid": self.grid,
            "num_heads": self.num_heads,
            "bias_reindexing": self.bias_reindexing,
        }


@keras.saving.register_keras_serializable(package="coatnet_tf")
class RelativePositionMLP(RelativePositionBias):
    """`RelativePositionBias` whose tables a small network computes from the distances (timm's `rmlp`).

    `P = Dense(relu(Dense(sign(d) log(1 + |d|))))` for the distances d = (i'-i, j'-j), after Swin Transformer V2
    (arXiv:2111.09883). The weights do not depend on the grid, so that they fit every input size.

    Args:
        units: Width of the hidden layer.
        **kwargs: Arguments of `RelativePositionBias`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import RelativePositionMLP
    >>> layer = RelativePositionMLP(units=16, grid=(7, 5), num_heads=2)
    >>> logits = layer(np.zeros((1, 2, 35, 35), "float32"))
    >>> tuple(layer.positional_table().shape)
    (2, 13, 9)
    """

    def __init__(self, units: int, grid: tuple[int, int], num_heads: int, **kwargs: Any) -> None:
        super().__init__(grid, num_heads, **kwargs)
        check("units", units, PositiveInt)
        self.units = int(units)
        self.hidden = common.dense(self.units, activation="relu", name="hidden", dtype=self.dtype_policy)
        self.out = common.dense(self.num_heads, name="out", dtype=self.dtype_policy)

    def build(self, input_shape: Shape) -> None:
        self.restore_parts()
        height, width = self.grid
        common.build_chain([self.hidden, self.out], (2 * height - 1, 2 * width - 1, 2))
        common.finish_build(self)

    def positional_table(self) -> Any:
        distances = np.meshgrid(*(np.arange(1 - size, size) for size in self.grid), indexing="ij")
        coordinates = np.stack([np.sign(d) * np.log1p(np.abs(d)) for d in distances], axis=-1).astype("float32")
        return ops.transpose(self.out(self.hidden(ops.convert_to_tensor(coordinates))), (2, 0, 1))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@dataclasses.dataclass(frozen=True)
class AttentionConfig(Options):
    """Options of `RelativeSelfAttention`; the defaults are the paper's.

    Args:
        head_size: Channels of one head; divides the width of q, k and v.
        relative_attention: `False` gives plain attention, with no position bias (Table 6).
        relative_mlp_units: `None` for one table per head, or the width of the network that computes the tables
            (`RelativePositionMLP`).
        bias_reindexing: How the bias table is re-indexed: `"gather"`, or `"einsum"` as on TPU, where scatters are slow.
        attention_width: Whether q, k and v have the `"output"` width, as in the paper, or the `"input"` width, so that
            only the last projection widens.
        attention_bias: Whether q, k, v and the last projection have a bias.
    """

    head_size: PositiveInt = 32
    relative_attention: bool = True
    relative_mlp_units: PositiveInt | None = None
    bias_reindexing: BiasReindexing = "gather"
    attention_width: Literal["output", "input"] = "output"
    attention_bias: bool = True


@keras.saving.register_keras_serializable(package="coatnet_tf")
class RelativeSelfAttention(ConfiguredLayer):
    """Multi-head self-attention of the positions of an H x W grid, with a relative bias (Eq. 3).

    `softmax(q k^T / sqrt(head_size) + bias) v`, projected; q, k, v go straight from the input's width
    to `filters` in the paper. Inputs are `[batch, H, W, C]` with H and W known, outputs `[batch, H, W, filters]`.
    The bias is added and the softmax taken in float32 under every dtype policy.

    Args:
        filters: Output width.
        kernel_initializer: Initializer of the kernels; normal(0.02) by default.
        config: An `AttentionConfig`.
        **kwargs: Fields of `AttentionConfig`, and arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Images, `[batch, H, W, C]`.
        return_attention_scores: Whether to return the probabilities `[batch, heads, H*W, H*W]` in
            float32 as well.

    Raises:
        ValueError: If an argument is out of its range, `head_size` does not divide the width of q, k and v, or H or W
            is unknown.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.layers import RelativeSelfAttention
    >>> attention = RelativeSelfAttention(64, head_size=16)
    >>> output, scores = attention(np.zeros((2, 7, 5, 32), "float32"), return_attention_scores=True)
    >>> tuple(output.shape), tuple(scores.shape)
    ((2, 7, 5, 64), (2, 4, 35, 35))
    """

    config_class = AttentionConfig

    def __init__(
        self, filters: int, kernel_initializer: Any = None, config: AttentionConfig | None = None, **kwargs: Any
    ) -> None:
        super().__init__(kernel_initializer, config, **kwargs)
        check("filters", filters, PositiveInt)
        self.filters = int(filters)
        if self.config.attention_width == "output":
            self._check_heads(filters)

    def _check_heads(self, width: int) -> None:
        if width % self.config.head_size:
            raise ValueError(
                f"head_size must divide the width of q, k and v; got head_size={self.config.head_size}, width {width}."
            )

    def prepare(self, input_shape: Shape) -> None:
        """Makes the layers of the attention for an input, unbuilt."""
        common.check_images(self.name, input_shape)
        _, height, width, channels = input_shape
        if height is None or width is None:
            raise ValueError(
                f"{self.name} needs a fixed height and width, which size its bias table; got {input_shape}."
            )
        inner = self.filters if self.config.attention_width == "output" else channels
        self._check_heads(inner)
        self.num_heads = inner // self.config.head_size
        options = {"use_bias": self.config.attention_bias, "dtype": self.dtype_policy}
        self.query, self.key, self.value = (
            common.dense(inner, self.kernel_initializer, name=name, **options) for name in ("query", "key", "value")
        )
        self.relative_bias = self._make_bias((height, width)) if self.config.relative_attention else None
        self.out = common.dense(self.filters, self.kernel_initializer, name="out", **options)

    def _make_bias(self, grid: tuple[int, int]) -> RelativePositionBias:
        arguments: dict[str, Any] = {
            "grid": grid,
            "num_heads": self.num_heads,
            "bias_reindexing": self.config.bias_reindexing,
            "dtype": "float32",
            "name": "relative_bias",
        }
        if self.config.relative_mlp_units is None:
            return RelativePositionBias(**arguments)
        return RelativePositionMLP(self.config.relative_mlp_units, **arguments)

    def projections(self) -> list[list[keras.layers.Layer]]:
        """The layers from the positions to q, to k and to v, each in the order in which they are called."""
        return [[self.query], [self.key], [self.value]]

    def build(self, input_shape: Shape) -> None:
        self.prepare(input_shape)
        self.restore_parts()
        batch, height, width, channels = input_shape
        positions = height * width
        for projection in self.projections():
            common.build_chain(projection, (batch, positions, channels))
        if self.relative_bias is not None:
            self.relative_bias.build((batch, self.num_heads, positions, positions))
        self.out.build((batch, positions, self.num_heads * self.config.head_size))
        common.finish_build(self)

    def _bias(self, logits: Any) -> Any:
        return logits if self.relative_bias is None else self.relative_bias(logits)

    def call(self, inputs: Any, return_attention_scores: bool = False, training: bool | None = None) -> Any:
        _, height, width, channels = inputs.shape
        positions = height * width
        heads = (-1, positions, self.num_heads, self.config.head_size)
        x = ops.reshape(inputs, (-1, positions, channels))
        query, key, value = (common.chain(projection, x) for projection in self.projections())
        query, key, value = (ops.reshape(x, heads) for x in (query * self.config.head_size**-0.5, key, value))
        if training and self.compute_dtype in half_precision.DTYPES and not return_attention_scores:
            bias = self._bias(ops.zeros((1, self.num_heads, positions, positions)))
            x = half_precision.attend(query, key, value, bias)
        else:
            query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
            logits = ops.matmul(query, ops.swapaxes(key, -1, -2))
            scores = ops.softmax(self._bias(ops.cast(logits, "float32")), axis=-1)
            x = ops.matmul(ops.cast(scores, value.dtype), value)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, positions, self.num_heads * self.config.head_size))
        output = ops.reshape(self.out(x), (-1, height, width, self.filters))
        return (output, scores) if return_attention_scores else output

    def compute_output_spec(self, inputs: Any, return_attention_scores: bool = False, training: Any = None) -> Any:
        output = keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)
        if not return_attention_scores:
            return output
        _, height, width, _ = inputs.shape
        positions = height * width
        return output, keras.KerasTensor((inputs.shape[0], self.num_heads, positions, positions), "float32")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters}
