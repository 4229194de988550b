"""Held-out images through exports: the check of a run's SavedModel, and the comparison of several."""

import gc
import json
import shutil
import weakref

import numpy as np
import pytest

from experiments import report, workdir
from experiments.data import views
from tools import check_saved_model, compare_exports
from tools.export_saved_model import ExportOptions, export
from tools.serving import exported, held_out

pytestmark = pytest.mark.slow

HELD_OUT = 359


@pytest.fixture(scope="module")
def versions(run_folder, tmp_path_factory):
    """Exports that take other images than training had, one for another runtime among them."""
    output = tmp_path_factory.mktemp("serving")
    changes = ({"input_dtype": "uint8"}, {"input_dtype": "uint8", "image_size": 24}, {"format": "onnx"})
    return [export(ExportOptions(workdir=run_folder, output=output, fold=True, **change)) for change in changes]


@pytest.fixture
def own_run(run_folder, tmp_path):
    """A copy of the run, whose report may change."""
    return shutil.copytree(run_folder, tmp_path / "run")


def test_exports_say_what_they_take(versions):
    models = [exported.load_export(version) for version in versions]
    assert [model.image_shape for model in models] == [(16, 16, 1), (24, 24, 1), (16, 16, 1)]
    assert [model.dtype for model in models] == ["uint8", "uint8", "float32"]


def test_an_export_of_bytes_has_the_accuracy_of_training(own_run, versions):
    (own_run / "serving").mkdir()
    shutil.copytree(versions[0], own_run / "serving" / "1")
    accuracy = workdir.read_metrics(own_run)[-1]["eval_accuracy"]
    for _ in range(2):
        result = check_saved_model.check(own_run, own_run / "serving")
        assert result.endswith(f"of {HELD_OUT} held-out images right, {accuracy:.2%}")
    text = (own_run / workdir.REPORT).read_text()
    assert text.count("## Served by the SavedModel") == 1 and f"images right, {accuracy:.2%}. Mistakes first" in text
    assert (own_run / "served.png").read_bytes().startswith(b"\x89PNG")


def test_an_export_of_another_size_is_checked_at_it(own_run, versions):
    (own_run / "serving").mkdir()
    shutil.copytree(versions[1], own_run / "serving" / "2")
    result = check_saved_model.check(own_run, own_run / "serving")
    whole = "the whole image, resized to {0} x {0} (bilinear, antialiased)"
    assert result.endswith(f"%; it sees {whole.format(24)}, and training evaluated {whole.format(16)}")
    config = workdir.read_recipe(own_run)
    view = held_out.view_of_export(versions[1], (24, 24), config)
    assert view == views.View((24, 24))
    batches = list(held_out.classify_held_out(exported.load_export(versions[1]), own_run, config, view))
    assert sum(len(images) for images, _, _ in batches) == HELD_OUT
    assert batches[0][0].shape[1:] == (24, 24, 1) and batches[0][0].dtype == np.uint8
    right = sum(int((p.argmax(-1) == t.argmax(-1)).sum()) for _, t, p in batches)
    assert f" {right} of {HELD_OUT} " in result


def test_another_accuracy_is_refused(own_run, versions):
    (own_run / "serving").mkdir()
    shutil.copytree(versions[0], own_run / "serving" / "1")
    rows = workdir.read_metrics(own_run)
    (own_run / workdir.METRICS).unlink()
    workdir.append_metrics(own_run, {**rows[-1], "eval_accuracy": rows[-1]["eval_accuracy"] + 2 / HELD_OUT})
    with pytest.raises(ValueError, match="SavedModel's accuracy .* is not the .* that training reported"):
        check_saved_model.check(own_run, own_run / "serving")


def test_exports_are_compared(run_folder, versions, tmp_path):
    lines = compare_exports.compare_exports(run_folder, versions)
    accuracy = f"{workdir.read_metrics(run_folder)[-1]['eval_accuracy']:.2%}"
    assert len(lines) == 2 + len(versions)
    for line in (lines[2], lines[4]):
        assert f"| {accuracy} | 100.00% |" in line
    for line, version in zip(lines[2:], versions, strict=True):
        megabytes = line.split(" | ")[1]
        assert float(megabytes) == pytest.approx(exported.megabytes_of_weights(version), abs=0.006)
        assert float(megabytes) > 0
    with pytest.raises(FileNotFoundError, match="9 holds no export: there is no file saved_model.pb, model.onnx"):
        compare_exports.compare_exports(run_folder, [tmp_path / "9"])


def test_exports_of_other_classes_and_changed_data_are_refused(own_run, versions, tmp_path):
    for number, place in ((0, "assets"), (2, "")):
        other = shutil.copytree(versions[number], tmp_path / f"other{number}")
        names = other / place / workdir.CLASSES
        names.write_text("".join(f"{name}\n" for name in reversed(workdir.read_lines(names))))
        with pytest.raises(ValueError, match="has other classes than .*, or has them in another order"):
            compare_exports.compare_exports(own_run, [versions[0], other])
    data = json.loads((own_run / workdir.DATA).read_text())
    (own_run / workdir.DATA).write_text(json.dumps(data | {"train": data["train"] - 1}))
    with pytest.raises(ValueError, match="digits has changed since the run in .* began: then 255 training"):
        compare_exports.compare_exports(own_run, versions[:1])


def test_exports_of_other_images_are_refused(run_folder, version):
    batches = held_out.classify_held_out(
        exported.load_export(version), run_folder, workdir.read_recipe(run_folder), views.View((32, 32))
    )
    with pytest.raises(ValueError, match="takes images of 3 channels, and those of digits have 1"):
        next(batches)


def test_the_contact_sheet_has_mistakes_first_and_keeps_no_other_image():
    generator = np.random.default_rng(0)
    sheet, batches, alive = check_saved_model.ContactSheet(6), [], []
    for right in (np.array([1, 0, 1, 1]), np.array([1, 1, 0, 1]), np.array([1, 1, 1, 1])):
        batch = [generator.uniform(0, 255, (4, 8, 8, 1)), np.eye(4), generator.uniform(size=(4, 4))]
        sheet.add(*batch, right.astype(bool))
        batches.append((*(array.copy() for array in batch), right))
        alive.append(weakref.ref(batch[0]))
    del batch
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3
    *everything, right = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    first = np.argsort(right, kind="stable")[:6]
    for found, of_all in zip(sheet.shown(), everything, strict=True):
        np.testing.assert_array_equal(found, of_all[first])


def test_contact_sheet_of_colour_images_with_mistakes(tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3))
    report.plot_predictions(images, np.eye(2)[[0, 1, 1]], np.eye(2)[[0, 1, 0]], ["a", "b"], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_one_of_several_classes_is_right():
    targets = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]])
    probabilities = np.array([[0.1, 0.9, 0.3], [0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])
    assert held_out.are_right(targets, probabilities).tolist() == [True, False, True]


def test_exports_that_are_not_whole(own_run, versions, tmp_path):
    shutil.copytree(versions[0], tmp_path / "serving" / "1")
    with pytest.raises(FileNotFoundError, match=r"1 is a version itself; give the folder of the versions, .*serving\."):
        check_saved_model.check(own_run, tmp_path / "serving" / "1")
    shutil.rmtree(tmp_path / "serving" / "1" / "variables")
    with pytest.raises(ValueError, match="1 cannot be loaded: it is damaged, or not all of its files were copied"):
        check_saved_model.check(own_run, tmp_path / "serving")
    (tmp_path / "serving" / "1" / "saved_model.pb").unlink()
    with pytest.raises(FileNotFoundError, match="holds no export: there is no file saved_model.pb"):
        check_saved_model.check(own_run, tmp_path / "serving")


def test_runs_that_are_not_whole(own_run):
    (own_run / workdir.METRICS).write_text("")
    with pytest.raises(ValueError, match="There is no line in the run's metrics.jsonl"):
        export(ExportOptions(workdir=own_run, output=own_run / "serving"))
    (own_run / workdir.CONFIG).write_text("")
    with pytest.raises(ValueError, match=r"config.json is damaged \(Expecting value.*\); copy the folder"):
        check_saved_model.check(own_run, own_run / "serving")
