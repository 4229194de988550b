"""A recipe that trains in seconds."""

import functools
import shutil

import keras
import numpy as np
import pytest
from matplotlib import pyplot

from experiments import report, workdir
from experiments.engine import connect
from experiments.engine.engine import Engine
from experiments.recipes import digits

if keras.config.backend() == "tensorflow":
    from experiments.engine import tensorflow_devices

    # One strategy of a kind for all tests of a process: TensorFlow numbers the collective operations of each new
    # MirroredStrategy from the beginning, and mistakes them for those of the one before.
    tensorflow_devices._make_strategy = functools.cache(tensorflow_devices._make_strategy)

# The bias of the keys shifts all logits of a query alike, and a shift before the expansion is taken out by the norm
# behind it. Their gradients are rounding noise, and AdamW makes steps of any noise.
WITHOUT_EFFECT = ("key/bias", "pre_norm/beta")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the session's prepared datasets lie."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def strategy():
    """That of the command line."""
    return "one_device" if keras.config.backend() == "tensorflow" else "sharded"


@pytest.fixture(scope="session")
def devices():
    """One device of TensorFlow, or four of JAX that hold the states together."""
    if keras.config.backend() == "tensorflow":
        return connect("one_device")
    import jax

    from experiments.engine.jax_devices import JaxDevices, make_mesh

    return JaxDevices(make_mesh(jax.devices()[:4]))


def make_config(data_dir):
    config = digits.get_config()
    config.epochs = 2
    config.batch_size = 32
    config.image_size = 8
    config.steps_per_call = 3
    config.augment.flip = True
    config.augment.translate = 1
    config.dataset.data_dir = data_dir
    config.dataset.train_split = "train[:160]"
    config.dataset.eval_split = "test[:50]"
    config.optimizer.warmup_steps = 2
    config.model.depths = (1, 1, 1)
    config.model.widths = (8, 16, 32)
    config.model.strides = (1, 2, 2)
    config.model.layout = "C-T"
    config.model.drop_path_rate = 0.2
    return config


@pytest.fixture
def config(data_dir):
    """The digits recipe with a tiny model, two epochs of a few steps, and every random part in use."""
    return make_config(data_dir)


@pytest.fixture(scope="session")
def whole_run(run, data_dir, devices, tmp_path_factory):
    """What `config` leaves on one device, made once to look at; `finished_run` is a copy to change."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(make_config(data_dir), folder, devices)
    return folder


@pytest.fixture
def finished_run(whole_run, tmp_path):
    return shutil.copytree(whole_run, tmp_path / "finished")


@pytest.fixture
def no_pictures(monkeypatch):
    """Leaves the pictures of reports out, which take longer than training, where nobody looks at them."""
    monkeypatch.setattr(report, "_save", lambda figure, path: pyplot.close(figure))


@pytest.fixture
def every_part(config):
    """The same with every part of the paper's recipes in use."""
    config.batch_size = 16
    config.ema_decay = 0.9
    config.accumulation_steps = 2
    config.checkpoint_steps = 4
    config.augment.crop = "inception"
    config.augment.randaugment_layers = 2
    config.augment.randaugment_magnitude = 5.0
    config.augment.randaugment_pixel_scale = 8 / 224
    config.augment.mixup_alpha = 0.8
    config.optimizer.layer_decay = 0.5
    config.augment.cutmix_alpha = 1.0
    config.augment.random_erasing = 0.25
    return config


@pytest.fixture
def scripted_losses(monkeypatch):
    """Puts losses, by epoch of five steps, in the place of the held-out ones; returns what is evaluated."""
    weights = []

    def script(losses):
        evaluate = Engine.evaluate_held_out

        def evaluate_and_replace(engine):
            step = int(engine.optimizer.iterations.numpy())
            weights.append(engine.model.get_weights())
            return evaluate(engine) | {"eval_loss": losses[step // 5 - 1]}

        monkeypatch.setattr(Engine, "evaluate_held_out", evaluate_and_replace)
        return weights

    return script


@pytest.fixture
def assert_same_models():
    """Compares the models that two runs left, to what rounding in another order of sums allows."""

    def compare(folder, reference):
        mine, theirs = (keras.models.load_model(path / workdir.MODEL) for path in (folder, reference))
        for variable, expected in zip(mine.weights, theirs.weights, strict=True):
            tolerance = 1e-3 if variable.path.endswith(WITHOUT_EFFECT) else 1e-5
            np.testing.assert_allclose(variable, expected, atol=tolerance, err_msg=variable.path)

    return compare
