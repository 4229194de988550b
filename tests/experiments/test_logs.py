"""A program's log shows its own lines, and what others say only from errors on."""

import logging as standard_logging
import sys

import pytest
from absl import flags, logging

from experiments import logs

OTHERS = ("tensorflow", "tf2onnx")


@pytest.fixture
def restored():
    handler, verbosity = logging.get_absl_handler(), logging.get_verbosity()
    filters, levels = list(handler.filters), [standard_logging.getLogger(name).level for name in OTHERS]
    yield
    handler.filters[:] = filters
    logging.set_verbosity(verbosity)
    for name, level in zip(OTHERS, levels, strict=True):
        standard_logging.getLogger(name).setLevel(level)


def is_shown(level, path):
    record = standard_logging.LogRecord("absl", level, path, 1, "renamed inputs", (), None)
    return bool(logging.get_absl_handler().filter(record))


@pytest.mark.parametrize("asked", [False, True])
def test_others_are_heard_if_asked_for(restored, monkeypatch, asked):
    monkeypatch.setattr(sys, "argv", ["train", "--verbosity=1"] if asked else ["train"])
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    for name in OTHERS:
        standard_logging.getLogger(name).setLevel(standard_logging.INFO)
    logs.show_ours()
    assert is_shown(standard_logging.INFO, logs.__file__)
    assert is_shown(standard_logging.ERROR, "/somewhere/keras/model.py")
    assert is_shown(standard_logging.WARNING, "/somewhere/keras/model.py") == asked
    for name in OTHERS:
        assert standard_logging.getLogger(name).isEnabledFor(standard_logging.WARNING) == asked
