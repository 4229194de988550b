"""The engines: what takes the training steps, on TensorFlow (`tf.distribute`) or on JAX (sharded).

Both have the same two parts: `Devices`, which a run's batches are shared among, and `Engine`, the model with its step,
state and checkpoints. All else (recipes, data, loop, history, report) does not know which of them runs.
"""

from __future__ import annotations

from typing import Any

from experiments.backend import SHARDED, TENSORFLOW_STRATEGIES, check
from experiments.engine.devices import Devices
from experiments.engine.engine import Engine

__all__ = ["STRATEGIES", "Devices", "Engine", "connect"]

STRATEGIES = (*TENSORFLOW_STRATEGIES, SHARDED)


def connect(strategy: str, **options: Any) -> Devices:
    """Finds the devices of a run and makes them ready for use.

    Args:
        strategy: `"one_device"` (the first GPU, else the CPU), `"mirrored"` (all GPUs of this machine, else
            its logical CPUs), `"multi_worker"` (the cluster that TF_CONFIG describes) or `"tpu"`, of TensorFlow;
            or `"sharded"`, of JAX: all devices of all processes.
        **options: `tpu`, name or address of the TPU (`"local"` on a TPU VM), only for `"tpu"`; `shards`,
            `coordinator`, `process_id` and `processes`, only for `"sharded"`, see `jax_devices.connect`.

    Returns:
        The devices.

    Raises:
        ValueError: If the name is unknown, Keras runs on another backend, an option is of another strategy, or what the
            strategy needs is not there.

    Example:
    >>> from experiments import engine
    >>> engine.connect("one_device").replicas
    1
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"There is no strategy {strategy!r}; the known ones are {', '.join(STRATEGIES)}.")
    check(strategy)
    given = {name: value for name, value in options.items() if value not in (None, "")}
    taken = {"tpu": ("tpu",), SHARDED: ("shards", "coordinator", "process_id", "processes")}
    for name, value in given.items():
        if name not in taken.get(strategy, ()):
            owner = next(owner for owner, names in taken.items() if name in names)
            raise ValueError(f"--{name}={value} is only for --strategy={owner}; got --strategy={strategy}.")
    if strategy == SHARDED:
        from experiments.engine import jax_devices

        return jax_devices.connect(**given)
    from experiments.engine import tensorflow_devices

    return tensorflow_devices.connect(strategy, given.get("tpu", ""))
