"""Folds of a folder or a table of images for cross-validation: each image is held out in one of them."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

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
        places = {file: place_of(file) for of_class in files.values() for file in of_class}
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
        held_out = set(unique[self.places(list(labels.values()))])
        return {file for file, place in places.items() if place in held_out}

    def places(self, labels: Sequence[str], groups: Sequence[str] | None = None) -> np.ndarray:
        """Places of the images of the fold.

        Args:
            labels: Of all images; all the same where they are not to be in proportion.
            groups: Of all images: each group is in one fold.
        """
        if max(Counter(labels).values()) < self.count:  # scikit-learn refuses: no label is in all folds
            labels = [""] * len(labels)
        options: dict[str, Any] = {"n_splits": self.count, "shuffle": True, "random_state": self.seed}
        folds = StratifiedKFold(**options) if groups is None else StratifiedGroupKFold(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a label is rarer than folds, which callers judge
            _, chosen = list(folds.split(np.zeros(len(labels)), labels, groups))[self.number - 1]
        return chosen


def parse(split: str) -> Fold | None:
    """The fold of a split's name; `None` if it is none.

    >>> parse(str(Fold(2, 5, seed=0))), parse("validation")
    (Fold(number=2, count=5, seed=0), None)
    """
    found = _NAME.fullmatch(split)
    return Fold(*map(int, found.groups())) if found else None


def place_of(file: str) -> str:
    """Where a file is, behind links."""
    return file if "://" in file else os.path.realpath(file)
