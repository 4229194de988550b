"""Devices of TensorFlow: a `tf.distribute.Strategy`, whose replicas each hold the whole state."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import tensorflow as tf
from etils import epath

from experiments.engine.devices import Devices

if TYPE_CHECKING:
    from experiments.engine.tensorflow_checkpoints import TensorFlowCheckpoints
    from experiments.engine.tensorflow_engine import TensorFlowEngine


def connect(name: str, tpu: str = "") -> TensorFlowDevices:
    """Makes the devices of a strategy ready for use; see `engine.connect`.

    Args:
        name: One of `TENSORFLOW_STRATEGIES`.
        tpu: Name or address of the TPU.

    Returns:
        The devices.

    Raises:
        ValueError: If what the strategy needs is not there.
    """
    return TensorFlowDevices(_make_strategy(name, tpu))


def _make_strategy(name: str, tpu: str) -> tf.distribute.Strategy:
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


class TensorFlowDevices(Devices):
    """The replicas of a strategy.

    Args:
        strategy: The strategy.
    """

    lost_process = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        self._is_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        self._is_cluster = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        # The hosts of a TPU pod prepare input, and run no Python for it.
        self.counts_damaged = not self._is_tpu or strategy.extended.num_hosts == 1

    @property
    def replicas(self) -> int:
        return self.strategy.num_replicas_in_sync

    @property
    def is_chief(self) -> bool:
        if not self._is_cluster:
            return True
        resolver = self.strategy.cluster_resolver
        return resolver.task_type in (None, "chief") or (
            resolver.task_id == 0 and "chief" not in resolver.cluster_spec().as_dict()
        )

    @property
    def hold_features(self) -> bool:
        return not (self._is_tpu or self._is_cluster)

    @property
    def meets_in_parts(self) -> bool:
        return self._is_tpu or self.replicas == 1

    def __str__(self) -> str:
        return ", ".join(device.rpartition("/device:")[2] for device in self.strategy.extended.worker_devices)

    def gather(self, numbers: Sequence[int]) -> list[int]:
        if not self._is_cluster:
            return [int(number) for number in numbers]
        mine = tf.constant([int(number) for number in numbers], tf.int32)
        gathered = self.strategy.gather(self.strategy.run(tf.identity, args=(mine,)), axis=0)
        return gathered.numpy().tolist()

    def _engine_class(self) -> type[TensorFlowEngine]:
        from experiments.engine.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine

    def checkpoints(self, workdir: epath.Path, state: dict[str, list[keras.Variable]]) -> TensorFlowCheckpoints:
        from experiments.engine.tensorflow_checkpoints import TensorFlowCheckpoints

        worker = 0 if self.is_chief else self.strategy.cluster_resolver.task_id
        return TensorFlowCheckpoints(workdir, state, self, worker)
