"""The client, against servers on loopback that answer from a SavedModel."""

import base64
import concurrent.futures
import http.server
import json
import socket
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests import programs
from tests.tools.samples import encode, photo
from tools import serve_client


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
    lines = serve_client.describe_answers([f"{i}.jpg" for i in range(13)], answers, latencies, seconds)
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


def test_what_is_no_server(tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

    with http.server.HTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        client = serve_client.RestClient(f"http://localhost:{server.server_port}", "coatnet", "", 30)
        with pytest.raises(serve_client.ServerError, match="what answers there is no TensorFlow Serving"):
            client.classify(b"")
    with socket.create_server(("localhost", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            connection.recv(1)
            connection.sendall(b"\x00\x00\x12\x04 of gRPC\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(serve_client.ServerError, match="what answers there is no TensorFlow Serving|reset by peer"):
            serve_client.RestClient(f"http://localhost:{listening.getsockname()[1]}", "coatnet", "", 30).classify(b"")
    for url, name in (("http://localhost:85o1", "coatnet"), ("http://localhost:1", "my model")):
        with pytest.raises(serve_client.ServerError, match="is no address"):
            serve_client.RestClient(url, name, "", 30).classify(b"")
    with pytest.raises(serve_client.ServerError, match="unknown url type"):
        serve_client.RestClient("localhost8501", "coatnet", "", 30).classify(b"")


@pytest.mark.slow
def test_client_program(grpc_address, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(photo(), "JPEG"))
    command = ["tools.serve_client", f"--grpc={grpc_address}", f"--images={tmp_path}/*.jpg"]
    result = programs.run(*command, "--repeat=5")
    assert result.returncode == 0, result.stderr
    assert "a.jpg: " in result.stdout and "5 requests in" in result.stdout
    result = programs.run(*command[:-1], "--images=none")
    assert result.returncode and "No file matches --images='none'" in result.stderr + result.stdout
