"""Labels that the model disagrees with: found in both splits, worst first, listed and shown."""

import csv
import dataclasses

import keras
import numpy as np
import pytest
from etils import epath

from experiments import label_noise, predictions, report, workdir
from experiments.data import pipeline, sources
from tests.experiments.samples import jpeg, make_folder

COLORS = (2, 1, 0)  # channels of the classes blue, green, red


@pytest.fixture
def mislabelled(config, tmp_path):
    """Photos by colour: one that is green among the blue of each split, and one that is damaged."""
    for split, count in (("train", 20), ("validation", 6)):
        make_folder(tmp_path / "photos" / split, {"red": count, "green": count, "blue": count})
        (tmp_path / "photos" / split / "blue" / "000.jpg").write_bytes(jpeg(4, color=1))
    (tmp_path / "photos" / "train" / "blue" / "001.jpg").write_bytes(b"\xff\xd8\xff no image")
    config.dataset.name = f"folder:{tmp_path / 'photos'}"
    config.dataset.train_split, config.dataset.eval_split = "train", "validation"
    config.dataset.max_damaged_share = 0.1
    return config


def by_colour(images):
    brightness = images.astype("float64").mean(axis=(1, 2))[:, COLORS]
    return np.exp(brightness / 50) / np.exp(brightness / 50).sum(axis=1, keepdims=True)


def find(source, config, predict=by_colour):
    said = {}
    for split in ("eval", "train"):
        reader = getattr(source, split)
        if label_noise.looks_at(reader):
            batches = pipeline.evaluation_batches(dataclasses.replace(source, eval=reader), config)
            said[split] = predictions.collect(batches, predict, reader.count)
    return label_noise.find(source, config, said)


def test_wrong_labels_are_found_in_both_splits(mislabelled, tmp_path):
    source = sources.prepare(mislabelled.dataset)
    found = find(source, mislabelled)
    assert sorted((entry.split, entry.label, entry.predicted) for entry in found) == [
        ("held out", "blue", "green"),
        ("training", "blue", "green"),
    ]
    root = mislabelled.dataset.name.removeprefix("folder:")
    assert {entry.file for entry in found} == {f"{root}/{split}/blue/000.jpg" for split in ("train", "validation")}
    for entry in found:
        assert entry.size == pytest.approx(1 - by_colour(entry.image[None])[0, 0])  # its own image
    lines = label_noise.write(found, source, epath.Path(tmp_path))
    assert "labels of 2 of 18 held-out and 60 training images" in "\n".join(lines)
    with open(tmp_path / label_noise.LIST, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [entry.file for entry in found]
    assert [float(row["disagreement"]) for row in rows] == sorted((round(e.size, 4) for e in found), reverse=True)
    assert (tmp_path / label_noise.SHEET).stat().st_size > 0


def test_images_are_kept_of_the_worst_alone(mislabelled, monkeypatch):
    monkeypatch.setattr(report, "CONTACT_SHEET", 3)
    source = sources.prepare(mislabelled.dataset)
    found = find(source, mislabelled, lambda images: by_colour(images)[:, [1, 2, 0]])  # green taken for blue, ...
    assert len(found) == 18 + 59 - 2  # all that are not damaged, but for the two wrong labels
    sizes = [entry.size for entry in found]
    assert sizes == sorted(sizes, reverse=True)
    assert [entry.image is not None for entry in found] == [True] * 3 + [False] * (len(found) - 3)


def test_nothing_to_say(mislabelled, config, tmp_path, monkeypatch):
    source = sources.prepare(mislabelled.dataset)
    lines = label_noise.write([], source, epath.Path(tmp_path))
    assert lines[2] == "The model gives each of 18 held-out and 60 training images its label."
    monkeypatch.setattr(label_noise, "MAX_IMAGES", 30)
    found = find(source, mislabelled)
    assert [entry.split for entry in found] == ["held out"]
    monkeypatch.setattr(label_noise, "MAX_IMAGES", 3)
    assert find(source, mislabelled) == [] and label_noise.write([], source, epath.Path(tmp_path)) == []


def test_of_several_classes_the_worst_counts(mislabelled):
    source = dataclasses.replace(sources.prepare(mislabelled.dataset), multi_label=True)
    target = np.array([1, 0, 1], "uint8")
    assert label_noise._disagreement("a", "training", source, target, np.array([0.9, 0.4, 0.6])) == []
    (entry,) = label_noise._disagreement("a", "training", source, target, np.array([0.9, 0.7, 0.4]))
    assert (entry.label, entry.predicted, entry.size) == ("blue|red", "blue|green", pytest.approx(0.7))


@pytest.mark.slow
def test_a_run_leaves_the_sheet(run, mislabelled, devices, tmp_path):
    mislabelled.image_size, mislabelled.batch_size, mislabelled.epochs = 16, 16, 6
    mislabelled.dataset.balance = "weights"
    folder = epath.Path(tmp_path / "run")
    run(mislabelled, folder, devices)
    text = (folder / workdir.REPORT).read_text()
    assert "## Labels to look at" in text and "training loss | blue 1, green 1, red 1 |" in text
    with open(folder / label_noise.LIST, newline="") as file:
        rows = list(csv.DictReader(file))
    model = keras.models.load_model(folder / workdir.MODEL)
    names = (folder / workdir.CLASSES).read_text().splitlines()
    for row in rows[:5]:  # what the model itself says of the image that evaluation sees
        image = keras.utils.img_to_array(keras.utils.load_img(row["file"], target_size=(16, 16)))
        assert row["predicted"] in names and row["predicted"] != row["label"] == row["file"].split("/")[-2]
        chance = model(image[None])[0, names.index(row["label"])]
        assert 1 - float(chance) == pytest.approx(float(row["disagreement"]), abs=0.1)  # another interpolation
