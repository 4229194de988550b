"""Two processes of two devices each: the same training as in one, and what happens when one of them goes."""

import signal
import socket
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import workdir
from experiments.stops import PREEMPTED_STATUS
from tests import programs

pytestmark = pytest.mark.slow

ENVIRONMENT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
# A network that is compiled in seconds.
FIELDS = (
    "batch_size=16",
    "image_size=8",
    "ema_decay=0.9",
    "augment.mixup_alpha=0.2",
    "optimizer.warmup_steps=2",
    "dataset.train_split=train[:160]",
    "dataset.eval_split=test[:50]",
    "model.depths=(1, 1, 1)",
    "model.widths=(16, 32, 64)",
    "model.strides=(1, 2, 2)",
    "model.layout=C-T",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


def start(folder, data_dir, processes, *fields):
    """Starts the processes of a run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = ["experiments.train", "--config=experiments/recipes/digits.py"]
    command += [f"--workdir={folder}", "--strategy=sharded", f"--config.dataset.data_dir={data_dir}"]
    command += [f"--config.{field}" for field in (*FIELDS, *fields)]
    if processes == 1:
        return [programs.Program(*command, env=ENVIRONMENT)]
    command += [f"--coordinator=localhost:{port}", f"--processes={processes}"]
    return [programs.Program(*command, f"--process_id={number}", env=ENVIRONMENT) for number in range(processes)]


def wait(started):
    statuses = [process.wait(240) for process in started]
    return statuses, "\n".join((process.stdout + process.stderr)[-3000:] for process in started)


def rows_of(folder):
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in workdir.read_metrics(folder)]


def state_of(folder):
    """Every array of the newest checkpoint, as this process alone sees it."""
    path = workdir.find_checkpoints(folder)[0][1] / "default"
    checkpointer = ocp.PyTreeCheckpointer()
    saved = checkpointer.metadata(path).item_metadata.tree
    as_arrays = {name: [ocp.RestoreArgs(restore_type=np.ndarray)] * len(group) for name, group in saved.items()}
    return checkpointer.restore(path, restore_args=as_arrays)


def test_two_processes_train_as_one_and_one_that_is_killed_loses_nothing(data_dir, tmp_path):
    """The first 20 losses, then the whole state: with SIGKILL to one, SIGTERM to one, and neither."""
    fields = ("epochs=4", "steps_per_call=1", "checkpoint_steps=3")
    alone, whole, hurt = (tmp_path / name for name in ("alone", "whole", "hurt"))
    statuses, text = wait(start(alone, data_dir, 1, *fields))
    assert statuses == [0], text
    statuses, text = wait(start(whole, data_dir, 2, *fields))
    assert statuses == [0, 0], text
    for mine, expected in zip(rows_of(whole), rows_of(alone), strict=True):
        assert mine == pytest.approx(expected, rel=1e-5, abs=1e-5)

    for number in (signal.SIGKILL, signal.SIGTERM):
        started = start(hurt, data_dir, 2, *fields)
        begun = len(workdir.find_checkpoints(hurt))
        while len(workdir.find_checkpoints(hurt)) < begun + 1:
            assert all(process.poll() is None for process in started), wait(started)[1]
            time.sleep(0.05)
        started[1].send_signal(number)
        statuses, text = wait(started)
        if number == signal.SIGTERM:
            assert statuses == [PREEMPTED_STATUS, PREEMPTED_STATUS], text
            assert "Stopped by SIGTERM" in text
        else:  # JAX itself ends a process whose partner is silent for 100 seconds
            assert statuses[0] in (PREEMPTED_STATUS, -signal.SIGABRT), text
    statuses, text = wait(start(hurt, data_dir, 2, *fields))
    assert statuses == [0, 0], text
    assert rows_of(hurt) == rows_of(whole)
    mine, theirs = state_of(hurt), state_of(whole)
    assert len(theirs["model"]) > 20
    for name, values in theirs.items():
        for index, value in enumerate(values):
            np.testing.assert_array_equal(mine[name][index], value, err_msg=f"{name} {index}")


def test_flags_of_a_cluster_are_checked(data_dir, tmp_path):
    """Before anything is waited for."""

    def refused(*flags):
        command = ["experiments.train", "--config=experiments/recipes/digits.py", f"--workdir={tmp_path}"]
        done = programs.run(*command, *flags, env=ENVIRONMENT)
        assert done.returncode == 1
        return done.stderr

    assert "--process_id is missing" in refused("--strategy=sharded", "--coordinator=localhost:1", "--processes=2")
    alone = ("--strategy=sharded", "--processes=1", "--process_id=0")
    assert "--coordinator must be HOST:PORT of process 0; got 'localhost'" in refused(*alone, "--coordinator=localhost")
    assert "--shards must divide the number of devices, 2; got 3." in refused("--strategy=sharded", "--shards=3")
