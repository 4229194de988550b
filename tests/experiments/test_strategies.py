"""Choosing a strategy, and the order in which a TPU is taken into use."""

import pytest
import tensorflow as tf

from experiments.strategies import chief_first, is_chief, make_strategy, on_any_process, union_over_processes


def test_unknown_or_unusable_strategies_are_refused(monkeypatch):
    assert is_chief(make_strategy("one_device"))
    with pytest.raises(ValueError, match="no strategy 'tpus'; the known ones are one_device, mirrored, multi_worker,"):
        make_strategy("tpus")
    with pytest.raises(ValueError, match="--strategy=tpu needs --tpu=NAME"):
        make_strategy("tpu")
    with pytest.raises(ValueError, match="is only for --strategy=tpu"):
        make_strategy("mirrored", tpu="mine")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="needs the environment variable TF_CONFIG"):
        make_strategy("multi_worker")
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}')
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit")
    with pytest.raises(ValueError, match="unset TF_XLA_FLAGS for --strategy=multi_worker"):
        make_strategy("multi_worker")


def test_one_process_waits_for_none():
    done = []
    chief_first(make_strategy("mirrored"), lambda: done.append(1))
    assert done == [1]
    assert on_any_process(make_strategy("mirrored"), True)
    assert not on_any_process(make_strategy("mirrored"), False)
    assert union_over_processes(make_strategy("mirrored"), ["b", "a"]) == {"a", "b"}


def test_tpu_is_found_connected_initialised_and_then_used(monkeypatch):
    calls = []

    class Resolver:
        def __init__(self, tpu):
            calls.append(("resolver", tpu))

    def call(name, result=None):
        def record(resolver):
            assert isinstance(resolver, Resolver)
            calls.append(name)
            return result

        return record

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", Resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", call("connect"))
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", call("initialize"))
    monkeypatch.setattr(tf.distribute, "TPUStrategy", call("strategy", result="the strategy"))
    assert make_strategy("tpu", tpu="pod-slice") == "the strategy"
    assert calls == [("resolver", "pod-slice"), "connect", "initialize", "strategy"]
