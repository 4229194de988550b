"""The sets of the study: few images of each class, drawn by a seed, as a table for `--data=csv:FILE`."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn import datasets

from experiments.data import fashion_mnist

_LONGEST_SIDE = 64  # of clip art, in pixels
_LARGEST = 5_000_000  # pixels of a picture that is taken
_CLIP_ART = ("animals", "food", "office", "people", "plants", "recreation", "tools", "transportation")


@dataclasses.dataclass(frozen=True)
class SmallSet:
    """A set to be drawn from a larger one.

    Args:
        source: One of `digits`, `fashion` and `clip_art`.
        classes: Which of its classes, by number.
        train: Images to train on, of each class.
        held_out: Images to be measured on, of each class, the same for all seeds.
    """

    source: str
    classes: Sequence[int]
    train: Sequence[int]
    held_out: int

    @property
    def is_unequal(self) -> bool:
        return len(set(self.train)) > 1


SETS = {
    "digits": SmallSet("digits", range(10), [10] * 10, 50),
    "Fashion-MNIST": SmallSet("fashion", range(5, 10), [20] * 5, 100),
    "unequal Fashion-MNIST": SmallSet("fashion", range(5, 10), [3, 6, 12, 25, 50], 100),
    "clip art": SmallSet("clip_art", range(8), [12] * 8, 60),
}
PRETRAINING = SmallSet("fashion", range(5), [1200] * 5, 100)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the images are that the sets are drawn from.

    Args:
        fashion_mnist: Folder of its gzipped IDX files.
        clip_art: Folder of the PNG files of Debian's package openclipart-png; empty if there is none.
    """

    fashion_mnist: str = fashion_mnist.DEFAULT_FOLDER
    clip_art: str = ""


def draw(name: str, small: SmallSet, seed: int, folder: Path, places: Places) -> Path:
    """Writes the images of a set and their table, unless it is there.

    Args:
        name: Of the set.
        small: The set.
        seed: Which of its images are trained on; those held out are the same for all.
        folder: Gets `NAME/seed0.csv` and the like, and `NAME/images`.
        places: Where the images are that it is drawn from.

    Returns:
        The table.

    Raises:
        FileNotFoundError: If the images that it draws from are not there.
    """
    table = folder / name.replace(" ", "_") / f"seed{seed}.csv"
    if table.is_file():
        return table
    pool = _pool(small, places)
    (table.parent / "images").mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("path", "label", "split"))
    for label, (class_name, count) in enumerate(zip(pool, small.train, strict=True)):
        pictures = pool[class_name]
        shuffled = np.random.default_rng([label]).permutation(len(pictures))
        held_out, rest = np.split(shuffled, [small.held_out])
        drawn = np.random.default_rng([label, seed]).choice(rest, count, replace=False)
        for split, numbers in (("train", drawn), ("validation", held_out)):
            for number in numbers:
                path = f"images/{class_name.replace('/', '_')}_{number:05d}.png"
                if not (table.parent / path).is_file():
                    _open(pictures[number]).save(table.parent / path)
                rows.writerow((path, class_name, split))
    table.write_text(text.getvalue())
    return table


def _pool(small: SmallSet, places: Places) -> Mapping[str, Sequence[Any]]:
    """All images of the classes: arrays, or paths of files."""
    if small.source == "clip_art":
        files = {name: sorted((Path(places.clip_art) / name).rglob("*.png")) for name in _CLIP_ART}
        found: dict[str, Sequence[Any]] = {name: list(filter(_can_be_opened, files[name])) for name in files}
        lacking = [name for name, files in found.items() if len(files) < small.held_out + max(small.train)]
        if lacking:
            raise FileNotFoundError(
                f"--clip_art={places.clip_art} lacks pictures of {', '.join(lacking)}; it is the folder png of the "
                "Debian package openclipart-png, /usr/share/openclipart/png once it is installed."
            )
        return found
    if small.source == "digits":
        digits = datasets.load_digits()
        images, labels, names = (digits.images * 15.9375).astype("uint8"), digits.target, tuple("0123456789")
    else:
        images, labels = fashion_mnist.read_split(Path(places.fashion_mnist), "train")
        images, names = images[..., 0], fashion_mnist.CLASSES
    return {names[number]: images[labels == number] for number in small.classes}


def _can_be_opened(path: Path) -> bool:
    """Whether a picture is of a usual size; one of clip art has 600 million pixels."""
    try:
        with Image.open(path) as image:
            return image.width * image.height <= _LARGEST
    except Image.DecompressionBombError:
        return False


def _open(picture: np.ndarray | Path) -> Image.Image:
    if not isinstance(picture, Path):
        return Image.fromarray(picture)
    with Image.open(picture) as file:
        image = file.convert("RGBA")
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
