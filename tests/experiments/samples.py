"""Images and archives of them that several tests write."""

import io
import tarfile

import numpy as np
from PIL import Image


def jpeg(seed, size=(20, 24), color=None):
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 80, (*size, 3))
    if color is not None:
        pixels[..., color] += 170
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype("uint8")).save(buffer, "JPEG")
    return buffer.getvalue()


def make_folder(path, counts, first=0):
    """Class folders of reddish, greenish and bluish images."""
    for color, (name, count) in enumerate(counts.items()):
        (path / name).mkdir(parents=True)
        for index in range(count):
            (path / name / f"{index:03d}.jpg").write_bytes(jpeg(first + 1000 * color + index, color=color))
    return path


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def make_imagenet(path, train=8, held_out=4, damaged=()):
    """ImageNet's archives in miniature.

    Args:
        path: Folder for them.
        train: Training images of each of three classes.
        held_out: Held-out images.
        damaged: Numbers of the training images of each class that are none.
    """
    path.mkdir()
    with tarfile.open(path / "ILSVRC2012_img_train.tar", "w") as archive:
        for color, synset in enumerate(("n01440764", "n02119789", "n15075141")):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as members:
                for index in range(train):
                    content = jpeg(100 * color + index, color=color)
                    add(members, f"{synset}_{index}.JPEG", b"no image" if index in damaged else content)
            add(archive, f"{synset}.tar", inner.getvalue())
    with tarfile.open(path / "ILSVRC2012_img_val.tar", "w") as archive:
        for index in range(1, held_out + 1):
            add(archive, f"ILSVRC2012_val_{index:08d}.JPEG", jpeg(index))
    return path
