"""The user's path: a folder of images, weights, one command; and what it refuses before any work."""

import json
import re
import shutil
from pathlib import Path

import keras
import pytest

import coatnet_tf
from experiments import train, tries, workdir
from experiments.data.folds import Fold
from experiments.recipes import base, small_folder
from tests import programs
from tests.tools.samples import COLOURS, make_images
from tools import check_saved_model, fine_tune
from tools.fine_tuning import summary
from tools.fine_tuning.images import Images, find_images, refuse_other_images
from tools.fine_tuning.start import find_start

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_one_command_from_a_folder_to_a_saved_model(pretrained, tmp_path):
    make_images(tmp_path / "images" / "train", 20)
    make_images(tmp_path / "images" / "test", 4)
    output = tmp_path / "mine"
    command = ["tools.fine_tune", f"--images={tmp_path / 'images'}", f"--init_from={pretrained}"]
    command += [f"--output={output}", "--config.epochs=2", "--config.augment.crop=none"]
    result = programs.run(*command)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "begun anew: predictions/kernel, predictions/bias" in result.stderr
    held_out = workdir.result_of(workdir.read_metrics(output))
    found = re.search(r"(\d+) held-out images: top-1 ([\d.]+)% \(95 % interval: .*; optimistic, as", result.stdout)
    assert found and float(found[2]) == pytest.approx(100 * held_out["eval_accuracy"], abs=0.006)
    assert re.search(r"\n  12 test images: top-1 [\d.]+% \(95 % interval: [\d.]+% to [\d.]+%\)\n", result.stdout)
    for line in ("What it confuses, of the test images", f"{output}/serving/1: the same", "What to do next"):
        assert line in result.stdout

    config = workdir.read_recipe(output)
    assert (config.image_size, config.dataset.channels, config.epochs, config.augment.crop) == (8, 1, 2, "none")
    assert config.model == workdir.read_recipe(pretrained).model
    data = json.loads((output / workdir.DATA).read_text())
    assert data["classes"] == list(COLOURS) and data["train"] + data["eval"] == 60 and data["eval"] == int(found[1])
    for folder in ("evaluation", "test_evaluation"):
        assert (output / folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "held-out images right" in check_saved_model.check(output, output / "serving")

    # Other values for the same folder are another run.
    config = fine_tune.configure(find_images(str(tmp_path / "images")), find_start(str(pretrained)), {"epochs": 3})
    with pytest.raises(SystemExit, match=r"holds another run, whose config differs in .*config.epochs \(2 there, 3"):
        train.run(config, output)


def test_which_images_choose_and_which_do_not(tmp_path):
    flat = make_images(tmp_path / "flat", 20)
    images = find_images(flat + "/")
    assert (images.data, images.test) == (f"folder:{flat}", "") and 30 < images.train_count < 60
    make_images(tmp_path / "split" / "train", 20)
    split = str(tmp_path / "split")
    assert find_images(split) == Images(f"folder:{split}/train", images.train_count)
    make_images(tmp_path / "split" / "test", 2)
    assert find_images(split).data == f"folder:{split}/train"
    assert find_images(split).test == f"folder:{split}"
    make_images(tmp_path / "split" / "val", 2)
    assert find_images(split) == Images(f"folder:{split}", 60, f"folder:{split}")


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere"):
        find_images(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no training images; images .* in one folder a class"):
        find_images(str(tmp_path / "empty"))
    with pytest.raises(
        ValueError, match="holds one class, 'blue'; put the images of each class in a folder of its own"
    ):
        find_images(make_images(tmp_path / "one", 20, ("blue",)))
    with pytest.raises(
        ValueError,
        match="none of the images of .*red.* is held out. Add images, .* one in five is held out by its name",
    ):
        find_images(make_images(tmp_path / "few", 2))
    make_images(tmp_path / "odd" / "train", 20)
    make_images(tmp_path / "odd" / "test", 2, ("blue", "gray"))
    with pytest.raises(ValueError, match="odd/test has classes that train has not: gray"):
        find_images(str(tmp_path / "odd"))


@pytest.mark.parametrize("field", ["dataset.name", "dataset.train_split", "dataset.eval_split"])
def test_which_images_is_said_by_the_folder_alone(field):
    with pytest.raises(ValueError, match=f"--config.{field} is for experiments.train: here --images names the images"):
        fine_tune._images_of_flags({field: "test"}, [])


def test_start_is_found_or_refused(pretrained, tmp_path):
    start = find_start(str(pretrained))
    assert (start.image_size, start.channels, start.model.widths) == (8, 1, [8, 16, 32])
    assert start.learning_rate == pytest.approx(2e-3 / 3)
    file = pretrained / workdir.MODEL
    start = find_start(str(file), "coatnet-2")
    assert (start.image_size, start.channels, start.model.name, start.learning_rate) == (224, 1, "coatnet-2", 1e-4)
    with pytest.raises(
        ValueError, match=r"Which network are the weights .*model.keras for\? Give --model, one of coatnet-0"
    ):
        find_start(str(file))
    with pytest.raises(ValueError, match=r"one of coatnet-0, .*; got 'coatnet-9'"):
        find_start(str(file), "coatnet-9")
    with pytest.raises(ValueError, match="is a run, whose config.json says which model it is; leave --model out"):
        find_start(str(pretrained), "coatnet-0")
    with pytest.raises(FileNotFoundError, match="nowhere is neither the folder of a finished run nor a weights file"):
        find_start(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="holds no config.json; let the run finish first"):
        find_start(str(tmp_path))
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="holds no weights of a CoAtNet: there is no stem_conv01 in it"):
        find_start(str(tmp_path / "other.keras"), "coatnet-0")


def test_start_is_found_in_ones_own_model(tmp_path):
    """As Keras' guide builds it."""
    config = coatnet_tf.make_config("tiny", (1, 1, 1), (8, 16, 32), "CT")
    base = coatnet_tf.CoAtNet(config, input_shape=(32, 32, 1), include_top=False)
    image = keras.Input((32, 32, 1))
    keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(base(image)))).save(tmp_path / "own.keras")
    assert find_start(str(tmp_path / "own.keras"), "coatnet-0").channels == 1


def test_start_from_nothing(tmp_path):
    start = find_start("none")
    assert (start.init_from, start.model.name, start.image_size, start.channels) == ("", "coatnet-0", 224, 0)
    assert start.learning_rate == pytest.approx(3e-4)
    assert find_start("none", "coatnet_0_rw").model.name == "coatnet_0_rw"
    with pytest.raises(ValueError, match=r"Which network is to be trained\? Give --model, .*; got 'coatnet-9'"):
        find_start("none", "coatnet-9")
    images = find_images(make_images(tmp_path / "images", 20))
    config = fine_tune.configure(images, start, {})
    assert not config.init_from and not config.reset_head and config.dataset.channels == 0


@pytest.mark.parametrize(("way", "factor"), [("lora", 10), ("head", 10), ("last_blocks", 1), ("all", 1)])
def test_what_is_new_learns_faster(pretrained, tmp_path, way, factor):
    """And its rate is not taken for the network's by a run that begins with its result."""
    images, start = Images("folder:images", 100), find_start(str(pretrained))
    config = fine_tune.configure(images, start, {"tune": way})
    assert config.optimizer.learning_rate == pytest.approx(factor * start.learning_rate)
    assert (config.early_stop_patience == 0) == (way == "head")
    chosen = fine_tune.configure(images, start, {"tune": way, "optimizer.learning_rate": 3e-4})
    assert chosen.optimizer.learning_rate == 3e-4
    shutil.copytree(pretrained, tmp_path / "run")
    config.image_size = start.image_size
    (tmp_path / "run" / workdir.CONFIG).write_text(config.to_json())
    assert find_start(str(tmp_path / "run")).learning_rate == pytest.approx(start.learning_rate)


def test_folds_take_the_place_of_held_out_images(tmp_path):
    fold = Fold(1, 4, seed=0)
    flat = make_images(tmp_path / "flat", 8)
    assert find_images(flat, fold=fold) == Images(f"folder:{flat}", 18)
    make_images(tmp_path / "split" / "train", 8)
    split = str(tmp_path / "split")
    assert find_images(split, fold=fold) == Images(f"folder:{split}/train", 18)
    make_images(tmp_path / "split" / "val", 2)
    with pytest.raises(ValueError, match="has validation images of its own; .* --images=.*/split/train"):
        find_images(split, fold=fold)


@pytest.mark.slow
def test_each_fold_is_a_run_that_goes_on(pretrained, tmp_path):
    """Of two folds the second is not finished, as if it had been stopped, and comes to the same end."""
    images = make_images(tmp_path / "images", 8)
    output = tmp_path / "folds"
    command = ["tools.fine_tune", f"--images={images}", f"--init_from={pretrained}"]
    command += [f"--output={output}", "--folds=2", "--config.epochs=2", "--config.tune=head"]

    def run():
        result = programs.run(*command)
        assert result.returncode == 0, result.stderr[-3000:]
        return (output / "folds.md").read_text()

    text = run()
    measured = json.loads((output / "folds.json").read_text())
    assert [of_fold["images"] for of_fold in measured] == [12, 12] and "All 24 images, each held out once" in text
    for number in (1, 2):
        assert workdir.read_recipe(output / f"fold_{number}").dataset.eval_split == f"fold {number} of 2, seed 0"
    for path in (output / "fold_2" / workdir.CHECKPOINTS).glob("ckpt-[!1-4]*"):
        path.unlink()
    (output / "fold_2" / workdir.MODEL).unlink()
    assert run() == text


@pytest.mark.parametrize("minutes", [60, 0])
def test_the_way_with_the_lowest_loss_is_kept(monkeypatch, tmp_path, minutes):
    losses = {"head": 0.5, "last_blocks": 0.3, "all": 0.4}

    def pretend(config, folder):
        folder.mkdir(parents=True)
        workdir.append_metrics(folder, {"step": 5, "epoch": 1, "eval_loss": losses[folder.name], "eval_accuracy": 0.9})

    monkeypatch.setattr(train, "run", pretend)
    kept = tries.run(lambda way: way, tmp_path, minutes)
    text = (tmp_path / workdir.TRIES).read_text()
    if minutes:
        assert kept == tmp_path / "last_blocks" and "# last_blocks is kept, of 3 ways" in text
        assert "| all | 0.4000 | accuracy 90.00% | 1 |" in text
    else:
        assert kept == tmp_path / "head" and "| all | not tried: no time was left |  |  |" in text


@pytest.mark.slow
def test_auto_ends_in_a_run_to_use(pretrained, tmp_path):
    images, output = make_images(tmp_path / "images", 20), tmp_path / "mine"
    command = ["tools.fine_tune", f"--images={images}", f"--init_from={pretrained}"]
    command += [f"--output={output}", "--config.epochs=1", "--config.optimizer.warmup_epochs=0", "--config.tune=auto"]
    result = programs.run(*command)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = {way: workdir.read_metrics(output / way)[-1]["eval_loss"] for way in tries.TRIED}
    best = min(rows, key=rows.get)
    assert f"# {best} is kept, of 3 ways" in result.stdout and f"{output}/{best}/model.keras" in result.stdout
    assert (output / best / "serving" / "1" / "saved_model.pb").is_file()


def test_the_end_fits_on_a_screen(tmp_path):
    measured = {
        "images": 40,
        "top1": 0.75,
        "top1_interval": [0.6, 0.86],
        "balanced_accuracy": 0.7,
        "chose_the_weights": True,
        "confused": [{"true": "a", "predicted": "b", "images": 6, "of": 20}],
    }
    output = Path("runs/mine")
    text = summary.describe(output, {"held-out": measured}, output / "serving/1", "head", epochs=30)
    assert "--config.epochs=60, in another --output: the last were the best" in text
    assert "40 held-out images: top-1 75.00% (95 % interval: 60.00% to 86.00%; optimistic" in text
    assert "a taken for b: 6 of 20" in text and "balanced over the classes 70.00%" in text
    assert f"python -m tools.predict --model={output} --images=FOLDER --output=predictions.csv" in text
    assert "--folds=5" in text and "--config.tune=all" in text and "runs/mine/evaluation/evaluation.md" in text
    of_test = {**measured, "chose_the_weights": False, "confused": []}
    text = summary.describe(output, {"held-out": measured, "test": of_test}, output / "serving/1", "all")
    assert "What it confuses, of the test images\n  nothing" in text and "more test images" in text
    assert "--config.epochs" not in text
    assert "runs/mine/test_evaluation/evaluation.md" in text and "--folds" not in text and "tune=all" not in text
    assert len(text.splitlines()) <= 24
    of_numbers = {"images": 40, "loss": 0.1, "chose_the_weights": False, "by_value": {}}
    text = summary.describe(output, {"held-out": of_numbers}, output / "serving/1", "all", can_fold=False)
    assert "evaluation.md: each number\n" in text and "--folds" not in text and "more test images" not in text


def test_a_run_of_fewer_images_does_not_go_on(tmp_path):
    config = small_folder.get_config("60")
    config.dataset.name = "folder:images"
    (tmp_path / workdir.CONFIG).write_text(config.to_json())
    (tmp_path / workdir.DATA).write_text('{"train": 60}')
    refuse_other_images(tmp_path, Images("folder:images", 60))
    refuse_other_images(tmp_path / "new", Images("folder:images", 78))
    with pytest.raises(ValueError, match="has 78 training images, and the run in .* began with 60: put them back"):
        refuse_other_images(tmp_path, Images("folder:images", 78))


def test_a_table_is_named_as_one(tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\n")
    with pytest.raises(ValueError, match="is a file; a table of labels is given as --images=csv:.*labels.csv"):
        find_images(f"{tmp_path}/labels.csv")


def test_start_from_published_weights():
    start = find_start("timm/coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k")
    assert (start.model.name, start.image_size, start.channels) == ("coatnet_rmlp_2_rw", 384, 3)
    with pytest.raises(ValueError, match="is for the model coatnet_rmlp_2_rw, not coatnet-0; leave --model out"):
        find_start("timm/coatnet_rmlp_2_rw_384.sw_in12k_ft_in1k", "coatnet-0")
    with pytest.raises(ValueError, match="those of this network are timm/coatnet_0_rw_224.sw_in1k"):
        find_start("timm/coatnet_0_rw_224")


def test_weights_of_another_network_are_refused_before_any_work(pretrained, tmp_path):
    images = find_images(make_images(tmp_path / "images", 20))
    start = find_start(str(pretrained))
    start.model.widths = [8, 16, 64]
    with pytest.raises(SystemExit, match="do not fit the model"):
        train.run(fine_tune.configure(images, start, {}), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("images", "batch_size", "epochs"), [(8, 4, 60), (64, 8, 60), (250, 16, 40), (9000, 32, 10)])
def test_values_follow_the_number_of_images(images, batch_size, epochs):
    config = small_folder.get_config(str(images))
    assert (config.batch_size, config.epochs) == (batch_size, epochs)
    assert 5 <= config.early_stop_patience < config.epochs


def test_recipe_without_a_number_is_refused():
    with pytest.raises(base.RecipeError, match="'many' is no number"):
        small_folder.get_config("many")
