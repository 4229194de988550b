"""The 1,797 handwritten digits inside scikit-learn's wheel, as a TFDS builder: nothing to download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_TEST_SHARE = 0.2
_CITATION = """\
@misc{alpaydin1998optdigits, author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits}, publisher = {UCI Machine Learning Repository}, year = {1998}}
"""


class Digits(tfds.core.GeneratorBasedBuilder):
    """8 x 8 grey images of the digits 0-9, split 80/20 by class with a fixed seed.

    Writers are not marked in scikit-learn's copy, so both splits hold digits by the same people.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="The handwritten digits of the UCI repository that scikit-learn ships, 8 x 8, 17 grey levels.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        is_test = np.zeros(len(images), bool)
        generator = np.random.default_rng(0)
        for label in range(10):
            members = generator.permutation(np.flatnonzero(digits.target == label))
            is_test[members[: round(_TEST_SHARE * len(members))]] = True
        return {
            "train": self._generate_examples(images, digits.target, np.flatnonzero(~is_test)),
            "test": self._generate_examples(images, digits.target, np.flatnonzero(is_test)),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, members: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in members:
            yield int(index), {"image": images[index], "label": int(labels[index])}
