"""A model to export, and what a server gets of it; a browser."""

import shutil

import keras
import pytest
import tensorflow as tf
from etils import epath

import coatnet_tf
from experiments import workdir
from experiments.engine import connect
from experiments.model_config import make_model_config
from experiments.recipes import digits
from tests.tools.samples import LABELS, SIZE, make_cttt, small_config
from tools.export_saved_model import ExportOptions, export


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """A model of seven classes for images of 32 x 32, with weights that tell them apart."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    coatnet_tf.CoAtNet(small_config(), input_shape=(SIZE, SIZE, 3), classes=len(LABELS)).save(path)
    return path


@pytest.fixture(scope="session")
def model(model_file):
    """The model itself, for the numbers that an export must give; no test changes it."""
    return keras.models.load_model(model_file, compile=False)


@pytest.fixture(scope="session")
def version(model_file, tmp_path_factory):
    """A SavedModel of it with names of the classes, folded, as version 1 of its folder."""
    labels = tmp_path_factory.mktemp("labels") / "labels.txt"
    labels.write_text("\n".join(LABELS) + "\n")
    output = tmp_path_factory.mktemp("serving")
    return export(ExportOptions(output=output, weights=model_file, labels=labels, fold=True, top_k=3))


@pytest.fixture(scope="session")
def served(version):
    """That SavedModel as a server has it."""
    return tf.saved_model.load(str(version))


@pytest.fixture(scope="session")
def run_folder(run, tmp_path_factory):
    """The folder of a run of one short epoch on digits, with a small network; no test changes it."""
    folder = tmp_path_factory.mktemp("training") / "run"
    config = digits.get_config()
    config.dataset.data_dir = str(tmp_path_factory.mktemp("tfds"))
    config.dataset.train_split = "train[:256]"
    config.epochs, config.optimizer.warmup_steps = 1, 2
    config.model.update(depths=(1, 1, 1), widths=(8, 16, 32), strides=(1, 2, 2), layout="C-T")
    keras.utils.set_random_seed(0)
    run(config, epath.Path(folder), connect("one_device"))
    return folder


@pytest.fixture(scope="session")
def cttt():
    """`make_cttt`'s model, to be explained; no test changes it."""
    keras.utils.set_random_seed(0)
    return make_cttt()


@pytest.fixture
def image(images):
    return images[0]


def find_chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser():
    """Chromium: the system's, or that of `playwright install chromium`; with a camera that shows a test picture."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        options = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        try:
            opened = started.chromium.launch(executable_path=find_chromium(), args=[*options, "--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """What a finished run on grey digits of 8 x 8 leaves for others to begin with."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = digits.get_config()
    config.image_size = 8
    config.model.update(depths=(1, 1, 1), widths=(8, 16, 32), strides=(1, 2, 2), layout="C-T")
    (folder / workdir.CONFIG).write_text(config.to_json())
    coatnet_tf.CoAtNet(make_model_config(config.model), input_shape=(8, 8, 1), classes=10).save(folder / workdir.MODEL)
    return folder
