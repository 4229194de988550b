"""Which backend of Keras a strategy needs: it has to be chosen before Keras is imported."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence

TENSORFLOW_STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")
SHARDED = "sharded"


def choose(arguments: Sequence[str]) -> None:
    """Takes Keras' JAX backend if the command line says `--strategy=sharded`.

    Args:
        arguments: The command line without the program's name.

    Raises:
        SystemExit: If `KERAS_BACKEND` says another, or JAX or Orbax is not installed.
    """
    if not re.search(rf"(^|\n)--?strategy[=\n]{SHARDED}(\n|$)", "\n".join(arguments)):
        return
    chosen = os.environ.setdefault("KERAS_BACKEND", "jax")
    if chosen != "jax":
        raise SystemExit(
            f"--strategy={SHARDED} trains on Keras' JAX backend, and the environment variable KERAS_BACKEND is "
            f"{chosen!r}: unset it."
        )
    missing = [name for name in ("jax", "orbax") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"--strategy={SHARDED} needs {' and '.join(missing)}, not installed: pip install 'coatnet_tf[sharded]'."
        )


def check(strategy: str) -> None:
    """Refuses a strategy of another backend than Keras runs on.

    Args:
        strategy: One of `engine.STRATEGIES`.

    Raises:
        ValueError: If it is.
    """
    needed = "jax" if strategy == SHARDED else "tensorflow"
    running = sys.modules["keras"].config.backend() if "keras" in sys.modules else needed
    if running != needed:
        raise ValueError(
            f"--strategy={strategy} needs Keras' {needed} backend, and Keras runs on {running}: unset KERAS_BACKEND, "
            'or set "backend" in ~/.keras/keras.json to "tensorflow".'
        )
