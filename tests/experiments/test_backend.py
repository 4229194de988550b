"""The backend that a strategy needs, before Keras is imported and after."""

import importlib.util
import os

import keras
import pytest

from experiments import backend


@pytest.mark.parametrize(
    "flag", [["--strategy=sharded"], ["-strategy", "sharded"], ["--config=x.py", "--strategy=sharded"]]
)
def test_the_flag_chooses_jax(monkeypatch, flag):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    backend.choose(flag)
    assert os.environ["KERAS_BACKEND"] == "jax"


@pytest.mark.parametrize("flag", [["--strategy=mirrored"], ["--workdir=sharded"], ["--name=--strategy=sharded-2"], []])
def test_other_flags_leave_it(monkeypatch, flag):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    backend.choose(flag)
    assert "KERAS_BACKEND" not in os.environ


def test_what_contradicts_or_is_missing_is_said(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(SystemExit, match="KERAS_BACKEND is 'tensorflow': unset it"):
        backend.choose(["--strategy=sharded"])
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "orbax" else name)
    with pytest.raises(SystemExit, match=r"needs orbax, not installed: pip install 'coatnet_tf\[sharded\]'"):
        backend.choose(["--strategy=sharded"])


def test_a_strategy_of_the_other_backend_is_refused():
    running = keras.config.backend()
    strategy, needed = ("sharded", "jax") if running == "tensorflow" else ("one_device", "tensorflow")
    with pytest.raises(ValueError, match=f"--strategy={strategy} needs Keras' {needed} backend, and Keras runs on"):
        backend.check(strategy)
