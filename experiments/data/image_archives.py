"""ImageNet-21K and larger: tar archives of class folders as a TFDS builder, prepared by a Beam pipeline.

    tfds build experiments/data/image_archives.py --manual_dir=ARCHIVES --data_dir=DATA
    # the same on a cluster: --beam_pipeline_options="runner=DataflowRunner,project=...,temp_location=gs://..."

ARCHIVES holds `*.tar` (or `.tar.gz`, `.tgz`) files; a member's class is the folder it lies in, or, at the top of an
archive, the archive's name (as in ImageNet-21K: `n01440764.tar` holds `n01440764_10026.JPEG`). What is no decodable
image is left out, reported and counted. Images that are equal byte for byte are kept once, with the classes of all.
There is one split, `train`, in an order of its own; hold a part out with slices (`train[:99%]`, `train[99%:]`).
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

import PIL.Image
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

_EXTENSIONS = (".tar", ".tar.gz", ".tgz")
_IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")  # `tfds build` reads this file by itself

Image = tuple[str, str, str, bytes]  # content hash, class, name, bytes


class ImageArchives(tfds.core.GeneratorBasedBuilder):
    """Images of one or more classes each, from tar archives of class folders."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The manual_dir holds tar archives of class folders, or one tar archive a class."

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Images from tar archives of class folders.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.Sequence(tfds.features.ClassLabel()),
                    "file_name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        folder = str(dl_manager.manual_dir)
        archives = sorted(f"{folder}/{name}" for name in tf.io.gfile.listdir(folder) if name.endswith(_EXTENSIONS))
        if not archives:
            raise FileNotFoundError(f"{folder} holds no tar archives ({', '.join(_EXTENSIONS)}).")
        names = sorted({name for archive in archives for name in class_names(archive)})
        self.info.features["label"].feature.names = names
        return {"train": self._generate_examples(archives)}

    def _generate_examples(self, archives: list[str]) -> Any:
        beam = tfds.core.lazy_imports.apache_beam
        return (
            beam.Create(archives)
            | beam.Reshuffle()
            | beam.FlatMap(_images)
            | beam.Map(lambda image: (image[0], image[1:]))
            | beam.GroupByKey()
            | beam.Map(_merge)
        )


def class_names(archive: str) -> set[str]:
    """The classes of an archive, by the names of its members; without compression only their headers are read."""
    with tf.io.gfile.GFile(archive, "rb") as file, tarfile.open(fileobj=file, mode="r:*") as members:
        names = set()
        for member in members:
            name = member.name.removeprefix("./")
            if not member.isfile() or ("/" not in name and not _is_image_name(name)):
                continue  # a licence beside the class folders makes no class
            names.add(_class_of(archive, name))
            if "/" not in name:  # an archive of one class
                break
        return names


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(_IMAGE_EXTENSIONS)


def _class_of(archive: str, member: str) -> str:
    folders = member.removeprefix("./").split("/")[:-1]
    return folders[-1] if folders else archive.rpartition("/")[2].partition(".tar")[0].removesuffix(".tgz")


def _images(archive: str) -> Iterator[Image]:
    """The decodable images of one archive, read as a stream."""
    with tf.io.gfile.GFile(archive, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as members:
        for member in members:
            file_of_image = members.extractfile(member) if member.isfile() else None
            if file_of_image is None:
                continue
            content = file_of_image.read()
            name = f"{archive.rpartition('/')[2]}/{member.name.removeprefix('./')}"
            if _is_image(content):
                yield hashlib.sha256(content).hexdigest(), _class_of(archive, member.name), name, content
            else:
                _count("undecodable")
                logging.warning("%s cannot be decoded and is left out.", name)


def _is_image(content: bytes) -> bool:
    """Whether training can decode it, with the same libraries."""
    try:
        if content.startswith((b"\xff\xd8\xff", b"\x89PNG")):
            tf.io.decode_image(content, channels=3)
        else:
            with PIL.Image.open(io.BytesIO(content), formats=("BMP", "GIF", "TIFF", "WEBP")) as image:
                image.load()
    except Exception:  # Pillow's are of any type
        return False
    return True


def _merge(group: tuple[str, Iterable[tuple[str, str, bytes]]]) -> tuple[str, dict[str, Any]]:
    """One example for all copies of an image."""
    digest, copies = group
    copies = sorted(copies, key=lambda copy: copy[:2])
    _count("duplicates", len(copies) - 1)
    return digest, {
        "image": io.BytesIO(copies[0][2]),
        "label": sorted({name for name, _, _ in copies}),
        "file_name": copies[0][1],
    }


def _count(what: str, number: int = 1) -> None:
    beam = tfds.core.lazy_imports.apache_beam
    beam.metrics.Metrics.counter("image_archives", what).inc(number)
