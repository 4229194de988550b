"""What has to stand in the environment before Keras, JAX and libtpu are imported; for that reason it imports none."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

BACKENDS = {"sharded": "jax", "tpu": "tensorflow"}  # by strategy
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # or it waits for the metadata server of a cloud machine
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # of a host that there is not; a program's topology is given by its name
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or a lock lets one process compile at a time
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "JAX_PLATFORMS": "cpu",  # of its own arrays; the compiler is asked for by name
}


def prepare(arguments: Sequence[str]) -> None:
    """Chooses Keras' backend by `--strategy`, and tells libtpu that there is no TPU.

    Args:
        arguments: The command line without the program's name.

    Raises:
        SystemExit: If `KERAS_BACKEND` says another backend than the strategy needs.
    """
    strategy = strategy_of(arguments)
    needed = BACKENDS.get(strategy, "jax")
    if os.environ.setdefault("KERAS_BACKEND", needed) != needed:
        raise SystemExit(
            f"--strategy={strategy} is compiled from Keras' {needed} backend, and the environment variable "
            f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']!r}: unset it."
        )
    os.environ.update(_LIBTPU)


def strategy_of(arguments: Sequence[str]) -> str:
    """The `--strategy` of a command line; the first of `BACKENDS` by default.

    >>> strategy_of(["--strategy=tpu"]), strategy_of(["--strategy", "tpu"]), strategy_of(["--topology=v5e:2x2"])
    ('tpu', 'tpu', 'sharded')
    """
    found = re.findall(r"(?:^|\n)--?strategy[=\n]([^\n]*)", "\n".join(arguments))
    return found[-1] if found else "sharded"
