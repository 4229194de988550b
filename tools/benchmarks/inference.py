"""CoAtNet-0 at 224 in every form it can be served in, and its peers: each in a process of its own, measured in turn."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tqdm
from PIL import Image

import coatnet_tf
from experiments.charts import plt
from tools.benchmarks import timing, worker
from tools.benchmarks.process import Process, pythons_of
from tools.export_saved_model import ExportOptions, export

BATCH_SIZES = (1, 8)
WARM_UP_ROUNDS = 2
PEERS = {
    "timm": ("timm_worker.py", {"eager": "float32", "compiled": "float32", "bfloat16": "bfloat16"}),
    "kecam": ("kecam_worker.py", {"function": "float32"}),
}
BASE = "SavedModel"  # of which the others' speed is said
TABLE_FILE = "inference_benchmark.md"
PICTURE_FILE = "inference_benchmark.png"


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something that answers batches of images.

    Args:
        name: What the table calls it.
        dtype: Of its arithmetic.
        command: Program and arguments of its process.
        own: Whether it is this project's model, so that its answers can be compared.
    """

    name: str
    dtype: str
    command: tuple[str, ...]
    own: bool = True


def contenders(exports: Path, peers: Sequence[str]) -> list[Contender]:
    """All contenders; models that are not exported yet are exported.

    Args:
        exports: Folder of the exported models.
        peers: `NAME=PYTHON` for each peer.

    Returns:
        The contenders, the ceilings first.

    Raises:
        ValueError: If a peer is unknown or its Python is missing.
    """
    pythons = pythons_of(peers, PEERS)
    model = exports / "model.keras"
    if not model.exists():
        exports.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(0)
        config = coatnet_tf.get_config("coatnet-0", kernel_initializer="lecun_normal")
        network = as_trained(coatnet_tf.CoAtNet(config))
        bias = network.get_layer("predictions").bias
        bias.assign(np.random.default_rng(1).normal(0, 3, bias.shape))  # or its classes were too close to be told apart
        network.save(model)

    def exported(name: str, **options: object) -> str:
        version = exports / name / "1"
        if not version.exists():
            tqdm.tqdm.write(f"Exporting {name}")
            export(ExportOptions(output=exports / name, weights=model, **options))  # type: ignore[arg-type]
        return str(version)

    def ours(name: str, dtype: str, kind: str, path: str, own: bool = True) -> Contender:
        return Contender(name, dtype, (sys.executable, "-m", "tools.benchmarks.worker", kind, path), own)

    plain = exported("saved_model")
    folded = exported("folded", fold=True)
    onnx = exported("onnx", fold=True, format="onnx")
    openvino = exported("openvino", fold=True, format="openvino")
    litert = exported("litert", fold=True, format="litert")
    photos = _images(exports / "images")
    eighth = {"fold": True, "quantize": "int8", "calibration_images": (str(photos),), "crop": "none"}
    half = {"fold": True, "dtype": "bfloat16"}
    found = [
        ours("matrix product", "float32", "ceiling", "", own=False),
        ours("matrix product", "bfloat16", "ceiling_bfloat16", "", own=False),
        ours("Keras call", "float32", "keras_call", str(model)),
        ours("tf.function", "float32", "tf_function", str(model)),
        ours(BASE, "float32", "saved_model", plain),
        ours("folded SavedModel", "float32", "saved_model", folded),
        ours("SavedModel", "bfloat16", "saved_model", exported("saved_model_bfloat16", dtype="bfloat16")),
        ours("folded SavedModel", "bfloat16", "saved_model", exported("folded_bfloat16", **half)),
        ours("ONNX Runtime, folded", "float32", "onnx", onnx),
        ours("OpenVINO, folded", "float32", "openvino", openvino),
        ours("OpenVINO, folded", "bfloat16", "openvino_bfloat16", openvino),
        ours("LiteRT, folded", "float32", "litert", litert),
        ours("ONNX Runtime, folded", "int8", "onnx", exported("onnx_int8", format="onnx", **eighth)),
        ours("OpenVINO, folded", "int8", "openvino", exported("openvino_int8", format="openvino", **eighth)),
    ]
    for name, python in pythons.items():
        script, modes = PEERS[name]
        path = str(Path(__file__).parent / "peers" / script)
        found += [Contender(f"{name}, {mode}", dtype, (python, path, mode), own=False) for mode, dtype in modes.items()]
    if "timm" in pythons:
        theirs = exports / "timm"
        if not theirs.exists():
            subprocess.run(
                [pythons["timm"], str(Path(__file__).parent / "peers" / "timm_export.py"), theirs], check=True
            )
        found.append(ours("ONNX Runtime, timm's export", "float32", "onnx", str(theirs), own=False))
        found.append(ours("OpenVINO, timm's export", "float32", "openvino", str(theirs), own=False))
    return found


def _images(folder: Path) -> Path:
    """A folder of smooth images that the ranges of networks in 8 bits are taken from."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(64):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 5, 3), "uint8"))
        coarse.resize((worker.SIZE, worker.SIZE), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return folder


def as_trained(model: keras.Model) -> keras.Model:
    """The model, whose biases and norms are no longer those of the start, which exporters would leave out."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(generator.uniform(0.8, 1.2, variable.shape))
        elif variable.path.endswith(("bias", "beta", "moving_mean", "table")):
            variable.assign(generator.normal(0, 0.1, variable.shape))
    return model


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of a contender.

    Args:
        name: Its name.
        dtype: Of its arithmetic.
        milliseconds: Batch size to median time per image.
        load_seconds: From loading to the first answer, without the imports.
        difference: Largest difference of its answer from that of `BASE`, over the largest probability; `None` for
            peers, whose weights are others.
    """

    name: str
    dtype: str
    milliseconds: dict[int, float]
    load_seconds: float
    difference: float | None


def measure_inference(exports: Path, output: Path, peers: Sequence[str], rounds: int) -> None:
    """Measures all contenders in turn, and writes table and picture.

    Args:
        exports: Folder of the exported models, and of the processes' logs.
        output: Folder for table and picture.
        peers: `NAME=PYTHON` for each peer.
        rounds: How often each is measured.

    Raises:
        ValueError: If a peer is unknown.
        RuntimeError: If a contender stops.
    """
    found = contenders(exports, peers)
    processes: list[Process] = []
    try:
        for index, contender in enumerate(tqdm.tqdm(found, desc="load")):
            name = f"{contender.name} ({contender.dtype})"
            processes.append(Process(name, contender.command, exports / f"contender{index:02d}.log"))
        measures: dict[tuple[int, int], Callable[[], float]] = {
            (size, i): functools.partial(process.ask, size)
            for size in BATCH_SIZES
            for i, process in enumerate(processes)
        }
        seconds = timing.medians(measures, rounds, WARM_UP_ROUNDS)
    finally:
        for process in processes:
            process.stop()
    expected = next(_answer(p) for p, c in zip(processes, found, strict=True) if (c.name, c.dtype) == (BASE, "float32"))
    rows = [
        Row(
            contender.name,
            contender.dtype,
            {size: 1e3 * seconds[size, i] / size for size in BATCH_SIZES},
            processes[i].first["seconds"],
            _difference(_answer(processes[i]), expected) if contender.own else None,
        )
        for i, contender in enumerate(found)
    ]
    ceilings, rows = rows[:2], rows[2:]
    # The ceiling answers no images: the time of one product, however many were asked for.
    products = {row.dtype: min(ms * size for size, ms in row.milliseconds.items()) for row in ceilings}
    gflops = {dtype: 2 * worker.CEILING_SIDE**3 / ms / 1e6 for dtype, ms in products.items()}
    macs = coatnet_tf.profile("coatnet-0", (worker.SIZE, worker.SIZE, 3)).macs
    output.mkdir(parents=True, exist_ok=True)
    table = "\n".join(benchmark_table(rows, gflops, macs))
    (output / TABLE_FILE).write_text(table + "\n")
    draw_times(rows, output / PICTURE_FILE)
    print(table)


def _answer(process: Process) -> np.ndarray:
    """To one image, the same for all."""
    return np.array(process.first["answer"])


def _difference(answer: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(answer - expected).max() / expected.max())


def benchmark_table(rows: Sequence[Row], gflops: dict[str, float], macs: int) -> list[str]:
    """The table as Markdown.

    Args:
        rows: One for each contender; the one named `BASE` in float32 is what the others are compared with.
        gflops: Speed of a large matrix product, by dtype.
        macs: Multiply-accumulates per image.

    Returns:
        Its lines.
    """
    base = next(row for row in rows if row.name == BASE and row.dtype == "float32")
    floor = {dtype: 2 * macs / speed / 1e6 for dtype, speed in gflops.items()}
    shown = ", ".join(f"{speed:.0f} GFLOP/s in {dtype}" for dtype, speed in gflops.items())
    floors = ", ".join(f"{ms:.0f} ms in {dtype}" for dtype, ms in floor.items())
    lines = [
        f"A large matrix product runs at {shown}.",
        f"The {macs / 1e9:.2f} G multiply-accumulates of an image take at least {floors}.",
        "",
        "| | dtype | "
        + " | ".join(f"batch {size}, ms per image | speed | of the floor" for size in BATCH_SIZES)
        + " | load and first answer, s | differs by |",
        "| --- | --- |" + " ---: | ---: | ---: |" * len(BATCH_SIZES) + " ---: | ---: |",
    ]
    for row in rows:
        cells = [row.name, row.dtype]
        for size in BATCH_SIZES:
            ms = row.milliseconds[size]
            of_floor = f"{floor[row.dtype] / ms:.0%}" if row.dtype in floor else ""
            cells += [f"{ms:.1f}", f"{base.milliseconds[size] / ms:.2f}x", of_floor]
        difference = "" if row.difference is None else f"{row.difference:.0e}"
        lines.append(f"| {' | '.join([*cells, f'{row.load_seconds:.1f}', difference])} |")
    return lines


def draw_times(rows: Sequence[Row], path: Path) -> None:
    """Bars of the times per image, by batch size."""
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(rows) + 1), layout="constrained")
    places = np.arange(len(rows))
    for i, size in enumerate(BATCH_SIZES):
        times = [row.milliseconds[size] for row in rows]
        bars = axes.barh(places + 0.4 * (i - 0.5), times, 0.38, label=f"batch {size}")
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=7)
    axes.set_yticks(places, [f"{row.name}, {row.dtype}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per image, CoAtNet-0 at 224")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
