"""What a model sees of an image: which part, and how it comes to the model's size.

One value for evaluation, prediction, explanation and export. A run begun from other people's weights sees what these
were evaluated with, unless its recipe says otherwise, and its `config.json` says what it is.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from absl import logging
from etils import epath

from coatnet_tf.pretrained import CATALOG, PretrainedWeights, is_pretrained_name
from experiments import sizes, workdir
from experiments.data import images

if TYPE_CHECKING:  # export and serving do without
    import ml_collections

WHOLE, CENTER = "none", "center"  # values of a crop, beside shares
ABOUT_CROP = (
    "Part of an image: none, the whole; center, the middle as the paper's code base has it; or the share of the middle "
    "as timm has it, such as 0.95."
)
BY_DEFAULT = "By default as the run, or the published weights of the network, were evaluated."


@dataclasses.dataclass(frozen=True)
class View:
    """What a model sees of an image.

    Args:
        size: Height and width that it takes.
        crop: `"none"` is the whole image, whatever its shape. `"center"` is the middle of it, s / (s + 32) of the
            sides of the largest part that has the shape of `size`, s being the shorter side of `size`: it is cut out
            and then resized, as in the paper's code base. A share, such as `"0.95"`, is that middle as timm has it: the
            image is resized so that the middle has the size, and then cut.
        interpolation: `"bilinear"`, as TensorFlow computes it, or `"bicubic"`, as Pillow; both antialiased.

    Raises:
        ValueError: If it is none.
    """

    size: sizes.Size
    crop: str = WHOLE
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        check_crop(self.crop)
        if self.interpolation not in images.INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(images.INTERPOLATIONS)}; got {self.interpolation!r}."
            )

    @property
    def share(self) -> float:
        """Of the sides of the largest part of the size's shape, what the middle has; 1 of the whole image."""
        if self.crop == CENTER:
            return min(self.size) / (min(self.size) + images.CROP_PADDING)
        return 1.0 if self.crop == WHOLE else float(self.crop)

    @property
    def resized(self) -> sizes.Size | None:
        """Height and width at least to which an image is resized before the middle is cut out; `None` for none."""
        if self.crop in (WHOLE, CENTER):
            return None
        height, width = self.size
        return math.floor(height / self.share), math.floor(width / self.share)

    def load(self, encoded: tf.Tensor, channels: int, **options: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Decodes an image and brings it to the size.

        Args:
            encoded: Scalar string, the file's bytes.
            channels: Of the result.
            **options: `python` and `header` of `images.load`.

        Returns:
            What `images.load` returns.
        """
        window = images.center(self.size) if self.crop == CENTER else images.whole
        return images.load(
            encoded, channels, self.size, window, interpolation=self.interpolation, resized=self.resized, **options
        )

    def describe(self) -> str:
        """For people, as `the whole image, resized to 16 x 16 (bilinear, antialiased)`."""
        size, how = sizes.describe(self.size), f"({self.interpolation}, antialiased)"
        if self.crop == WHOLE:
            return f"the whole image, resized to {size} {how}"
        middle = f"the middle, {self.share:.3g} of the sides of the largest part shaped like {size}"
        return f"{middle}, {'cut out and ' if self.crop == CENTER else ''}resized to that {how}"


def check_crop(crop: str) -> None:
    """Refuses what is no `View.crop`."""
    try:
        known = crop in (WHOLE, CENTER) or 0 < float(crop) <= 1
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"must be {WHOLE}, {CENTER}, or a share above 0 and up to 1, such as 0.95; got {crop!r}.")


def of_recipe(recipe: Mapping[str, Any]) -> View:
    """The view of a recipe's evaluation; what it leaves open is the whole image, bilinear."""
    return View(
        sizes.parse(recipe["image_size"]),
        recipe["eval_crop"] or WHOLE,
        recipe.get("interpolation") or "bilinear",  # which older runs do not name
    )


def of_run(folder: epath.Path) -> View | None:
    """The view of the run in a folder; `None` if there is no run, but perhaps another program's `config.json`."""
    file = folder / workdir.CONFIG
    recipe = json.loads(file.read_text()) if file.is_file() else {}
    return of_recipe(recipe) if "eval_crop" in recipe else None


def of_weights(entry: PretrainedWeights, size: sizes.Size) -> View:
    """The view that trained weights were evaluated with, at a size."""
    crop = WHOLE if entry.crop_share == 1 else f"{entry.crop_share:g}"
    return View(size, crop, entry.interpolation)


def of_network(name: str, size: sizes.Size) -> tuple[View, str] | None:
    """What the published weights of a network were evaluated with, at a size, and the name of these weights.

    Args:
        name: Name of a configuration, which models have too.
        size: Height and width; of several weights, those trained nearest to it count.

    Returns:
        `None` if there are no published weights of that network.
    """
    entries = [entry for entry in CATALOG.values() if entry.config == name]
    if not entries:
        return None
    entry = min(entries, key=lambda entry: abs(entry.image_size - max(size)))
    return of_weights(entry, size), entry.name


def settle(config: ml_collections.ConfigDict, folder: epath.Path) -> None:
    """Fills in what a recipe leaves open, `eval_crop` and `interpolation`: by the weights that the run begins from.

    Args:
        config: The recipe, which is changed.
        folder: Folder of the run; if it holds one, what that has counts.
    """
    if config.eval_crop and config.interpolation:
        return
    begun = of_run(folder)
    found, where = _of_start(config) if begun is None else (begun, "")
    config.eval_crop = config.eval_crop or found.crop
    config.interpolation = config.interpolation or found.interpolation
    if where:
        logging.info("As for %s, which the run begins from: %s.", where, of_recipe(config).describe())


def _of_start(config: ml_collections.ConfigDict) -> tuple[View, str]:
    """The view of the weights that a run begins from, and what these are called; the usual one, and nothing, else."""
    size, start = sizes.of(config), config.init_from
    if start in CATALOG:
        return of_weights(CATALOG[start], size), start
    if start and not is_pretrained_name(start):
        if found := of_run(epath.Path(start)):
            return dataclasses.replace(found, size=size), start
        return of_network(config.model.name, size) or (View(size), "")
    return View(size), ""
