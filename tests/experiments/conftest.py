"""A recipe that trains in seconds."""

import pytest

from experiments.recipes import digits


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the session's prepared datasets lie."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def config(data_dir):
    """The digits recipe with a tiny model, two epochs of a few steps, and every random part in use."""
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
