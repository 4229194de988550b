"""The layout: arrows run one way, and the picture in the docs is that of today's code."""

from pathlib import Path

import pytest
from PIL import Image

from tools import draw_layout

ORDER = ("tools", "experiments", "coatnet_tf")


def package(room):
    return room.split("/")[0]


def test_arrows_run_one_way():
    """From the tools to the experiments to the package, which knows neither."""
    backwards = [
        (start, end) for start, end in draw_layout.arrows() if ORDER.index(package(start)) > ORDER.index(package(end))
    ]
    assert not backwards
    assert ("experiments", "coatnet_tf") in draw_layout.arrows()


def test_layers_know_nothing_of_the_package():
    assert {end for start, end in draw_layout.arrows() if start == "coatnet_tf/layers"} <= {"coatnet_tf/layers"}


@pytest.mark.parametrize("room", ["coatnet_tf/weights", "coatnet_tf/pretrained", "coatnet_tf/rivals"])
def test_rooms_are_there(room):
    assert draw_layout.rooms()[room]


def test_the_picture_is_up_to_date():
    """If this fails: python -m tools.draw_layout --output=docs/layout.png."""
    picture = Path(__file__).parents[2] / "docs" / "layout.png"
    assert Image.open(picture).text[draw_layout.PNG_KEY] == draw_layout.fingerprint()


def test_a_picture_is_drawn_of_other_code(tmp_path):
    for name, text in {
        "tools/run.py": "from experiments import train\n",
        "experiments/train.py": "import coatnet_tf.layers.block\n",
        "coatnet_tf/layers/block.py": "import os\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert draw_layout.arrows(tmp_path) == {("tools", "experiments"), ("experiments", "coatnet_tf/layers")}
    draw_layout.draw(tmp_path / "layout.png", tmp_path)
    assert Image.open(tmp_path / "layout.png").text[draw_layout.PNG_KEY] == draw_layout.fingerprint(tmp_path)
