"""The distribution strategies a run can choose from: one name, one `tf.distribute.Strategy`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable

import tensorflow as tf

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(name: str, tpu: str = "") -> tf.distribute.Strategy:
    """Makes a strategy ready for use, with its devices connected.

    Args:
        name: `"one_device"` (the first GPU, else the CPU), `"mirrored"` (all GPUs of this machine, else
            its logical CPUs), `"multi_worker"` (the cluster that TF_CONFIG describes) or `"tpu"`.
        tpu: Name or address of the TPU; `"local"` on a TPU VM. Only for `"tpu"`.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: If the name is unknown, or what the strategy needs is not there.

    Example:
    >>> from experiments.strategies import make_strategy
    >>> make_strategy("one_device").num_replicas_in_sync
    1
    """
    if name not in STRATEGIES:
        raise ValueError(f"There is no strategy {name!r}; the known ones are {', '.join(STRATEGIES)}.")
    if tpu and name != "tpu":
        raise ValueError(f"--tpu={tpu} is only for --strategy=tpu; got --strategy={name}.")
    if name == "tpu":
        return _make_tpu_strategy(tpu)
    if name == "multi_worker":
        return _make_multi_worker_strategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")
    devices = gpus or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _make_multi_worker_strategy() -> tf.distribute.Strategy:
    """Before anything else touches a device: collective operations are set up when TensorFlow starts."""
    if "cluster" not in json.loads(os.environ.get("TF_CONFIG") or "{}"):
        raise ValueError(
            'multi_worker needs the environment variable TF_CONFIG, such as {"cluster": {"worker": '
            '["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}; it is not set or has no cluster.'
        )
    if "tf_xla_cpu_global_jit" in os.environ.get("TF_XLA_FLAGS", "") and not tf.config.list_physical_devices("GPU"):
        raise ValueError(
            "TF_XLA_FLAGS has --tf_xla_cpu_global_jit, with which TensorFlow cannot train in a cluster of CPUs (the "
            'first step fails with "Multiple CPU devices"); unset TF_XLA_FLAGS for --strategy=multi_worker.'
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


def _make_tpu_strategy(tpu: str) -> tf.distribute.Strategy:
    if not tpu:
        raise ValueError("--strategy=tpu needs --tpu=NAME, the TPU's name, or --tpu=local on a TPU VM.")
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes checkpoints, metrics and reports."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    return resolver.task_type in (None, "chief") or (
        resolver.task_id == 0 and "chief" not in resolver.cluster_spec().as_dict()
    )


def chief_first(strategy: tf.distribute.Strategy, do: Callable[[], None]) -> None:
    """Calls a function on the chief, then on the other processes of the cluster, which wait for it.

    What the chief prepares in a folder that all share is there when the others look.

    Args:
        strategy: The distribution strategy.
        do: The function.
    """
    error: Exception | None = None
    if is_chief(strategy):
        try:
            do()
        except Exception as raised:
            error = raised
    if on_any_process(strategy, error is not None):
        raise error or ValueError("The chief of the cluster has stopped; its log says why.")
    if not is_chief(strategy):
        do()


def on_any_process(strategy: tf.distribute.Strategy, condition: bool) -> bool:
    """Whether a condition holds on any process of the cluster; all have to ask, and wait for one another.

    Args:
        strategy: The distribution strategy.
        condition: Whether it holds on this one.

    Returns:
        The same on all.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return condition
    return float(_sum_over_replicas(strategy, tf.constant(float(condition)))) > 0


def same_on_all(strategy: tf.distribute.Strategy, value: int) -> bool:
    """Whether all processes of the cluster have the same value; all have to ask.

    Args:
        strategy: The distribution strategy.
        value: That of this process.

    Returns:
        The same on all.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    mean = float(_sum_over_replicas(strategy, tf.constant(float(value), tf.float64))) / strategy.num_replicas_in_sync
    return not on_any_process(strategy, mean != value)


def union_over_processes(strategy: tf.distribute.Strategy, names: Iterable[str]) -> set[str]:
    """The names that any process of the cluster has; all have to ask, and wait for one another.

    Args:
        strategy: The distribution strategy.
        names: Those of this process, without line breaks.

    Returns:
        The same on all.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return set(names)
    lines = "".join(f"{name}\n" for name in {*names, ""})  # not empty, which cannot be gathered
    letters = tf.constant(list(lines.encode()), tf.int32)  # collective operations take no strings
    gathered = strategy.gather(strategy.run(tf.identity, args=(letters,)), axis=0)
    return {*bytes(gathered.numpy().tolist()).decode().split("\n")} - {""}


@tf.function
def _sum_over_replicas(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(tf.identity, args=(value,)), axis=None)
