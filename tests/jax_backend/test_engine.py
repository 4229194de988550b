"""The step on JAX: equal on any number of devices, equal to TensorFlow's, with the states cut; exact when resumed.

`tests/experiments/test_nothing_lost.py` and `test_training.py` run on it too.
"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import coatnet_tf
from experiments import loop
from experiments.data import sources
from experiments.engine.jax_devices import JaxDevices, make_mesh, variable_sharding
from experiments.recipes import digits

STEPS = 20
ENVIRONMENT = {**os.environ, "PYTHONPATH": ".", "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def config(data_dir):
    """The digits recipe with a small network and every part that does not depend on the number of devices."""
    config = digits.get_config()
    config.image_size = 8
    config.ema_decay = 0.9
    config.augment.mixup_alpha = 0.2
    config.augment.cutmix_alpha = 1.0
    config.optimizer.clip_norm = 0.5
    config.optimizer.layer_decay = 0.8
    config.optimizer.warmup_steps = 5
    config.dataset.data_dir = data_dir
    config.model.depths = (1, 1, 1)
    config.model.widths = (16, 32, 64)
    config.model.strides = (1, 2, 2)
    config.model.layout = "C-T"
    config.model.drop_path_rate = 0.2
    return config


def make_engine(config, devices=1, shards=None):
    on = JaxDevices(make_mesh(jax.devices()[:devices], shards))
    source = sources.prepare(config.dataset)
    return on.engine(config, source, loop.make_schedule(config, source))


def losses_of(engine, steps=STEPS):
    losses = []
    for _ in range(steps):
        engine.train(1)
        losses.append(float(engine.loss.result()))
        engine.loss.reset_state()
    return losses


@pytest.fixture(scope="module")
def losses_of_one_device():
    """Of each recipe, computed once."""
    known = {}

    def get(config):
        key = config.to_json()
        if key not in known:
            engine = make_engine(config)
            engine.begin(0)
            known[key] = losses_of(engine)
        return known[key]

    return get


@pytest.mark.parametrize(
    ("devices", "shards"),
    [pytest.param(2, None, marks=pytest.mark.slow), (4, 2), pytest.param(8, None, marks=pytest.mark.slow)],
)
def test_losses_are_those_of_one_device(config, losses_of_one_device, devices, shards):
    """Stochastic depth included: which branches are dropped depends on the image's place in the batch alone."""
    engine = make_engine(config, devices, shards)
    engine.begin(0)
    assert losses_of(engine) == pytest.approx(losses_of_one_device(config), rel=1e-5)


def test_each_of_eight_devices_holds_an_eighth_of_the_state():
    config = digits.get_config()  # whose widths 8 divides
    state = make_engine(config, 8).state()
    values = [variable.value for group in state.values() for variable in group]
    whole = sum(value.nbytes for value in values)
    for device in range(8):
        assert sum(value.addressable_shards[device].data.nbytes for value in values) <= 0.16 * whole


def test_layout_is_from_shapes():
    mesh = make_mesh(jax.devices()[:4], 2)
    assert dict(mesh.shape) == {"copies": 2, "shards": 2}
    for shape, spec in {
        (64, 512): (None, "shards"),
        (512, 63): ("shards", None),
        (63, 511): (None, None),  # 2 divides neither
        (16,): (None,),  # too small
    }.items():
        assert variable_sharding(mesh, shape).spec == jax.sharding.PartitionSpec(*spec)
    with pytest.raises(ValueError, match=r"--shards must divide the number of devices, 4; got 3\."):
        make_mesh(jax.devices()[:4], 3)


@pytest.mark.slow
@pytest.mark.parametrize("field", ["accumulation_steps", "rematerialise"])
def test_saving_memory_changes_no_loss(config, losses_of_one_device, field):
    config.model.conv_norm = "layer_norm"  # BatchNorm sees the parts
    config.model.drop_path_rate = 0.0 if field == "accumulation_steps" else 0.2
    expected = losses_of_one_device(config)
    config[field] = 2 if field == "accumulation_steps" else True
    engine = make_engine(config, 2)
    engine.begin(0)
    assert losses_of(engine) == pytest.approx(expected, rel=1e-5)


def test_steps_that_are_not_finite_are_not_applied(config):
    engine = make_engine(config, 2)
    engine.begin(0)
    engine.train(2)
    variables = [*engine.model.weights, *engine.optimizer.variables]
    before = [np.asarray(v.value) for v in variables]
    batches = engine.batches
    images, *others = next(batches)
    shares = jax.device_put(np.full(others[-1].shape, np.nan, np.float32), others[-1].sharding)
    engine.batches = iter([(images, *others[:-1], shares)])
    engine.train(1)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, value, err_msg=variable.path)
    assert (engine.skipped.total, engine.skipped.longest, engine.skipped.last) == (1, 1, 2)
    engine.batches = batches
    engine.train(1)
    assert engine.skipped.total == 1 and np.isfinite(float(engine.loss.result()))


@pytest.mark.slow
def test_one_program_for_all_steps(config):
    engine = make_engine(config, 4)
    engine.begin(0)
    engine.train(3)
    engine.evaluate(3)
    engine.train(2)
    assert engine._train_step._cache_size() == 1


def resumed(config, engine, folder, steps):
    checkpoints = engine._devices.checkpoints(folder, engine.state())
    step = checkpoints.restore_latest()
    engine.begin(step)
    return losses_of(engine, steps)


@pytest.mark.slow
def test_resumed_on_other_devices_the_run_goes_on(config, losses_of_one_device, tmp_path):
    """4 devices, then 2, then 4 again; on the same number bit for bit."""
    first = make_engine(config, 4)
    first.begin(0)
    losses = losses_of(first, 8)
    checkpoints = first._devices.checkpoints(tmp_path, first.state())
    checkpoints.save(8)
    checkpoints.wait()
    second = make_engine(config, 2)
    losses += resumed(config, second, tmp_path, 6)
    checkpoints = second._devices.checkpoints(tmp_path, second.state())
    checkpoints.save(14)
    checkpoints.wait()
    third, fourth = make_engine(config, 4), make_engine(config, 4)
    last = resumed(config, third, tmp_path, 6)
    assert losses + last == pytest.approx(losses_of_one_device(config), rel=1e-5)
    assert resumed(config, fourth, tmp_path, 6) == last
    for mine, theirs in zip(third.state().values(), fourth.state().values(), strict=True):
        for variable, expected in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(variable.value, expected.value, err_msg=variable.path)


ON_TENSORFLOW = """
import json, sys
import ml_collections
from experiments import loop
from experiments.data import sources
from experiments.engine import connect

config = ml_collections.ConfigDict(json.loads(sys.argv[1]))
source = sources.prepare(config.dataset)
devices = connect("one_device")
engine = devices.engine(config, source, loop.make_schedule(config, source))
engine.model.save_weights(sys.argv[2])
checkpoints = devices.checkpoints(__import__("pathlib").Path(sys.argv[3]), engine.state())
step = checkpoints.restore_latest()
engine.begin(step)
losses = []
for _ in range(int(sys.argv[4])):
    engine.train(1)
    losses.append(float(engine.loss.result()))
    engine.loss.reset_state()
checkpoints.save(step + len(losses))
print(json.dumps(losses))
"""


def on_tensorflow(config, weights, folder, steps):
    arguments = [config.to_json(), str(weights), str(folder), str(steps)]
    environment = {**ENVIRONMENT, "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, "-c", ON_TENSORFLOW, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_losses_are_those_of_tensorflow(data_dir, tmp_path):
    """The digits recipe as it is, from the same weights."""
    config = digits.get_config()
    config.dataset.data_dir = data_dir
    expected = on_tensorflow(config, tmp_path / "initial.weights.h5", tmp_path / "run", STEPS)
    engine = make_engine(config, 4)
    coatnet_tf.load_weights(engine.model, tmp_path / "initial.weights.h5")
    engine.begin(0)
    assert losses_of(engine) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_run_changes_its_engine_and_goes_on(config, tmp_path):
    """TensorFlow, JAX, TensorFlow: all of the state goes over, so that the losses are those of TensorFlow alone."""
    config.model.drop_path_rate = 0.0  # each draws its own random numbers
    weights, folder = tmp_path / "w.weights.h5", tmp_path / "run"
    expected = on_tensorflow(config, weights, tmp_path / "alone", 12)
    losses = on_tensorflow(config, weights, folder, 4)
    engine = make_engine(config, 4)
    losses += resumed(config, engine, folder, 4)
    checkpoints = engine._devices.checkpoints(folder, engine.state())
    checkpoints.save(8)
    checkpoints.wait()
    losses += on_tensorflow(config, weights, folder, 4)
    assert losses == pytest.approx(expected, rel=1e-4)
