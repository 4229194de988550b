"""The program of `native/`, which serves a SavedModel as TensorFlow Serving does: without Python, in TensorFlow's C++.

TensorFlow's wheel has the libraries that the server is made of, its scheduler of batches too; the server's own binary
comes in no wheel. The program is built beside its source and runs in a process of its own.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow_serving.apis import prediction_log_pb2

from tools.serving.batching import BatchingParameters

FOLDER = Path(__file__).with_name("native")


@dataclasses.dataclass(frozen=True)
class Load:
    """What a load test measured.

    Args:
        clients: Threads that asked.
        batching: Whether requests shared batches.
        requests: Answers, errors among them.
        by_the_second: How many of them the new version gave.
        seconds: From the first request to the last answer.
        p50: Median latency in ms.
        p99: In ms; one request in a hundred took longer.
        errors: Requests without an answer.
        first_error: What was said to the first of them.
        wrong: Answers that are not those that the requests get alone.
        images_per_batch: Mean.
        padded_images_per_batch: Mean, with what filled batches up.
        megabytes: Resident memory before the first request, half way, and behind the last one.
    """

    clients: int
    batching: bool
    requests: int
    by_the_second: int
    seconds: float
    p50: float
    p99: float
    errors: int
    first_error: str
    wrong: int
    images_per_batch: float
    padded_images_per_batch: float
    megabytes: tuple[float, float, float]


def build() -> Path:
    """Builds the program if it is not there or older than its source.

    Returns:
        Its file.

    Raises:
        FileNotFoundError: If a compiler is missing.
        ValueError: If it cannot be built.
    """
    program = FOLDER / "load_test"
    missing = [tool for tool in ("make", "g++") if shutil.which(tool) is None]
    if missing and not program.exists():
        raise FileNotFoundError(
            f"{program} has to be built, and {' and '.join(missing)} cannot be found: on Debian, apt install g++ make."
        )
    if missing:
        return program
    if not program.exists():
        logging.info("%s is built, which takes a minute.", program)
    with (FOLDER / "Makefile").open() as makefile:
        fcntl.flock(makefile, fcntl.LOCK_EX)  # against others who build it now
        built = subprocess.run(["make", "-C", FOLDER, f"PYTHON={sys.executable}"], capture_output=True, text=True)
    if built.returncode:
        raise ValueError(f"{program} cannot be built:\n{built.stderr[-2000:]}")
    return program


def answer(
    program: Path, version: Path, requests: Path, clients: int = 1, batching: BatchingParameters | None = None
) -> list[dict[str, np.ndarray]]:
    """Answers each request of a file.

    Args:
        program: From `build`.
        version: Folder of a SavedModel.
        requests: From `warmup.write_requests`.
        clients: Threads that ask.
        batching: How requests share batches; `None` for each alone.

    Returns:
        The outputs of each request by their names.

    Raises:
        ValueError: If the version cannot be loaded, or a request gets no answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers"
        _call(program, version, requests, clients, batching, f"--answers={answers}")
        found = []
        for record in tf.data.TFRecordDataset(str(answers)).as_numpy_iterator():
            response = prediction_log_pb2.PredictionLog.FromString(record).predict_log.response
            found.append({name: tf.make_ndarray(value) for name, value in response.outputs.items()})
    return found


def measure(
    program: Path,
    version: Path,
    requests: Path,
    clients: int,
    count: int,
    batching: BatchingParameters | None = None,
    swap: Path | None = None,
) -> Load:
    """Asks from several threads at once, and compares each answer with the one that its request gets alone.

    Args:
        program: From `build`.
        version: Folder of a SavedModel.
        requests: From `warmup.write_requests`; they are asked in turn.
        clients: Threads that ask, each for the next answer when it has one.
        count: Requests in all; with `swap` more, as many as come while the new version is loaded.
        batching: How requests share batches; `None` for each alone.
        swap: Folder of a version that takes the place of the first when half of the requests are asked.

    Raises:
        ValueError: If a version cannot be loaded, or two requests have answers that cannot be told apart.
    """
    more = [f"--swap={swap}"] if swap else []
    output = _call(program, version, requests, clients, batching, f"--count={count}", *more)
    said = dict(line.split(" ", 1) for line in output.splitlines())
    if int(said["alike"]):
        raise ValueError(
            f"{said['alike']} requests have the answer of another request, to 1e-4, so that answers that went to the "
            "wrong client would not be seen; give images that the model tells apart."
        )
    batches = int(said.get("batches", 1))
    before, half_way, after = (float(said[f"{when}_megabytes"]) for when in ("start", "middle", "end"))
    return Load(
        clients=clients,
        batching=batching is not None,
        requests=int(said["requests"]),
        by_the_second=int(said["by_the_second"]),
        seconds=float(said["seconds"]),
        p50=float(said["p50"]),
        p99=float(said["p99"]),
        errors=int(said["errors"]),
        first_error=said["first_error"],
        wrong=int(said["wrong"]),
        images_per_batch=int(said.get("rows", 1)) / batches,
        padded_images_per_batch=int(said.get("padded_rows", 1)) / batches,
        megabytes=(before, half_way, after),
    )


def _call(
    program: Path, version: Path, requests: Path, clients: int, batching: BatchingParameters | None, *more: str
) -> str:
    flags = [f"--saved_model={version}", f"--requests={requests}", f"--clients={clients}", *more]
    if batching is not None:
        values = dataclasses.asdict(batching)
        values["allowed_batch_sizes"] = ",".join(map(str, batching.allowed_batch_sizes))
        flags += [f"--{name}={value}" for name, value in values.items()]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([program, *flags], capture_output=True, text=True, env=environment)
    if result.returncode:
        said = result.stderr.strip().splitlines()[-1] if result.returncode == 1 else f"status {result.returncode}"
        raise ValueError(f"{program.name} of {version} failed: {said}")
    return result.stdout
