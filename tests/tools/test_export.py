"""The whole way as a user goes it: train, export, serve with TensorFlow alone."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments import report, workdir
from experiments.recipes import digits
from experiments.strategies import make_strategy
from tools import check_saved_model, compare_exports
from tools.export_saved_model import Options, export

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
def run_folder(tmp_path_factory, run):
    """A finished run of one short epoch."""
    folder = tmp_path_factory.mktemp("run")
    config = digits.get_config()
    config.epochs = 1
    config.optimizer.warmup_steps = 2
    config.dataset.train_split = "train[:256]"
    config.dataset.data_dir = str(tmp_path_factory.mktemp("tfds"))
    run(config, folder, make_strategy("one_device"))
    return folder


def test_saved_model_gives_the_models_outputs_with_tensorflow_alone(run_folder, tmp_path):
    versions = [export(Options(workdir=run_folder, output=tmp_path / "serving", fold=fold)) for fold in (False, True)]
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


def test_versions_count_up_and_leave_nothing_behind(run_folder, tmp_path):
    output = tmp_path / "serving"
    (output / "7").mkdir(parents=True)
    assert export(Options(workdir=run_folder, output=output)).name == "8"
    assert sorted(entry.name for entry in output.iterdir()) == ["7", "8"]
    assert check_saved_model.newest_version(output) == output / "8"


def test_failed_export_leaves_no_version(run_folder, tmp_path, monkeypatch):
    def fail(*arguments, **named):
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        export(Options(workdir=run_folder, output=tmp_path / "serving"))
    assert not list((tmp_path / "serving").iterdir())


def test_what_export_refuses(run_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no model.keras, which training writes at its end"):
        export(Options(workdir=tmp_path, output=tmp_path / "serving"))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        export(Options(workdir=run_folder, output=tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match="holds no version of a SavedModel"):
        check_saved_model.newest_version(tmp_path)


def test_the_readmes_commands(tmp_path):
    """Flags, overrides, messages and exit codes of the programs."""

    def call(module, *flags):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", module, *flags]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    folder = tmp_path / "run"
    train = [
        "--config=experiments/recipes/digits.py",
        f"--workdir={folder}",
        f"--config.dataset.data_dir={tmp_path / 'tfds'}",
        "--config.epochs=1",
        "--config.optimizer.warmup_steps=2",
        "--config.dataset.train_split=train[:256]",
    ]
    result = call("experiments.train", *train)
    assert result.returncode == 0, result.stderr
    assert "epoch 1 (step 8): training loss" in result.stderr + result.stdout
    assert "images/s" in result.stderr
    assert "is resized to 16 x 16" in result.stderr

    result = call("experiments.train", *train, "--config.seed=1")
    assert result.returncode == 1
    assert "holds another run, whose config differs in config.seed (0 there, 1 here)" in result.stderr
    assert "Traceback" not in result.stderr

    result = call("tools.export_saved_model", f"--workdir={folder}", f"--output={tmp_path / 'serving'}")
    assert result.returncode == 0, result.stderr
    result = call("tools.check_saved_model", f"--workdir={folder}", f"--saved_model={tmp_path / 'serving'}")
    assert result.returncode == 0, result.stderr
    assert f"of 359 held-out images right, {workdir.read_metrics(folder)[-1]['eval_accuracy']:.2%}" in result.stdout
    assert (folder / workdir.REPORT).read_text().count("## Served by the SavedModel") == 1
    assert (folder / "served.png").stat().st_size > 0


def test_contact_sheet_of_colour_images_with_mistakes(tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3))
    report.plot_predictions(images, np.eye(2)[[0, 1, 1]], np.eye(2)[[0, 1, 0]], ["a", "b"], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_exports_are_compared(run_folder, tmp_path):
    versions = [export(Options(workdir=run_folder, output=tmp_path, fold=fold)) for fold in (False, True)]
    lines = compare_exports.compare(run_folder, versions)
    accuracy = f"{workdir.read_metrics(run_folder)[-1]['eval_accuracy']:.2%}"
    assert len(lines) == 4
    for line in lines[2:]:
        assert f"| {accuracy} | 100.00% |" in line
    with pytest.raises(FileNotFoundError, match="There is no file"):
        compare_exports.compare(run_folder, [tmp_path / "9"])
