"""What TensorFlow and tf2onnx say while they write a model, held back."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from absl import flags
from absl import logging as absl_logging

_LOGGERS = ("tensorflow", "tf2onnx")  # beside absl's, which TensorFlow uses too


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Holds back information, such as lines of 3,000 characters on renamed inputs, unless `--verbosity` was given.

    Warnings and errors pass.
    """
    if flags.FLAGS["verbosity"].present:
        yield
        return
    verbosity = absl_logging.get_verbosity()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras' copy of tf2onnx looks for numpy.object
        try:
            # By absl's own function: TensorFlow sets and restores its verbosity meanwhile, and with it all levels.
            absl_logging.set_verbosity(min(verbosity, absl_logging.WARNING))
            for logger in loggers:
                logger.setLevel(max(logging.WARNING, logger.level))
            yield
        finally:
            absl_logging.set_verbosity(verbosity)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
