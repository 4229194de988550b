"""A training step of each engine, and of peers: each in a process of its own, measured in turn."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import coatnet_tf
from tools.benchmarks import timing
from tools.benchmarks.process import Process, pythons_of

SIZE = 224
WARM_UP_ROUNDS = 2
ENGINES = {"tensorflow": "tensorflow engine", "jax": "jax engine"}
FROZEN = {"frozen": "tensorflow engine, features once"}
# Of each peer: its program, and what it is asked for, by the dtype of the arithmetic.
PEERS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "timm": ("timm_training_worker.py", {"float32": ("eager", "compiled"), "bfloat16": ("compiled", "channels_last")}),
    "kecam": ("kecam_training_worker.py", {"float32": ("function",), "bfloat16": ("function",)}),
}
TABLE_FILE = "training_benchmark.md"
# Of bfloat16 products without sparsity, in TFLOP/s, from NVIDIA's data sheets.
PEAKS = {"A100": 312, "H100": 989, "H200": 989, "L4": 121, "A10G": 70, "T4": 65, "V100": 125}


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something that takes training steps.

    Args:
        name: What the table calls it.
        dtype: Of its arithmetic, `"float32"` or `"bfloat16"`.
        command: Program and arguments of its process.
    """

    name: str
    dtype: str
    command: tuple[str, ...]


def contenders(
    model: str, batch_size: int, dtypes: Sequence[str], peers: Sequence[str], frozen: bool = False
) -> list[Contender]:
    """Both engines and all peers.

    Args:
        model: `coatnet-0` to `coatnet-3`.
        batch_size: Images per step.
        dtypes: `"float32"`, `"bfloat16"`.
        peers: `NAME=PYTHON` for each peer.
        frozen: Whether the classifier alone is trained, of which our part is to compute each image's features once.

    Returns:
        The contenders.

    Raises:
        ValueError: If a peer is unknown or its Python is missing.
    """
    arguments = (model, str(batch_size))
    found = [
        Contender(
            name,
            dtype,
            (sys.executable, "-m", "tools.benchmarks.training_worker", engine, dtype, *arguments),
        )
        for dtype in dtypes
        for engine, name in (FROZEN if frozen else ENGINES).items()
    ]
    trained = "head" if frozen else "all"
    for name, python in pythons_of(peers, PEERS).items():
        script, modes = PEERS[name]
        path = str(Path(__file__).parent / "peers" / script)
        found += [
            Contender(f"{name}, {mode.replace('_', ' ')}", dtype, (python, path, mode, dtype, *arguments, trained))
            for dtype in dtypes
            for mode in modes[dtype]
        ]
    return found


def start(contender: Contender, log: Path) -> Process:
    """Starts a contender.

    Args:
        contender: What to run.
        log: File for what it says beside its answers.

    Raises:
        RuntimeError: If it does not answer.
    """
    environment = {
        "KERAS_BACKEND": "jax" if "jax" in contender.command else "tensorflow",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # others are on the same GPU
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    return Process(f"{contender.name} ({contender.dtype})", contender.command, log, environment)


def measure_training(
    output: Path,
    models: Sequence[str],
    batch_size: int,
    dtypes: Sequence[str],
    peers: Sequence[str],
    rounds: int,
    frozen: bool = False,
) -> None:
    """Measures all contenders in turn, one network after the other, and writes the table.

    Args:
        output: Folder for the table, and the logs of the processes.
        models: `coatnet-0` to `coatnet-3`.
        batch_size: Images per step.
        dtypes: `"float32"`, `"bfloat16"`.
        peers: `NAME=PYTHON` for each peer.
        rounds: How often each is measured.
        frozen: As of `contenders`.

    Raises:
        ValueError: If a model or a peer is unknown.
        RuntimeError: If a contender stops.
    """
    output.mkdir(parents=True, exist_ok=True)
    lines = []
    for model in models:
        macs = coatnet_tf.profile(model, (SIZE, SIZE, 3)).macs
        found = contenders(model, batch_size, dtypes, peers, frozen)
        processes: list[Process] = []
        try:
            for index, contender in enumerate(found):
                processes.append(start(contender, output / f"training{index:02d}.log"))
            seconds = timing.medians(
                {i: lambda p=process: p.ask()["seconds"] for i, process in enumerate(processes)},  # type: ignore[misc]
                rounds,
                WARM_UP_ROUNDS,
            )
            gib = [process.ask()["gib"] for process in processes]
        finally:
            for process in processes:
                process.stop()
        for i, contender in enumerate(found):
            base = next(j for j, other in enumerate(found) if other.dtype == contender.dtype)
            lines.append(_row(model, contender, processes[i], gib[i], seconds[i], seconds[base], batch_size, macs))
    devices = sorted({process.first["device"] for process in processes})
    header = [
        f"One training step {'of the head ' if frozen else ''}at {SIZE}, batches of {batch_size}, AdamW, on "
        f"{', '.join(devices)}:",
        "",
        "| model | | dtype | ms per image | images/s | speed | GiB | of the peak | to the end of the first step, s |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    table = "\n".join([*header, *lines])
    (output / TABLE_FILE).write_text(table + "\n")
    print(table)


def _row(
    model: str,
    contender: Contender,
    process: Process,
    gib: float | None,
    seconds: float,
    base: float,
    batch_size: int,
    macs: int,
) -> str:
    device = process.first["device"]
    peak = next((tflops for name, tflops in PEAKS.items() if name in device), None)
    share = f"{6e-12 * macs * batch_size / seconds / peak:.0%}" if peak and contender.dtype == "bfloat16" else ""
    cells = [
        model,
        contender.name,
        contender.dtype,
        f"{1e3 * seconds / batch_size:.1f}",
        f"{batch_size / seconds:.0f}",
        f"{base / seconds:.2f}x",
        "" if gib is None else f"{gib:.1f}",
        share,
        f"{process.first['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"
