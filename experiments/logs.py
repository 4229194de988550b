"""A log of a run shows the run: what TensorFlow and other libraries say is left out unless `--verbosity=1` asks for it.

Two parts, as TensorFlow speaks from the moment it is imported and Python's own logs are there only when a program
begins: `import_tensorflow` before any other import of it, and `show_ours` first in `main`.
"""

from __future__ import annotations

import contextlib
import io
import logging as standard_logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from absl import flags, logging

_ROOT = Path(__file__).parents[1]
_OURS = tuple(f"{_ROOT / package}{os.sep}" for package in ("coatnet_tf", "experiments", "tools"))


def _theirs_are_asked_for() -> bool:
    """Whether the command line has absl's `--verbosity` (or `-v`) above 0, before absl has read it."""
    return bool(re.search(r"(^| )--?v(erbosity)?[= ][1-9]", " ".join(sys.argv[1:])))


def import_tensorflow() -> None:
    """Imports TensorFlow without its lines on processors and drivers, if nobody has imported it before.

    Its C++ prints some before TF_CPP_MIN_LOG_LEVEL is looked at.
    """
    if "tensorflow" in sys.modules or _theirs_are_asked_for():
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with without_stderr():
        import tensorflow  # noqa: F401


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Turns stderr itself aside, to which C++ prints; what was said meanwhile is shown if it ends with an error."""
    if _theirs_are_asked_for():
        yield
        return
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(stderr, aside.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def show_ours() -> None:
    """Shows the lines of this project from INFO on, and those of others from ERROR on; `--verbosity` overrides both."""
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)
    if not _theirs_are_asked_for():
        logging.get_absl_handler().addFilter(_is_ours_or_an_error)
        for name in ("tensorflow", "tf2onnx"):  # which have handlers of their own
            standard_logging.getLogger(name).setLevel(standard_logging.ERROR)
        warnings.simplefilter("ignore", FutureWarning)


def _is_ours_or_an_error(record: standard_logging.LogRecord) -> bool:
    return record.levelno >= standard_logging.ERROR or record.pathname.startswith(_OURS)


@contextlib.contextmanager
def without_prints() -> Iterator[None]:
    """Leaves out what others print to stdout meanwhile."""
    with contextlib.nullcontext() if _theirs_are_asked_for() else contextlib.redirect_stdout(io.StringIO()):
        yield
