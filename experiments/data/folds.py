"""Folds of a folder of images for cross-validation: each image is held out in one of them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold

_NAME = re.compile(r"fold (\d+) of (\d+), seed (\d+)")


@dataclasses.dataclass(frozen=True)
class Fold:
    """A part of the images, with about as many of each class as every other; the others are trained on.

    Args:
        number: Of the fold, from 1.
        count: Of all folds.
        seed: Of the order in which the images are divided.
    """

    number: int
    count: int
    seed: int

    def __str__(self) -> str:
        """The name of the split that is held out, for `dataset.eval_split` of a recipe."""
        return f"fold {self.number} of {self.count}, seed {self.seed}"

    def held_out(self, path: str, files: Mapping[str, Sequence[str]]) -> set[str]:
        """The images of the fold.

        Args:
            path: The folder, for messages.
            files: Paths of the images of each class. A link is in the fold of its file.

        Raises:
            ValueError: If a class has fewer images than there are folds.
        """
        places = {file: _place(file) for of_class in files.values() for file in of_class}
        labels: dict[str, str] = {}
        for name, of_class in files.items():
            for file in of_class:
                labels.setdefault(places[file], name)
        counts = {name: sum(label == name for label in labels.values()) for name in files}
        few = [name for name, count in counts.items() if count < self.count]
        if few:
            raise ValueError(
                f"{path} has fewer than {self.count} images of {', '.join(few)}, one for each fold; add images, or "
                "take fewer folds."
            )
        unique = np.array(list(labels))
        folds = StratifiedKFold(self.count, shuffle=True, random_state=self.seed)
        _, chosen = list(folds.split(unique, list(labels.values())))[self.number - 1]
        held_out = set(unique[chosen])
        return {file for file, place in places.items() if place in held_out}


def parse(split: str) -> Fold | None:
    """The fold of a split's name; `None` if it is none.

    >>> parse(str(Fold(2, 5, seed=0))), parse("validation")
    (Fold(number=2, count=5, seed=0), None)
    """
    found = _NAME.fullmatch(split)
    return Fold(*map(int, found.groups())) if found else None


def _place(file: str) -> str:
    return file if "://" in file else os.path.realpath(file)
