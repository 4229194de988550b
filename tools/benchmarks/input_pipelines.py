"""Input pipelines, ours and others', on the same files: each in a process of its own, measured in turn."""

from __future__ import annotations

import functools
import io
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tools.benchmarks import timing
from tools.benchmarks.input_worker import BATCH_SIZE, BATCHES, LAYERS, MAGNITUDE, MIXUP, SIZE
from tools.benchmarks.process import Process, pythons_of

OURS = {
    "whole": "ours: any part of the image, flip, RandAugment, Mixup",
    "alone": "ours: any part of the image alone",
    "keras": "image_dataset_from_directory, Keras' RandomCrop, RandomFlip, RandAugment, MixUp",
}
PEERS = {"timm": ("timm_input_worker.py", "torch's DataLoader, timm's transforms and Mixup")}
TABLE_FILE = "input_benchmark.md"
_FILES = 512


def synthetic_jpegs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Writes photograph-like JPEGs of ImageNet's usual size in two class folders."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3)).astype("uint8")).resize(
            size, Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse) + generator.normal(0, 6, (size[1], size[0], 3))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype("uint8")).save(buffer, "JPEG", quality=90)
        path = folder / ("even", "odd")[index % 2]
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{index:04d}.jpg").write_bytes(buffer.getvalue())


def measure_input(output: Path, peers: Sequence[str], rounds: int) -> None:
    """Measures all pipelines in turn and writes the table.

    Args:
        output: Folder for the table, and the logs of the processes.
        peers: `NAME=PYTHON` for each peer.
        rounds: How often each is measured.

    Raises:
        ValueError: If a peer is unknown.
        RuntimeError: If a contender stops.
    """
    commands: dict[str, tuple[str, ...]] = {
        text: (sys.executable, "-m", "tools.benchmarks.input_worker", kind, "FOLDER") for kind, text in OURS.items()
    }
    for name, python in pythons_of(peers, PEERS).items():
        script, text = PEERS[name]
        commands[text] = (python, str(Path(__file__).parent / "peers" / script), "FOLDER")
    output.mkdir(parents=True, exist_ok=True)
    processes: dict[str, Process] = {}
    with tempfile.TemporaryDirectory() as folder:
        synthetic_jpegs(Path(folder), _FILES)
        try:
            for index, (text, command) in enumerate(commands.items()):
                processes[text] = Process(text, (*command[:-1], folder), output / f"input{index}.log")
                processes[text].pause()
            seconds = timing.medians(
                {text: functools.partial(_ask_alone, process) for text, process in processes.items()}, rounds
            )
        finally:
            for process in processes.values():
                process.stop()
    lines = table(seconds, os.cpu_count() or 1)
    (output / TABLE_FILE).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _ask_alone(process: Process) -> float:
    """Seconds of a pipeline, the only one that is not paused: what the others prepare ahead would take its cores."""
    process.resume()
    seconds = process.ask()["seconds"]
    process.pause()
    return seconds


def table(seconds: Mapping[str, float], cores: int) -> list[str]:
    """The rates, and how many times the first pipeline's each is.

    Args:
        seconds: For `BATCHES` batches, by pipeline.
        cores: Of the machine.

    Returns:
        Lines of Markdown.
    """
    first = next(iter(seconds.values()))
    lines = [
        f"JPEG files of 500 x 375 to batches of {BATCH_SIZE} at {SIZE}, RandAugment {LAYERS} x {MAGNITUDE}, Mixup "
        f"{MIXUP}, {cores} cores:",
        "",
        "| pipeline | images/s | images/s and core | ours against it |",
        "| --- | ---: | ---: | ---: |",
    ]
    for text, value in seconds.items():
        rate = BATCHES * BATCH_SIZE / value
        lines.append(f"| {text} | {rate:,.0f} | {rate / cores:,.0f} | {value / first:.2f}x |")
    return lines
