"""Two processes on loopback train as one device does; only the chief writes; the loss of one ends the other."""

import json
import re
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from experiments import workdir
from experiments.stops import PREEMPTED_STATUS
from tests import programs
from tests.experiments.samples import make_imagenet

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


EVERY_PART = {
    "batch_size": 16,
    "ema_decay": 0.9,
    "augment.crop": "inception",
    "augment.randaugment_layers": 1,
    "augment.randaugment_magnitude": 5.0,
    "augment.randaugment_pixel_scale": 8 / 224,
    "augment.mixup_alpha": 0.8,
}


def look_often():
    """At the other workers' health: the end of a process, and word of another's, wait for the next look."""
    from tensorflow.python.distribute import collective_all_reduce_strategy

    collective_all_reduce_strategy.CollectiveAllReduceExtended._check_health_interval = 1


def start(folder, data_dir, strategy, cluster=None, fresh=False, **changes):
    """A training process of two short epochs on a tiny model."""
    flags = {
        "epochs": 2,
        "image_size": 8,
        "dataset.data_dir": data_dir,
        "dataset.train_split": "train[:160]",
        "dataset.eval_split": "test[:50]",
        "optimizer.warmup_steps": 2,
        "model.depths": "(1, 1, 1)",
        "model.widths": "(8, 16, 32)",
        "model.strides": "(1, 2, 2)",
        "model.layout": "C-T",
        **EVERY_PART,
        **changes,
    }
    command = ["experiments.train", "--config=experiments/recipes/digits.py"]
    command += [f"--workdir={folder}", f"--strategy={strategy}"]
    command += [f"--config.{name}={value}" for name, value in flags.items()]
    environment = {"TF_CONFIG": json.dumps(cluster) if cluster else None, "TF_CPP_MIN_LOG_LEVEL": None}
    return programs.Program(*command, env=environment, fresh=fresh, before=None if fresh else look_often)


def start_two(folder, data_dir, **changes):
    workers = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    clusters = [{"cluster": workers, "task": {"type": "worker", "index": index}} for index in (0, 1)]
    return [start(folder, data_dir, "multi_worker", cluster, **changes) for cluster in clusters]


def finish(*processes, status=0):
    for process in processes:
        assert process.wait() == status, process.stderr[-3000:]


def wait_for(folder, pattern, processes):
    while not list(folder.glob(pattern)):
        for process in processes:
            assert process.poll() is None, process.stderr[-3000:]
        time.sleep(0.05)


def foreign_lines(text):
    """What is neither the bar of progress nor a line that absl has written for this project."""
    files = "|".join(path.stem for path in ROOT.glob("experiments/**/*.py"))
    ours = re.compile(rf"coatnet-digits: |[IWE]\d{{4}} [\d:.]+ \d+ ({files})\.py:\d+\] ")
    return [line for line in re.split("[\r\n]+", text) if line.strip() and not ours.match(line)]


def test_two_workers_train_as_one_device(assert_same_models, tmp_path):
    """The dataset too is prepared by one of them, while the other waits, and damaged images are named by both."""
    damaged = (3, 7, 20, 33)
    archives = make_imagenet(tmp_path / "archives", train=54, held_out=50, damaged=damaged)
    of_imagenet = {
        "dataset.name": "imagenet2012",
        "dataset.manual_dir": archives,
        "dataset.train_split": "train",
        "dataset.eval_split": "validation",
        "dataset.max_damaged_share": 0.1,
        "early_stop_patience": 1,
    }
    workers = start_two(tmp_path / "two", tmp_path / "tfds", fresh=True, **of_imagenet)
    finish(*workers)
    one = start(tmp_path / "one", tmp_path / "tfds", "one_device", fresh=True, **of_imagenet)
    finish(one)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    assert len(workdir.read_metrics(tmp_path / "two")) == 2
    assert_same_models(tmp_path / "two", tmp_path / "one")

    lost = [(tmp_path / name / workdir.DAMAGED).read_text().splitlines() for name in ("two", "one")]
    assert len(lost[0]) == 3 * len(damaged) and lost[0] == lost[1]
    assert [foreign_lines(process.stderr) for process in (one, *workers)] == [[], [], []]


def test_workers_stop_together_and_resume_to_the_same_end(tmp_path):
    """SIGTERM on one of them: both save and stop. SIGKILL of one: the other stops. Started again, they go on."""
    lasting = {"epochs": 3, "steps_per_call": 1, "checkpoint_steps": 4, "augment.randaugment_layers": 0}
    data_dir = tmp_path / "tfds"
    finish(*start_two(tmp_path / "whole", data_dir, **lasting))
    folder = tmp_path / "stopped"
    workers = start_two(folder, data_dir, **lasting)
    wait_for(folder, "checkpoints/ckpt-*.index", workers)
    workers[1].send_signal(signal.SIGTERM)
    finish(*workers, status=PREEMPTED_STATUS)

    before = set(folder.glob("checkpoints/ckpt-*.index"))
    workers = start_two(folder, data_dir, **lasting)
    while set(folder.glob("checkpoints/ckpt-*.index")) <= before:
        time.sleep(0.05)
        assert workers[0].poll() is None, workers[0].stderr[-3000:]
    workers[1].send_signal(signal.SIGKILL)
    finish(workers[0], status=PREEMPTED_STATUS)
    assert "Another process of the cluster is gone" in workers[0].stderr

    finish(*start_two(folder, data_dir, **lasting))
    mine, theirs = (
        tf.train.load_checkpoint(tf.train.latest_checkpoint(str(path / workdir.CHECKPOINTS)))
        for path in (folder, tmp_path / "whole")
    )
    names = [n for n in mine.get_variable_to_shape_map() if not n.startswith("_CHECKPOINT") and "save_counter" not in n]
    for name in names:
        np.testing.assert_array_equal(mine.get_tensor(name), theirs.get_tensor(name), err_msg=name)
