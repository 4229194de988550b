"""The training run, in order: data, model, step, restore, loop, report."""

from __future__ import annotations

import functools
import time

import keras
import ml_collections
from absl import logging
from etils import epath

import coatnet_tf
from coatnet_tf.pretrained import find_pretrained, is_pretrained_name, load_initial_weights
from experiments import checks, closing, optimization, sizes, teachers, tuning, workdir
from experiments.data import pipeline, sources, views
from experiments.data.damage import DamagedImages
from experiments.engine.checkpoints import Checkpoints
from experiments.engine.devices import Devices
from experiments.engine.engine import Engine
from experiments.history import History, Progress
from experiments.model_config import make_model_config
from experiments.stops import Preempted, Preemption, RunStopped


def prepare(config: ml_collections.ConfigDict, folder: epath.Path, devices: Devices) -> sources.Source:
    """Checks a recipe and its folder, then prepares its dataset: nothing is trained or written before.

    Args:
        config: The recipe; see `experiments/recipes`.
        folder: Folder of the run.
        devices: Those that the run is shared among.

    Returns:
        The dataset.

    Raises:
        ValueError: If the recipe does not fit the data, the strategy or the folder.
        FileNotFoundError: If files of the dataset are missing, or the weights to begin with.
    """
    checks.settle_values(config)
    checks.check_values(config)
    checks.check_batch_size(config, devices)
    checks.check_tuning(config, devices)
    make_model_config(config.model).check_input_shape((*sizes.of(config), 1))
    views.settle(config, folder)
    teachers.settle(config, folder)
    workdir.check(folder, config)
    sources.check_place(str(folder), config.dataset.name)
    if _begins_with_weights(config, folder):
        _check_initial_weights(config.init_from)
    source = sources.prepare(config.dataset, devices.chief_first)
    sources.check_for_training(source, config.dataset)
    if source.multi_label and config.loss == "softmax":
        raise ValueError(
            f"Images of dataset {source.name!r} can have several classes, which softmax cannot learn; set "
            "--config.loss=sigmoid."
        )
    if not pipeline.training_order(source, config).steps_per_epoch:
        raise ValueError(
            f"config.batch_size {config.batch_size} is larger than the training split of {source.train.count} images."
        )
    make_schedule(config, source)
    steps = config.epochs * pipeline.training_order(source, config).steps_per_epoch
    if config.ema_decay**steps > 0.5:
        raise ValueError(
            f"config.ema_decay {config.ema_decay} is too slow for a run of {steps} steps: the averaged weights, which "
            f"are evaluated and kept, would be mostly the first. Take at most {0.5 ** (1 / steps):.4f}, or 0 for none."
        )
    return source


def make_schedule(
    config: ml_collections.ConfigDict, source: sources.Source
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of a run."""
    steps_per_epoch = pipeline.training_order(source, config).steps_per_epoch
    return optimization.make_schedule(config.optimizer, config.epochs * steps_per_epoch, steps_per_epoch)


def _begins_with_weights(config: ml_collections.ConfigDict, folder: epath.Path) -> bool:
    """Whether weights of `config.init_from` are read: when a run begins, and whenever it needs the features again."""
    return bool(config.init_from) and (config.tune == tuning.HEAD or not workdir.has_checkpoints(folder))


def _check_initial_weights(init_from: str) -> None:
    """Refuses weights that are not there, but for those that are yet to be downloaded."""
    if is_pretrained_name(init_from):
        find_pretrained(init_from)
    else:
        _file_of_weights(init_from)


def _file_of_weights(path: str) -> epath.Path:
    """The file of weights in a run's folder, or the file itself."""
    found = workdir.model_in(path)
    if not found.exists():
        raise FileNotFoundError(
            f"--init_from={path} is neither a weights file (.keras or .weights.h5) nor the folder of a finished run, "
            f"with its {workdir.MODEL}, nor a name that coatnet_tf.list_weights() lists."
        )
    return found


def _load_initial_weights(config: ml_collections.ConfigDict, model: keras.Model) -> None:
    """Loads the weights of `config.init_from`, and says in the log what became of them."""
    logging.info("Weights of %s: %s", config.init_from, _loaded(config, model))


def _loaded(config: ml_collections.ConfigDict, model: keras.Model) -> coatnet_tf.Loaded:
    """Loads the weights of `config.init_from`: of a run, of a file, or of a name."""
    weights = config.init_from
    if is_pretrained_name(weights):
        return load_initial_weights(model, weights, True, config.reset_head)
    found = _file_of_weights(weights)
    with workdir.on_this_machine(found) as copy:
        try:
            return load_initial_weights(model, copy, True, config.reset_head)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(found))) from error


def build(
    config: ml_collections.ConfigDict, folder: epath.Path, devices: Devices, source: sources.Source
) -> tuple[Engine, Checkpoints, int]:
    """Builds the model and gives it the weights to begin with, of the run's newest checkpoint if there is one.

    Args:
        config: The recipe.
        folder: Folder of the run.
        devices: Those that the run is shared among.
        source: The dataset, from `prepare`.

    Returns:
        The engine, the checkpoints and the step to begin at.

    Raises:
        ValueError: If weights do not fit, or no checkpoint can be read.
    """
    engine = make_engine(config, folder, devices, source, make_schedule(config, source))
    checkpoints = devices.checkpoints(folder, engine.state())
    step = checkpoints.restore_latest()
    if not devices.same_on_all(step):
        raise ValueError(
            f"The processes of the cluster find different checkpoints in {folder} (this one: step {step}); --workdir "
            "must be a folder that all of them share."
        )
    if step:
        workdir.check_data(folder, source)
        if config.tune == tuning.HEAD:
            workdir.check_backbone(folder, engine.backbone_digest)
        logging.info("Resuming %s at step %d.", folder, step)
    return engine, checkpoints, step


def make_engine(
    config: ml_collections.ConfigDict,
    folder: epath.Path,
    devices: Devices,
    source: sources.Source,
    schedule: keras.optimizers.schedules.LearningRateSchedule,
) -> Engine:
    """Builds the model, with the weights of `config.init_from` if the folder has no checkpoint; as `build`."""
    load = functools.partial(_load_initial_weights, config) if _begins_with_weights(config, folder) else None
    return devices.engine(config, source, schedule, load)


def train(
    config: ml_collections.ConfigDict,
    folder: epath.Path,
    devices: Devices,
    source: sources.Source,
    engine: Engine,
    checkpoints: Checkpoints,
    step: int,
) -> None:
    """Trains a model by its recipe, or goes on where the run in the folder stopped.

    Args:
        config: The recipe.
        folder: Folder of the run, which receives `config.json`, `metrics.jsonl`, `checkpoints/`,
            `tensorboard/`, and at the end `model.keras` (probabilities from images in [0, 255], float32),
            `classes.txt`, `probes.npz` and `report.md` with its pictures.
        devices: Those that the run is shared among.
        source: The dataset, from `prepare`.
        engine: From `build`.
        checkpoints: From `build`.
        step: From `build`.

    Raises:
        RunStopped: If the run cannot go on.
        Preempted: After SIGTERM, when the state has been saved.
    """
    steps_per_epoch = pipeline.training_order(source, config).steps_per_epoch
    total_steps = config.epochs * steps_per_epoch
    writes = devices.is_chief
    if writes:
        workdir.claim(folder, config, source)
        if config.tune == tuning.HEAD:
            workdir.write_whole(folder / workdir.BACKBONE, engine.backbone_digest + "\n")
        workdir.drop_metrics_after(folder, step)
        _restore_names_of_damaged(engine, folder)
    logging.info("Training on %s.", devices)
    logging.info(pipeline.describe(source, config))
    if config.teacher:
        logging.info(teachers.describe(config))
    if config.tune != tuning.ALL:
        logging.info("Trained: %s.", tuning.describe(config, engine.model))

    def stop_if_there_is_a_problem() -> None:
        engine.share_damaged()
        problem = find_problem(config, source, engine)
        if problem and writes:
            _keep_names_of_damaged(engine, folder)
        _stop_together(devices, problem)

    with (
        checkpoints,
        Preemption() as preemption,
        History(folder, writes) as history,
        Progress(config, step, total_steps, writes) as progress,
    ):
        engine.begin(step)
        begun_at, started, first, stopping = step, time.monotonic(), step, False
        while step < total_steps and not _has_stopped_improving(config, devices, engine, step, steps_per_epoch):
            until = _next_stop(step, steps_per_epoch, config.checkpoint_steps)
            while step < until and not stopping:
                count = min(config.steps_per_call, until - step)
                engine.train(count)
                step += count
                progress.show(count, engine.loss)
                stop_if_there_is_a_problem()
                stopping = devices.on_any_process(preemption.noticed)
            if step % steps_per_epoch == 0:
                seconds = time.monotonic() - started
                row = engine.evaluate(step) | {
                    "step": step,
                    "epoch": step / steps_per_epoch,
                    "learning_rate": float(engine.schedule(step)),
                    "skipped_steps": engine.skipped.total,
                    "images_per_second": (step - first) * config.batch_size / seconds,
                }
                history.add(row)  # before the checkpoint: a row after the newest one is dropped and written again
                progress.announce(row)
                started, first = time.monotonic(), step
                stopping = stopping or devices.on_any_process(preemption.noticed)
            checkpoints.save(step)
            stop_if_there_is_a_problem()
            if writes:
                _keep_names_of_damaged(engine, folder)
            if stopping:
                checkpoints.wait()
                raise Preempted(f"Stopped by SIGTERM after step {step} of {total_steps}; the state is saved.")

    with engine.kept_weights():
        # The last evaluation was of other weights, or there was none.
        if engine.counts_confusion and (engine.best is not None or step == begun_at):
            engine.evaluate_held_out()
            stop_if_there_is_a_problem()
        confusion = engine.confusion()
        with engine.result(folder) as (model, predict):
            said = closing.ask(config, source, engine, predict)
            stop_if_there_is_a_problem()
            if writes:
                _keep_names_of_damaged(engine, folder)
                closing.write(config, source, engine, devices.counts_damaged, model, confusion, said, folder)
    devices.on_any_process(False)  # the others wait for the chief, who may need what they hold


def _has_stopped_improving(
    config: ml_collections.ConfigDict,
    devices: Devices,
    engine: Engine,
    step: int,
    steps_per_epoch: int,
) -> bool:
    """Whether the best evaluation is as many epochs ago as the recipe's patience; the same on all processes.

    It depends on nothing but the step and what the checkpoint holds, so a resumed run stops where it would have.
    """
    if engine.best is None:
        return False
    return devices.on_any_process(step - engine.best.step >= config.early_stop_patience * steps_per_epoch)


def _next_stop(step: int, steps_per_epoch: int, checkpoint_steps: int) -> int:
    """The step of the next evaluation or checkpoint."""
    epoch_end = (step // steps_per_epoch + 1) * steps_per_epoch
    return min(epoch_end, (step // checkpoint_steps + 1) * checkpoint_steps) if checkpoint_steps else epoch_end


def _stop_together(devices: Devices, problem: str) -> None:
    """Stops all processes of a cluster if one of them has a problem."""
    if devices.on_any_process(bool(problem)):
        raise RunStopped(problem or "Another process of the cluster has stopped; its log says why.")


def find_problem(config: ml_collections.ConfigDict, source: sources.Source, engine: Engine) -> str:
    """Why a run cannot go on, with names of images: too many are damaged, or no gradient is finite; else empty."""
    problem = engine.damaged.problem() or engine.damaged_in_evaluation.problem()
    if problem:
        return problem
    if engine.skipped.longest >= config.max_skipped_steps:
        step = engine.skipped.last
        names = engine.example_names(step)
        return (
            f"{engine.skipped.longest} steps in a row had a loss or gradient that is not finite and were not applied; "
            f"the last: step {step}, on {', '.join(names[:5])}, ... ({len(names)} images). Look at these images; "
            "if the learning rate is too high, begin anew in another --workdir. The newest checkpoint is from before."
        )
    return ""


def _damaged_by_file(engine: Engine, folder: epath.Path) -> tuple[tuple[epath.Path, DamagedImages], ...]:
    return (
        (folder / workdir.DAMAGED, engine.damaged),
        (folder / workdir.DAMAGED_IN_EVALUATION, engine.damaged_in_evaluation),
    )


def _restore_names_of_damaged(engine: Engine, folder: epath.Path) -> None:
    """So that a run that was stopped often enough does not come by more damaged images than it may have."""
    for file, damaged in _damaged_by_file(engine, folder):
        if file.exists():
            damaged.restore(file.read_text().splitlines())
            if not damaged.names:
                file.unlink()


def _keep_names_of_damaged(engine: Engine, folder: epath.Path) -> None:
    for file, damaged in _damaged_by_file(engine, folder):
        if damaged.names:
            workdir.write_whole(file, "\n".join(damaged.names) + "\n")
