"""What TensorFlow and tf2onnx say while they write a model, held back."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from absl import flags

_LOGGERS = ("absl", "tensorflow", "tf2onnx")  # TensorFlow uses the first two


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Holds back information, such as lines of 3,000 characters on renamed inputs, unless `--verbosity` was given.

    Warnings and errors pass.
    """
    if flags.FLAGS["verbosity"].present:
        yield
        return
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras' copy of tf2onnx looks for numpy.object
        try:
            for logger in loggers:
                logger.setLevel(max(logging.WARNING, logger.level))
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
