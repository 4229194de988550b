"""Folders as people have them: nested, with links and other files in them, with splits of any name."""

import os

import keras
import pytest
from PIL import Image

from experiments import evaluate, workdir
from experiments.data import folder, folder_files, folder_splits, labels_file, pipeline, sources
from experiments.data.damage import DamagedImages
from experiments.engine import connect
from tests.experiments.samples import jpeg, make_folder


def put(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def clip_art(tmp_path):
    """Class folders nested four deep, with links inside and across them, some of which lead nowhere."""
    root = tmp_path / "clip art"
    for index in range(40):
        color, below = index % 2, ("", "fruit", "fruit/dried", "fruit/dried/old")[index % 4]
        put(root / ("food", "tools")[color] / below / f"{index}.png", jpeg(index, color=color))
    for index in range(0, 40, 4):
        (root / "food" / "fruit" / f"link{index}.png").symlink_to(f"../{index}.png")
        (root / "tools" / f"of_food{index}.png").symlink_to(f"../food/{index}.png")
        (root / "tools" / f"nowhere{index}.png").symlink_to(f"../people/{index}.png")
    return root


def test_nested_folders_with_links(clip_art):
    found = folder.read(str(clip_art), "train", "validation")
    assert found.class_names == ("food", "tools")
    # What Keras reads, without the links that it would fail on.
    keras_set = keras.utils.image_dataset_from_directory(clip_art, batch_size=None, shuffle=False, verbose=False)
    of_keras = [path for path in keras_set.file_paths if os.path.exists(path)]
    assert sorted(found.train.paths + found.held_out.paths) == sorted(of_keras) and len(of_keras) == 60
    assert {os.path.basename(entry.path) for entry in found.left_out} == {f"nowhere{i}.png" for i in range(0, 40, 4)}
    assert {entry.reason for entry in found.left_out} == {"links that lead nowhere"}
    (note,) = found.notes
    assert "60 images (20 of them links)" in note and note.endswith("left out: 10 links that lead nowhere.")
    # No picture is on both sides, under whichever name.
    train, held_out = ({os.path.realpath(path) for path in split.paths} for split in (found.train, found.held_out))
    assert not train & held_out and len(train | held_out) == 40
    again = folder.read(f"{clip_art}/", "train", "validation")
    assert again.train == found.train


def test_each_kind_of_file_is_read_or_accounted_for(tmp_path):
    root = tmp_path / "data"
    make_folder(root, {"a": 10, "b": 10})
    readable = [put(root / "a" / name, jpeg(1)) for name in ("x.jfif", "no_suffix", "x.JPG", "x.jpeg_large", "x.tif")]
    for kind in ("png", "gif", "bmp", "webp"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"x.{kind}")
        readable.append(put(root / "a" / kind, (tmp_path / f"x.{kind}").read_bytes()))
    readable.append(put(root / "a" / "y.jpg" / "in_a_folder_named_like_an_image.jpg", jpeg(2)))
    left_out = {
        put(root / "a" / "notes.txt", b"BMW"): "no images, by name and content",
        put(root / "a" / "empty"): "no images, by name and content",
        put(root / "a" / ".hidden.jpg", jpeg(1)): "hidden by their names",
        put(root / "beside.jpg", jpeg(1)): "beside the folders of the classes",
    }
    for name, begin in (("TIFF", b"MM\0*"), ("AVIF", bytes(4) + b"ftypavif")):
        file = put(root / "b" / name, begin)
        if name in folder_files.READ:
            readable.append(file)
        else:
            left_out[file] = f"{name} images, which are not read"
    (root / "b" / "loop.jpg").symlink_to("loop.jpg")
    (root / "b" / "above").symlink_to("..")
    os.mkfifo(root / "b" / "pipe.jpg")  # whose reading would never end
    (root / "c.jpg").mkdir()
    left_out |= {
        root / "b" / "loop.jpg": "links that lead nowhere",
        root / "b" / "above": "links to folders, which are not followed",
        root / "b" / "pipe.jpg": "neither files nor folders",
        root / "c.jpg": "folders named like images, with none in them",
    }
    (root / "b" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(jpeg(1))
    found = folder.read(str(root), "train", "validation")
    odd = [entry for entry in found.left_out if entry.reason == "names that are not UTF-8"]
    assert len(odd) == 1
    assert {entry.path: entry.reason for entry in found.left_out if entry not in odd} == {
        str(path): reason for path, reason in left_out.items()
    }
    assert {str(path) for path in readable} <= {*found.train.paths, *found.held_out.paths}
    assert found.train.count + found.held_out.count == 20 + len(readable)
    command = f"`find {root} -iname '*.avif' -exec mogrify -format png {{}} +` puts a PNG beside each"
    assert any(command in note for note in found.notes)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_left_out(tmp_path):
    make_folder(tmp_path, {"a": 10, "b": 10})
    (tmp_path / "a" / "000.jpg").chmod(0)
    found = folder.read(str(tmp_path), "train", "validation")
    assert [entry.reason for entry in found.left_out] == ["not allowed to be read"]


def test_a_file_that_vanishes_counts_as_damaged(config, tmp_path):
    make_folder(tmp_path / "data", {"a": 20, "b": 20})
    config.dataset.update(name=f"folder:{tmp_path / 'data'}", train_split="train", eval_split="validation")
    source = sources.prepare(config.dataset)
    gone, folder_now = source.eval.paths[:2]
    os.remove(gone)
    os.remove(folder_now)
    os.mkdir(folder_now)
    damaged = DamagedImages(source.eval.count, 0.5)
    weights = [batch[2].numpy().sum() for batch in pipeline.evaluation_batches(source, config, damaged=damaged)]
    assert damaged.names == sorted([gone, folder_now]) and sum(weights) == source.eval.count - 2


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("Train", "Test"),
        ("training", "validation"),
        ("TRAIN", "VAL"),
        ("training_set", "test_set"),
        ("trainset", "testset"),
        ("train2017", "val2017"),
        ("train-images", "dev"),
        ("Training Data", "held_out"),
        ("seg_train", "seg_test"),
        ("train_224", "test_224"),
    ],
)
def test_splits_of_other_names(train, held_out, tmp_path):
    make_folder(tmp_path / train, {"a": 3, "b": 2})
    make_folder(tmp_path / held_out, {"b": 2}, first=50)
    found = folder.read(str(tmp_path), "train", "validation")
    assert (found.class_names, found.train.labels, found.held_out.labels) == (("a", "b"), (0, 0, 0, 1, 1), (1, 1))
    assert f"{train!r} is trained on and {held_out!r} held out." in found.notes[0]
    purpose = folder_splits.purpose_of(held_out) or "test"
    folder.check_split(str(tmp_path), "train", purpose)
    assert folder.read(str(tmp_path), "train", purpose).held_out == found.held_out


def test_the_split_that_was_asked_for(tmp_path):
    for name in ("Train", "Val", "Test", "unlabelled"):
        make_folder(tmp_path / name, {"a": 3, "b": 3})
    for split, expected in (("test", "Test"), ("validation", "Val"), ("valid", "Val"), ("unlabelled", "unlabelled")):
        found = folder.read(str(tmp_path), "train", split)
        assert {path.split("/")[-3] for path in found.held_out.paths} == {expected}
    assert "; not read: 'Test', 'Val'." in found.notes[0]
    assert [entry.path for entry in found.left_out] == [f"{tmp_path}/Test", f"{tmp_path}/Val"]
    found = folder.read(str(tmp_path), "unlabelled", "Train")
    assert {path.split("/")[-3] for path in found.train.paths} == {"unlabelled"}


@pytest.mark.parametrize("name", ["Train", "training", "train"])
def test_training_images_can_be_asked_for(name, tmp_path):
    """By any name of theirs: all of them, and not the usual held-out ones."""
    make_folder(tmp_path / name, {"a": 6, "b": 6})
    make_folder(tmp_path / "Val", {"a": 2, "b": 2}, first=50)
    table = tmp_path / "table.csv"
    rows = [(file, file.parent.name, file.parts[-3]) for file in sorted(tmp_path.glob("*/*/*.jpg"))]
    table.write_text("path,label,split\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows))
    for asked in {name, "train", "training"}:
        for files, path in ((folder, tmp_path), (labels_file, table)):
            found = files.read(str(path), "train", asked)
            assert found.held_out.count == found.train.count == 12, (asked, path)


def test_a_class_with_a_line_break_is_refused(config, tmp_path):
    make_folder(tmp_path, {"a\nb": 6, "c": 6})
    config.dataset.name = f"folder:{tmp_path}"
    with pytest.raises(ValueError, match=r"the class 'a\\nb' has a line break in its name; rename it"):
        sources.prepare(config.dataset)


def test_val_beside_a_flat_test(tmp_path):
    for name in ("train", "val"):
        make_folder(tmp_path / name, {"a": 3, "b": 3})
    put(tmp_path / "test" / "1.jpg", jpeg(1))
    for split in ("validation", "test"):
        found = folder.read(str(tmp_path), "train", split)
        assert {path.split("/")[-3] for path in found.held_out.paths} == {"val"}
        assert "'val' held out; not read: 'test'." in found.notes[0]
    with pytest.raises(ValueError, match=r"test has no class folders, so .*; tools.predict classifies such"):
        folder.check_split(str(tmp_path), "train", "test")
    (tmp_path / "val").rename(tmp_path.parent / "elsewhere")
    with pytest.raises(
        ValueError, match=r"none to hold out; add .* or give .*/train as the folder.*; 'test' has no class"
    ):
        folder.read(str(tmp_path), "train", "validation")


def test_a_class_with_the_name_of_a_split(tmp_path):
    vehicles = make_folder(tmp_path / "vehicles", {"bus": 20, "car": 20, "train": 20})
    found = folder.read(str(vehicles), "train", "validation")
    assert found.class_names == ("bus", "car", "train") and found.train.count + found.held_out.count == 60
    assert found.notes[0].startswith(f"{vehicles}/train is taken for a class, not for a split")
    for name in ("red", "blue"):
        put(vehicles / "train" / name / "1.jpg", jpeg(1))
    with pytest.raises(
        ValueError,
        match=r"not clear whether it is a class or .* rename it \(trains, say\); .* --data=folder:.*/vehicles/train",
    ):
        folder.read(str(vehicles), "train", "validation")
    tickets = make_folder(tmp_path / "tickets", {"valid": 20, "invalid": 20})
    found = folder.read(str(tickets), "train", "validation")
    assert found.class_names == ("invalid", "valid") and "tickets/valid is taken for a class" in found.notes[0]


def test_splits_that_can_be_read_in_two_ways(tmp_path):
    make_folder(tmp_path / "one", {"cat": 9, "dog": 9})
    make_folder(tmp_path / "one" / "test", {"cat": 9, "dog": 9})
    with pytest.raises(
        ValueError, match=r"'test' with classes of the same names as .*\(cat, dog\): put the latter into"
    ):
        folder.read(str(tmp_path / "one"), "train", "validation")
    for name in ("train1", "train2", "val"):
        make_folder(tmp_path / "two" / name, {"cat": 9, "dog": 9})
    with pytest.raises(ValueError, match=r"train1 and train2, and it is not clear .* --config.dataset.train_split"):
        folder.read(str(tmp_path / "two"), "train", "validation")
    assert (
        folder.read(str(tmp_path / "two"), "train2", "validation").train.paths[0].startswith(f"{tmp_path}/two/train2")
    )
    make_folder(tmp_path / "flat", {"train": 9, "test": 9})
    with pytest.raises(ValueError, match=r"flat/train has no class folders; .* if test, train are the classes, rename"):
        folder.read(str(tmp_path / "flat"), "train", "validation")
    make_folder(tmp_path / "three" / "flowers", {"rose": 9, "tulip": 9})
    with pytest.raises(ValueError, match=r"holds one class, 'flowers'; .* the classes, give .*/three/flowers"):
        found = folder.read(str(tmp_path / "three"), "train", "validation")
        folder.check_classes(str(tmp_path / "three"), found.class_names, {})


@pytest.mark.slow
def test_a_run_accounts_for_every_file(run, config, clip_art, tmp_path):
    (clip_art / "tools").rename(clip_art / "$a|b$ [x]")
    config.dataset.update(name=f"folder:{clip_art}", train_split="train", eval_split="validation")
    config.batch_size = 8
    run(config, tmp_path / "run", connect("one_device"))
    lines = (tmp_path / "run" / workdir.LEFT_OUT).read_text().splitlines()
    assert len(lines) == 10
    assert f"links that lead nowhere\t{clip_art}/$a|b$ [x]/nowhere0.png" in lines
    assert "| Files that are not read | 10 links that lead nowhere; see" in (tmp_path / "run" / "report.md").read_text()
    evaluate.evaluate(tmp_path / "run", tmp_path / "evaluation")
    text = (tmp_path / "evaluation" / "evaluation.md").read_text()
    assert r"| $a\|b$ \[x\] |" in text and "| Files that are not read | 10 links" in text
    assert len((tmp_path / "evaluation" / workdir.LEFT_OUT).read_text().splitlines()) == 10


def test_classes_that_look_alike(tmp_path):
    composed, parted = "\u00c9t\u00e9", "E\u0301te\u0301"
    make_folder(tmp_path / "both", {composed: 6, parted: 6})
    make_folder(tmp_path / "both", {"Cat": 6, "cat": 6}, first=50)
    notes = folder.read(str(tmp_path / "both"), "train", "validation").notes
    assert any(
        "'E\\u0301te\\u0301' and '\\xc9t\\xe9' look alike, and are classes of their own" in note for note in notes
    )
    assert any("'Cat' and 'cat' look alike" in note for note in notes)
    make_folder(tmp_path / "parted" / "train", {composed: 3, "b": 3})
    make_folder(tmp_path / "parted" / "val", {parted: 3, "b": 3})
    with pytest.raises(ValueError, match="has classes that train has not: .*look alike, and are not the same"):
        folder.read(str(tmp_path / "parted"), "train", "validation")


def test_a_line_separator_is_part_of_a_name(tmp_path):
    """Of Unicode's marks for an end of line, of which a file system allows all in a name, only one ends a line here."""
    names = ["a", "b\u2028c", "d\x0be"]
    (tmp_path / workdir.CLASSES).write_text("".join(f"{name}\n" for name in names))
    assert workdir.read_lines(tmp_path / workdir.CLASSES) == names
