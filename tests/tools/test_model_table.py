"""The README's table is fresh."""

from pathlib import Path

import pytest

import coatnet_tf
from tools import model_table
from tools.published import RESULTS

README = Path(__file__).parents[2] / "README.md"


def test_readme_holds_the_table():
    text = README.read_text()
    assert model_table.replace_table(text) == text, "run python -m tools.model_table --write=README.md"


def test_files_without_markers_are_refused():
    with pytest.raises(ValueError, match="needs the markers"):
        model_table.replace_table("no table")


def test_published_points_are_twenty_of_the_family():
    assert len({(result.model, result.size, result.downsampling) for result in RESULTS}) == 20
    assert {result.model for result in RESULTS} == set(coatnet_tf.FAMILY)
