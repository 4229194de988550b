"""Folders of one's own images, damaged ones, archives, and ImageNet in miniature."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from experiments import evaluate, loop, workdir
from experiments.data import folder, image_archives, other_formats, pipeline, sources
from experiments.data.damage import DamagedImages
from experiments.data.readers import ImageFiles
from experiments.engine import connect
from experiments.stops import RunStopped
from tests.experiments.samples import add, jpeg, make_folder, make_imagenet

pytestmark = pytest.mark.slow


@pytest.fixture
def colors(tmp_path):
    return make_folder(tmp_path / "colors", {"red": 40, "green": 40, "blue": 40})


@pytest.fixture
def folder_config(config, colors):
    config.dataset.name = f"folder:{colors}"
    config.dataset.train_split, config.dataset.eval_split = "train", "validation"
    config.image_size = 16
    config.batch_size = 16
    return config


def test_folder_is_split_by_names(colors):
    found = folder.read(str(colors), "train", "validation")
    names, train, held_out = found.class_names, found.train, found.held_out
    assert names == ("blue", "green", "red")
    assert train.count + held_out.count == 120
    assert 8 <= held_out.count <= 40
    assert not set(train.paths) & set(held_out.paths)
    (colors / "red" / "new.jpg").write_bytes(jpeg(7))
    again = folder.read(str(colors), "train", "validation")
    assert set(train.paths) <= set(again.train.paths) and set(held_out.paths) <= set(again.held_out.paths)
    for path, label in zip(train.paths, train.labels, strict=True):
        assert path.split("/")[-2] == names[label]


def test_folder_with_splits_keeps_them(tmp_path):
    make_folder(tmp_path / "data" / "train", {"a": 3, "b": 2})
    make_folder(tmp_path / "data" / "val", {"b": 2}, first=50)
    found = folder.read(str(tmp_path / "data"), "train", "validation")
    assert (found.class_names, found.train.labels, found.held_out.labels) == (("a", "b"), (0, 0, 0, 1, 1), (1, 1))
    folder.check_split(str(tmp_path / "data"), "train", "val")
    for split in ("test", folder.ALL):
        with pytest.raises(ValueError, match=f"has no folder '{split}'; the splits in it are train, val"):
            folder.check_split(str(tmp_path / "data"), "train", split)


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder .*missing"):
        folder.read(str(tmp_path / "missing"), "train", "test")
    make_folder(tmp_path / "data" / "train", {"a": 3})
    with pytest.raises(ValueError, match="has a folder 'train' but none to hold out; add one named 'validation'"):
        folder.read(str(tmp_path / "data"), "train", "test")
    make_folder(tmp_path / "data" / "test", {"a": 1, "c": 1})
    with pytest.raises(ValueError, match="test has classes that train has not: c"):
        folder.read(str(tmp_path / "data"), "train", "test")
    with pytest.raises(ValueError, match="has no folder 'train_claen', as config.dataset.train_split says; it has"):
        folder.read(str(tmp_path / "data"), "train_claen", "test")
    with pytest.raises(ValueError, match="data holds one class, 'a'; put the images of each class in a folder"):
        folder.check_classes("data", ("a",), {})
    with pytest.raises(ValueError, match="data: none of the images of b, c is to train on"):
        folder.check_classes("data", ("a", "b", "c"), {"to train on": ImageFiles(("1.jpg",), (0,))})
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "a" / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="holds no training images.*Left out: 1 no images, by name and content"):
        folder.read(str(tmp_path / "empty"), "train", "test")


@pytest.mark.usefixtures("no_pictures")
def test_nothing_is_written_among_the_images(tmp_path, colors):
    name = f"folder:{colors}"
    for output in (f"{colors}/run", f"{colors}/red/run", str(colors), f"{tmp_path}/other/../{colors.name}/run"):
        with pytest.raises(ValueError, match="whose folders are classes of images; choose a place beside it"):
            sources.check_place(output, name)
    for split in ("train", "val"):
        shutil.copytree(colors, tmp_path / "splits" / split)
    splits = f"folder:{tmp_path}/splits"
    for output in (f"{tmp_path}/run", f"{colors}_run"):
        sources.check_place(output, name)
    sources.check_place(f"{tmp_path}/splits/run", splits)
    shutil.copytree(colors, tmp_path / "one" / "train")
    with pytest.raises(
        ValueError, match="is inside of .*one, whose folders are"
    ):  # or taken for a class, the next time
        sources.check_place(f"{tmp_path}/one/run", f"folder:{tmp_path}/one")
    with pytest.raises(ValueError, match="is inside of"):
        sources.check_place(f"{tmp_path}/splits/val/run", splits)


def test_a_place_is_no_name_of_a_dataset(tmp_path, colors):
    (tmp_path / "a.csv").write_text("path,label")
    for path, kind in ((colors, "folder"), (tmp_path / "a.csv", "csv")):
        with pytest.raises(ValueError, match=f"is a place and no dataset's name; of images there, say {kind}:"):
            sources.find_builder(str(path))


def test_arrays_with_channels_first_are_no_images(tmp_path):
    for shape, message in (((3, 16, 16), "which has the channels first"), ((3, 16, 3), None), ((16, 16, 3), None)):
        file = io.BytesIO()
        np.save(file, np.zeros(shape, "uint8"))
        if message:
            with pytest.raises(other_formats.ArrayError, match=message):
                other_formats.check_array(file.getvalue())
        else:
            assert other_formats.check_array(file.getvalue()) == shape


def test_training_on_a_folder_and_evaluating_it(run, folder_config, tmp_path):
    folder_config.epochs = 4
    run(folder_config, tmp_path / "run", connect("one_device"))
    rows = workdir.read_metrics(tmp_path / "run")
    measured = evaluate.evaluate(tmp_path / "run", tmp_path / "evaluation")
    assert measured["top1"] == pytest.approx(rows[-1]["eval_accuracy"], abs=1e-6)
    assert measured["loss"] == pytest.approx(rows[-1]["eval_loss"], rel=1e-3)
    assert measured["top5"] == 1
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text()) == measured
    assert "| red |" in (tmp_path / "evaluation" / "evaluation.md").read_text()
    with pytest.raises(ValueError, match="no folder of training images, so that 'tset' is no split .* --split=all"):
        evaluate.evaluate(tmp_path / "run", tmp_path / "evaluation", split="tset")
    with pytest.raises(ValueError, match="holds out the training images too"):
        folder_config.dataset.eval_split = folder.ALL
        loop.prepare(folder_config, tmp_path / "all", connect("one_device"))
    everything = evaluate.evaluate(tmp_path / "run", tmp_path / "everything", split="all")
    assert everything["images"] == 120 and measured["images"] < 60
    assert (everything["trained_on"], measured["trained_on"]) == (True, False)
    assert "optimistic, as images of these were trained on" in (tmp_path / "everything" / "evaluation.md").read_text()
    same = f"folder:{os.path.relpath(folder_config.dataset.name.removeprefix('folder:'))}"  # however it is written
    assert evaluate.evaluate(tmp_path / "run", tmp_path / "everything", data=same, split="all")["trained_on"]
    evaluate._refuse_to_replace(tmp_path / "everything", same)
    with pytest.raises(FileExistsError, match="holds the evaluation of .*, which is another; give --output"):
        evaluate._refuse_to_replace(tmp_path / "everything", f"folder:{tmp_path / 'other'}")
    parts = tmp_path / "linked"  # the same files by another way
    source = sources.prepare(workdir.read_recipe(tmp_path / "run").dataset)
    for reader, is_trained_on in ((source.train, True), (source.eval, False)):
        for path in reader.paths:
            link = parts / str(is_trained_on) / "/".join(path.split("/")[-2:])
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
        found = evaluate.evaluate(tmp_path / "run", tmp_path / "everything", f"folder:{parts}/{is_trained_on}", "all")
        assert (found["trained_on"], found["chose_the_weights"]) == (is_trained_on, False)
    other = make_folder(tmp_path / "other", {"red": 9, "green": 9})
    with pytest.raises(
        ValueError, match=r"other has 2 classes, and the model has 3 classes, of which the other lacks 'blue'"
    ):
        evaluate.evaluate(tmp_path / "run", tmp_path / "evaluation", data=f"folder:{other}", split="all")
    make_folder(tmp_path / "parts" / "test", {"red": 9, "green": 9, "blue": 9})
    with pytest.raises(ValueError, match="has splits; give one of them as --data, such as folder:.*/parts/test"):
        evaluate.evaluate(tmp_path / "run", tmp_path / "evaluation", data=f"folder:{tmp_path}/parts", split="all")
    with pytest.raises(ValueError, match="so that 'validation' is no split of it; give --split=all"):
        evaluate.evaluate(tmp_path / "run", tmp_path / "evaluation", data=f"folder:{other}")
    with pytest.raises(FileNotFoundError, match=r"holds no config.json; let the run finish first"):
        evaluate.evaluate(tmp_path, tmp_path / "evaluation")


@pytest.mark.usefixtures("no_pictures")
def test_changed_data_is_refused_on_resume(run, folder_config, colors, tmp_path):
    run(folder_config, tmp_path / "run", connect("one_device"))
    (colors / "red" / "new.jpg").write_bytes(jpeg(7))
    with pytest.raises(ValueError, match="has changed since the run in .* began: then .* images of 3 classes"):
        run(folder_config, tmp_path / "run", connect("one_device"))
    with pytest.raises(ValueError, match="has changed since .* Put it back, or give the images to measure in a folder"):
        evaluate.evaluate(tmp_path / "run", tmp_path / "evaluation")
    (colors / "red" / "new.jpg").unlink()
    held_out = folder.is_held_out("", "/red/000.jpg")
    of_its_split = (f"{i}.jpg" for i in range(100) if folder.is_held_out("", f"/red/{i}.jpg") == held_out)
    other = (colors / "red" / "000.jpg").rename(colors / "red" / next(of_its_split))
    with pytest.raises(ValueError, match="has changed since .*, in other files. Put it back"):
        run(folder_config, tmp_path / "run", connect("one_device"))
    other.rename(colors / "red" / "000.jpg")
    run(folder_config, tmp_path / "run", connect("one_device"))

    for path in (tmp_path / "run" / workdir.CHECKPOINTS).glob("ckpt-*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds results of a run but none of its checkpoints"):
        run(folder_config, tmp_path / "run", connect("one_device"))


def damage(colors):
    names = ("red/003.jpg", "green/011.jpg")
    (colors / names[0]).write_bytes((colors / names[0]).read_bytes()[:60])
    (colors / names[1]).write_bytes(b"")
    return [str(colors / name) for name in names]


def test_damaged_images_are_counted_by_name_and_left_out(folder_config, colors):
    names = damage(colors)
    source = sources.prepare(folder_config.dataset)
    everything = dict(zip(source.train.paths + source.eval.paths, [0.0] * 120, strict=True))
    damaged = DamagedImages(120, max_share=0.1)
    steps = pipeline.training_order(source, folder_config).steps_per_epoch
    for step, batch in enumerate(pipeline.training_batches(source, folder_config, damaged=damaged).take(3 * steps)):
        for name, weight in zip(pipeline.example_names(source, folder_config, step), batch[2].numpy(), strict=True):
            everything[name] = weight
            assert weight == (name not in names), name
    for _ in pipeline.evaluation_batches(source, folder_config, damaged=damaged):
        pass
    assert damaged.names == sorted(names)
    assert not damaged.problem()


def test_a_split_without_any_image_that_can_be_decoded_is_a_problem():
    damaged = DamagedImages(2, max_share=0.5)
    damaged.add("b.jpg", "truncated")
    assert not damaged.problem()
    damaged.add("a.jpg")
    assert damaged.problem() == "None of 2 images can be decoded: a.jpg, b.jpg (truncated). Mend them."


def test_damaged_images_of_all_processes_count():
    """`test_multi_worker.py` has two processes that tell each other."""
    damaged = DamagedImages(100, max_share=0.02)
    damaged.add("b")
    damaged.add("c")
    assert damaged.has_news and not damaged.problem()
    damaged.merge({"a", "b", "c"})
    assert not damaged.has_news
    assert damaged.problem().startswith("3 of 100 images cannot be decoded, more than config.dataset.max_damaged_share")
    damaged.add("d")
    assert damaged.has_news and damaged.names == ["a", "b", "c", "d"]


@pytest.mark.usefixtures("no_pictures")
def test_too_many_damaged_images_stop_the_run(run, folder_config, colors, tmp_path):
    names = damage(colors)
    with pytest.raises(RunStopped, match=r"of \d+ images cannot be decoded, more than .* 0.001 allows: .*(red|green)"):
        run(folder_config, tmp_path / "run", connect("one_device"))
    assert any((tmp_path / "run" / name).exists() for name in (workdir.DAMAGED, workdir.DAMAGED_IN_EVALUATION))
    folder_config.dataset.max_damaged_share = 0.1
    run(folder_config, tmp_path / "again", connect("one_device"))
    files = [tmp_path / "again" / name for name in (workdir.DAMAGED, workdir.DAMAGED_IN_EVALUATION)]
    assert sorted(name for file in files if file.exists() for name in file.read_text().splitlines()) == sorted(names)
    assert "| Images left out, as they cannot be decoded | 2 |" in (tmp_path / "again" / workdir.REPORT).read_text()

    # A run that is resumed knows those from before.
    found = files[0].read_text().splitlines() if files[0].exists() else []
    files[0].write_text("\n".join([*found, "seen/before.jpg"]) + "\n")
    (tmp_path / "again" / workdir.MODEL).unlink()
    run(folder_config, tmp_path / "again", connect("one_device"))
    assert files[0].read_text().splitlines() == sorted([*found, "seen/before.jpg"])
    assert "| Images left out, as they cannot be decoded | 3 |" in (tmp_path / "again" / workdir.REPORT).read_text()


@pytest.mark.usefixtures("no_pictures")
def test_damaged_held_out_images_of_the_only_evaluation_stop_the_run(run, folder_config, colors, tmp_path):
    """Also the run that is repeated without mending them; mended, it ends."""
    folder_config.epochs = 1
    held_out = folder.read(str(colors), "train", "validation").held_out
    for path in held_out.paths[:3]:
        Path(path).write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(RunStopped, match=f"3 of {held_out.count} images cannot be decoded"):
            run(folder_config, tmp_path / "run", connect("one_device"))
        assert len((tmp_path / "run" / workdir.DAMAGED_IN_EVALUATION).read_text().splitlines()) == 3
    for path in held_out.paths[:3]:
        Path(path).write_bytes(jpeg(1))
    run(folder_config, tmp_path / "run", connect("one_device"))
    assert "cannot be decoded | 0 |" in (tmp_path / "run" / workdir.REPORT).read_text()
    assert not (tmp_path / "run" / workdir.DAMAGED_IN_EVALUATION).exists()


@pytest.fixture
def archives(tmp_path):
    """One archive of class folders and one of a single class, with a damaged member, a duplicate and a shared image."""
    path = tmp_path / "archives"
    path.mkdir()
    shared = jpeg(99)
    with tarfile.open(path / "animals.tar", "w") as archive:
        for index in range(6):
            add(archive, f"cat/{index}.jpg", jpeg(index, color=0))
            add(archive, f"dog/{index}.jpg", jpeg(100 + index, color=1))
        add(archive, "cat/copy.jpg", jpeg(0, color=0))
        add(archive, "dog/broken.jpg", jpeg(5)[:100])
        add(archive, "dog/shared.jpg", shared)
    with tarfile.open(path / "n01440764.tar.gz", "w:gz") as archive:
        for index in range(5):
            add(archive, f"n01440764_{index}.JPEG", jpeg(200 + index, color=2))
        add(archive, "n01440764_shared.JPEG", shared)
    return path


def test_archives_are_prepared_and_trained_on(run, config, archives, tmp_path, caplog):
    pytest.importorskip("apache_beam")
    config.dataset.update(name="image_archives", manual_dir=str(archives), data_dir=str(tmp_path / "tfds"))
    config.dataset.update(train_split="train[:80%]", eval_split="train[80%:]")
    config.batch_size, config.loss = 4, "sigmoid"
    source = sources.prepare(config.dataset)
    assert source.class_names == ("cat", "dog", "n01440764") and source.multi_label and source.channels == 3
    assert source.train.count + source.eval.count == 18
    assert "animals.tar/dog/broken.jpg cannot be decoded and is left out" in caplog.text
    labels = np.array([e["label"] for s in (source.train, source.eval) for e in s.read(0, s.count).as_numpy_iterator()])
    assert labels.sum(axis=0).tolist() == [6, 7, 6]
    assert (labels.sum(axis=1) == 2).sum() == 1  # the shared one
    with pytest.raises(ValueError, match="several classes, which softmax cannot learn; set --config.loss=sigmoid"):
        config.loss = "softmax"
        run(config, tmp_path / "softmax", connect("one_device"))
    config.loss = "sigmoid"
    run(config, tmp_path / "run", connect("one_device"))
    assert not (tmp_path / "run" / "confusion.png").exists()


def test_archives_are_built_from_the_command_line(archives, tmp_path):
    pytest.importorskip("apache_beam")
    command = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build", image_archives.__file__]
    command += [f"--manual_dir={archives}", f"--data_dir={tmp_path / 'tfds'}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    info = tfds.builder_from_directory(tmp_path / "tfds" / "image_archives" / "1.0.0").info
    assert info.splits["train"].num_examples == 18
    assert info.features["label"].feature.names == ["cat", "dog", "n01440764"]


@pytest.mark.usefixtures("no_pictures")
def test_imagenet_in_miniature(run, config, tmp_path):
    """Archives in the original's layout, through TFDS's own builder."""
    manual = make_imagenet(tmp_path / "manual")
    config.dataset.update(name="imagenet2012", manual_dir=str(manual), data_dir=str(tmp_path / "tfds"))
    config.dataset.update(train_split="train", eval_split="validation")
    config.batch_size, config.eval_crop, config.augment.crop = 8, "center", "inception"
    source = sources.prepare(config.dataset)
    assert (source.train.count, source.eval.count, source.num_classes) == (24, 4, 1000)
    run(config, tmp_path / "run", connect("one_device"))
    measured = evaluate.evaluate(tmp_path / "run", tmp_path / "evaluation")
    assert measured["images"] == 4
    assert measured["top1"] == pytest.approx(workdir.read_metrics(tmp_path / "run")[-1]["eval_accuracy"], abs=1e-6)


def test_order_of_many_files_is_the_same_for_any_number_of_workers(folder_config):
    """Each worker has a part of every batch, and reads its own files if the lanes can be shared."""
    source = sources.prepare(folder_config.dataset)
    folder_config.augment.mixup_alpha = 0.8
    order = pipeline.training_order(source, folder_config)
    assert order.lanes == 8
    whole = list(order.examples(0).unbatch().take(64).as_numpy_iterator())
    assert len({e["name"] for e in whole}) == 64
    assert [e["position"] for e in whole] == list(range(64))
    names = np.array([e["name"] for e in whole]).reshape(-1, order.batch_size)
    for workers in (2, 8):
        shares = [
            [e["name"] for e in order.examples(0, workers, worker).unbatch().take(64 // workers).as_numpy_iterator()]
            for worker in range(workers)
        ]
        np.testing.assert_array_equal(np.concatenate(np.reshape(shares, (workers, len(names), -1)), axis=1), names)


def test_epochs_differ_and_begin_anywhere(folder_config):
    source = sources.prepare(folder_config.dataset)
    order = pipeline.training_order(source, folder_config)
    per_epoch = order.steps_per_epoch
    names = [e["name"] for e in order.examples(0).unbatch().take(32 * per_epoch).as_numpy_iterator()]
    first, second = names[: 16 * per_epoch], names[16 * per_epoch :]
    assert len(set(first)) == len(set(second)) == 16 * per_epoch
    assert first != second
    for step in (1, per_epoch - 1, per_epoch, per_epoch + 2):
        rest = [e["name"] for e in order.examples(step).unbatch().take(20).as_numpy_iterator()]
        assert (
            rest == (names + rest)[16 * step : 16 * step + 20] or rest[: len(names) - 16 * step] == names[16 * step :]
        )


def test_tf_print_stands_in_where_no_python_runs(folder_config, colors, capfd):
    damage(colors)
    source = sources.prepare(folder_config.dataset)
    for _ in pipeline.training_batches(source, folder_config).take(20):
        pass
    assert tf.executing_eagerly()
    assert "cannot be decoded and is left out" in capfd.readouterr().err
