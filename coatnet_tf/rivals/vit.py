"""Vision Transformers (Dosovitskiy et al., arXiv:2010.11929), on patches of the image or of a ResNet's feature map."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from coatnet_tf.layers import AttentionConfig, FeedForwardConfig, TransformerBlock, TransformerConfig, common
from coatnet_tf.layers.options import Options, PositiveInt, Rate, Shape
from coatnet_tf.network import ImageShape, Network, Preprocessing, classifier_layers
from coatnet_tf.rivals.resnet import ResNetConfig

LAYER_NORM_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(Options, Network):
    """A Vision Transformer.

    Args:
        patch_size: Height and width of a patch.
        width: Width of a token.
        depth: Number of Transformer blocks.
        mlp_width: Hidden width of the feed-forward networks.
        num_heads: Number of attention heads; divides `width`.
        resnet: The ResNet whose feature map is cut into patches, in place of the image.
        name: Model name, e.g. `"vit-l-16"`.
        drop_path_rate: Stochastic depth rate of the last block; earlier ones rise to it linearly from 0.
        dropout: Dropout rate before the classifier.

    Raises:
        ValueError: If a field is out of its range.
    """

    name: str
    patch_size: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    mlp_width: PositiveInt
    num_heads: PositiveInt
    resnet: ResNetConfig | None = None
    preprocessing: Preprocessing = "tf"
    drop_path_rate: Rate = 0.0
    dropout: Rate = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.num_heads:
            raise ValueError(f"num_heads must divide width {self.width}; got {self.num_heads}.")

    def strides(self) -> list[tuple[str, int]]:
        below = [] if self.resnet is None else self.resnet.strides()
        return [*below, ("patches", self.patch_size)]

    def feature_layers(self, input_shape: ImageShape, dtype: Any = None) -> list[keras.layers.Layer]:
        layers = [] if self.resnet is None else self.resnet.layers(dtype)
        patches = common.conv(
            self.width,
            self.patch_size,
            "lecun_normal",
            padding="valid",
            strides=self.patch_size,
            dtype=dtype,
            name="patch_conv",
        )
        layers += [patches, TokenEmbedding(dtype=dtype, name="patch_tokens")]
        options = TransformerConfig(
            attention=AttentionConfig(head_size=self.width // self.num_heads, relative_attention=False),
            ffn=FeedForwardConfig(ffn_expansion=self.mlp_width / self.width, ffn_activation="gelu"),
            transformer_norm_epsilon=LAYER_NORM_EPSILON,
        )
        for number, rate in enumerate(self.drop_path_rates(self.depth), start=1):
            name = f"encoder_block{number:02d}"
            layers.append(TransformerBlock(self.width, drop_path_rate=rate, config=options, dtype=dtype, name=name))
        layers.append(common.make_norm("layer_norm", LAYER_NORM_EPSILON, dtype=dtype, name="encoder_norm"))
        return layers

    def map_layers(self, input_shape: ImageShape, dtype: Any = None) -> list[keras.layers.Layer]:
        options: dict[str, Any] = {"data_format": "channels_last", "dtype": dtype}
        patches = keras.layers.Cropping2D(((0, 0), (1, 0)), name="map_patches", **options)
        grid = [size // self.total_stride for size in input_shape[:2]]
        return [patches, keras.layers.Reshape((*grid, self.width), dtype=dtype, name="map_grid")]

    def head_layers(self, classes: int, activation: Any, dtype: Any = None) -> list[keras.layers.Layer]:
        token = ClassToken(dtype=dtype, name="head_token")
        return [token, *classifier_layers(classes, activation, self.dropout, dtype=dtype)]


@keras.saving.register_keras_serializable(package="coatnet_tf")
class TokenEmbedding(keras.layers.Layer):
    """Makes tokens of a grid of patches: class token first, position embeddings added to all.

    Inputs are `[batch, H, W, width]`, outputs `[batch, 1, 1 + H*W, width]`: a grid of one row, which
    `TransformerBlock` takes.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If H or W is unknown.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.rivals import TokenEmbedding
    >>> tuple(TokenEmbedding()(np.zeros((2, 4, 5, 8), "float32")).shape)
    (2, 1, 21, 8)
    """

    def build(self, input_shape: Shape) -> None:
        _, height, width, channels = input_shape
        if height is None or width is None:
            raise ValueError(f"{self.name} needs a fixed height and width, one embedding each; got {input_shape}.")
        self.class_token = self.add_weight(name="class_token", shape=(1, 1, 1, channels), initializer="zeros")
        self.positions = self.add_weight(
            name="positions", shape=(1, 1, 1 + height * width, channels), initializer=common.make_initializer()
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        _, height, width, channels = inputs.shape
        patches = ops.reshape(inputs, (-1, 1, height * width, channels))
        class_token = ops.broadcast_to(self.class_token, (ops.shape(inputs)[0], 1, 1, channels))
        return ops.concatenate([class_token, patches], axis=2) + self.positions

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return (batch, 1, 1 + math.prod((height, width)), channels)


@keras.saving.register_keras_serializable(package="coatnet_tf")
class ClassToken(keras.layers.Layer):
    """The class token alone: `[batch, 1, tokens, width]` to `[batch, width]`.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.rivals import ClassToken
    >>> np.asarray(ClassToken()(np.array([[[[1.0], [2.0]]]], "float32"))).tolist()
    [[1.0]]
    """

    def build(self, input_shape: Shape) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        return inputs[:, 0, 0]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], input_shape[-1])
