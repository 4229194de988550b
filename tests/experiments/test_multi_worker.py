"""Two processes on loopback train as one device does; only the chief writes."""

import json
import os
import socket
import subprocess
import sys

from experiments import workdir


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(folder, data_dir, strategy, tf_config=None):
    """A training process of two short epochs on a tiny model."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_CONFIG", None)
    if tf_config:
        environment["TF_CONFIG"] = json.dumps(tf_config)
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
    }
    command = [sys.executable, "-m", "experiments.train", "--config=experiments/recipes/digits.py"]
    command += [f"--workdir={folder}", f"--strategy={strategy}"]
    command += [f"--config.{name}={value}" for name, value in flags.items()]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def test_two_workers_train_as_one_device(assert_same_models, tmp_path):
    data_dir = tmp_path / "tfds"
    finish(start(tmp_path / "one", data_dir, "one_device"))
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    workers = [
        start(
            tmp_path / "two", data_dir, "multi_worker", {"cluster": cluster, "task": {"type": "worker", "index": index}}
        )
        for index in (0, 1)
    ]
    for worker in workers:
        finish(worker)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    assert len(workdir.read_metrics(tmp_path / "two")) == 2
    assert_same_models(tmp_path / "two", tmp_path / "one")
