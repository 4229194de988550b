"""Where each millisecond of a served CoAtNet-0 goes, by kind of operation, from TensorFlow's own profiler."""

from __future__ import annotations

import collections
import re
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from tools.benchmarks import inference, worker

BATCH_SIZE = 8
CALLS = 5
KINDS = {
    "products and convolutions": "MatMul|Conv2D|DepthwiseConv2dNative",
    "element-wise: GELU, norms, biases, sums": "Mul|Add|AddV2|AddN|Sub|Tanh|Square|SquaredDifference|Rsqrt|Neg|BiasAdd"
    "|Sigmoid|Swish|Maximum|RealDiv|LayerNorm",
    "means and sums over positions": "Mean|Sum",
    "softmax": "Softmax",
    "conversion of dtypes": "Cast",
    "moving: transpose, pad, gather, pool": "Transpose|Pad|PadV2|Pack|Unpack|ConcatV2|StridedSlice|Slice|Gather"
    "|GatherV2|MaxPool|Fill|Identity|Reshape|ReadVariableOp",
}
TABLE_FILE = "inference_operations.md"


def kind_of(operation: str) -> str | None:
    """Kind of an operation by its type, such as `_MklNativeFusedConv2D`; `None` for what only holds others."""
    name = re.sub("^_(Mkl)?(Native)?(Fused)?(Batch)?", "", operation)
    name = re.sub("(MatMul)V[23]$", r"\1", name)
    return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, name)), None)


def milliseconds(path: str, images: np.ndarray) -> dict[str, float]:
    """Milliseconds per image by type of operation, such as `_MklNativeFusedConv2D`.

    Args:
        path: Folder of a SavedModel.
        images: Images in [0, 255], `[batch, H, W, channels]`, float32.
    """
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    batch = tf.constant(images)
    for _ in range(3):
        serve(images=batch)
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(CALLS):
            serve(images=batch)["probabilities"].numpy()
        tf.profiler.experimental.stop()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    times: dict[str, float] = collections.defaultdict(float)
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                node, _, operation = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if node:
                    times[operation] += event.duration_ps / 1e9 / CALLS / len(images)
    return dict(times)


def profile(path: str) -> dict[str, float]:
    """Milliseconds per image by kind of operation.

    Args:
        path: Folder of a SavedModel.
    """
    images = np.random.default_rng(0).uniform(0, 255, (BATCH_SIZE, worker.SIZE, worker.SIZE, 3)).astype("float32")
    times = dict.fromkeys(KINDS, 0.0)
    for operation, time in milliseconds(path, images).items():
        if kind := kind_of(operation):
            times[kind] += time
    return dict(times)


def measure_operations(exports: Path, output: Path) -> None:
    """Profiles the SavedModels of the inference benchmark, and writes the table.

    Args:
        exports: Folder of the exported models.
        output: Folder for the table.
    """
    served = {
        f"{contender.name}, {contender.dtype}": contender.command[-1]
        for contender in inference.contenders(exports, ())
        if "saved_model" in contender.command
    }
    columns = {name: profile(path) for name, path in served.items()}
    lines = [f"Milliseconds per image, batch {BATCH_SIZE}:", "", f"| | {' | '.join(columns)} |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for kind in KINDS:
        lines.append(f"| {kind} | " + " | ".join(f"{times[kind]:.1f}" for times in columns.values()) + " |")
    lines.append("| together | " + " | ".join(f"{sum(times.values()):.1f}" for times in columns.values()) + " |")
    output.mkdir(parents=True, exist_ok=True)
    (output / TABLE_FILE).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
