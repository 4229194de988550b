"""A model that gives numbers: its table of predictions, its exports, and what refuses it."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import coatnet_tf
from experiments import workdir
from experiments.data.values import Values, gives_values
from experiments.recipes import digits
from tests import programs
from tests.tools.samples import SIZE, encode, make_images, photo, small_config
from tools import check_saved_model, compare_exports, demo, explain, fine_tune, model_files, predict, publish
from tools.export_saved_model import ExportOptions, export
from tools.fine_tuning import summary
from tools.fine_tuning.images import find_images
from tools.fine_tuning.start import find_start
from tools.serving import served_model

ROOT = Path(__file__).parents[2]
VALUES = Values(("year", "weight"), (1990.0, 0.5), (10.0, 0.1))


@pytest.fixture(scope="module")
def run_of_numbers(tmp_path_factory):
    """What a run on the columns year and weight leaves, as far as these programs look."""
    folder = tmp_path_factory.mktemp("numbers")
    keras.utils.set_random_seed(1)
    network = coatnet_tf.CoAtNet(small_config(), input_shape=(SIZE, SIZE, 3), classes=2, classifier_activation=None)
    keras.Model(network.input, VALUES.layer()(network.output), name=network.name).save(folder / workdir.MODEL)
    (folder / workdir.VALUES).write_text("year\nweight\n")
    recipe = digits.get_config()
    recipe.eval_crop, recipe.interpolation = "none", "bilinear"
    (folder / workdir.CONFIG).write_text(recipe.to_json())
    (folder / workdir.REPORT).touch()
    (folder / workdir.DATA).write_text(json.dumps({"files": {"train": "1" * 64, "eval": "2" * 64}}))
    workdir.append_metrics(folder, {"step": 1, "eval_loss": 0.5, "eval_absolute_error": 0.5})
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        Image.fromarray(photo(SIZE, SIZE, seed=number)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    return folder


@pytest.fixture(scope="module")
def expected(run_of_numbers):
    """What the model says of the four photos."""
    model = keras.models.load_model(run_of_numbers / workdir.MODEL, compile=False)
    found = np.array(model(np.stack([photo(SIZE, SIZE, seed=number) for number in range(4)]).astype("float32")))
    assert np.abs(found - VALUES.means).max() < 500 and np.ptp(found, axis=0).min() > 1e-4
    return found


def table_of(model, photos, output, *further):
    flags = [f"--model={model}", f"--images={photos}", f"--output={output}", *further]
    result = programs.run("tools.predict", *flags)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "4 images predicted, 1 could not be read" in result.stdout
    with open(output, newline="") as file:
        return list(csv.reader(file))


@pytest.mark.slow
def test_the_table_has_a_column_for_each_number(run_of_numbers, photos, expected, tmp_path):
    sheet = tmp_path / "sheet.png"
    header, *rows = table_of(run_of_numbers, photos, tmp_path / "table.csv", f"--contact_sheet={sheet}")
    assert header == ["file", "year", "weight", "error"] and sheet.stat().st_size > 0
    np.testing.assert_allclose([[float(x) for x in row[1:3]] for row in rows[:4]], expected, rtol=1e-4)
    assert rows[4][1:3] == ["", ""] and rows[4][3]


def test_a_file_alone_gives_numbers_too(run_of_numbers, tmp_path):
    file = tmp_path / "model.keras"
    file.write_bytes((run_of_numbers / workdir.MODEL).read_bytes())
    alone = predict.load_classifier(file)
    assert alone.gives_values and alone.class_names == ("0", "1")
    beside = predict.load_classifier(run_of_numbers / workdir.MODEL)
    assert beside.gives_values and beside.class_names == ("year", "weight")
    model = model_files.load(file)
    assert served_model.with_probabilities(model, file) == (model, "")
    assert gives_values(coatnet_tf.fold_for_inference(model))


@pytest.mark.slow
def test_exports_give_the_same_numbers_in_their_units(run_of_numbers, photos, expected, tmp_path):
    options = {"workdir": run_of_numbers, "output": tmp_path / "serving", "fold": True}
    version = export(ExportOptions(**options))
    served = tf.saved_model.load(str(version))
    assert set(served.signatures) == {"serving_default", "serving_bytes"}
    images = np.stack([photo(SIZE, SIZE, seed=number) for number in range(4)])
    found = served.signatures["serving_default"](images=tf.constant(images.astype("float32")))
    np.testing.assert_allclose(found["values"], expected, rtol=1e-4)
    files = [encode(image) for image in images[:2]] + [b"no image"]
    found = served.signatures["serving_bytes"](image_bytes=tf.constant(files))
    np.testing.assert_allclose(found["values"][:2], expected[:2], rtol=1e-4)
    assert np.isnan(found["values"][2]).all() and found["error"][2].numpy().startswith(b"neither")
    assert (version / "assets" / "values.txt").read_text() == "year\nweight\n"
    card = (version / "model_card.md").read_text()
    assert "| Signatures | serving_default, serving_bytes; no classify, as there are no classes |" in card
    assert "| Numbers | year, weight, in the units of the table" in card and "Probabilities" not in card
    loaded = predict.load_classifier(version)
    assert loaded.gives_values and loaded.class_names == ("year", "weight")
    np.testing.assert_allclose(loaded.classify(images), expected, rtol=1e-4)

    half = predict.load_classifier(export(ExportOptions(**options, dtype="bfloat16")))
    difference = np.abs(half.classify(images) - expected) / VALUES.deviations
    assert 0 < difference.max() < 0.2  # 16 bits have a step of 8 at 1990
    pytest.importorskip("onnxruntime")
    assert "yes" in subprocess.run([sys.executable, version / "check.py"], capture_output=True, text=True).stdout
    of_onnx = predict.load_classifier(export(ExportOptions(**options, format="onnx")))
    assert of_onnx.gives_values and of_onnx.class_names == ("year", "weight")
    np.testing.assert_allclose(of_onnx.classify(images), expected, rtol=1e-4)


def test_what_is_about_classes_says_so(run_of_numbers, photos, tmp_path):
    about = "gives numbers, and this program is about classes. experiments.evaluate, tools.predict and tools.export"
    with pytest.raises(ValueError, match=about):
        explain.explain(explain.ExplainOptions(tmp_path / "a.png", workdir=run_of_numbers, files=(photos / "0.png",)))
    for refuses in (
        lambda: check_saved_model.check(run_of_numbers, tmp_path),
        lambda: compare_exports.compare_exports(run_of_numbers, [tmp_path]),
        lambda: publish.write(publish.PublishOptions(run_of_numbers, "hf://me/it", "apache-2.0")),
    ):
        with pytest.raises(ValueError, match=about):
            refuses()
    with pytest.raises(ValueError, match="gives numbers, and the page shows classes; tools.predict takes it"):
        demo.load(run_of_numbers)
    with pytest.raises(ValueError, match="--top_k=3 is of the signature classify, which .* has not: it gives numbers"):
        export(ExportOptions(output=tmp_path / "serving", workdir=run_of_numbers, top_k=3))
    assert not list((tmp_path / "serving").iterdir())


def make_table(path):
    make_images(path, 12)
    rows = [
        (f"{name}/{index:02d}.png", 1990 + 10 * place, index // 2, "test" if index > 9 else "train")
        for place, name in enumerate(("blue", "green", "red"))
        for index in range(12)
    ]
    (path / "table.csv").write_text("\n".join(["path,year,group,split", *(",".join(map(str, r)) for r in rows)]) + "\n")
    return f"csv:{path / 'table.csv'}"


def test_fine_tuning_says_how_good_numbers_are(tmp_path):
    data = make_table(tmp_path / "images")
    images = find_images(data, value_columns=("year",))
    assert images.of_numbers and images.test == data
    config = fine_tune.configure(images, find_start("none"), {"loss": "squared_error"})
    assert config.label_smoothing == 0 and config.loss == "squared_error"
    with pytest.raises(ValueError, match=r"learns numbers of a table, --images=csv:FILE; .*/images has classes"):
        find_images(str(tmp_path / "images"), value_columns=("year",))
    of_value = {"mean_absolute_error": 2.0, "mean_absolute_error_interval": [1.5, 2.5], "error_of_the_mean": 8.0}
    of_value |= {"r2": 0.9, "r2_interval": [0.85, 0.93]}
    measured = {"images": 40, "loss": 0.1, "chose_the_weights": True, "by_value": {"year": of_value}}
    text = summary.describe(Path("runs/mine"), {"held-out": measured}, Path("runs/mine/serving/1"), "head")
    assert "held-out images: year: mean absolute error 2 (95 % interval: 1.5 to 2.5; always the mean: 8), R²" in text
    assert "R² 0.900 (0.850 to 0.930)" in text
    assert "(optimistic, as these images chose the weights)" in text and "confuses" not in text


@pytest.mark.slow
def test_folds_of_a_table_of_numbers(pretrained, tmp_path):
    output = tmp_path / "folds"
    command = ["tools.fine_tune", f"--images={make_table(tmp_path / 'images')}"]
    command += [f"--init_from={pretrained}", f"--output={output}", "--folds=2", "--config.epochs=2"]
    command += ["--config.loss=squared_error", "--config.dataset.value_columns=year", "--config.tune=head"]
    result = programs.run(*command)
    assert result.returncode == 0, result.stderr[-3000:]
    text = (output / "folds.md").read_text()
    assert "| fold | held-out images | year: mean absolute error | year: error of the mean | year: R² |" in text
    assert "All 30 images are held out once." in text  # those of the test are none of them
    assert gives_values(keras.models.load_model(output / "fold_2" / workdir.MODEL))
    assert "## Numbers" in (output / "fold_2" / workdir.REPORT).read_text()
