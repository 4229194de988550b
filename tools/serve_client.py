"""Asks a TensorFlow Serving server what is on images, and says how long the answers took.

    python -m tools.serve_client --grpc=localhost:8500 --images='photos/*.jpg'
    python -m tools.serve_client --rest=http://localhost:8501 --images='photos/*.jpg' --concurrency=16 --repeat=20

Each request holds one file, as a client's would; the server puts those of all clients into batches. gRPC goes through
`tensorflow-serving-api`, REST through Python's standard library.
"""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import glob
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tqdm
from absl import app, flags

PERCENTILES = (50, 90, 95, 99)


class ServerError(Exception):
    """The server cannot be reached, or refuses the request."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """Classes of one image, best first; or what is wrong with it."""

    classes: tuple[str, ...]
    scores: tuple[float, ...]
    error: str


class Client(Protocol):
    """A way to ask."""

    def classify(self, encoded: bytes) -> Answer: ...


class GrpcClient:
    """Asks through gRPC.

    Args:
        address: `host:port`.
        model: Name of the model.
        label: Version label, such as `stable`; empty for the newest version.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, address: str, model: str, label: str, timeout: float) -> None:
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._service = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))
        self._address, self._model, self._label, self._timeout = address, model, label, timeout

    def classify(self, encoded: bytes) -> Answer:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = "classify"
        if self._label:
            request.model_spec.version_label = self._label
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([encoded]))
        try:
            outputs = self._service.Predict(request, timeout=self._timeout).outputs
        except grpc.RpcError as error:
            raise ServerError(f"{self._address}: {error.code().name}: {_explained(error.details())}") from error
        classes, scores, problem = (tf.make_ndarray(outputs[name])[0] for name in ("classes", "scores", "error"))
        return Answer(tuple(name.decode() for name in classes), tuple(map(float, scores)), problem.decode())


class RestClient:
    """Asks through REST.

    Args:
        url: Address of the server, `http://host:port`.
        model: Name of the model.
        label: Version label, such as `stable`; empty for the newest version.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, url: str, model: str, label: str, timeout: float) -> None:
        version = f"/labels/{label}" if label else ""
        self._url = f"{url.rstrip('/')}/v1/models/{model}{version}:predict"
        self._timeout = timeout

    def classify(self, encoded: bytes) -> Answer:
        instance = {"image_bytes": {"b64": base64.b64encode(encoded).decode()}}
        body = json.dumps({"signature_name": "classify", "instances": [instance]}).encode()
        try:
            request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                (prediction,) = json.load(response)["predictions"]
            return Answer(tuple(prediction["classes"]), tuple(prediction["scores"]), prediction["error"])
        except urllib.error.HTTPError as error:
            details = _explained(error.read().decode(errors="replace"))
            raise ServerError(f"{self._url}: HTTP {error.code}: {details}") from error
        except OSError as error:
            raise ServerError(f"{self._url}: {error}") from error
        except http.client.InvalidURL as error:
            raise ServerError(f"{self._url} is no address: {error}") from error
        except (http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{self._url}: what answers there is no TensorFlow Serving ({error!r})") from error


def _explained(details: str) -> str:
    """What a server says, and what it means if the signature is not there."""
    if "classify" in details and "not found" in details:
        details += (
            " (a model of more than four channels has the signature serving_default alone: send it arrays, as no JPEG "
            "or PNG file has so many)"
        )
    return details


def ask(client: Client, files: Sequence[bytes], concurrency: int) -> tuple[list[Answer], list[float], float]:
    """Sends each file in a request of its own, so many at a time.

    Args:
        client: The way to ask.
        files: Encoded images.
        concurrency: Requests under way at once.

    Returns:
        The answers in the order of the files, the seconds that each took, and those that all took.

    Raises:
        ServerError: If a request fails; no more are sent then.
    """

    def timed(encoded: bytes) -> tuple[Answer, float]:
        started = time.perf_counter()
        answer = client.classify(encoded)
        return answer, time.perf_counter() - started

    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(timed, encoded) for encoded in files]
        try:
            for future in tqdm.tqdm(concurrent.futures.as_completed(futures), total=len(futures), unit=" images"):
                future.result()
        except ServerError:
            pool.shutdown(cancel_futures=True)
            raise
    answers, latencies = zip(*(future.result() for future in futures), strict=True)
    return list(answers), list(latencies), time.perf_counter() - started


def describe_answers(
    names: Sequence[str], answers: Sequence[Answer], latencies: Sequence[float], seconds: float
) -> list[str]:
    """Lines for the user: one for each file, then the times."""
    lines = []
    for name, answer in zip(names, answers[: len(names)], strict=True):
        if answer.error:
            lines.append(f"{name}: {answer.error}")
        else:
            best = (f"{c} {score:.1%}" for c, score in zip(answer.classes, answer.scores, strict=True))
            lines.append(f"{name}: {', '.join(best)}")
    milliseconds = 1e3 * np.percentile(latencies, PERCENTILES)
    shown = ", ".join(f"p{p} {value:.1f} ms" for p, value in zip(PERCENTILES, milliseconds, strict=True))
    return [*lines, f"{len(answers)} requests in {seconds:.2f} s, {len(answers) / seconds:.1f} per second; {shown}"]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"What does {argv[1]!r} mean? This program takes flags only, and a pattern in quotes.")
    values = flags.FLAGS
    if bool(values.grpc) == bool(values.rest):
        raise app.UsageError("Give either --grpc=HOST:PORT or --rest=http://HOST:PORT.")
    if values.rest and not values.rest.startswith(("http://", "https://")):
        raise app.UsageError(f"--rest takes an address such as http://localhost:8501; got {values.rest!r}.")
    paths = sorted(filter(os.path.isfile, glob.glob(os.path.expanduser(values.images))))
    if not paths:
        raise app.UsageError(f"No file matches --images={values.images!r}.")
    make, address = (GrpcClient, values.grpc) if values.grpc else (RestClient, values.rest)
    client = make(address, values.model, values.label, values.timeout)
    files = [Path(path).read_bytes() for path in paths] * values.repeat
    try:
        answers, latencies, seconds = ask(client, files, values.concurrency)
    except ServerError as error:
        raise SystemExit(str(error)) from error
    print("\n".join(describe_answers(paths, answers, latencies, seconds)))


if __name__ == "__main__":
    flags.DEFINE_string("grpc", "", "Address of the server for gRPC, host:port.")
    flags.DEFINE_string("rest", "", "Address of the server for REST, http://host:port.")
    flags.DEFINE_string("images", None, "The files, JPEG or PNG; a pattern as of the shell, in quotes.")
    flags.DEFINE_string("model", "coatnet", "Name under which the model is served.")
    flags.DEFINE_string("label", "", "Version label, such as stable or canary; the newest version by default.")
    flags.DEFINE_integer("concurrency", 8, "Requests under way at once.", lower_bound=1)
    flags.DEFINE_integer("repeat", 1, "How often to send each file.", lower_bound=1)
    flags.DEFINE_float("timeout", 30.0, "Seconds to wait for an answer.", lower_bound=0.0)
    flags.mark_flag_as_required("images")
    app.run(main)
