"""Trains in one process, then again in processes that are killed at random moments and one that may finish.

    python tests/experiments/killed_runs.py CONFIG.json WHOLE_FOLDER KILLED_FOLDER KILLS SEED

Every third process is killed while it writes a checkpoint, the others up to 1.5 s after their first steps.
They are forked from this one, which has imported TensorFlow but used nothing of it.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import ml_collections

from experiments import backend, history, loop
from experiments.engine import connect

SIGN = "training"  # a file that says that steps have been taken


def train(config: ml_collections.ConfigDict, folder: Path) -> None:
    show = history.Progress.show

    def show_and_sign(*arguments: object) -> None:
        show(*arguments)
        (folder.parent / SIGN).touch()

    history.Progress.show = show_and_sign
    devices = connect(backend.SHARDED if os.environ.get("KERAS_BACKEND") == "jax" else "one_device")
    source = loop.prepare(config, folder, devices)
    loop.train(config, folder, devices, source, *loop.build(config, folder, devices, source))


def is_saving(folder: Path) -> bool:
    parts = [path.name for path in folder.glob("checkpoints/ckpt-*")]
    of_jax = any("orbax-checkpoint-tmp" in path.name for path in folder.glob("checkpoints/step_*"))
    return of_jax or any(f"{part.partition('.')[0]}.index" not in parts for part in parts)


def train_and_kill(config: ml_collections.ConfigDict, folder: Path, kills: int, generator: random.Random) -> None:
    while True:
        (folder.parent / SIGN).unlink(missing_ok=True)
        child = os.fork()
        if not child:
            train(config, folder)
            os._exit(0)
        finished = (0, 0)
        while kills and not finished[0] and not (folder.parent / SIGN).exists():
            time.sleep(0.01)
            finished = os.waitpid(child, os.WNOHANG)
        until = time.monotonic() + generator.uniform(0, 1.5)
        while kills and not finished[0]:
            finished = os.waitpid(child, os.WNOHANG)
            if is_saving(folder) if kills % 3 == 0 else time.monotonic() > until:
                break
        if kills and not finished[0]:
            os.kill(child, signal.SIGKILL)
            print("killed", sorted(path.name for path in folder.glob("checkpoints/*")), flush=True)
            kills -= 1
        _, status = finished if finished[0] else os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) or kills:
                sys.exit(os.WEXITSTATUS(status) or 3)  # 3: finished before it could be killed
            return


def main(config_path: str, whole: Path, killed: Path, kills: int, seed: int) -> None:
    config = ml_collections.ConfigDict(json.loads(Path(config_path).read_text()))
    train_and_kill(config, whole, 0, random.Random(seed))
    train_and_kill(config, killed, kills, random.Random(seed))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
