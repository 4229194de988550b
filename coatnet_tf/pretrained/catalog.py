"""The trained weights that there are for CoAtNets, and where to get them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import keras

_SHA256 = re.compile("[0-9a-f]{64}")
_IMAGENET_1K = "ImageNet-1K"
_IMAGENET_12K = "ImageNet-12K (11,821 classes of ImageNet-22K)"


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """Trained weights that somebody published.

    Args:
        name: What `from_pretrained` takes.
        config: Name of the configuration.
        image_size: Height and width that it was trained for.
        training_data: What it was trained on.
        top1: Accuracy on ImageNet-1K's validation images that its author reports, in percent; `None` if there is none.
        params: Trainable parameters, in millions.
        classes: Number of classes.
        crop_share: Share of the image's shorter side that evaluation sees, in the middle; 1 squashes the whole image.
        interpolation: How evaluation resizes, `"bicubic"` or `"bilinear"`.
        licence: Of the weights.
        author: Who trained it.
        md5: Of the file, where its author published one.
    """

    name: str
    config: str
    image_size: int
    training_data: str
    top1: float | None
    params: float
    classes: int = 1000
    crop_share: float = 0.95
    interpolation: str = "bicubic"
    licence: str = "Apache-2.0"
    author: str = "Ross Wightman (timm)"
    md5: str | None = None

    def __str__(self) -> str:
        accuracy = "no ImageNet-1K accuracy" if self.top1 is None else f"top-1 {self.top1:.2f} % (its author's)"
        return (
            f"{self.name}: {self.params:.1f} M parameters, {self.image_size} px, {self.classes} classes, {accuracy}; "
            f"trained on {self.training_data} by {self.author}, {self.licence}"
        )


def _timm(
    name: str, top1: float | None, params: float, tuned: bool = False, crop_share: float = 0.95
) -> PretrainedWeights:
    architecture, _, tag = name.partition(".")
    config, _, size = architecture.rpartition("_")
    data = {
        "sw_in1k": _IMAGENET_1K,
        "sw_in12k": _IMAGENET_12K,
        "sw_in12k_ft_in1k": f"{_IMAGENET_12K}, then {_IMAGENET_1K}",
    }[tag]
    classes = 11821 if tag == "sw_in12k" else 1000
    return PretrainedWeights(f"timm/{name}", config, int(size), data, top1, params, classes, crop_share)


def _kecam(size: int, top1: float, md5: str) -> PretrainedWeights:
    return PretrainedWeights(
        f"keras_cv_attention_models/coatnet0_{size}_imagenet",
        "kecam_coatnet0",
        size,
        _IMAGENET_1K,
        top1,
        23.3,
        author="leondgarse (keras-cv-attention-models)",
        md5=md5,
    )


# Accuracies: timm's results-imagenet.csv, and the README of keras-cv-attention-models.
CATALOG: dict[str, PretrainedWeights] = {
    weights.name: weights
    for weights in (
        _timm("coatnet_nano_rw_224.sw_in1k", 81.704, 15.14, crop_share=0.9),
        _timm("coatnet_rmlp_nano_rw_224.sw_in1k", 82.064, 15.15, crop_share=0.9),
        _timm("coatnet_0_rw_224.sw_in1k", 82.396, 27.44),
        _timm("coatnet_bn_0_rw_224.sw_in1k", 82.394, 27.44),
        _timm("coatnet_1_rw_224.sw_in1k", 83.620, 41.72),
        _timm("coatnet_rmlp_1_rw_224.sw_in1k", 83.350, 41.69),
        _timm("coatnet_rmlp_1_rw2_224.sw_in12k", None, 50.05),
        _timm("coatnet_rmlp_1_rw2_224.sw_in12k_ft_in1k", 84.940, 41.72),
        _timm("coatnet_2_rw_224.sw_in12k", None, 84.97),
        _timm("coatnet_2_rw_224.sw_in12k_ft_in1k", 86.582, 73.87),
        _timm("coatnet_rmlp_2_rw_224.sw_in1k", 84.608, 73.88),
        _timm("coatnet_rmlp_2_rw_224.sw_in12k", None, 84.97),
        _timm("coatnet_rmlp_2_rw_224.sw_in12k_ft_in1k", 86.538, 73.88),
        _timm("coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k", 87.388, 73.88, crop_share=1.0),
        _timm("coatnet_3_rw_224.sw_in12k", None, 181.81),
        _kecam(160, 80.48, "bc4375d2f03b99ac4252770331f0d22f"),
        _kecam(224, 82.79, "5d1e563f959f7efb6d395bde7373ed26"),
    )
}


def list_weights() -> list[PretrainedWeights]:
    """The trained weights that `from_pretrained` and `weights=` take by name.

    Accuracies are those that their authors report; none was measured here.

    Returns:
        A `PretrainedWeights` each, which prints as one line.

    Example:
    >>> import coatnet_tf
    >>> best = max(coatnet_tf.list_weights(), key=lambda weights: weights.top1 or 0)
    >>> best.name, best.image_size, best.config
    ('timm/coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k', 384, 'coatnet_rmlp_2_rw')
    """
    return list(CATALOG.values())


def download(weights: PretrainedWeights) -> str:
    """The path of a weights file, downloaded if it is not cached.

    Args:
        weights: An entry of the catalog.

    Returns:
        Path in the cache of the library that downloads it.

    Raises:
        ImportError: If huggingface_hub is needed and not installed.
        OSError: If it can be neither downloaded nor found in the cache, or the disk is full.
        ValueError: If the file is not the one that was published, by its hash; it is removed then.
    """
    if weights.name.startswith("timm/"):
        return download_from_hub(weights.name, weights.name, "model.safetensors")
    with _explained(weights.name):
        return _download_from_release(weights)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Says of an OSError of a download what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        why = "the disk is full" if full else f"it is not in the cache and could not be downloaded ({error})"
        raise OSError(
            f"{name} is not there: {why}. {'Make room' if full else 'Connect to the network'} and call again, "
            "or give a file that you have: from_pretrained(name, path=FILE)."
        ) from error


def download_from_hub(name: str, repository: str, file: str) -> str:
    """The path of a file of a repository on Hugging Face's Hub, downloaded if it is not cached.

    Args:
        name: What messages call it.
        repository: `USER/NAME`.
        file: Name of the file.

    Raises:
        ImportError, OSError, ValueError: As `download` raises them.
    """
    try:
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(f"{name} needs huggingface_hub: pip install 'coatnet_tf[pretrained]'.") from error
    with _explained(name):
        try:
            path = huggingface_hub.hf_hub_download(repository, file)
        except (huggingface_hub.errors.HfHubHTTPError, ValueError) as error:
            raise OSError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    # What the path links to is named by the hash that the hub gave for the file.
    blob = Path(path).parent / os.readlink(path) if os.path.islink(path) else Path(path)
    if _SHA256.fullmatch(blob.name) and _sha256(path) != blob.name:
        for damaged in (blob.resolve(), blob, Path(path)):
            damaged.unlink(missing_ok=True)
        raise ValueError(f"{name} arrived damaged: its SHA-256 is not {blob.name}. The file was removed; call again.")
    return path


def _download_from_release(weights: PretrainedWeights) -> str:
    file = weights.name.rpartition("/")[2] + ".h5"
    url = f"https://github.com/leondgarse/keras_cv_attention_models/releases/download/coatnet/{file}"
    cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    try:
        return keras.utils.get_file(file, url, cache_dir=str(cache), cache_subdir="models", file_hash=weights.md5)
    except ValueError as error:
        (cache / "models" / file).unlink(missing_ok=True)
        raise ValueError(f"{weights.name} arrived damaged: {error} The file was removed; call again.") from error
    except OSError:
        raise
    except Exception as error:  # Keras wraps what urllib raised in bare exceptions
        raise OSError(str(error)) from error


def _sha256(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
