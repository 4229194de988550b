"""Runs that are killed, preempted, or meet damaged checkpoints, full disks and damaged images."""

import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments import evaluate, history, loop, train, workdir
from experiments.stops import PREEMPTED_STATUS, RunStopped
from tests import programs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_pictures")]

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": ".", "TF_CPP_MIN_LOG_LEVEL": "3"}


def without_speed(folder):
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in workdir.read_metrics(folder)]


def newest_state(folder):
    """Every variable of the newest checkpoint: weights, averages, moments, random numbers, metrics."""
    path = workdir.find_checkpoints(folder)[0][1]
    if path.name.startswith("ckpt"):
        reader = tf.train.load_checkpoint(str(path))
        names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECKPOINT")]
        return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}
    from orbax.checkpoint import StandardCheckpointer

    groups = StandardCheckpointer().restore(path / "default")
    return {f"{name} {index}": np.asarray(value) for name, group in groups.items() for index, value in enumerate(group)}


def assert_same_run(folder, reference):
    mine, theirs = newest_state(folder), newest_state(reference)
    assert mine.keys() == theirs.keys() and len(mine) > 100
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert without_speed(folder) == without_speed(reference)


@pytest.fixture
def long_run(every_part):
    """A run of some seconds with a checkpoint every other step."""
    every_part.epochs = 6
    every_part.steps_per_call = 1
    every_part.checkpoint_steps = 2
    every_part.early_stop_patience = 6  # keeps the best epoch, never stops
    every_part.augment.randaugment_layers = 0
    return every_part


@pytest.mark.slow
def test_killed_at_ten_random_moments_a_run_ends_as_if_it_had_not(long_run, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(long_run.to_json())
    seed = str(int(time.time()))
    folders = [tmp_path / "whole" / "run", tmp_path / "killed" / "run"]
    for folder in folders:
        folder.parent.mkdir()
    command = [sys.executable, str(HERE / "killed_runs.py"), str(path), *map(str, folders), "10", seed]
    process = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert process.returncode == 0, f"seed {seed}\n{process.stdout}\n{process.stderr[-3000:]}"
    assert process.stdout.count("killed [") == 10
    assert_same_run(*reversed(folders))


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(run, long_run, devices, tmp_path, monkeypatch):
    long_run.epochs = 2
    run(long_run, tmp_path / "whole", devices)
    show = history.Progress.show

    def show_and_terminate(progress, steps, loss):
        show(progress, steps, loss)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(history.Progress, "show", show_and_terminate)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(loop.Preempted, match="Stopped by SIGTERM after step 1 of 20; the state is saved"):
        run(long_run, tmp_path / "stopped", devices)
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setattr(history.Progress, "show", show)
    run(long_run, tmp_path / "stopped", devices)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_early_stop_leaves_the_best_epoch_also_if_killed_while_waiting(
    run, config, devices, scripted_losses, tmp_path, monkeypatch
):
    config.epochs, config.early_stop_patience, config.ema_decay = 9, 2, 0.5
    config.steps_per_call, config.checkpoint_steps = 1, 2
    evaluated = scripted_losses([0.9, 0.7, 0.8, 0.7, 0.1])  # the fourth is no lower than the second, and is the last
    run(config, tmp_path / "whole", devices)
    rows = workdir.read_metrics(tmp_path / "whole")
    assert [(row["step"], row["best_step"]) for row in rows] == [(5, 5), (10, 10), (15, 10), (20, 10)]
    kept = keras.models.load_model(tmp_path / "whole" / workdir.MODEL).get_weights()
    for of_second, left in zip(evaluated[1], kept, strict=True):
        np.testing.assert_array_equal(left, of_second)
    assert any((of_last != left).any() for of_last, left in zip(evaluated[3], kept, strict=True))
    measured = evaluate.evaluate(tmp_path / "whole", tmp_path / "evaluation")
    assert measured["top1"] == pytest.approx(rows[1]["eval_accuracy"], abs=1e-6)
    text = (tmp_path / "whole" / workdir.REPORT).read_text()
    assert f"| Held-out accuracy | {rows[1]['eval_accuracy']:.2%} |" in text
    assert "| Kept | epoch 2, of the lowest held-out loss in 4 epochs: the held-out images chose it" in text
    assert "optimistic, as these images chose the weights" in (tmp_path / "evaluation" / "evaluation.md").read_text()

    show = history.Progress.show
    steps = itertools.count(1)

    def show_and_die(progress, count, loss):
        show(progress, count, loss)
        if next(steps) == 17:
            raise KeyboardInterrupt

    monkeypatch.setattr(history.Progress, "show", show_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "killed", devices)
    run(config, tmp_path / "killed", devices)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    resumed = keras.models.load_model(tmp_path / "killed" / workdir.MODEL).get_weights()
    for mine, theirs in zip(resumed, kept, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_sigterm_has_a_status_of_its_own(long_run, strategy, data_dir, tmp_path):
    flags = ["--config.epochs=1000", "--config.steps_per_call=1", f"--config.dataset.data_dir={data_dir}"]
    command = ["experiments.train", "--config=experiments/recipes/digits.py", f"--strategy={strategy}"]
    command += [f"--workdir={tmp_path / 'run'}", "--config.model.depths=(1, 1, 1, 1, 1)", *flags]
    process = programs.Program(*command)
    while "images/s" not in (text := process.stderr) or not re.search("loss [0-9]", text):
        assert process.poll() is None, text
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == PREEMPTED_STATUS
    assert "Stopped by SIGTERM after step" in process.stderr
    assert workdir.has_checkpoints(tmp_path / "run")


def test_sigterm_outside_of_the_loop_has_the_same_status(strategy, monkeypatch):
    """While data is prepared, the model is built, or the report is written."""

    def leave(status):
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(train, "_run", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stopped:
            train.run(None, None, strategy)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == PREEMPTED_STATUS


@pytest.mark.parametrize("damage", ["data", "index", "cut", "half-written"])
def test_damaged_checkpoint_is_passed_over(config, devices, finished_run, damage, caplog):
    folder = finished_run / workdir.CHECKPOINTS
    if keras.config.backend() == "tensorflow":
        data, index, last = [folder / "ckpt-10.data-00000-of-00001"], folder / "ckpt-10.index", folder / "ckpt-10.index"
    else:
        data = [*(folder / "step_10").rglob("d/*")]  # not all are used
        index, last = folder / "step_10" / "default" / "manifest.ocdbt", folder / "step_10" / "commit_success.txt"
    if damage == "data":
        for path in data:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    elif damage == "index":
        index.write_bytes(b"no index")
    elif damage == "cut":
        for path in data:
            path.write_bytes(path.read_bytes()[:1000])
    else:
        last.unlink()
    before = without_speed(finished_run)
    model = (finished_run / workdir.MODEL).read_bytes()
    source = loop.prepare(config, finished_run, devices)
    engine, checkpoints, step = loop.build(config, finished_run, devices, source)
    assert step == 5
    if damage != "half-written":
        assert "10 is damaged and is passed over" in caplog.text
    loop.train(config, finished_run, devices, source, engine, checkpoints, step)
    assert without_speed(finished_run) == before
    assert len(model) == (finished_run / workdir.MODEL).stat().st_size


def test_only_damaged_checkpoints_are_refused(run, config, devices, finished_run):
    for pattern in ("*.index", "*/default/manifest.ocdbt"):
        for path in (finished_run / workdir.CHECKPOINTS).glob(pattern):
            path.write_bytes(b"")
    with pytest.raises(ValueError, match="None of the 2 checkpoints in .* can be read"):
        run(config, finished_run, devices)


def test_full_disk_stops_the_run_and_leaves_the_last_checkpoint(run, config, devices, whole_run, tmp_path, monkeypatch):
    kind = type(devices.checkpoints(tmp_path / "none", {}))
    save = kind.save

    def save_on_full_disk(checkpoints, step):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if step == 10:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # as a file that cannot grow
        try:
            save(checkpoints, step)
            checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(kind, "save", save_on_full_disk)
    with pytest.raises(RunStopped, match="checkpoint of step 10 could not be written .* last good one is of step 5"):
        run(config, tmp_path / "stopped", devices)
    assert [step for step, _ in workdir.find_checkpoints(tmp_path / "stopped")] == [5]
    monkeypatch.setattr(kind, "save", save)
    run(config, tmp_path / "stopped", devices)
    assert_same_run(tmp_path / "stopped", whole_run)
