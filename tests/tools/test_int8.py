"""Whole networks in 8 bits, in the runtimes that compute so."""

import shutil

import keras
import numpy as np
import pytest
from PIL import Image

import coatnet_tf
from tests.tools.samples import LABELS, SIZE, small_config
from tools.export_saved_model import ExportOptions, export
from tools.serving import exported, quantisation

LIBRARIES = {"onnx": "onnxruntime", "openvino": "nncf"}
# Values of attention of one channel that are so much larger cannot be told apart from the others in 8 bits.
OUTLIER = 3000.0


def make_images():
    """Seven kinds of images, and which they are of."""
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, 256, (len(LABELS), 5, 4, 3), "uint8")
    labels = np.arange(70) % len(LABELS)
    smooth = [np.asarray(Image.fromarray(kind).resize((SIZE, SIZE), Image.BICUBIC), "float32") for kind in kinds]
    images = np.stack(smooth)[labels] + generator.normal(0, 8, (len(labels), SIZE, SIZE, 3))
    return np.clip(np.rint(images), 0, 255).astype("uint8"), labels


IMAGES, KINDS = make_images()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(params=list(LIBRARIES))
def name(request):
    pytest.importorskip(LIBRARIES[request.param])
    return request.param


@pytest.fixture(scope="module")
def model():
    """A network that tells those kinds apart for sure, as its classifier was fitted."""
    keras.utils.set_random_seed(0)
    made = coatnet_tf.CoAtNet(small_config(), input_shape=(SIZE, SIZE, 3), classes=len(LABELS))
    predictions = made.get_layer("predictions")
    features = keras.Model(made.input, predictions.input).predict(IMAGES.astype("float32"), verbose=0)
    known = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    kernel = np.linalg.solve(known.T @ known + 0.3 * np.eye(known.shape[1]), known.T @ np.eye(len(LABELS))[KINDS])
    predictions.set_weights([8 * kernel[:-1], 8 * kernel[-1]])
    answers = made.predict(IMAGES.astype("float32"), verbose=0)
    assert (answers.argmax(axis=-1) == KINDS).all() and np.sort(answers, axis=-1)[:, -1].min() > 0.6
    return made


@pytest.fixture(scope="module")
def model_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def with_outlier(model, tmp_path_factory):
    """The same function by other weights, with one channel of attention's values far larger than all others."""
    changed = keras.models.clone_model(model)
    changed.set_weights(model.get_weights())
    attention = changed.get_layer("s4_block01").attention
    value, *bias = attention.value.get_weights()
    out, *rest = attention.out.get_weights()
    for weights in (value, *bias):
        weights[..., 0] *= OUTLIER
    out[0] /= OUTLIER
    attention.value.set_weights([value, *bias])
    attention.out.set_weights([out, *rest])
    path = tmp_path_factory.mktemp("outlier") / "model.keras"
    changed.save(path)
    return path


@pytest.mark.slow
def test_a_whole_network_in_8_bits(name, model_file, model, photos, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(quantisation.logging, "info", lambda text, *values: lines.append(text % values))
    plain = export(ExportOptions(output=tmp_path / "float", weights=model_file, format=name, fold=True))
    options = {"weights": model_file, "format": name, "fold": True, "quantize": "int8", "crop": "none"}
    folder = export(ExportOptions(output=tmp_path / "int8", calibration_images=(str(photos),), **options))
    found, expected = (exported.load_export(version).classify(IMAGES.astype("float32")) for version in (folder, plain))
    np.testing.assert_allclose(expected, model.predict(IMAGES.astype("float32"), verbose=0), rtol=1e-3, atol=1e-5)
    assert 0 < np.abs(found - expected).max() < 0.05
    assert quantisation.share_changed(expected, found) <= quantisation.CHANGED
    said = lines[-1].removeprefix("int8: ").removesuffix(".")
    assert f"int8; {said}" in (folder / "model_card.md").read_text() and "on 70 images; left in float: " in said
    assert not list(folder.glob("unfinished*")) and not list(folder.glob("plain*"))
    # Weights of one byte: of a network so small, scales and what is computed in float are most of the file.
    kinds = _kinds_of_weights(folder, name)
    assert kinds["convolutions"] == kinds["products"] == {"int8"}


def _kinds_of_weights(folder, name):
    """Dtypes of the kernels, those of float left out where they are of less than 256 numbers."""
    kinds = {"convolutions": set(), "products": set()}
    if name == "onnx":
        import onnx

        graph = onnx.load(folder / "model.onnx").graph
        made = {output: node for node in graph.node for output in node.output}
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type not in ("Conv", "Gemm", "MatMul"):
                continue
            source = made.get(node.input[1])
            kernel = constants.get(source.input[0] if source else node.input[1])
            if kernel and np.prod(kernel.dims) >= 256:
                kind = onnx.TensorProto.DataType.Name(kernel.data_type).lower()
                kinds["convolutions" if node.op_type == "Conv" else "products"].add(kind)
        return kinds
    import openvino

    for operation in openvino.Core().read_model(folder / "model.xml").get_ops():
        what = {"Convolution": "convolutions", "MatMul": "products"}.get(operation.get_type_name())
        node = operation.input_value(1).get_node() if what else None
        while node and node.get_type_name() != "Constant" and node.get_input_size():
            node = node.input_value(0).get_node()
        if node and node.get_type_name() == "Constant" and np.prod(node.get_output_shape(0)) >= 256:
            kinds[what].add({"i8": "int8"}.get(node.get_output_element_type(0).get_type_name(), "float"))
    return kinds


@pytest.mark.slow
def test_what_changes_too_much_stays_in_float(name, with_outlier, tmp_path, monkeypatch):
    folder = export(ExportOptions(output=tmp_path, weights=with_outlier, format=name, fold=True))
    before = quantisation.answers(exported.load_export(folder).classify, IMAGES)
    with monkeypatch.context() as patch:
        patch.setattr(quantisation, "CHANGED", 1.0)  # anything may change
        shutil.copytree(folder, tmp_path / "all")
        assert quantisation.quantise(tmp_path / "all", name, IMAGES, IMAGES).endswith("left in float: no layer")
    changed = quantisation.answers(exported.load_export(tmp_path / "all").classify, IMAGES)
    assert quantisation.share_changed(before, changed) > quantisation.CHANGED
    said = quantisation.quantise(folder, name, IMAGES, IMAGES)
    left = said.partition("left in float: ")[2]
    # OpenVINO's quantiser evens such channels out, and takes back what changes most after that.
    assert left != "no layer" and ("s4_block01" in left or name == "openvino")
    after = quantisation.answers(exported.load_export(folder).classify, IMAGES)
    assert quantisation.share_changed(before, after) <= quantisation.CHANGED


@pytest.mark.slow
def test_nothing_is_written_that_changes_too_much(model_file, photos, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(quantisation, "CHANGED", -1.0)
    options = {"weights": model_file, "format": "onnx", "quantize": "int8", "calibration_images": (str(photos),)}
    with pytest.raises(ValueError, match="of the answers to 70 images change, whatever is left in float"):
        export(ExportOptions(output=tmp_path / "out", **options))
    assert not list((tmp_path / "out").iterdir())


def test_refusals(model_file, photos, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")

    def refused(error, message, **changes):
        with pytest.raises(error, match=message):
            export(ExportOptions(output=tmp_path / "out", weights=model_file, quantize="int8", **changes))
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    images = {"calibration_images": (str(photos),)}
    refused(ValueError, "looks at images to see which range .* give the run's --workdir, or --calibr", format="onnx")
    refused(ValueError, "--calibration_images is for --quantize=int8 and --format=onnx or openvino", **images)
    refused(ValueError, "int8 is for .*: exported for litert, such a model", format="litert", **images)
    few = {"calibration_images": tuple(str(photos / f"{number:02d}.png") for number in range(7))}
    refused(ValueError, "7 images can be read, and int8 wants 8 at least", format="onnx", **few)
    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda name: None)
    refused(
        ImportError, r"int8 for openvino needs nncf; pip install 'coatnet_tf\[runtimes\]'", format="openvino", **images
    )


def test_what_a_changed_answer_is():
    before = np.array([[1.0], [2.0], [3.0], [4.0]])
    assert quantisation.share_changed(before, before + 0.1, "values") == pytest.approx(0.01 / 1.25)
    several = np.array([[0.9, 0.6, 0.1], [0.3, 0.2, 0.1], [0.3, 0.2, 0.1], [0.9, 0.4, 0.1]])
    others = np.array([[0.6, 0.9, 0.1], [0.2, 0.3, 0.1], [0.4, 0.1, 0.1], [0.9, 0.6, 0.1]])
    assert quantisation.share_changed(several, others, "classes") == 0.5  # another top class; a class more
    assert quantisation.share_changed(several, others, "class") == 0.5  # the first two
