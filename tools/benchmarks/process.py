"""A contender in a process of its own, which answers a line of JSON to each line it is sent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any


def pythons_of(peers: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """The Python of each peer, from `NAME=PYTHON`.

    Raises:
        ValueError: If a name is not known, or its Python is no file.
    """
    pythons = {}
    for peer in peers:
        name, _, python = peer.partition("=")
        if name not in known or not Path(python).is_file():
            raise ValueError(f"--peer must be NAME=PYTHON, with a name of {', '.join(known)} and a file; got {peer!r}.")
        pythons[name] = python
    return pythons


class Process:
    """A running contender.

    Args:
        name: Of the contender, for messages.
        command: Program and arguments.
        log: File for what it says beside its answers.
        environment: Variables beside those of this process.

    Raises:
        RuntimeError: If it does not answer.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] = {}) -> None:
        self._name, self._log = name, log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # a group of its own, with the workers that it starts
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            )
        assert self._process.stdin and self._process.stdout  # as they are pipes
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self.first = self._read()  # what it says when it is ready

    def _read(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise self._stopped()
        return json.loads(line)

    def _stopped(self) -> RuntimeError:
        killed = self._process.wait() == -signal.SIGKILL  # as Linux does where memory is full
        why = "was killed, as the system does where memory is full" if killed else f"has stopped; {self._log} says why"
        return RuntimeError(f"{self._name} {why}.")

    def ask(self, question: Any = "") -> Any:
        """Its answer to a line."""
        try:
            self._questions.write(f"{question}\n")
            self._questions.flush()
        except BrokenPipeError as error:
            raise self._stopped() from error
        return self._read()

    def pause(self) -> None:
        """Has it and its workers take no processor time until `resume`."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
