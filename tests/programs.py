"""Programs in processes of their own, as `python -m` starts them, without the seconds that importing TensorFlow takes.

The processes are forked from one that has imported the libraries and used nothing of them.
"""

import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]

_FRESH = multiprocessing.get_context("spawn")
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["experiments.loop", "experiments.engine", "experiments.report", "tests.programs"])


class Program:
    """A program that has been started.

    Args:
        command: Its module and flags.
        cwd: Where it runs.
        env: Environment variables that differ from this process'; `None` for none.
        fresh: Whether it imports the libraries itself, for what these say.
        before: Called in the process before the program.
    """

    def __init__(
        self,
        *command: object,
        cwd: Path = ROOT,
        env: dict[str, str | None] | None = None,
        fresh: bool = False,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._written = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(env or {})}
        environment = {name: value for name, value in environment.items() if value is not None}
        arguments = (list(map(str, command)), self._written, str(cwd), environment, before)
        self._process = (_FRESH if fresh else _FORKED).Process(target=_become, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> str:
        return self._written[0].read_text() if self._written[0].is_file() else ""

    @property
    def stderr(self) -> str:
        return self._written[1].read_text() if self._written[1].is_file() else ""

    def poll(self) -> int | None:
        """The exit status, if it has one; minus the number of the signal that ended it."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 600) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"It still ran after {timeout} s:\n{self.stderr[-3000:]}")
        return self._process.exitcode


def run(*command: object, cwd: Path = ROOT, env: dict[str, str | None] | None = None) -> subprocess.CompletedProcess:
    """Runs a program to its end; arguments as of `Program`."""
    program = Program(*command, cwd=cwd, env=env)
    status = program.wait()
    return subprocess.CompletedProcess(command, status, program.stdout, program.stderr)


def _become(
    command: list[str], written: list[Path], cwd: str, environment: dict[str, str], before: Callable[[], None] | None
) -> None:
    """In the forked process: runs the module as `python -m` would."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for path, stream, number in zip(written, ("stdout", "stderr"), (1, 2), strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        setattr(sys, stream, io.TextIOWrapper(os.fdopen(number, "wb", 0, closefd=False), write_through=True))
    sys.path[:] = [cwd, *sys.path[1:]]
    sys.argv = command
    if before:
        before()
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
