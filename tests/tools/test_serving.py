"""What a server gets: signatures, answers to bad input, warm-up, configuration; and the client."""

import concurrent.futures
import http.server
import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2  # noqa: F401
from PIL import Image
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

import coatnet_tf
from experiments.data import images
from tools import serve_client
from tools.export_saved_model import Options, export
from tools.serving import model_card, runtimes, signatures, warmup

SIZE = 32
LABELS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
CONFIGURATION = Path(warmup.__file__).parent


@pytest.fixture(scope="module")
def options(model_file, tmp_path_factory):
    labels = model_file.parent / "labels.txt"
    labels.write_text("\n".join(LABELS) + "\n")
    return Options(
        output=tmp_path_factory.mktemp("serving"),
        weights=model_file,
        labels=labels,
        fold=True,
        top_k=3,
    )


@pytest.fixture(scope="module")
def version(options):
    return export(options)


@pytest.fixture(scope="module")
def served(version):
    return tf.saved_model.load(str(version))


@pytest.fixture(scope="module")
def model(model_file):
    return keras.models.load_model(model_file, compile=False)


def encode(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def photo(height=48, width=40, channels=3, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, channels), dtype="uint8")
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


def test_the_signatures_give_the_models_answers(served, model):
    files = [encode(photo(), "JPEG"), encode(photo(seed=1)), encode(photo(90, 30, seed=2), "JPEG")]
    window = images.center(SIZE)
    pixels = np.stack([images.load(tf.constant(file), 3, SIZE, window) for file in files]).astype("float32")
    expected = model.predict(pixels, verbose=0)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the images differ

    found = served.signatures["serving_default"](images=tf.constant(pixels))
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-4, atol=1e-6)
    found = served.signatures["serving_bytes"](image_bytes=tf.constant(files))
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-4, atol=1e-6)
    assert found["error"].numpy().tolist() == [b""] * 3
    found = served.signatures["classify"](image_bytes=tf.constant(files))
    order = np.argsort(-expected, axis=-1)[:, :3]
    assert [[name.decode() for name in row] for row in found["classes"].numpy()] == [
        [LABELS[i] for i in row] for row in order
    ]
    np.testing.assert_allclose(found["scores"], np.take_along_axis(expected, order, -1), rtol=1e-4)


def test_any_number_of_images(served):
    serve = served.signatures["serving_default"]
    several = tf.random.uniform((3, SIZE, SIZE, 3), 0, 255, seed=0)
    together = serve(images=several)["probabilities"].numpy()
    for i in range(3):
        np.testing.assert_allclose(serve(images=several[i : i + 1])["probabilities"][0], together[i], rtol=1e-4)
    assert serve(images=several[:0])["probabilities"].shape == (0, len(LABELS))
    found = served.signatures["classify"](image_bytes=tf.constant([], tf.string))
    assert found["classes"].shape == found["scores"].shape == (0, 3)


def test_uint8_images(options, model_file, model, tmp_path):
    version = export(Options(output=tmp_path, weights=model_file, input_dtype="uint8"))
    pixels = photo(SIZE, SIZE)[None]
    found = tf.saved_model.load(str(version)).signatures["serving_default"](images=tf.constant(pixels))
    np.testing.assert_allclose(found["probabilities"], model.predict(pixels.astype("float32"), verbose=0), rtol=1e-4)


def png_that_declares(width, height):
    """A valid file of 1 x 1, with another size in its header."""
    import zlib

    data = bytearray(encode(photo(1, 1)))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def jpeg_that_declares(width, height):
    data = encode(photo(), "JPEG")
    start = data.index(b"\xff\xc0")
    return data[: start + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[start + 9 :]


BAD = {
    "empty": (b"", "neither a JPEG nor a PNG"),
    "text": (b"no image at all", "neither a JPEG nor a PNG"),
    "gif": (encode(photo(), "GIF"), "neither a JPEG nor a PNG"),
    "truncated JPEG": (encode(photo(), "JPEG")[:-200], "damaged or truncated"),
    "JPEG's beginning": (b"\xff\xd8\xff\xe0", "damaged or truncated"),
    "truncated PNG": (encode(photo())[:-200], "damaged or truncated"),
    "PNG's beginning": (encode(photo())[:12], "damaged or truncated"),
    "PNG bomb": (png_that_declares(100_000, 100_000), "larger than 50,000,000 pixels"),
    "PNG of the largest size": (png_that_declares(2**31 - 1, 2**31 - 1), "larger than 50,000,000 pixels"),
    "PNG beyond the largest": (png_that_declares(2**32 - 1, 2**32 - 1), "damaged or truncated"),
    "JPEG bomb": (jpeg_that_declares(65_000, 65_000), "larger than 50,000,000 pixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_spoils_no_other(served, case):
    data, error = BAD[case]
    good = [encode(photo(seed=seed), "JPEG") for seed in (1, 2)]
    serve = served.signatures["serving_bytes"]
    alone = serve(image_bytes=tf.constant(good))["probabilities"].numpy()
    found = serve(image_bytes=tf.constant([good[0], data, good[1]]))
    assert error in found["error"].numpy()[1].decode()
    assert np.isnan(found["probabilities"][1]).all()
    np.testing.assert_allclose(found["probabilities"].numpy()[[0, 2]], alone, rtol=1e-4)
    assert found["error"].numpy()[[0, 2]].tolist() == [b"", b""]
    found = served.signatures["classify"](image_bytes=tf.constant([data]))
    assert found["classes"].numpy().tolist() == [[b""] * 3]
    assert np.isnan(found["scores"]).all()


@pytest.mark.parametrize(
    "data",
    [
        encode(photo(1, 1)),
        encode(photo(1, 1), "JPEG"),
        encode(photo(1, 4000)),
        encode(photo(4000, 1), "JPEG"),
        encode(photo(channels=4)),
        encode(photo()[..., 0]),
        encode(photo()[..., 0].astype("uint16") * 257),
    ],
    ids=["1x1 PNG", "1x1 JPEG", "1x4000", "4000x1", "RGBA", "grey", "16 bit"],
)
def test_unusual_images_are_read(served, data):
    found = served.signatures["serving_bytes"](image_bytes=tf.constant([data]))
    assert found["error"].numpy().tolist() == [b""]
    assert float(tf.reduce_sum(found["probabilities"])) == pytest.approx(1, abs=1e-4)


def test_transparent_png_is_laid_on_white(served):
    clear = np.zeros((SIZE, SIZE, 4), "uint8")
    white = np.full((SIZE, SIZE, 3), 255, "uint8")
    found = served.signatures["serving_bytes"](image_bytes=tf.constant([encode(clear), encode(white)]))["probabilities"]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_nan_pixels_reach_no_other_image(served):
    batch = np.stack([photo(SIZE, SIZE, seed=seed) for seed in range(3)]).astype("float32")
    serve = served.signatures["serving_default"]
    expected = serve(images=tf.constant(batch))["probabilities"].numpy()
    batch[1, 5, 5, 0] = np.nan
    found = serve(images=tf.constant(batch))["probabilities"].numpy()
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-4)


@pytest.mark.parametrize("shape", [(SIZE, SIZE, 3), (1, SIZE, SIZE, 4), (1, 2 * SIZE, SIZE, 3)])
def test_wrong_shapes_are_refused(served, shape):
    with pytest.raises(
        (TypeError, ValueError, tf.errors.InvalidArgumentError), match="not compatible with expected shape"
    ):
        served.signatures["serving_default"](images=tf.zeros(shape))


def test_ten_thousand_mutated_files():
    """Bytes changed, cut out, doubled or cut off: an answer to each, and the right one to the file left whole."""
    generator = np.random.default_rng(0)
    originals = [encode(photo(), "JPEG"), encode(photo(), "JPEG", progressive=True), encode(photo())]
    originals += [encode(photo(channels=4)), encode(photo()[..., 0], "JPEG")]

    def mutate():
        data = bytearray(originals[generator.integers(len(originals))])
        for _ in range(generator.integers(1, 6)):
            at, length = generator.integers(len(data)), generator.integers(1, 40)
            match generator.integers(4):
                case 0:
                    data[at] = generator.integers(256)
                case 1:
                    del data[at : at + length]
                case 2:
                    data[at:at] = data[at : at + length]
                case 3:
                    data[at : at + 4] = generator.bytes(4)
            if not data:
                break
        return bytes(data[: generator.integers(1, len(data) + 1)] if data and generator.random() < 0.2 else data)

    decode = tf.function(
        lambda encoded: signatures.decode(encoded, 3, SIZE, images.center(SIZE)),
        input_signature=[tf.TensorSpec((None,), tf.string)],
    )
    expected = images.load(tf.constant(originals[0]), 3, SIZE, images.center(SIZE)).numpy()
    readable = 0
    for _ in range(20):
        pixels, errors = decode([*(mutate() for _ in range(500)), originals[0]])
        assert pixels.shape == (501, SIZE, SIZE, 3)
        np.testing.assert_array_equal(pixels[-1], expected)
        errors = errors.numpy()
        assert errors[-1] == b""
        assert not pixels.numpy()[errors != b""].any()
        readable += int((errors == b"").sum()) - 1
    assert 500 < readable < 9500  # both happen


def test_files_of_a_version(version, model_file):
    assert (version / "assets" / signatures.CLASSES_FILE).read_text().splitlines() == LABELS
    card = (version / model_card.FILE).read_text()
    assert f"SHA-256 `{model_card.sha256(model_file)}`" in card
    assert "| Folded | yes |" in card and "32 x 32, 3 channels" in card


def test_warm_up_records_are_answered(version, served):
    records = [*tf.data.TFRecordDataset(str(version / warmup.FILE)).as_numpy_iterator()]
    assert len(records) == 3 * len(warmup.BATCH_SIZES)
    seen = set()
    for record in records:
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "coatnet"
        seen.add(request.model_spec.signature_name)
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        outputs = served.signatures[request.model_spec.signature_name](**inputs)
        assert all(len(value) in warmup.BATCH_SIZES for value in outputs.values())
        assert "error" not in outputs or set(outputs["error"].numpy()) == {b""}
    assert seen == {"serving_default", "serving_bytes", "classify"}


SERVER_PROTOS = """
name: "server.proto" package: "tensorflow.serving" syntax: "proto3" dependency: "google/protobuf/wrappers.proto"
message_type { name: "BatchingParameters"
  field { name: "max_batch_size" number: 1 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "batch_timeout_micros" number: 2 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "max_enqueued_batches" number: 3 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "num_batch_threads" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" }
  field { name: "thread_pool_name" number: 5 type: TYPE_MESSAGE type_name: ".google.protobuf.StringValue" }
  field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL } }
message_type { name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL } field { name: "path" number: 2 type: TYPE_STRING } }
message_type { name: "MonitoringConfig"
  field { name: "prometheus_config" number: 1 type: TYPE_MESSAGE type_name: ".tensorflow.serving.PrometheusConfig" } }
"""


def server_message(name, file):
    """Parses a file as one of the server's messages that `tensorflow-serving-api` leaves out."""
    pool = descriptor_pool.Default()
    try:
        descriptor = pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
    except KeyError:
        pool.AddSerializedFile(
            text_format.Parse(SERVER_PROTOS, descriptor_pb2.FileDescriptorProto()).SerializeToString()
        )
        descriptor = pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
    return text_format.Parse((CONFIGURATION / file).read_text(), message_factory.GetMessageClass(descriptor)())


def test_configuration_of_the_server_parses():
    config = text_format.Parse(
        (CONFIGURATION / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    (served,) = config.model_config_list.config
    assert served.name == Options(output=Path()).name
    assert set(served.version_labels.values()) <= set(served.model_version_policy.specific.versions)
    assert set(served.version_labels) == {"stable", "canary"}

    batching = server_message("BatchingParameters", "batching_parameters.txt")
    assert tuple(batching.allowed_batch_sizes) == warmup.BATCH_SIZES
    assert batching.max_batch_size.value == max(warmup.BATCH_SIZES)

    monitoring = server_message("MonitoringConfig", "monitoring.config")
    assert monitoring.prometheus_config.enable
    compose = (CONFIGURATION / "docker-compose.yml").read_text()
    for file in ("models.config", "batching_parameters.txt", "monitoring.config"):
        assert f"/config/{file}" in compose
    assert f":{served.base_path}:" in compose
    assert monitoring.prometheus_config.path in compose


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers from a loaded SavedModel, as a server would."""

    def __init__(self, served):
        self.served = served

    def Predict(self, request, context):
        if request.model_spec.name != "coatnet":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: {request.model_spec.name}")
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        outputs = self.served.signatures[request.model_spec.signature_name](**inputs)
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response


@pytest.fixture(scope="module")
def grpc_address(served):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(served), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None)


@pytest.fixture(scope="module")
def rest_url(served):
    import base64

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/models/coatnet/labels/stable:predict":
                answer, status = {"error": f"Malformed request: POST {self.path}"}, 400
            else:
                encoded = [base64.b64decode(instance["image_bytes"]["b64"]) for instance in body["instances"]]
                outputs = served.signatures[body["signature_name"]](image_bytes=tf.constant(encoded))
                rows = zip(*(outputs[name].numpy() for name in ("classes", "scores", "error")), strict=True)
                answer, status = (
                    {
                        "predictions": [
                            {
                                "classes": [c.decode() for c in classes],
                                "scores": scores.tolist(),
                                "error": error.decode(),
                            }
                            for classes, scores, error in rows
                        ]
                    },
                    200,
                )
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_client_asks_many_at_once(protocol, served, grpc_address, rest_url):
    files = [encode(photo(seed=seed), "JPEG") for seed in range(12)] + [b"no image"]
    expected = served.signatures["classify"](image_bytes=tf.constant(files))
    client = (
        serve_client.GrpcClient(grpc_address, "coatnet", "", 30)
        if protocol == "grpc"
        else serve_client.RestClient(rest_url, "coatnet", "stable", 30)
    )
    answers, latencies, seconds = serve_client.ask(client, files, concurrency=4)
    for answer, classes, scores in zip(answers, expected["classes"].numpy(), expected["scores"].numpy(), strict=True):
        assert list(answer.classes) == [name.decode() for name in classes]
        np.testing.assert_allclose(answer.scores, scores, rtol=1e-4)
    assert answers[-1].error == "neither a JPEG nor a PNG file"
    lines = serve_client.report([f"{i}.jpg" for i in range(13)], answers, latencies, seconds)
    assert lines[12] == "12.jpg: neither a JPEG nor a PNG file"
    assert lines[0].startswith(f"0.jpg: {answers[0].classes[0]} ")
    assert lines[-1].startswith("13 requests in ") and "p99" in lines[-1]
    assert len(latencies) == 13 and max(latencies) <= seconds


def test_client_says_what_the_server_refuses(grpc_address, rest_url):
    with pytest.raises(serve_client.ServerError, match="NOT_FOUND: Servable not found: other"):
        serve_client.ask(serve_client.GrpcClient(grpc_address, "other", "", 30), [b""], 1)
    with pytest.raises(serve_client.ServerError, match="HTTP 400: .*Malformed request"):
        serve_client.ask(serve_client.RestClient(rest_url, "other", "", 30), [b""], 1)
    with pytest.raises(serve_client.ServerError, match="localhost:1: UNAVAILABLE"):
        serve_client.ask(serve_client.GrpcClient("localhost:1", "coatnet", "", 5), [b""], 1)
    with pytest.raises(serve_client.ServerError, match="refused"):
        serve_client.ask(serve_client.RestClient("http://localhost:1", "coatnet", "", 5), [b""], 1)


def test_client_program(grpc_address, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(photo(), "JPEG"))
    command = [sys.executable, "-m", "tools.serve_client", f"--grpc={grpc_address}", f"--images={tmp_path}/*.jpg"]
    result = subprocess.run([*command, "--repeat=5"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "a.jpg: " in result.stdout and "5 requests in" in result.stdout
    result = subprocess.run([*command[:-1], "--images=none"], capture_output=True, text=True, timeout=300)
    assert result.returncode and "No file matches --images='none'" in result.stderr + result.stdout


def test_saved_model_cli(version):
    cli = [sys.executable, "-c", "import sys; from tensorflow.python.tools.saved_model_cli import main; main()"]
    shown = subprocess.run([*cli, "show", "--dir", version, "--all"], capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr
    for text in ("signature_def['classify']", "signature_def['serving_bytes']", "(-1, 32, 32, 3)"):
        assert text in shown.stdout
    pixels = version.parent / "image.npy"
    np.save(pixels, photo(SIZE, SIZE)[None].astype("float32"))
    run = [*cli, "run", "--dir", version, "--tag_set", "serve", "--signature_def", "serving_default"]
    ran = subprocess.run([*run, "--inputs", f"images={pixels}"], capture_output=True, text=True, timeout=300)
    pixels.unlink()
    assert ran.returncode == 0, ran.stderr
    assert "Result for output key probabilities" in ran.stdout


def test_another_size(options, model_file, tmp_path):
    version = export(Options(output=tmp_path, weights=model_file, image_size=64, fold=True))
    served = tf.saved_model.load(str(version))
    resized = keras.models.load_model(model_file)
    larger = keras.models.clone_model(resized, input_tensors=keras.Input((64, 64, 3)))
    coatnet_tf.load_weights(larger, model_file, resize=True)
    pixels = photo(64, 64)[None].astype("float32")
    found = served.signatures["serving_default"](images=tf.constant(pixels))["probabilities"]
    np.testing.assert_allclose(found, larger.predict(pixels, verbose=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("runtime", "kind", "count"),
    [
        ("tf_saved_model", "FusedGelu", 3),
        ("onnx", "FlatGelu", 3),
        ("openvino", "Conv2D", 12),
        ("litert", "Conv2D", 12),
    ],
)
def test_other_layers_give_the_same_numbers(model, runtime, kind, count):
    folded = coatnet_tf.fold_for_inference(model)
    swapped = runtimes.for_runtime(folded, runtime)
    kinds = [type(layer).__name__ for layer in swapped.layers]
    assert kinds.count(kind) == count  # three GELUs; stem, shortcuts, both products of four blocks
    pixels = photo(SIZE, SIZE)[None].astype("float32")
    np.testing.assert_allclose(swapped.predict(pixels, verbose=0), folded.predict(pixels, verbose=0), rtol=1e-5)


def test_bfloat16_and_int8_agree_with_float32(model_file, model, tmp_path):
    pixels = np.stack([photo(SIZE, SIZE, seed=seed) for seed in range(16)]).astype("float32")
    expected = model.predict(pixels, verbose=0)
    for changes in ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "fold": True}, {"quantize": "int8", "fold": True}):
        version = export(Options(output=tmp_path, weights=model_file, **changes))
        served = tf.saved_model.load(str(version)).signatures["serving_default"](images=tf.constant(pixels))
        found = served["probabilities"].numpy()
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 0.05
        assert not np.array_equal(found, expected)


def test_what_export_refuses(model_file, version, options, tmp_path):
    def refused(error, message, **changes):
        given = {"output": tmp_path / "out", "weights": model_file, **changes}
        with pytest.raises(error, match=message):
            export(Options(**given))
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
    refused(ValueError, "--format must be one of tf_saved_model, onnx", format="tf")
    refused(ValueError, "odd|multiple|divisible", image_size=33)
    foreign = tmp_path / "foreign.keras"
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Conv2D(2, 3)(image)).save(foreign)
    refused(ValueError, "and no score a class; export a model with its classifier", weights=foreign)
    flat = keras.Input((8,))
    keras.Model(flat, keras.layers.Dense(2)(flat)).save(foreign)
    refused(ValueError, "does not take square images", weights=foreign)
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes(model_file.read_bytes()[:-3000])
    refused(ValueError, "is no .keras file|no model that Keras can load", weights=damaged)
    with pytest.raises(FileExistsError, match="exists; give another --version, or --overwrite"):
        export(Options(output=options.output, weights=model_file, version=int(version.name)))


def test_overwrite_replaces_the_whole_version(model_file, tmp_path):
    options = Options(output=tmp_path, weights=model_file, version=5)
    version = export(options)
    (version / "old").write_text("")
    assert export(Options(**{**vars(options), "overwrite": True})) == version
    assert not (version / "old").exists() and (version / "saved_model.pb").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["5"]
