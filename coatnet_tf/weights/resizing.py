"""Weights for images of another size or another number of channels than those that they were trained on."""

from __future__ import annotations

import numpy as np

RGB = 3


def resize_table(table: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes relative position bias tables bilinearly, axis by axis.

    Distances keep their place relative to the largest one: both ends of an axis stand half a step inside the
    range, as `tf.image.resize` and Google's MaxViT release have it, so that the centre stays the centre.

    Args:
        table: `[heads, 2H-1, 2W-1]`.
        shape: `(2H'-1, 2W'-1)`.

    Returns:
        `[heads, 2H'-1, 2W'-1]` of the same dtype; the same values at equal size.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.weights import resize_table
    >>> resize_table(np.array([[[0.0, 1.0, 2.0]]]), (1, 5))[0, 0].tolist()
    [0.0, 0.4, 1.0, 1.6, 2.0]
    """
    rows, columns = (_interpolation(old, new) for old, new in zip(table.shape[1:], shape, strict=True))
    return (rows @ table.astype("float64") @ columns.T).astype(table.dtype)


def _interpolation(old: int, new: int) -> np.ndarray:
    """`[new, old]` weights of linear interpolation, in float64."""
    positions = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0.0, 1.0 - np.abs(positions[:, None] - np.arange(old)))


def is_other_table(path: str, shape: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """Whether a weight of the model is a bias table, and the stored one has as many heads and another size."""
    is_table = path.endswith("relative_bias/table") and len(stored) == 3
    return is_table and stored[0] == shape[0] and stored != shape


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The first kernel of a network of RGB images, for images of another number of channels, as timm has it.

    Args:
        kernel: `[height, width, 3, filters]`.
        channels: Of the images.

    Returns:
        `[height, width, channels, filters]` of the same dtype: for one channel the sum over the three, so that grey
        images give what they give as RGB; for others the three again and again, scaled by 3 / channels.

    Example:
    >>> import numpy as np
    >>> from coatnet_tf.weights import adapt_channels
    >>> kernel = np.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)
    >>> adapt_channels(kernel, 1).ravel().tolist(), adapt_channels(kernel, 4).ravel().tolist()
    ([6.0], [0.75, 1.5, 2.25, 0.75])
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True, dtype="float64").astype(kernel.dtype)
    repeated = np.tile(kernel, (1, 1, -(-channels // RGB), 1))[:, :, :channels]
    return (repeated.astype("float64") * RGB / channels).astype(kernel.dtype)


def is_of_other_channels(path: str, shape: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """Whether a weight of the model is its first kernel, and the stored one differs in being for RGB images."""
    is_first = path.endswith("stem_conv01/kernel") and len(stored) == 4 and len(shape) == 4
    return is_first and stored[2] == RGB != shape[2] and (*stored[:2], stored[3]) == (*shape[:2], shape[3])


def describe_adapted(path: str, channels: int) -> str:
    """What `adapt_channels` did to a kernel, for reports."""
    how = "summed for 1 channel" if channels == 1 else f"repeated for {channels} channels and scaled by 3/{channels}"
    return f"{path} {how}"
