"""Cross-validation: each image is held out once, classes are in proportion, links follow their files."""

import os

import pytest

from experiments import cross_validation
from experiments.data import folder, folds, labels_file
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


def table(path, rows, columns):
    (path / "table.csv").write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path / "table.csv")


def read_table(path, fold, value_columns=()):
    found = labels_file.read(path, "train", str(fold), value_columns=value_columns)
    assert not set(found.train.paths) & set(found.held_out.paths)
    return found


def test_folds_of_a_table_keep_groups_together_and_classes_in_proportion(tmp_path):
    make_folder(tmp_path, {"a": 40, "b": 20})
    rows = [(f"{name}/{n:03d}.jpg", name, n // 2) for name, count in (("a", 40), ("b", 20)) for n in range(count)]
    path = table(tmp_path, rows, "path,label,group")
    group_of = {f"{tmp_path}/{file}": group for file, _, group in rows}
    found = [read_table(path, Fold(number, 5, seed=3)) for number in range(1, 6)]
    held_out = [file for of_fold in found for file in of_fold.held_out.paths]
    assert sorted(held_out) == sorted(group_of)
    for of_fold in found:
        groups = [{group_of[file] for file in split.paths} for split in (of_fold.train, of_fold.held_out)]
        assert not groups[0] & groups[1]
        assert 4 <= of_fold.held_out.labels.count(0) <= 12 and 2 <= of_fold.held_out.labels.count(1) <= 6
    assert read_table(path, Fold(1, 5, seed=3)) == found[0]
    assert read_table(path, Fold(1, 5, seed=4)) != found[0]
    # Numbers, without groups; rows of the test are left alone, and a link is where its file is.
    os.symlink(tmp_path / "a" / "001.jpg", tmp_path / "a" / "link.jpg")
    rows = [(file, n, "test" if n % 4 == 0 else "train") for n, (file, _, _) in enumerate(rows)] + [
        ("a/link.jpg", 1, "train")
    ]
    path = table(tmp_path, rows, "path,value,split")
    found = [read_table(path, Fold(number, 3, seed=0), ("value",)) for number in (1, 2, 3)]
    held_out = [file for of_fold in found for file in of_fold.held_out.paths]
    assert sorted(held_out) == sorted(f"{tmp_path}/{file}" for file, _, split in rows if split == "train")
    (together,) = [f for f in found if f"{tmp_path}/a/link.jpg" in f.held_out.paths]
    assert f"{tmp_path}/a/001.jpg" in together.held_out.paths


def test_tables_that_cannot_be_divided_are_refused(tmp_path):
    make_folder(tmp_path, {"a": 10, "b": 10})
    rows = [(f"{name}/{n:03d}.jpg", name, n // 4) for name in "ab" for n in range(10)]
    with pytest.raises(
        ValueError, match="table.csv has fewer than 4 groups of a, b, one for each fold; add groups, or"
    ):
        read_table(table(tmp_path, rows, "path,label,group"), Fold(1, 4, 0))
    with pytest.raises(ValueError, match="table.csv has fewer than 11 images of a, b, one for each fold; add images"):
        read_table(table(tmp_path, [row[:2] for row in rows], "path,label"), Fold(1, 11, 0))
    rows = [(path, label, "val" if group == 2 else "train") for path, label, group in rows]
    with pytest.raises(ValueError, match="table.csv has rows of a validation split; leave --folds out to hold these"):
        read_table(table(tmp_path, rows, "path,label,split"), Fold(1, 2, 0))
    rare = [(path, "|".join({label, "rare"} if n in (3, 13) else {label})) for n, (path, label, _) in enumerate(rows)]
    with pytest.raises(ValueError, match="fewer than 3 images of rare, one for each fold"):
        read_table(table(tmp_path, rare, "path,label"), Fold(1, 3, 0))
    assert read_table(table(tmp_path, rare, "path,label"), Fold(1, 2, 0)).multi_label


def test_intervals_end_where_scores_do():
    """R² has no lower end."""
    assert "interval 0 to 8.109" in cross_validation._mean("age: mean absolute error", [1.0, 5.0, 3.0, 7.0])
    assert "interval -1.061 to 1." in cross_validation._mean("age: R²", [0.9, -0.8, 0.95, 0.0])


def test_report_of_several_labels():
    measured = [
        {"images": 10, "mean_average_precision": mean, "loss": 0.5, "epoch": 3, "chose_the_weights": False}
        for mean in (0.8, 0.9, 1.0)
    ]
    text = cross_validation.describe(measured)
    assert "| 2 | 10 | 90.00% | 0.5000 | 3 |" in text
    assert "Mean average precision: 90.00 % in the mean, 95 % interval 65.16 to 100.00 %." in text


def test_report_has_the_mean_and_both_intervals():
    measured = [
        {
            "images": 10,
            "top1": top1,
            "balanced_accuracy": top1 - 0.1,
            "loss": 0.5,
            "epoch": 3,
            "chose_the_weights": True,
        }
        for top1 in (0.8, 0.9, 1.0)
    ]
    text = cross_validation.describe(measured)
    assert "| 2 | 10 | 90.00% | 80.00% | 0.5000 | 3 |" in text
    # 4.3027 (Student's t of two degrees of freedom) times 10 / sqrt(3)
    assert "Top-1: 90.00 % in the mean, 95 % interval 65.16 to 100.00 %." in text
    assert "Balanced accuracy: 80.00 % in the mean, 95 % interval 55.16 to 100.00 %." in text
    assert "All 30 images, each held out once: 27 right, 95 % interval 74.38 to 96.54 %." in text
    assert "a little optimistic" in text
