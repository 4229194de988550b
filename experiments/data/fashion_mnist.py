"""Fashion-MNIST from gzipped IDX files in a folder, as a TFDS builder.

TFDS's own `fashion_mnist` downloads its files, and refuses the re-compressed ones of Debian's package
`dataset-fashion-mnist` (`apt-get install dataset-fashion-mnist`) for their checksums.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

DEFAULT_FOLDER = "/usr/share/datasets/fashion-mnist"  # of Debian's package
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_PREFIXES = {"train": "train", "test": "t10k"}
_CITATION = """\
@article{xiao2017fashion, author = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  title = {Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  journal = {arXiv:1708.07747}, year = {2017}}
"""


class FashionMnistIdx(tfds.core.GeneratorBasedBuilder):
    """28 x 28 grey images of ten kinds of clothing: 60,000 to train, 10,000 to test."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "The manual_dir holds the four gzipped IDX files of Fashion-MNIST, as Debian's package "
        f"dataset-fashion-mnist installs them in {DEFAULT_FOLDER}."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Zalando's article images, 28 x 28 grey, from gzipped IDX files.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        arrays = {split: read_split(folder, split) for split in _PREFIXES}
        return {split: self._generate_examples(*arrays[split]) for split in arrays}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images and labels of one split.

    Args:
        folder: Folder of the gzipped IDX files.
        split: `"train"` or `"test"`.

    Returns:
        Images, uint8 `[count, height, width, 1]`, and labels, uint8 `[count]`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, the two disagree, or a label is out of range.
    """
    prefix = _PREFIXES[split]
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rank=3)[..., None]
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", rank=1)
    if len(images) != len(labels):
        raise ValueError(
            f"Fashion-MNIST's {split} split in {folder} has {len(images)} images but {len(labels)} labels."
        )
    if labels.size and labels.max() >= len(CLASSES):
        raise ValueError(
            f"Fashion-MNIST's {split} split in {folder} has label {labels.max()} at index {labels.argmax()}; "
            f"labels are 0 to {len(CLASSES) - 1}."
        )
    return images, labels


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes.

    Args:
        path: The file.
        rank: Number of dimensions it must have.

    Returns:
        A uint8 array of that rank.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is no such file, or is cut short.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; install Debian's package dataset-fashion-mnist, or give the folder of the four "
            "gzipped IDX files with --config.dataset.manual_dir=FOLDER."
        )
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is no gzip file, or is cut short: {error}") from error
    header = 4 + 4 * rank
    if len(content) < header or content[:4] != bytes((0, 0, 8, rank)):
        raise ValueError(f"{path} is no IDX file of unsigned bytes with {rank} dimensions.")
    shape = struct.unpack(f">{rank}I", content[4:header])
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != np.prod(shape):
        raise ValueError(f"{path} announces {shape} values and holds {values.size}; it is damaged.")
    return values.reshape(shape)
