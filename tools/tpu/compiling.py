"""Compiles lowered steps, which takes minutes, and keeps what came out by the hash of the program."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CACHE = "~/.cache/coatnet_tf/compiled"
_EACH_SECONDS = 10
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a program.

    Args:
        text: The program for one device; empty if it does not fit.
        argument_bytes: Of the state and the batch, on each device.
        temporary_bytes: Of what the step needs beside them; of all that it needs if it does not fit.
        flops: Of each device.
        bytes_accessed: Of each device.
        seconds: That compiling took, when it was done.
        refusal: Why it does not fit; empty if it does.
    """

    text: str
    argument_bytes: int
    temporary_bytes: int
    flops: float
    bytes_accessed: float
    seconds: float
    refusal: str = ""


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that can be compiled.

    Args:
        text: The program before it is compiled.
        compile: Compiles it; gives its text, its memory as `jaxlib` describes it, and its cost by name.
    """

    text: str
    compile: Callable[[], tuple[str, Any, dict[str, float]]]


def compile_step(step: Step, topology: str, cache: Path) -> Compiled:
    """Compiles a step, or finds what came out of it before.

    Args:
        step: The step.
        topology: Name of the topology that it is for.
        cache: Folder of results.

    Returns:
        A `Compiled`; one with a refusal if the program does not fit into the memory of a device.
    """
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("libtpu", "jax", "jaxlib")]
    key = hashlib.sha256("\n".join([*versions, topology, step.text]).encode()).hexdigest()
    file = cache / f"{key}.json.gz"
    if file.exists():
        return Compiled(**json.loads(gzip.decompress(file.read_bytes())))
    started = time.monotonic()
    with _progress():
        try:
            text, memory, cost = step.compile()
        except Exception as error:
            sizes = re.findall(r"([\d.]+)([MGT])\b", str(error))
            if "RESOURCE_EXHAUSTED" not in str(error) or len(sizes) < 2:
                raise
            needed, there = (f"{float(number):g} {unit}iB" for number, unit in sizes[:2])
            size = int(float(sizes[0][0]) * _UNITS[sizes[0][1]])
            refusal = f"the compiler needs {needed}, and {there} can be had"
            found = Compiled("", 0, size, 0.0, 0.0, time.monotonic() - started, refusal)
        else:
            found = Compiled(
                text,
                memory.argument_size_in_bytes,
                memory.temp_size_in_bytes,
                cost["flops"],
                cost["bytes accessed"],
                time.monotonic() - started,
            )
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(gzip.compress(json.dumps(dataclasses.asdict(found)).encode()))
    unfinished.replace(file)
    return found


@contextmanager
def _progress() -> Iterator[None]:
    """Says on stderr how long it has taken so far."""
    done = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        while not done.wait(_EACH_SECONDS):
            ending = "\r" if sys.stderr.isatty() else "\n"
            print(f"Compiling: {time.monotonic() - started:.0f} s", end=ending, file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
