"""The study of small sets: what is drawn, what is changed, what is kept, what is said; without its trainings."""

import csv

import pytest
from PIL import Image

import coatnet_tf
from experiments import checks, workdir
from experiments.data import fashion_mnist
from experiments.engine import connect
from experiments.model_config import make_model_config
from experiments.recipes import small_folder, small_sets
from tools.small_sets import __main__ as program
from tools.small_sets import images, parts, report

SET = images.SmallSet("digits", range(3), [2, 3, 4], 5)


def rows_of(table):
    with table.open() as file:
        return list(csv.DictReader(file))


def test_seeds_share_what_is_held_out_and_nothing_is_on_both_sides(tmp_path):
    first, second = (rows_of(images.draw("mine", SET, seed, tmp_path, images.Places())) for seed in (0, 1))
    by_split = [
        {split: {row["path"] for row in rows if row["split"] == split} for split in ("train", "validation")}
        for rows in (first, second)
    ]
    assert by_split[0]["validation"] == by_split[1]["validation"] and len(by_split[0]["validation"]) == 15
    assert by_split[0]["train"] != by_split[1]["train"]
    assert not (by_split[0]["train"] | by_split[1]["train"]) & by_split[0]["validation"]
    assert [sum(row["label"] == name and row["split"] == "train" for row in first) for name in "012"] == [2, 3, 4]
    assert first == rows_of(images.draw("mine", SET, 0, tmp_path, images.Places()))
    for row in first:
        assert Image.open(tmp_path / "mine" / row["path"]).size == (8, 8)


def test_pretraining_sees_no_class_of_the_sets():
    for small in images.SETS.values():
        assert small.source != "fashion" or not set(small.classes) & set(images.PRETRAINING.classes)
    assert max(images.PRETRAINING.classes) < len(fashion_mnist.CLASSES)


def test_clip_art_is_small_and_on_white(tmp_path, monkeypatch):
    small = images.SmallSet("clip_art", range(8), [1] * 8, 1)
    for name in images._CLIP_ART:
        (tmp_path / "png" / name / "inner").mkdir(parents=True)
        for number in range(2):
            Image.new("RGBA", (200, 100), (255, 0, 0, 0)).save(tmp_path / "png" / name / "inner" / f"{number}.png")
    monkeypatch.setattr(images, "_LARGEST", 30_000)
    Image.new("RGBA", (200, 200)).save(tmp_path / "png" / "food" / "huge.png")
    table = images.draw("art", small, 0, tmp_path, images.Places(clip_art=str(tmp_path / "png")))
    for row in rows_of(table):
        with Image.open(table.parent / row["path"]) as image:
            assert image.size == (64, 32) and image.getextrema() == ((255, 255),) * 3
    (tmp_path / "png" / "food" / "inner" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"--clip_art=.*png lacks pictures of food; it is the folder png of"):
        images.draw("less", small, 0, tmp_path, images.Places(clip_art=str(tmp_path / "png")))


def test_the_network_is_timms_but_for_depths_and_widths():
    mine = make_model_config(small_sets.get_config().model)
    theirs = coatnet_tf.RELATIVES["coatnet_0_rw"]
    same = {"mbconv", "transformer", "head", "preprocessing"}
    expected = coatnet_tf.get_config(theirs, head_size=mine.transformer.attention.head_size)
    assert {name: getattr(mine, name) for name in same} == {name: getattr(expected, name) for name in same}
    assert [stage.block for stage in mine.stages] == [stage.block for stage in theirs.stages]
    assert [stage.stride for stage in mine.stages] == [stage.stride for stage in theirs.stages]


@pytest.fixture
def table(run_folder, tmp_path):
    """Digits of all ten classes for the network of `run_folder`."""
    return images.draw("ten", images.SmallSet("digits", range(10), [6] * 10, 5), 0, tmp_path, images.Places())


@pytest.mark.parametrize("way", [way for way in parts.WAYS if way != parts.LOGISTIC and way not in parts.OF_TIMM])
def test_every_part_changes_a_recipe_that_can_be_run(run_folder, table, way):
    unequal = images.SETS["unequal Fashion-MNIST"]
    part = parts.part_of(way, unequal)
    config = parts.configure(run_folder, table, 3, part)
    checks.check_values(config)
    checks.check_tuning(config, connect("one_device"))
    plain = parts.configure(run_folder, table, 3, {})
    changed = {name for name, value in config.to_dict().items() if plain.to_dict()[name] != value}
    assert changed >= {name.partition(".")[0] for name in part} and (changed or way == parts.PLAIN)
    assert parts.is_for(way, unequal)
    assert parts.is_for(way, images.SETS["digits"]) == (way not in ("class weights", "sampling"))


@pytest.mark.slow
@pytest.mark.parametrize("part", [{}, {"tune": "head"}])
def test_a_seed_begins_anew_whatever_was_trained_before(run_folder, tmp_path, monkeypatch, part):
    monkeypatch.setattr(small_folder, "EPOCHS", (2, 2))
    small = images.SmallSet("digits", range(10), [2] * 10, 3)
    tables = {seed: images.draw("ten", small, seed, tmp_path, images.Places()) for seed in (0, 1)}
    after = dict(parts.fine_tune_all(run_folder, tables, part))
    alone = dict(parts.fine_tune_all(run_folder, {1: tables[1]}, part))
    assert after[1]["accuracy"] == alone[1]["accuracy"] and after[1]["seconds"] > 0


def test_logistic_regression_is_on_frozen_features(run_folder, table):
    """After eight steps of training; chance is 10."""
    assert parts.regress(run_folder, table)["accuracy"] > 15


def test_results_are_kept_and_missing_ones_are_measured(tmp_path, monkeypatch):
    measured = []

    def fine_tune_all(start, tables, part):
        for seed in tables:
            measured.append((dict(part), seed))
            if len(measured) == 3:
                raise RuntimeError("stopped")
            yield seed, {"accuracy": 80.0 + seed + len(part), "seconds": 10.0}

    monkeypatch.setattr(parts, "fine_tune_all", fine_tune_all)
    monkeypatch.setattr(images, "SETS", {"digits": SET})
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / workdir.MODEL).touch()
    arguments = (tmp_path, [parts.PLAIN, "head"], 2, images.Places(), "")
    with pytest.raises(RuntimeError, match="stopped"):
        program.measure(*arguments)
    assert set(program.read(tmp_path, 2)["digits"]) == {parts.PLAIN}
    program.measure(*arguments)
    assert measured == [({}, 0), ({}, 1), *[({"tune": "head"}, seed) for seed in (0, 0, 1)]]
    assert [row["accuracy"] for row in program.read(tmp_path, 2)["digits"]["head"]] == [81.0, 82.0]
    with pytest.raises(ValueError, match="has no results of 3 seeds of plain fine-tuning, to compare with"):
        program.read(tmp_path, 3)


def test_the_report_says_what_each_way_adds(tmp_path):
    """Differences of 1, 2 and 3 points: t = 3.46 with two degrees of freedom, p = 0.074."""

    def runs(*accuracies):
        return [{"accuracy": accuracy, "seconds": 20.0} for accuracy in accuracies]

    of_a_set = {parts.PLAIN: runs(80, 81, 82), "head": runs(81, 83, 85)}
    results = {"one": of_a_set, "two": {**of_a_set, "sampling": runs(80, 81, 82)}}
    page = tmp_path / "page.md"
    page.write_text("# Above\n<!-- small_sets -->\nold\n<!-- /small_sets -->\nbelow\n")
    text = report.write(results, page)
    assert page.read_text() == f"# Above\n<!-- small_sets -->\n{text}<!-- /small_sets -->\nbelow\n"
    assert (tmp_path / report.PICTURE).stat().st_size > 5000
    assert report.write(results, tmp_path / "new.md") in (tmp_path / "new.md").read_text()
    page.write_text("# Without markers\n")
    with pytest.raises(ValueError, match="needs one line <!-- small_sets --> and behind it one line <!-- /small_sets"):
        report.write(results, page)
    lines = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert lines["| plain"] == "| plain | 81.00 ± 2.48 | 81.00 ± 2.48 |  |  | 20 |"
    assert lines["| head"].startswith("| head | 83.00 ± 4.97 (p = 0.074) | 83.00 ± 4.97 (p = 0.074) | +2.00 | 0.0")
    assert lines["| sampling"] == "| sampling |  | 81.00 ± 2.48 | +0.00 |  | 20 |"
