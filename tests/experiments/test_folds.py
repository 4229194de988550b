"""Cross-validation: each image is held out once, classes are in proportion, links follow their files."""

import os

import pytest

from experiments import cross_validation
from experiments.data import folder, folds
from experiments.data.folds import Fold
from tests.experiments.samples import make_folder


def read(path, fold):
    found = folder.read(str(path), "train", str(fold))
    assert not set(found.train.paths) & set(found.held_out.paths)
    return found


def test_each_image_is_held_out_once_and_classes_are_in_proportion(tmp_path):
    make_folder(tmp_path, {"a": 20, "b": 11})
    found = [read(tmp_path, Fold(number, 5, seed=3)) for number in range(1, 6)]
    held_out = [path for of_fold in found for path in of_fold.held_out.paths]
    assert sorted(held_out) == sorted(map(str, tmp_path.rglob("*.jpg")))
    for of_fold in found:
        assert of_fold.held_out.labels.count(0) == 4 and of_fold.held_out.labels.count(1) in (2, 3)
        assert of_fold.train.count + of_fold.held_out.count == 31
    assert read(tmp_path, Fold(1, 5, seed=3)) == found[0]
    assert read(tmp_path, Fold(1, 5, seed=4)) != found[0]


def test_no_picture_is_on_both_sides(tmp_path):
    make_folder(tmp_path, {"a": 10, "b": 10})
    for index in range(10):
        os.symlink(tmp_path / "a" / f"{index:03d}.jpg", tmp_path / "a" / f"link{index}.jpg")
    for number in (1, 2, 3):
        found = read(tmp_path, Fold(number, 3, seed=0))
        sides = [{os.path.realpath(path) for path in side.paths} for side in (found.train, found.held_out)]
        assert not sides[0] & sides[1] and sum(map(len, sides)) == 20


def test_names_of_folds():
    assert folds.parse("fold 2 of 5, seed 7") == Fold(2, 5, 7) and str(Fold(2, 5, 7)) == "fold 2 of 5, seed 7"
    assert folds.parse("folds") is None


def test_what_cannot_be_divided_is_refused(tmp_path):
    make_folder(tmp_path / "few", {"a": 10, "b": 4})
    with pytest.raises(ValueError, match="few has fewer than 5 images of b, one for each fold; add images, or take"):
        read(tmp_path / "few", Fold(1, 5, 0))
    make_folder(tmp_path / "split" / "train", {"a": 10, "b": 10})
    make_folder(tmp_path / "split" / "val", {"a": 2, "b": 2})
    with pytest.raises(ValueError, match="is divided into splits; for folds give .* such as .*/split/train"):
        read(tmp_path / "split", Fold(1, 5, 0))


def test_report_has_the_mean_and_both_intervals():
    measured = [
        {"images": 10, "top1": top1, "balanced_accuracy": top1 - 0.1, "loss": 0.5, "epoch": 3, "chose_the_epoch": True}
        for top1 in (0.8, 0.9, 1.0)
    ]
    text = cross_validation.describe(measured)
    assert "| 2 | 10 | 90.00% | 80.00% | 0.5000 | 3 |" in text
    # 4.3027 (Student's t of two degrees of freedom) times 10 / sqrt(3)
    assert "Top-1: 90.00 % in the mean, 95 % interval 65.16 to 100.00 %." in text
    assert "Balanced accuracy: 80.00 % in the mean, 95 % interval 55.16 to 100.00 %." in text
    assert "All 30 images, each held out once: 27 right, 95 % interval 74.38 to 96.54 %." in text
    assert "a little optimistic" in text
