"""Folds a trained CoAtNet into the fastest model with the same outputs.

A norm by fixed statistics is a scale and a shift, which the convolution before it, or the 1x1 convolution
behind it, can carry. Blocks are taken apart into the layers of their branches, and each layer has one rule that looks
at the layer before it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from coatnet_tf.graph import Made, Rewrite, is_functional
from coatnet_tf.layers import (
    BatchNormalization,
    ConstantPadding2D,
    FeedForward,
    FoldedSelfAttention,
    LayerNormalization,
    LayerScale,
    MBConv,
    PointwiseDense,
    RelativeSelfAttention,
    ResidualBlock,
    StochasticDepth,
    TransformerBlock,
    common,
)

_BLOCKS = (MBConv, TransformerBlock, RelativeSelfAttention)
# Of these in Keras nothing is left outside training; others of its layers for images, as CenterCrop, do work there too.
# The same in inference.
_OF_KERAS: dict[type, Any] = {
    BatchNormalization: keras.layers.BatchNormalization,
    LayerNormalization: keras.layers.LayerNormalization,
}
_IN_TRAINING_ALONE = tuple(
    getattr(keras.layers, name)
    for name in (
        *("AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration"),
        *("RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip"),
        *("RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective"),
        *("RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear"),
        *("RandomTranslation", "RandomZoom", "Solarization"),
        *("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout2D"),
    )
    if hasattr(keras.layers, name)  # not in every Keras
)
_LINEAR = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense, PointwiseDense)


def fold_for_inference(model: keras.Model) -> keras.Model:
    """Builds the fastest model with the outputs that `model` has outside training.

    - BatchNorm is gone: it becomes part of the convolution before it, and MBConv's first of the 1x1 convolution
      behind it. Where an activation or squeeze-and-excitation stands between (`pre_norm_activation`,
      `se_before_norm`), it stays.
    - LayerNorm's scale and shift become part of the projection behind it. Before the max pool of a down-sampling
      block, and before an activation (`conv_norm="layer_norm"`), they stay: there it would not be exact.
    - `LayerScale` is part of the projection before it.
    - q's scale is in its kernel; q, k and v are one product; the relative bias is stored for every pair of
      positions, which takes `heads * (H * W)**2 * 4` bytes a block.
    - Rescaling becomes part of the first convolution, whose border is then padded with the colour that was
      rescaled to 0; by one number for all channels, that is: by ImageNet's mean and deviation it stays.
    - MBConv's first product and those of the feed-forward networks are `layers.PointwiseDense`: TensorFlow has one
      kernel for a product of matrices, its bias and its GELU.
    - Dropout, noise, stochastic depth and Keras' layers that augment images at random (`RandomFlip`, ...) are gone.

    Other layers of a functional model around the blocks, such as one's own classifier, are copied.

    Args:
        model: A functional (or sequential) Keras model with blocks of CoAtNet in it. It is not changed.

    Returns:
        A functional model of the same name, inputs and outputs (to rounding), with weights of its own. It can be
        saved, exported and quantised.

    Raises:
        ValueError: If the model is not functional, is folded already or has no block of CoAtNet, is compiled for
            training or calls a layer in training mode, or is quantised.

    Example:
    >>> import numpy as np
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (2, 1, 1, 1, 1), (8, 16, 16, 32, 32))
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(64, 96, 3), classes=10)
    >>> folded = coatnet_tf.fold_for_inference(model)
    >>> images = np.random.uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    >>> bool(np.allclose(folded(images), model(images), atol=1e-5))
    True
    """
    _refuse(model)
    return Folding().run(model)


def _refuse(model: Any) -> None:
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(f"{model.name} is not built; call it on an image once, or give it a keras.Input.")
    if not is_functional(model) and not hasattr(model, "operations"):
        raise ValueError(f"fold_for_inference takes a functional keras.Model, as CoAtNet0() returns; got {model!r}.")
    layers = list(model._flatten_layers(include_self=False))
    if any(isinstance(layer, FoldedSelfAttention | ConstantPadding2D | PointwiseDense) for layer in layers):
        raise ValueError(f"{model.name} is folded already; fold the model it came from, or use it as it is.")
    if not any(type(layer) in _BLOCKS for layer in layers):
        raise ValueError(f"{model.name} has no block of CoAtNet to fold: it is folded already, or another network.")
    if getattr(model, "optimizer", None) is not None:
        raise ValueError(
            f"{model.name} is compiled for training with {type(model.optimizer).__name__}, and a folded copy would "
            "follow no further step. Once it is trained, save it and fold what keras.models.load_model(path, "
            "compile=False) returns."
        )
    for layer in layers:
        if getattr(layer, "quantization_mode", None):
            raise ValueError(f"Layer {layer.name} is quantised; fold the model first, then quantise the folded one.")


class Folding(Rewrite):
    """The rules, one for each type of layer: what it becomes behind the layer that its input comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = {
            MBConv: self._block,
            TransformerBlock: self._block,
            FeedForward: lambda ffn, x: self._chain(ffn.layers(), x),
            RelativeSelfAttention: self._attention,
            LayerScale: self._layer_scale,
            **dict.fromkeys((keras.layers.BatchNormalization, BatchNormalization), self._batch_norm),
            **dict.fromkeys((keras.layers.LayerNormalization, LayerNormalization), self._copy),
            keras.layers.AveragePooling2D: self._copy,
            keras.layers.ZeroPadding2D: self._copy,
            keras.layers.Rescaling: self._copy,
            keras.layers.Conv2D: self._conv,
            keras.layers.DepthwiseConv2D: self._copy,
            keras.layers.Dense: self._dense,
            keras.layers.Activation: self._activation,
            **dict.fromkeys((StochasticDepth, *_IN_TRAINING_ALONE), lambda layer, x: x),
        }

    def otherwise(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer(*args, **kwargs)  # an operation without weights, as `keras.ops.add`
        is_new = id(layer) not in self._layers
        copy = self.layer(id(layer), lambda: _like(layer))
        y = copy(*args, **kwargs)
        if is_new:
            copy.set_weights(layer.get_weights())
        return y

    def _copy(self, layer: keras.layers.Layer, x: Any) -> Any:
        return self.made(id(layer), lambda: _like(layer), x, layer.get_weights)

    def _chain(self, layers: Sequence[keras.layers.Layer], x: Any) -> Any:
        for layer in layers:
            x = self.apply(layer, x)
        return x

    def _block(self, block: ResidualBlock, x: Any) -> Any:
        """`x <- Shortcut(x) + Branch(x)`, layer by layer."""
        for number, branch in enumerate(block.branches()):
            self.share(x)
            shortcut = self._chain(block.shortcut(), x) if number == 0 else x
            name = f"{block.name}_add{number + 1}"
            add = self.layer(
                (id(block), number), functools.partial(keras.layers.Add, dtype=block.dtype_policy, name=name)
            )
            x = add([shortcut, self._chain(branch, x)])
        return x

    def _batch_norm(self, norm: keras.layers.BatchNormalization, x: Any) -> Any:
        """Into the layer before it."""
        made = self.before(x, *_LINEAR)
        if made is None or not _is_linear(made.layer) or not common.is_of_channels(norm, len(x.shape)):
            return self._copy(norm, x)
        scale, shift = _affine(norm)
        return self._scaled(made, scale, shift, norm)

    def _layer_scale(self, layer: LayerScale, x: Any) -> Any:
        """Into the layer before it."""
        made = self.before(x, *_LINEAR, FoldedSelfAttention)
        if made is None or (type(made.layer) in _LINEAR and not _is_linear(made.layer)):
            return self.otherwise(layer, x)
        scale = _numpy(layer.gamma)
        return self._scaled(made, scale, np.zeros_like(scale), layer)

    def _scaled(self, made: Made, scale: np.ndarray, shift: np.ndarray, by: keras.layers.Layer) -> Any:
        """What a layer returns, scaled and shifted: the same layer with other weights."""
        layer = made.layer
        last = layer.out if type(layer) is FoldedSelfAttention else layer
        of_kernel = scale.reshape(last.kernel.shape[2:]) if type(layer) is keras.layers.DepthwiseConv2D else scale

        def weights() -> list[np.ndarray]:
            kernel, bias = _numpy(last.kernel) * of_kernel, _bias(last) * scale + shift
            if last is layer:
                return [kernel, bias]
            changed = {id(last.kernel): kernel, id(last.bias): bias}
            return [changed.get(id(variable), _numpy(variable)) for variable in layer.weights]

        options = {} if last is not layer else {"use_bias": True}
        return self.made((made.key, id(by)), lambda: _like(layer, **options), made.inputs, weights)

    def _without_norm(self, x: Any, layer: keras.layers.Layer) -> tuple[Any, Any, Any]:
        """What is left of a tensor if its norm's scale and shift go into the layer behind: it, scale and shift.

        A layer that has other inputs too takes in none. An average of what is scaled and shifted is scaled and shifted;
        the largest value is not.
        """
        if self.is_repeated(layer):
            return x, 1.0, 0.0
        made = self.before(x, keras.layers.BatchNormalization, keras.layers.LayerNormalization)
        if made is not None and _is_affine(made.layer, len(x.shape)):
            if type(made.layer) is keras.layers.BatchNormalization:
                return made.inputs, *_affine(made.layer)
            plain = functools.partial(_like, made.layer, scale=False, center=False)
            return self.made(("plain", made.key), plain, made.inputs), *_affine(made.layer)
        pooled = self.before(x, keras.layers.AveragePooling2D)
        if pooled is not None:
            inner, scale, shift = self._without_norm(pooled.inputs, layer)
            if inner is not pooled.inputs:
                pool = functools.partial(_like, pooled.layer)
                return self.made(pooled.key, pool, inner), scale, shift
        return x, 1.0, 0.0

    def _conv(self, conv: keras.layers.Conv2D, x: Any) -> Any:
        """With the norm before it if it is a 1x1 convolution, or with the rescaling of the image before it."""
        if self.is_repeated(conv):
            return self._copy(conv, x)
        if _is_pointwise(conv):
            inner, scale, shift = self._without_norm(x, conv)
            if inner is not x:
                options = functools.partial(_like, conv, use_bias=True)
                return self.made(("behind norm", id(conv)), options, inner, lambda: _behind(scale, shift, conv))
        padding, made = self.before(x, keras.layers.ZeroPadding2D), self.before(x, keras.layers.Rescaling)
        if padding is not None:
            made = self.before(padding.inputs, keras.layers.Rescaling)
        if made is None or not _takes_rescaling(conv, made.layer, padded=padding is not None):
            return self._copy(conv, x)
        scale, offset = made.layer.scale, made.layer.offset
        border = padding.layer.padding if padding is not None else _same_border(conv, made.inputs.shape)
        colour = ConstantPadding2D(border, -offset / scale, dtype=conv.dtype_policy, name=f"{conv.name}_padding")
        kernel = _numpy(conv.kernel)
        weights = [scale * kernel, _bias(conv) + offset * kernel.sum(axis=(0, 1, 2))]
        padded = self.made(("colour", id(conv)), lambda: colour, made.inputs)
        folded = functools.partial(_like, conv, padding="valid", use_bias=True)
        return self.made(("rescaled", id(conv)), folded, padded, lambda: weights)

    def _dense(self, dense: keras.layers.Dense, x: Any) -> Any:
        """With the norm before it; over images, as a product of two matrices."""
        inner, scale, shift = self._without_norm(x, dense)
        kind = PointwiseDense if len(x.shape) == 4 else keras.layers.Dense
        options = {} if inner is x else {"use_bias": True}
        if kind is keras.layers.Dense and inner is x:
            return self._copy(dense, x)
        return self.made(
            ("dense", id(dense)),
            lambda: kind.from_config(_like(dense, **options).get_config()),
            inner,
            lambda: _behind(scale, shift, dense) if inner is not x else dense.get_weights(),
        )

    def _activation(self, activation: keras.layers.Activation, x: Any) -> Any:
        """Into the dense layer or 1x1 convolution before it, which become one product with its activation."""
        made = self.before(x, PointwiseDense, keras.layers.Conv2D)
        if made is None or not _is_linear(made.layer) or not _is_pointwise(made.layer):
            return self._copy(activation, x)
        before, inputs = made.layer, made.inputs
        if getattr(before, "strides", (1, 1)) != (1, 1):
            pool = functools.partial(
                keras.layers.MaxPooling2D,
                1,
                before.strides,
                padding="same",
                data_format="channels_last",
                dtype=before.dtype_policy,
                name=f"{before.name}_subsample",
            )
            inputs = self.layer(("subsample", made.key), pool)(inputs)
        dense = functools.partial(
            PointwiseDense,
            before.kernel.shape[-1],
            activation=activation.activation,
            dtype=before.dtype_policy,
            name=before.name,
        )

        def weights() -> list[np.ndarray]:
            kernel = _numpy(before.kernel)
            return [kernel.reshape(kernel.shape[-2:]), np.broadcast_to(_bias(before), kernel.shape[-1:])]

        return self.made((made.key, id(activation)), dense, inputs, weights)

    def _attention(self, source: RelativeSelfAttention, x: Any) -> Any:
        """One product for q, k and v, with the norm before it, and the bias as it is added."""
        inner, scale, shift = self._without_norm(x, source)
        scale, shift = (np.broadcast_to(value, x.shape[-1]) for value in (scale, shift))
        config = source.config
        folded = functools.partial(
            FoldedSelfAttention,
            source.filters,
            config.head_size,
            config.relative_attention,
            config.attention_width,
            dtype=source.dtype_policy,
            name=source.name,
        )

        def weights() -> list[np.ndarray]:
            query, key, value = (_behind(scale, shift, dense) for dense in (source.query, source.key, source.value))
            query = [weight * config.head_size**-0.5 for weight in query]
            kernel, bias = (np.concatenate(parts, axis=-1) for parts in zip(query, key, value, strict=True))
            out = [_numpy(source.out.kernel), np.broadcast_to(_bias(source.out), (source.filters,))]
            relative = [] if source.relative_bias is None else [_numpy(source.relative_bias.bias())]
            return [*relative, *out, kernel, bias]

        return self.made(("attention", id(source)), folded, inner, weights)


def _numpy(value: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(value, "float32")).astype("float64")


def _bias(layer: keras.layers.Layer) -> Any:
    return _numpy(layer.bias) if layer.use_bias else 0.0


def _affine(norm: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a norm by fixed statistics (BatchNorm), or behind its statistics (LayerNorm)."""
    of_channels = norm.moving_mean if isinstance(norm, keras.layers.BatchNormalization) else norm.gamma
    scale = _numpy(norm.gamma) if norm.scale else np.ones(of_channels.shape)
    shift = _numpy(norm.beta) if norm.center else np.zeros(of_channels.shape)
    if isinstance(norm, keras.layers.BatchNormalization):
        scale = scale / np.sqrt(_numpy(norm.moving_variance) + norm.epsilon)
        shift = shift - scale * _numpy(norm.moving_mean)
    return scale, shift


def _is_affine(norm: keras.layers.Layer, rank: int) -> bool:
    """Whether a norm over the last axis ends in a scale and shift that the layer behind can take."""
    if isinstance(norm, keras.layers.LayerNormalization) and not (norm.scale and norm.center):
        return False
    return common.is_of_channels(norm, rank) and not getattr(norm, "rms_scaling", False)


def _behind(scale: Any, shift: Any, layer: keras.layers.Layer) -> list[np.ndarray]:
    """Kernel and bias of a dense layer or 1x1 convolution with the scale and shift before it in them."""
    kernel = _numpy(layer.kernel)
    return [scale[:, None] * kernel, _bias(layer) + shift @ kernel.reshape(kernel.shape[-2:])]


def _like(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """A new layer with other arguments, without weights yet."""
    config = {**layer.get_config(), **changes}
    if changes:
        config.pop("lora_rank", None)  # the kernel that is read has it in it
    return _OF_KERAS.get(type(layer), type(layer)).from_config(config)


def _is_linear(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a product with a kernel over the last axis, and nothing behind it."""
    return (
        layer.activation is keras.activations.linear
        and getattr(layer, "data_format", "channels_last") == "channels_last"
    )


def _is_pointwise(layer: keras.layers.Layer) -> bool:
    """Whether it is a dense layer or a 1x1 convolution of all channels, channels last."""
    if type(layer) is not keras.layers.Conv2D:
        return True
    return layer.kernel_size == (1, 1) and layer.groups == 1 and layer.data_format == "channels_last"


def _takes_rescaling(conv: keras.layers.Conv2D, rescaling: keras.layers.Rescaling, padded: bool) -> bool:
    """Whether the rescaling is one for all channels, and zeros alone are the border of the convolution."""
    one = all(isinstance(value, int | float) for value in (rescaling.scale, rescaling.offset))
    bordered = conv.padding == ("valid" if padded else "same") and conv.data_format == "channels_last"
    return one and bordered and conv.groups == 1 and conv.dilation_rate == (1, 1)


def _same_border(conv: keras.layers.Conv2D, shape: tuple[Any, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """What "same" pads above and below, left and right of images."""
    border = []
    for size, kernel_size, stride in zip(shape[1:3], conv.kernel_size, conv.strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
        border.append((total // 2, total - total // 2))
    return border[0], border[1]
