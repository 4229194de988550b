"""ImageNet at both ends of a model: images in the range it takes, names of the classes it scores."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from coatnet_tf.layers.options import check
from coatnet_tf.network import Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def preprocessing_layer(preprocessing: Preprocessing, channels: int = 3, dtype: Any = None) -> keras.layers.Layer:
    """The unbuilt layer that takes images in [0, 255] to a range.

    Args:
        preprocessing: `"tf"` or `"torch"`; see `CoAtNetConfig`.
        channels: Of the images. With another number than 3 the numbers of `"torch"` are the means over ImageNet's
            channels, as in timm: the channels may be any.
        dtype: Dtype policy of the layer; Keras' global one by default.
    """
    scale: Any = 1 / 127.5
    offset: Any = -1.0
    if preprocessing == "torch" and channels == 3:
        # Of shape [1, 1, 3], as Keras takes a plain list for channels first where that is its default.
        scale = [[[1 / (255 * deviation) for deviation in IMAGENET_STD]]]
        offset = [[[-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]]]
    elif preprocessing == "torch":
        deviation = sum(IMAGENET_STD) / 3
        scale, offset = 1 / (255 * deviation), -sum(IMAGENET_MEAN) / 3 / deviation
    return keras.layers.Rescaling(scale, offset, dtype=dtype, name="preprocessing")


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Returns images as they are, since models do their preprocessing themselves, as `keras.applications` has it.

    So code written for any network of `keras.applications` is right for these too. For models built with
    `include_preprocessing=False` see `rescale`.

    Args:
        x: Images in [0, 255], channels last, of any type.
        data_format: `None` or `"channels_last"`.

    Raises:
        ValueError: If `data_format` is another.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf import preprocess_input
    >>> preprocess_input(np.array([[[0, 128, 255]]])).tolist()
    [[[0, 128, 255]]]
    """
    if data_format not in (None, "channels_last"):
        raise ValueError(
            f"preprocess_input returns images as they are, channels last; got {data_format!r}. The images of a model "
            'built with include_preprocessing=False go through coatnet_tf.rescale(x, "tf" or "torch").'
        )
    return x


def rescale(x: Any, mode: str = "tf") -> Any:
    """Takes images from [0, 255] to a model's own range.

    Only for models built with `include_preprocessing=False`; the others do it themselves.

    Args:
        x: NumPy array or tensor of images of any dtype, channels last, in [0, 255]; also in `tf.data.Dataset.map`,
            where `"torch"` has to know the number of channels. It is not changed.
        mode: The `preprocessing` of the model's configuration: `"tf"`, [-1, 1], as in the paper's code, or `"torch"`,
            ImageNet's mean and standard deviation.

    Returns:
        The images in Keras' `floatx`: a NumPy array for an array, and a tensor for a tensor.

    Raises:
        ValueError: If `mode` is another, or the channels of a tensor are not known to `"torch"`.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf import rescale
    >>> rescale(np.array([[[0.0, 127.5, 255.0]]])).tolist()
    [[[-1.0, 0.0, 1.0]]]
    """
    check("mode", mode, Preprocessing)
    if not hasattr(x, "shape"):
        x = np.asarray(x)
    channels = None if getattr(x.shape, "rank", 1) is None else x.shape[-1]  # TensorFlow may know nothing of a shape
    if channels is None and mode == "torch":
        raise ValueError(
            'rescale(x, "torch") needs the number of channels, which x does not say: decode images with channels=3, or '
            "call x.set_shape([None, None, 3]) before."
        )
    layer = preprocessing_layer(mode, channels, keras.config.floatx())  # type: ignore[arg-type]
    if type(x).__module__.startswith("tensorflow"):  # in `tf.data`, whatever backend Keras has
        layer.backend.set_backend("tensorflow")
    y = layer.call(x)  # not by `__call__`, which wants to know a shape
    return keras.ops.convert_to_numpy(y) if isinstance(x, np.ndarray) else y


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Names the ImageNet-1K classes with the highest scores, as `keras.applications` does.

    Args:
        preds: NumPy array of scores, `[batch, 1000]`, in ImageNet's usual order of classes.
        top: Number of classes to name for each image.

    Returns:
        For each image a list of `(WordNet ID, class name, score)`, best first.

    Raises:
        ValueError: If `preds` is not `[batch, 1000]`.
    """
    return keras.applications.imagenet_utils.decode_predictions(preds, top=top)
