"""Certificates of exports: `check.py` says yes to what was exported, and no, in one sentence, to anything else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from etils import epath

import coatnet_tf
from experiments import workdir
from experiments.data import pipeline, sources
from tests.tools.samples import SIZE
from tools.export_saved_model import ExportOptions, export
from tools.serving import certificate, check

ROOT = Path(__file__).parents[2]
CONFIG = coatnet_tf.make_config("small", (1, 1, 1), (8, 16, 32), "C-T", head_size=16, kernel_initializer="lecun_normal")


@pytest.fixture
def copy(version, tmp_path):
    """A copy of a certified SavedModel, to be changed."""
    return shutil.copytree(version, tmp_path / "copy")


def read(folder):
    return json.loads((folder / check.CERTIFICATE).read_text())


def small(**arguments):
    keras.utils.set_random_seed(0)
    return coatnet_tf.CoAtNet(CONFIG, input_shape=(SIZE, SIZE, 3), **arguments)


def run(folder, *options, **environment):
    """Runs `check.py` as its user does, and returns what it says."""
    command = [sys.executable, *options, str(folder / "check.py")]
    return subprocess.run(
        command, env={**os.environ, **environment}, cwd=folder.parent, capture_output=True, text=True, timeout=300
    )


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_certificate(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_whole_export(version):
    assert check.check(version).startswith("4 images, largest difference ")
    said = read(version)
    assert said["measured"] < said["tolerance"] < 1e-2
    left_out = {file.relative_to(version).as_posix() for file in version.rglob("*") if file.is_file()} - {
        *said["files"]
    }
    assert left_out == {check.CERTIFICATE}


@pytest.mark.parametrize(
    ("file", "change", "answer"),
    [
        (
            "variables/variables.data-00000-of-00001",
            change_a_byte,
            r"variables.data-0.* has changed: its SHA",
        ),
        ("saved_model.pb", Path.unlink, "saved_model.pb is missing; copy the export with all its files"),
        ("model_card.md", change_a_byte, "model_card.md has changed"),
        (check.PROBES, change_a_byte, "probes.npz has changed"),
        (check.CERTIFICATE, lambda path: change_certificate(path, tolerance=1.0), "has changed since it was written"),
        (check.CERTIFICATE, lambda path: path.write_text(path.read_text()[:-9]), "certificate.json is damaged"),
        (check.CERTIFICATE, Path.unlink, "there is no certificate.json in"),
    ],
)
def test_a_changed_export(copy, file, change, answer):
    change(copy / file)
    with pytest.raises(check.Refused, match=answer) as refused:
        check.check(copy)
    assert "\n" not in str(refused.value)


def test_other_answers(copy, monkeypatch):
    """Of a runtime that computes something else from the same files, or cannot."""
    ask = check._answers_of_tensorflow
    for wrong, answer in (
        (lambda found: found[:, ::-1], r"its answers to the 4 images differ by .*, and 0.000\d* is allowed"),
        (lambda found: found * np.nan, "differ by nan"),
        (lambda found: found[:, 1:], r"its answers are \(4, 6\) and must be \(4, 7\)"),
        (lambda found: found.no_such_thing, "its runtime cannot answer .AttributeError"),
    ):
        runtime = {"tf_saved_model": lambda folder, wrong=wrong: lambda images: wrong(ask(folder)(images))}
        monkeypatch.setattr(check, "_RUNTIMES", runtime)
        with pytest.raises(check.Refused, match=answer):
            check.check(copy)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(check.Refused, match="cannot be asked here without tensorflow .*; install what is missing"):
        check.check(copy)


def test_an_export_of_another_model_gets_no_certificate(copy, model_file):
    keras.utils.set_random_seed(1)
    other = keras.models.clone_model(keras.models.load_model(model_file, compile=False))
    reference = certificate.refer(other, model_file, gives_probabilities=True)
    before = read(copy)
    with pytest.raises(ValueError, match="does not answer as .*model.keras does: by .* in the logits of 4 images"):
        certificate.write(copy, "tf_saved_model", reference, model_file)
    assert read(copy) == before


def nested(activation):
    base = small(include_top=False, pooling="avg")
    image = keras.Input((SIZE, SIZE, 3))
    scores = keras.layers.Dense(5, name="own")(base(image))
    return keras.Model(image, keras.layers.Activation(activation)(scores))


@pytest.mark.parametrize(
    ("make", "scores"),
    [
        (lambda: small(classes=7), "softmax"),
        (lambda: small(classes=7, classifier_activation=None), "logits"),
        (lambda: small(classes=7, classifier_activation="sigmoid"), "sigmoid"),
        (lambda: nested("softmax"), "softmax"),
    ],
)
def test_the_reference_is_what_the_model_answers(make, scores, tmp_path):
    model = make()
    reference = certificate.refer(model, tmp_path / "model.keras", gives_probabilities=False)
    assert (reference.scores, reference.exact) == (scores, True)
    assert reference.source.startswith("generated") and reference.images.shape == (4, SIZE, SIZE, 3)
    assert reference.images.std() > 30
    assert reference.logits.min() < 0  # no probabilities
    found = model.predict(reference.images.astype("float32"), verbose=0)
    assert check.difference(found, reference.logits, scores, reference.floor) < 1e-5
    changed = found + np.eye(*found.shape) * 0.01
    assert check.difference(changed, reference.logits, scores, reference.floor) > 1e-3


def test_one_score_of_two_classes(tmp_path):
    model = small(classes=1, classifier_activation="sigmoid")
    reference = certificate.refer(model, tmp_path / "model.keras", gives_probabilities=True)
    score = model.predict(reference.images.astype("float32"), verbose=0)
    both = np.concatenate([1 - score, score], axis=-1)
    assert check.difference(both, reference.logits, reference.scores, reference.floor) < 1e-5


def test_a_model_that_gives_no_numbers_is_not_exported(tmp_path):
    model = small(classes=7)
    model.get_layer("predictions").bias.assign(np.full(7, np.nan))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="model.keras answers with numbers that are not finite .generated"):
        export(ExportOptions(output=tmp_path / "out", weights=tmp_path / "model.keras"))


def test_without_the_runtime(model_file, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = keras.models.load_model(model_file, compile=False)
    reference = certificate.refer(model, model_file, gives_probabilities=True)
    with pytest.raises(ValueError, match="is measured in its runtime: install onnxruntime"):
        certificate.write(tmp_path, "onnx", reference, model_file, exact=False)
    certificate.write(tmp_path, "onnx", reference, model_file)
    assert read(tmp_path)["measured"] is None and "python check.py in its folder does it elsewhere" in caplog.text


@pytest.mark.slow
class TestOfARun:
    @pytest.mark.parametrize(
        "options",
        [
            {"input_dtype": "uint8", "fold": True, "image_size": 24},
            {"fold": True, "quantize": "int8"},
            {"format": "onnx", "fold": True},
            {"format": "openvino", "fold": True},
            {"format": "litert", "fold": True},
            {"format": "keras_hub"},
        ],
        ids=lambda options: "-".join(map(str, options.values())),
    )
    def test_every_format(self, options, run_folder, tmp_path):
        """Asked by `check.py` alone, in a process of its own; a preset with this package, which it needs."""
        folder = export(ExportOptions(workdir=run_folder, output=tmp_path / "out", **options))
        alone = options.get("format") != "keras_hub"
        where = {} if alone else {"PYTHONPATH": str(ROOT), "KAGGLE_CONFIG_DIR": os.devnull}
        result = run(folder, *(["-I"] if alone else []), **where)
        assert result.stdout.startswith("yes: 4 images, largest difference "), result.stdout + result.stderr
        assert (result.returncode, result.stdout.count("\n"), result.stderr) == (0, 1, "")
        said = read(folder)
        assert said["probes"] == "the first held-out images of the run"
        assert said["measured"] < said["tolerance"] / (2 if "quantize" in options else 5)

        largest = max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
        change_a_byte(largest)
        result = run(folder, "-I")
        assert result.returncode == 1 and result.stdout.startswith(f"no: {largest.relative_to(folder)} has changed")

    def test_the_chain_and_the_images(self, run_folder, tmp_path):
        folder = export(ExportOptions(workdir=run_folder, output=tmp_path / "out", format="onnx"))
        lists = json.loads((run_folder / workdir.DATA).read_text())["files"]
        assert [link["sha256"] for link in read(folder)["chain"]] == [
            lists["train"],
            lists["eval"],
            check.sha256(run_folder / workdir.CONFIG),
            check.sha256(run_folder / workdir.MODEL),
        ]
        config = workdir.read_recipe(epath.Path(run_folder))
        batches = pipeline.evaluation_batches(sources.prepare(config.dataset), config)
        first = next(iter(batches))[0].numpy()[: certificate.PROBES]
        with np.load(folder / check.PROBES) as probes:
            np.testing.assert_array_equal(probes["images"], first)

    def test_a_run_that_kept_no_images(self, run_folder, tmp_path):
        """As those of older versions."""
        old = shutil.copytree(
            run_folder, tmp_path / "run", ignore=shutil.ignore_patterns(workdir.PROBES, "checkpoints")
        )
        folder = export(ExportOptions(workdir=old, output=tmp_path / "out", format="onnx"))
        assert read(folder)["probes"].startswith("generated") and len(read(folder)["chain"]) == 4
