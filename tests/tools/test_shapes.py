"""The whole way with images that are not square and have four channels or more: the same numbers everywhere."""

import io

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from tensorflow_serving.apis import prediction_log_pb2

import coatnet_tf
from experiments import evaluate, workdir
from experiments.data.views import View
from experiments.engine import connect
from experiments.recipes import digits
from tests.tools.samples import encode, photo
from tools import check_saved_model, compare_exports, explain, fine_tune, predict, serve_client
from tools.export_saved_model import ExportOptions, export
from tools.fine_tuning.images import find_images
from tools.fine_tuning.start import find_start
from tools.serving import model_card, signatures, warmup

SIZE = (16, 32)
LARGER = (32, 48)


def array(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def make_model(channels, size=SIZE):
    keras.utils.set_random_seed(0)
    config = coatnet_tf.make_config(
        "tiny", (1, 1, 1), (8, 16, 32), "C-T", (1, 2, 2), head_size=16, kernel_initializer="lecun_normal"
    )
    return coatnet_tf.CoAtNet(config, input_shape=(*size, channels), classes=3)


@pytest.fixture(scope="module")
def clear_photos(tmp_path_factory):
    """RGBA PNGs in class folders; the classes differ in how clear they are."""
    folder = tmp_path_factory.mktemp("clear")
    for name, alpha in (("clear", 20), ("half", 120), ("opaque", 220)):
        (folder / name).mkdir()
        for index in range(15):
            pixels = photo(30, 50, channels=4, seed=index).copy()
            pixels[..., 3] = alpha + pixels[..., 3] // 8
            (folder / name / f"{index}.png").write_bytes(encode(pixels))
    return folder


@pytest.fixture(scope="module")
def clear_run(run, clear_photos, tmp_path_factory):
    """A run on them."""
    folder = tmp_path_factory.mktemp("training") / "run"
    config = digits.get_config()
    config.epochs, config.batch_size, config.image_size, config.eval_crop = 3, 8, SIZE, "center"
    config.optimizer.warmup_steps = 2
    config.augment.update(crop="inception", flip=True, randaugment_layers=1, randaugment_magnitude=3.0)
    config.dataset.update(name=f"folder:{clear_photos}", channels=4, train_split="train", eval_split="validation")
    config.model.update(depths=(1, 1, 1), widths=(8, 16, 32), strides=(1, 2, 2), layout="C-T")
    run(config, epath.Path(folder), connect("one_device"))
    return folder


@pytest.mark.slow
def test_the_whole_way_with_four_channels(clear_run, clear_photos, tmp_path):
    trained = workdir.result_of(workdir.read_metrics(clear_run))
    measured = evaluate.evaluate(epath.Path(clear_run), epath.Path(tmp_path / "evaluation"))
    assert measured["top1"] == pytest.approx(trained["eval_accuracy"], abs=1e-6)
    assert measured["loss"] == pytest.approx(trained["eval_loss"], rel=1e-3)

    files = sorted(map(str, clear_photos.glob("*/*.png")))[::7]
    output = clear_run / "serving"
    version = export(ExportOptions(output=output, workdir=clear_run, fold=True))
    formats = [
        export(ExportOptions(output=tmp_path / name, workdir=clear_run, fold=fold, format=name))
        for name, fold in (("onnx", True), ("openvino", False), ("litert", True))
    ]
    expected = None
    for model in (clear_run, clear_run / workdir.MODEL, version, *formats):
        classifier = predict.load_classifier(model)
        assert classifier.channels == 4 and classifier.view == View(SIZE, "center")
        found = np.array([entry.probabilities for entry in predict.predict(classifier, predict.find_files(files))])
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=str(model))
    assert np.ptp(expected, axis=0).max() > 1e-3

    served = tf.saved_model.load(str(version))
    contents = [epath.Path(file).read_bytes() for file in files]
    found = served.signatures["serving_bytes"](image_bytes=tf.constant([*contents, encode(photo(), "JPEG")]))
    np.testing.assert_allclose(found["probabilities"][:-1], expected, atol=1e-5)
    assert found["error"].numpy().tolist() == [b""] * len(files) + [b"it has 3 channels, not 4"]
    assert "held-out images right" in check_saved_model.check(clear_run, output)
    lines = compare_exports.compare_exports(clear_run, [version, *formats])
    assert all(line.endswith(f"| {trained['eval_accuracy']:.2%} | 100.00% |") for line in lines[2:])
    larger = export(ExportOptions(output=output, workdir=clear_run, fold=True, image_size=LARGER))
    middle = "the middle, {} of the sides of the largest part shaped like {}, cut out and resized to that"
    result = check_saved_model.check(clear_run, output)
    assert f"; it sees {middle.format(0.5, '32 x 48')}" in result and middle.format(0.333, "16 x 32") in result
    assert "| Images | 32 x 48, 4 channels, in [0, 255] |" in (larger / model_card.FILE).read_text()
    explain.explain(explain.ExplainOptions(output=tmp_path / "explained.png", workdir=clear_run, count=2))
    assert (tmp_path / "explained.png").read_bytes().startswith(b"\x89PNG")


def test_an_export_of_six_channels_takes_arrays_alone(tmp_path):
    model = make_model(6)
    model.save(tmp_path / "model.keras")
    version = export(ExportOptions(output=tmp_path / "serving", weights=tmp_path / "model.keras", input_dtype="uint8"))
    served = tf.saved_model.load(str(version))
    assert set(served.signatures) == {"serving_default"}
    batch = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 6), dtype="uint8")
    found = served.signatures["serving_default"](images=tf.constant(batch))["probabilities"]
    expected = model.predict(batch.astype("float32"), verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    card = (version / model_card.FILE).read_text()
    assert "| Signatures | serving_default alone, which takes arrays: no JPEG or PNG file has 6 channels |" in card
    assert len([*tf.data.TFRecordDataset(str(version / warmup.FILE))]) == len(warmup.BATCH_SIZES)

    files = [tmp_path / "0.npy", tmp_path / "1.npy", tmp_path / "2.npy", tmp_path / "3.jpg"]
    for file, values in zip(files, (*batch, batch[0].astype("float32")), strict=False):
        file.write_bytes(array(values))
    files[3].write_bytes(encode(photo(), "JPEG"))
    for path in (version, tmp_path / "model.keras"):
        classifier = predict.load_classifier(path, crop="none")
        *rows, floats, jpeg = predict.predict(classifier, predict.find_files(list(map(str, files))))
        np.testing.assert_allclose([row.probabilities for row in rows], expected, atol=1e-5)
        assert floats.error == (
            "it cannot be read: its values are float32; of arrays, uint8 and uint16 are read, of which white is the "
            "largest."
        )
        assert jpeg.error == "it cannot be read: it has 3 channels, not 6."
    (tmp_path / "folder").mkdir()
    for file in files:
        file.rename(tmp_path / "folder" / file.name)
    (found,) = predict.find_files([str(tmp_path / "folder")])  # beside a picture, arrays may be anything
    assert found.file.endswith("3.jpg")


@pytest.mark.parametrize(("channels", "wrong"), [(1, None), (2, 1), (3, None), (4, 3)])
def test_files_for_the_signatures(channels, wrong, tmp_path):
    """The warm-up's files are answered, and those of other channels get an error that says how many they have."""
    make_model(channels).save(tmp_path / "model.keras")
    version = export(ExportOptions(output=tmp_path / "serving", weights=tmp_path / "model.keras", fold=True))
    served = tf.saved_model.load(str(version))
    records = [*tf.data.TFRecordDataset(str(version / warmup.FILE)).as_numpy_iterator()]
    assert len(records) == 3 * len(warmup.BATCH_SIZES)
    for record in records:
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        outputs = served.signatures[request.model_spec.signature_name](**inputs)
        assert "error" not in outputs or set(outputs["error"].numpy()) == {b""}
    if wrong:
        pixels = photo(channels=3)
        files = [encode(pixels[..., 0] if wrong == 1 else pixels, kind) for kind in ("PNG", "JPEG")]
        found = served.signatures["classify"](image_bytes=tf.constant(files))
        said = f"it has {wrong} channel{'s' if wrong > 1 else ''}, not {channels}"
        assert [error.decode() for error in found["error"].numpy()] == [said] * 2
        assert np.isnan(found["scores"]).all()


def test_decoding_by_a_server_is_that_of_training(tmp_path):
    """Of images that are not square, lying ones too."""
    view = View(SIZE, "center")
    files = [encode(photo(40, 90, seed=1), "JPEG"), encode(photo(90, 40, seed=2)), encode(photo(20, 21, seed=3))]
    pixels, errors = signatures.decode(tf.constant(files), 3, view)
    assert errors.numpy().tolist() == [b""] * 3
    for found, file in zip(pixels.numpy(), files, strict=True):
        np.testing.assert_array_equal(found, view.load(tf.constant(file), 3)[0])


def test_sizes_that_an_export_cannot_have(model_file, tmp_path):
    for size in ((32, 33), (64, 48, 3), "x", 0):
        with pytest.raises(ValueError, match="--image_size: the size of images is|its input's width is odd"):
            export(ExportOptions(output=tmp_path, weights=model_file, image_size=size))
    assert not list(tmp_path.iterdir())


def test_the_client_explains_a_missing_signature(monkeypatch):
    class NotThere(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.FAILED_PRECONDITION

        def details(self):
            return 'Serving signature key "classify" not found.'

    client = serve_client.GrpcClient("localhost:1", "coatnet", "", 1)

    def refuse(request, timeout):
        raise NotThere

    monkeypatch.setattr(client._service, "Predict", refuse)
    with pytest.raises(
        serve_client.ServerError, match="not found.* has the signature serving_default alone: send it a"
    ):
        client.classify(b"")


@pytest.mark.slow
def test_fine_tuning_on_arrays_adapts_the_first_kernel(run, tmp_path, caplog):
    """Of RGB weights, for five channels, at a size that is not square; reported."""
    start = tmp_path / "start"
    start.mkdir()
    recipe = digits.get_config()
    recipe.image_size = 16
    recipe.model.update(depths=(1, 1, 1), widths=(8, 16, 32), strides=(1, 2, 2), layout="C-T", head_size=16)
    (start / workdir.CONFIG).write_text(recipe.to_json())
    make_model(3, (16, 16)).save(start / workdir.MODEL)
    for name in ("a", "b"):
        (tmp_path / "arrays" / name).mkdir(parents=True)
        for index in range(20):
            values = np.random.default_rng(index).integers(0, 200, (30, 50, 5), dtype="uint8")
            values[..., 4] += 55 * (name == "b")
            (tmp_path / "arrays" / name / f"{index}.npy").write_bytes(array(values))
    found = find_images(str(tmp_path / "arrays"))
    config = fine_tune.configure(found, find_start(str(start)), {"image_size": SIZE, "epochs": 2})
    assert config.dataset.channels == 5 and config.augment.randaugment_pixel_scale == 16 / 224
    run(config, epath.Path(tmp_path / "mine"), connect("one_device"))
    assert "trained on RGB images: stem_conv01/kernel repeated for 5 channels and scaled by 3/5" in caplog.text
    assert "bias tables resized: s2_block01" in caplog.text
    said = fine_tune.finish(epath.Path(tmp_path / "mine"), "")
    assert f"{tmp_path / 'mine' / 'serving' / '1'}: the same for TensorFlow Serving (SavedModel)" in said
    assert "held-out images right" in check_saved_model.check(tmp_path / "mine", tmp_path / "mine" / "serving")
