"""ImageNet at both ends of a model: images in the range it takes, names of the classes it scores."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from coatnet_tf.layers.options import check
from coatnet_tf.network import Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def preprocessing_layer(preprocessing: Preprocessing, dtype: Any = None) -> keras.layers.Layer:
    """The unbuilt layer that takes images in [0, 255] to a range, `"tf"` or `"torch"`; see `CoAtNetConfig`."""
    if preprocessing == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype=dtype, name="preprocessing")
    scale = [1 / (255 * deviation) for deviation in IMAGENET_STD]
    offset = [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return keras.layers.Rescaling(scale, offset, dtype=dtype, name="preprocessing")


def preprocess_input(x: Any, mode: str = "tf") -> Any:
    """Takes images from [0, 255] to a model's own range.

    Only for models built with `include_preprocessing=False`; the others do it themselves.

    Args:
        x: NumPy array or tensor of images, channels last, in [0, 255].
        mode: The `preprocessing` of the model's configuration: `"tf"`, [-1, 1], as in the paper's code, or `"torch"`,
            ImageNet's mean and standard deviation.

    Returns:
        The images as floating point numbers.

    Raises:
        ValueError: If `mode` is another.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf import preprocess_input
    >>> preprocess_input(np.array([[[0.0, 127.5, 255.0]]])).tolist()
    [[[-1.0, 0.0, 1.0]]]
    """
    check("mode", mode, Preprocessing)
    if isinstance(x, np.ndarray):
        x = x.copy()  # Keras would rescale it in place
    return keras.applications.imagenet_utils.preprocess_input(x, data_format="channels_last", mode=mode)


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
