"""Exports in TensorFlow's C++ runtime, from many threads, in batches and alone."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from experiments.data.views import View
from tests import programs
from tests.tools.samples import BAD, LABELS, SIZE, encode, photo
from tools import load_test
from tools.export_saved_model import ExportOptions, export
from tools.serving import batching, native_program, warmup

PARAMETERS = batching.read()
VIEW = View((SIZE, SIZE), "center")
FILES = [encode(photo(60, 50, seed=seed), "JPEG") for seed in range(8)]


@pytest.fixture(scope="module")
def program():
    """The program, built if it has to be."""
    if not all(map(shutil.which, ("make", "g++"))) and not (native_program.FOLDER / "load_test").exists():
        pytest.skip("g++ and make build the program")
    return native_program.build()


@pytest.fixture(scope="module")
def versions(version, model, tmp_path_factory):
    """A folder with that SavedModel and one of other weights."""
    folder = tmp_path_factory.mktemp("versions")
    shutil.copytree(version, folder / "1")
    keras.utils.set_random_seed(1)
    other = keras.models.clone_model(model)
    other.save(folder / "other.keras")
    export(ExportOptions(output=folder, weights=folder / "other.keras", fold=True, top_k=3))
    return folder


def write(path, *requests):
    warmup.write_requests(path, (warmup.request("", name, value) for name, value in requests))
    return path


def save_module(function, folder):
    """A SavedModel of a function of images, float32 `[n, 1, 1, 1]`, without warm-up requests."""
    module = tf.Module()
    spec = tf.TensorSpec((None, 1, 1, 1), tf.float32, name="images")
    serve = tf.function(lambda images: {"probabilities": function(images)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder


def ones(*values):
    """Requests of one pixel each."""
    return [("serving_default", np.full((1, 1, 1, 1), value, "float32")) for value in values]


def test_an_export_has_no_python_in_it(version):
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    operations = {node.op for node in nodes}
    assert any(operation.startswith("Decode") for operation in operations)
    assert not {operation for operation in operations if "PyFunc" in operation}


def test_batching_parameters():
    assert batching.read() == batching.BatchingParameters(32, 5000, 64, 2, (1, 8, 32))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("allowed_batch_sizes: 8", "allowed_batch_size: 8", "no file of batching parameters: .*allowed_batch_size"),
        ("num_batch_threads", "# num_batch_threads", "does not say num_batch_threads"),
        (
            "max_enqueued_batches { value: 64 }",
            "max_enqueued_batches { value: 0 }",
            "max_enqueued_batches has to be 1 at least; got 0",
        ),
        ("allowed_batch_sizes: 32", "", "have to ascend, and end with max_batch_size=32; got 1, 8"),
        ("allowed_batch_sizes: 1\n", "allowed_batch_sizes: 9\n", "got 9, 8, 32"),
        ("inputs: false", "inputs: true", "has to be false"),
    ],
)
def test_batching_parameters_that_are_refused(old, new, said, tmp_path):
    text = batching.FILE.read_text()
    assert old in text
    (tmp_path / "parameters.txt").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=said):
        batching.read(tmp_path / "parameters.txt")


def test_requests_hold_each_image_once_for_each_signature(version, tmp_path):
    (tmp_path / "a.jpg").write_bytes(FILES[0])
    default, encoded, classify = load_test.requests_of(version, [tmp_path / "a.jpg"])
    pixels = tf.make_ndarray(default.inputs["images"])
    np.testing.assert_array_equal(pixels, VIEW.load(tf.constant(FILES[0]), 3)[0].numpy()[None].astype("float32"))
    for request in (encoded, classify):
        assert tf.make_ndarray(request.inputs["image_bytes"]).tolist() == [FILES[0]]
    noise = [*load_test.requests_of(version, [], ["classify"])]
    assert len({request.inputs["image_bytes"].string_val[0] for request in noise}) == len(noise) == 16
    with pytest.raises(ValueError, match="has no signature regress; it has serving_default, serving_bytes, classify"):
        [*load_test.requests_of(version, [], ["regress"])]
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        [*load_test.requests_of(version, [tmp_path / "a.jpg"])]


def test_versions_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no version of a SavedModel"):
        load_test.versions(tmp_path, swap=False)
    (tmp_path / "3").mkdir()
    with pytest.raises(FileNotFoundError, match="needs two versions, and .* holds 3 alone"):
        load_test.versions(tmp_path, swap=True)
    (tmp_path / "3" / "model.onnx").touch()
    with pytest.raises(ValueError, match="is an export for onnx, not a SavedModel"):
        load_test.versions(tmp_path, swap=False)
    (tmp_path / "3" / "saved_model.pb").touch()
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "saved_model.pb").touch()
    assert load_test.versions(tmp_path, swap=False) == (tmp_path / "12", None)
    assert load_test.versions(tmp_path, swap=True) == (tmp_path / "3", tmp_path / "12")


def test_a_missing_compiler_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(native_program, "FOLDER", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "g++" else tool)
    with pytest.raises(FileNotFoundError, match=r"load_test has to be built, and g\+\+ cannot be found: on Debian"):
        native_program.build()
    (tmp_path / "load_test").touch()
    assert native_program.build() == tmp_path / "load_test"


def test_the_table_has_a_column_for_a_second_version(tmp_path):
    load = native_program.Load(32, True, 2500, 1000, 10.0, 12.34, 56.78, 1, "full", 2, 5.25, 8.0, (1.0, 2.0, 3.0))
    lines = load_test.table([load], tmp_path / "7")
    assert lines[0].endswith("| answered by version 7 |")
    assert lines[2] == "| 32 | batches | 2,500 | 250.0 | 12.3 | 56.8 | 5.2 (8.0) | 1 | 2 | 1, 2, 3 | 1,000 |"
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [None, PARAMETERS])
def test_the_models_answers(program, version, model, parameters, tmp_path):
    pixels = np.stack([VIEW.load(tf.constant(file), 3)[0] for file in FILES]).astype("float32")
    expected = model.predict(pixels, verbose=0)
    values = [("serving_default", pixels[index : index + 1]) for index in range(8)]
    values += [(name, [file]) for name in ("serving_bytes", "classify") for file in FILES]
    values += [("serving_default", pixels), ("classify", FILES[:3])]  # several images of one client
    answers = native_program.answer(program, version, write(tmp_path / "requests", *values), 8, parameters)
    assert len(answers) == 26
    for index, probabilities in enumerate(expected):
        for found in (answers[index], answers[8 + index]):
            np.testing.assert_allclose(found["probabilities"], probabilities[None], rtol=1e-4, atol=1e-6)
        best = np.argsort(-probabilities)[:3]
        assert answers[8 + index]["error"].tolist() == answers[16 + index]["error"].tolist() == [b""]
        assert answers[16 + index]["classes"].tolist() == [[LABELS[i].encode() for i in best]]
        np.testing.assert_allclose(answers[16 + index]["scores"], probabilities[None, best], rtol=1e-4)
    np.testing.assert_allclose(answers[24]["probabilities"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(answers[25]["classes"], np.concatenate([a["classes"] for a in answers[16:19]]))


@pytest.mark.slow
def test_bad_files_get_their_error_and_spoil_no_other(program, version, tmp_path):
    """Those of several clients, in batches."""
    bad = [*BAD.values()]
    mixed = [file for index, (data, _) in enumerate(bad) for file in (data, FILES[index % 8])]
    alone = write(tmp_path / "alone", *(("serving_bytes", [file]) for file in FILES))
    expected = native_program.answer(program, version, alone)
    several = write(tmp_path / "mixed", *(("serving_bytes", [file]) for file in mixed))
    answers = native_program.answer(program, version, several, 14, PARAMETERS)
    for index, (_, error) in enumerate(bad):
        refused, right = answers[2 * index : 2 * index + 2]
        assert error in refused["error"][0].decode()
        assert np.isnan(refused["probabilities"]).all()
        assert right["error"].tolist() == [b""]
        np.testing.assert_allclose(right["probabilities"], expected[index % 8]["probabilities"], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [None, PARAMETERS])
def test_many_clients_get_their_own_answers(program, version, parameters, tmp_path):
    requests = tmp_path / "requests"
    warmup.write_requests(requests, load_test.requests_of(version, []))
    load = native_program.measure(program, version, requests, 16, 3000, parameters)
    assert (load.requests, load.errors, load.wrong, load.first_error) == (3000, 0, 0, "")
    assert 0 < load.p50 <= load.p99 < 1e3 * load.seconds
    assert (load.images_per_batch > 2) == (parameters is not None)
    assert load.images_per_batch <= load.padded_images_per_batch
    before, half_way, after = load.megabytes
    assert before > 100 and after < half_way + 20


@pytest.mark.slow
def test_a_new_version_takes_its_place_under_load(program, versions, tmp_path):
    requests = tmp_path / "requests"
    warmup.write_requests(requests, load_test.requests_of(versions / "1", []))
    load = native_program.measure(program, versions / "1", requests, 8, 1000, PARAMETERS, versions / "2")
    assert (load.errors, load.wrong) == (0, 0)
    assert load.requests >= 1000 and 500 <= load.by_the_second <= 500 + 8
    # They answer otherwise: one's answers are not taken for the other's.
    first, second = (native_program.answer(program, versions / name, requests) for name in ("1", "2"))
    assert np.abs(first[0]["probabilities"] - second[0]["probabilities"]).max() > 1e-2


@pytest.mark.slow
def test_wrong_answers_and_errors_are_counted(program, tmp_path):
    """Of a model whose answers depend on the others in the batch, and of a queue that is too short."""
    version = save_module(lambda images: images[:, 0, 0] / tf.reduce_max(images) + images[:, 0, 0], tmp_path / "1")
    requests = write(tmp_path / "requests", *ones(1, 2, 3, 4))
    load = native_program.measure(program, version, requests, 8, 400, PARAMETERS)
    assert load.wrong > 0 and load.errors == 0
    assert native_program.measure(program, version, requests, 8, 400).wrong == 0
    short = batching.BatchingParameters(1, 0, 1, 1, ())
    load = native_program.measure(program, version, requests, 8, 400, short)
    assert load.errors > 0 and load.wrong == 0
    assert "queue" in load.first_error and "full" in load.first_error


@pytest.mark.slow
def test_what_the_program_refuses(program, version, tmp_path):
    module = save_module(lambda images: images[:, 0, 0], tmp_path / "1")
    with pytest.raises(ValueError, match="1 requests have the answer of another request"):
        native_program.measure(program, module, write(tmp_path / "twice", *ones(1, 2, 1)), 1, 3)
    for name, value, said in [
        ("regress", np.zeros((1, 1), "float32"), 'request 0: The version has no signature "regress"'),
        ("serving_default", np.zeros((1, 1, 1, 1), "uint8"), "takes images, one row or more of float; got images"),
        ("serving_default", np.zeros((0, 1, 1, 1), "float32"), "one row or more"),
    ]:
        with pytest.raises(ValueError, match=said):
            native_program.answer(program, module, write(tmp_path / "wrong", (name, value)))
    other_shape = write(tmp_path / "shape", ("serving_default", np.zeros((1, 2 * SIZE, SIZE, 3), "float32")))
    with pytest.raises(ValueError, match=r"request 0: .*\[1,64,32,3\] is not compatible with expected shape"):
        native_program.answer(program, version, other_shape)
    many = write(tmp_path / "many", ("serving_default", np.zeros((33, 1, 1, 1), "float32")))
    with pytest.raises(ValueError, match="Task size 33 is larger than maximum"):
        native_program.answer(program, module, many, 1, PARAMETERS)
    (tmp_path / "text").write_text("a text in place of requests")
    with pytest.raises(ValueError, match="text, record 0: "):
        native_program.answer(program, module, tmp_path / "text")
    (module / "saved_model.pb").write_text("no model")
    with pytest.raises(ValueError, match="1 failed: no SavedModel can be loaded: "):
        native_program.answer(program, module, write(tmp_path / "one", *ones(1)))


@pytest.mark.slow
def test_the_program_prints_a_table(program, versions, tmp_path):
    def call(*flags):
        return programs.run("tools.load_test", "--clients=2", "--requests=60", *flags)

    for index, file in enumerate(FILES):
        (tmp_path / f"{index}.jpg").write_bytes(file)
    result = call(f"--saved_model={versions}", f"--images={tmp_path}/*.jpg", "--signatures=classify", "--swap")
    assert result.returncode == 0, result.stderr
    assert [line.split(" | ")[1] for line in result.stdout.splitlines()[2:]] == ["each alone", "batches"]
    result = call(f"--saved_model={tmp_path}")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "holds no version of a SavedModel; run tools.export_saved_model first" in result.stderr
