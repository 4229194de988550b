"""Vision Transformers (Dosovitskiy et al., arXiv:2010.11929), on patches of the image or of a ResNet's feature map."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from coatnet_tf.baselines.base import BaselineConfig, require_positive
from coatnet_tf.baselines.resnet import ResNetConfig
from coatnet_tf.layers import TransformerBlock, common
from coatnet_tf.models import Shape

LAYER_NORM_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(BaselineConfig):
    """A Vision Transformer.

    Args:
        patch_size: Height and width of a patch.
        width: Width of a token.
        depth: Number of Transformer blocks.
        mlp_width: Hidden width of the feed-forward networks.
        num_heads: Number of attention heads; divides `width`.
        resnet: The ResNet whose feature map is cut into patches, in place of the image.
        name: See `BaselineConfig`, as for `drop_path_rate` and `dropout`.

    Raises:
        ValueError: If a field is out of its range.
    """

    patch_size: int
    width: int
    depth: int
    mlp_width: int
    num_heads: int
    resnet: ResNetConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "patch_size", "width", "depth", "mlp_width", "num_heads")
        if self.width % self.num_heads:
            raise ValueError(f"num_heads must divide width {self.width}; got {self.num_heads}.")

    @property
    def preprocessing(self) -> str:
        return "tf"

    @property
    def total_stride(self) -> int:
        return self.patch_size * (1 if self.resnet is None else self.resnet.total_stride)

    def grid(self, input_shape: Shape) -> tuple[int, int]:
        """Number of patches along the height and the width."""
        return input_shape[0] // self.total_stride, input_shape[1] // self.total_stride

    def feature_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        layers = [] if self.resnet is None else self.resnet.layers()
        layers.append(
            common.conv(
                self.width, self.patch_size, "patch_conv", "lecun_normal", padding="valid", strides=self.patch_size
            )
        )
        layers.append(TokenEmbedding(name="patch_tokens"))
        for number, rate in enumerate(self.drop_path_rates(self.depth), start=1):
            layers.append(
                TransformerBlock(
                    self.width,
                    head_size=self.width // self.num_heads,
                    expansion=self.mlp_width / self.width,
                    relative=False,
                    activation="gelu",
                    norm_epsilon=LAYER_NORM_EPSILON,
                    drop_path_rate=rate,
                    name=f"encoder_block{number:02d}",
                )
            )
        layers.append(common.make_norm("layer_norm", "encoder_norm", LAYER_NORM_EPSILON))
        return layers

    def map_layers(self, input_shape: Shape) -> list[keras.layers.Layer]:
        patches = keras.layers.Cropping2D(((0, 0), (1, 0)), data_format="channels_last", name="map_patches")
        return [patches, keras.layers.Reshape((*self.grid(input_shape), self.width), name="map_grid")]

    def head_layers(self, classes: int, activation: Any) -> list[keras.layers.Layer]:
        return [ClassToken(name="head_token"), *self.classifier_layers(classes, activation)]


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
    >>> from coatnet_tf.baselines import TokenEmbedding
    >>> tuple(TokenEmbedding()(np.zeros((2, 4, 5, 8), "float32")).shape)
    (2, 1, 21, 8)
    """

    def build(self, input_shape: tuple[Any, ...]) -> None:
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

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        batch, height, width, channels = input_shape
        return (batch, 1, 1 + math.prod((height, width)), channels)


@keras.saving.register_keras_serializable(package="coatnet_tf")
class ClassToken(keras.layers.Layer):
    """The class token alone: `[batch, 1, tokens, width]` to `[batch, width]`.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.baselines import ClassToken
    >>> np.asarray(ClassToken()(np.array([[[[1.0], [2.0]]]], "float32"))).tolist()
    [[1.0]]
    """

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self.built = True

    def call(self, inputs: Any) -> Any:
        return inputs[:, 0, 0]

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        return (input_shape[0], input_shape[-1])
