"""Choosing a devices, and the order in which a TPU is taken into use."""

import types

import pytest
import tensorflow as tf

from experiments.engine import connect


def test_unknown_or_unusable_strategies_are_refused(monkeypatch):
    assert connect("one_device").is_chief
    with pytest.raises(ValueError, match="no strategy 'tpus'; the known ones are one_device, mirrored, multi_worker,"):
        connect("tpus")
    with pytest.raises(ValueError, match="--strategy=tpu needs --tpu=NAME"):
        connect("tpu")
    with pytest.raises(ValueError, match="is only for --strategy=tpu"):
        connect("mirrored", tpu="mine")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="needs the environment variable TF_CONFIG"):
        connect("multi_worker")
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}')
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit")
    with pytest.raises(ValueError, match="unset TF_XLA_FLAGS for --strategy=multi_worker"):
        connect("multi_worker")


def test_one_process_waits_for_none():
    done = []
    devices = connect("mirrored")
    devices.chief_first(lambda: done.append(1))
    assert done == [1]
    assert devices.on_any_process(True)
    assert not devices.on_any_process(False)
    assert devices.union_over_processes(["b", "a"]) == {"a", "b"}


def test_tpu_is_found_connected_initialised_and_then_used(monkeypatch):
    calls = []

    class Resolver:
        def __init__(self, tpu):
            calls.append(("resolver", tpu))

    class Strategy:
        extended = types.SimpleNamespace(num_hosts=1)

        def __init__(self, resolver):
            call("strategy")(resolver)

    def call(name):
        def record(resolver):
            assert isinstance(resolver, Resolver)
            calls.append(name)

        return record

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", Resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", call("connect"))
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", call("initialize"))
    monkeypatch.setattr(tf.distribute, "TPUStrategy", Strategy)
    assert isinstance(connect("tpu", tpu="pod-slice").strategy, Strategy)
    assert calls == [("resolver", "pod-slice"), "connect", "initialize", "strategy"]
