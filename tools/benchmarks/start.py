"""Seconds from the start of a process to what its user waits for, each in turn, in processes of their own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.benchmarks import inference, timing

_IMPORTS = ("keras", "coatnet_tf", "experiments.train")
# As `experiments.train` does it, until the first step is done; the dataset has been prepared by the round before.
_FIRST_STEP = """
import sys
from etils import epath
from experiments import engine, loop, train
from experiments.recipes import digits

config, folder, devices = digits.get_config(), epath.Path(sys.argv[1]), engine.connect("one_device")
source = loop.prepare(config, folder, devices)
built, _, _ = loop.build(config, folder, devices, source)
built.begin(0)
built.train(1)
print("stepped", flush=True)
"""


def measure_start(exports: Path, rounds: int) -> dict[str, float]:
    """Medians, by name.

    Args:
        exports: Folder of the exported models, as of `inference.contenders`.
        rounds: How often each is measured.

    Returns:
        Name to seconds: to the end of an import, of the first step of a training, of an export's first answer.

    Raises:
        RuntimeError: If a process ends before that.
    """
    measures: dict[str, Callable[[], float]] = {
        f"import {name}": functools.partial(seconds_to_line, [sys.executable, "-c", f"import {name}; print()"])
        for name in _IMPORTS
    }
    with tempfile.TemporaryDirectory() as folder:
        training = [sys.executable, "-c", _FIRST_STEP, str(Path(folder) / "run")]
        measures["train on digits, first step"] = functools.partial(seconds_to_line, training)
        for contender in inference.contenders(exports, []):
            if contender.own:
                name = f"{contender.name} ({contender.dtype}), first answer"
                measures[name] = functools.partial(seconds_to_line, contender.command)
        return timing.medians(measures, rounds)


def seconds_to_line(command: Sequence[str]) -> float:
    """Seconds from the start of a process to its first line, after which it is ended.

    Args:
        command: Program and arguments.

    Raises:
        RuntimeError: If it ends before.
    """
    begun = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ) as process:
        assert process.stdout  # as it is a pipe
        line = process.stdout.readline()
        seconds = time.perf_counter() - begun
        process.kill()
    if not line:
        raise RuntimeError(f"{' '.join(command[:3])} has stopped before it was ready.")
    return seconds
