"""The whole way as a user goes it: train, export, serve with TensorFlow alone; and the options of the export."""

import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import coatnet_tf
from experiments import workdir
from tests import programs
from tests.tools.samples import SIZE, photo
from tools import check_saved_model
from tools.export_saved_model import ExportOptions, export
from tools.serving import warmup

SERVE = """
import sys
import tensorflow as tf
import numpy as np
folder, *versions = sys.argv[1:]
images = np.load(folder + "/images.npy")
for index, version in enumerate(versions):
    serve = tf.saved_model.load(version).signatures["serving_default"]
    for count in (1, 3):
        output = serve(images=tf.constant(images[:count]))["probabilities"].numpy()
        np.save(f"{folder}/output{index}-{count}.npy", output)
assert "coatnet_tf" not in sys.modules and "experiments" not in sys.modules
"""


@pytest.fixture(scope="module")
def versions(run_folder, tmp_path_factory):
    """Its exports as it is and folded; no test changes them."""
    output = tmp_path_factory.mktemp("serving")
    return [export(ExportOptions(workdir=run_folder, output=output, fold=fold)) for fold in (False, True)]


def test_saved_model_gives_the_models_outputs_with_tensorflow_alone(run_folder, versions, tmp_path):
    assert [version.name for version in versions] == ["1", "2"]
    images = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 1)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    # From a folder without this project on its path.
    command = [sys.executable, "-I", "-c", SERVE, str(tmp_path), *map(str, versions)]
    subprocess.run(command, check=True, cwd=tmp_path)
    expected = keras.models.load_model(run_folder / workdir.MODEL).predict(images, verbose=0)
    for index, tolerance in enumerate((1e-5, 1e-4)):
        for count in (1, 3):
            found = np.load(tmp_path / f"output{index}-{count}.npy")
            np.testing.assert_allclose(found, expected[:count], rtol=tolerance, atol=1e-7)


def test_versions_count_up_and_leave_nothing_behind(model_file, model, tmp_path):
    """Of uint8 images, whose answers are the model's."""
    output = tmp_path / "serving"
    (output / "7").mkdir(parents=True)
    version = export(ExportOptions(output=output, weights=model_file, input_dtype="uint8"))
    assert version.name == "8"
    assert sorted(entry.name for entry in output.iterdir()) == ["7", "8"]
    assert check_saved_model.newest_version(output) == version
    pixels = photo(SIZE, SIZE)[None]
    found = tf.saved_model.load(str(version)).signatures["serving_default"](images=tf.constant(pixels))
    np.testing.assert_allclose(found["probabilities"], model.predict(pixels.astype("float32"), verbose=0), rtol=1e-4)


def test_failed_export_leaves_no_version(run_folder, tmp_path, monkeypatch):
    def fail(*arguments, **named):
        raise OSError("No space left on device")

    monkeypatch.setattr(warmup, "write", fail)  # behind the SavedModel
    with pytest.raises(OSError, match="No space left"):
        export(ExportOptions(workdir=run_folder, output=tmp_path / "serving"))
    assert not list((tmp_path / "serving").iterdir())


def test_folders_that_export_refuses(run_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no model.keras, which training writes at its end"):
        export(ExportOptions(workdir=tmp_path, output=tmp_path / "serving"))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        export(ExportOptions(workdir=run_folder, output=tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match="holds no version of a SavedModel"):
        check_saved_model.newest_version(tmp_path)


@pytest.mark.slow
def test_the_readmes_commands(tmp_path):
    """Flags, overrides, messages and exit codes of the programs."""
    run_folder = tmp_path / "run"
    flags = [
        "--config=experiments/recipes/digits.py",
        f"--workdir={run_folder}",
        f"--config.dataset.data_dir={tmp_path / 'tfds'}",
        "--config.epochs=1",
        "--config.optimizer.warmup_steps=2",
        "--config.dataset.train_split=train[:256]",
        "--config.model.depths=(1, 1, 1, 1, 1)",
    ]
    result = programs.run("experiments.train", *flags)
    assert result.returncode == 0, result.stderr
    assert "epoch 1 (step 8): training loss" in result.stderr + result.stdout
    assert "images/s" in result.stderr
    assert "see the whole image, resized to 16 x 16 (bilinear, antialiased); 1 channel." in result.stderr

    result = programs.run("experiments.train", *flags, "--config.seed=1")
    assert result.returncode == 1
    assert "holds another run, whose config differs in config.seed (0 there, 1 here)" in result.stderr
    assert "Traceback" not in result.stderr

    result = programs.run("tools.export_saved_model", f"--workdir={run_folder}", f"--output={tmp_path / 'serving'}")
    assert result.returncode == 0, result.stderr
    # Nothing that TensorFlow says in Python while it writes; of what it says in C++, the lines are short.
    assert not re.search(r"^I.*\.py:\d+\]|Assets written", result.stderr, re.MULTILINE), result.stderr
    assert max(map(len, result.stderr.splitlines()), default=0) < 500
    result = programs.run("tools.check_saved_model", f"--workdir={run_folder}", f"--saved_model={tmp_path / 'serving'}")
    assert result.returncode == 0, result.stderr
    assert f"of 359 held-out images right, {workdir.read_metrics(run_folder)[-1]['eval_accuracy']:.2%}" in result.stdout
    assert (run_folder / workdir.REPORT).read_text().count("## Served by the SavedModel") == 1
    assert (run_folder / "served.png").stat().st_size > 0


def test_another_size(model_file, model, tmp_path, caplog):
    version = export(ExportOptions(output=tmp_path, weights=model_file, image_size=64, fold=True))
    assert "at 64 x 64: bias tables resized: " in caplog.text
    served = tf.saved_model.load(str(version))
    larger = keras.models.clone_model(model, input_tensors=keras.Input((64, 64, 3)))
    coatnet_tf.load_weights(larger, model_file, resize=True)
    pixels = photo(64, 64)[None].astype("float32")
    found = served.signatures["serving_default"](images=tf.constant(pixels))["probabilities"]
    np.testing.assert_allclose(found, larger.predict(pixels, verbose=0), rtol=1e-4)


def test_options_and_models_that_export_refuses(model_file, version, tmp_path):
    def refused(error, message, **changes):
        given = {"output": tmp_path / "out", "weights": model_file, **changes}
        with pytest.raises(error, match=message):
            export(ExportOptions(**given))
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    labels = tmp_path / "labels.txt"
    labels.write_text("one\ntwo\n")
    refused(ValueError, "has 7 classes and there are 2 labels", labels=labels)
    refused(FileNotFoundError, "no file .*missing.txt", labels=tmp_path / "missing.txt")
    refused(FileNotFoundError, "no file .*missing.keras", weights=tmp_path / "missing.keras")
    refused(ValueError, "Give either --workdir", weights=None)
    refused(ValueError, "labels.txt is no .keras file", weights=labels)
    refused(ValueError, "--top_k=8 is more than the 7 classes", top_k=8)
    refused(ValueError, "--version must be at least 0", version=-1)
    refused(ValueError, "preprocesses its images itself; leave --preprocessing=tf out", preprocessing="tf")
    refused(ValueError, "--preprocessing must be one of tf, torch, none; got 'caffe'", preprocessing="caffe")
    refused(ValueError, "--format must be one of tf_saved_model, onnx", format="tf")
    refused(ValueError, "--dtype=bfloat16 is for --format=tf_saved_model", dtype="bfloat16", format="onnx")
    for flag, value in (("input_dtype", "uint8"), ("top_k", 3), ("name", "mine")):
        refused(ValueError, f"--{flag}={value} is of the signatures", **{flag: value}, format="openvino")
    refused(ValueError, "--quantize=int8 is for .* and openvino: exported for litert", quantize="int8", format="litert")
    refused(ValueError, "odd|multiple|divisible", image_size=33)
    foreign = tmp_path / "foreign.keras"
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Conv2D(2, 3)(image)).save(foreign)
    refused(ValueError, "not one score per class; export a model with its classifier", weights=foreign)
    flat = keras.Input((8,))
    keras.Model(flat, keras.layers.Dense(2)(flat)).save(foreign)
    refused(ValueError, "does not take images of one size", weights=foreign)
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes(model_file.read_bytes()[:-3000])
    refused(ValueError, "is no .keras file|no model that Keras can load", weights=damaged)
    with pytest.raises(FileExistsError, match="exists; give another --version, or --overwrite"):
        export(ExportOptions(output=version.parent, weights=model_file, version=int(version.name)))


def test_overwrite_replaces_the_whole_version(model_file, version, tmp_path):
    shutil.copytree(version, tmp_path / "5")
    (tmp_path / "5" / "old").write_text("")
    options = ExportOptions(output=tmp_path, weights=model_file, version=5, overwrite=True, name="new")
    assert export(options) == tmp_path / "5"
    assert not (tmp_path / "5" / "old").exists() and (tmp_path / "5" / "saved_model.pb").exists()
    assert b"new" in (tmp_path / "5" / warmup.FILE).read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["5"]
