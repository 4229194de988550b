"""How cost grows: counts are exact at every size, and the page holds what the program prints."""

from pathlib import Path

import pytest

import coatnet_tf
from tools.paper import growth

DOCS = Path("docs")


@pytest.mark.parametrize("field", ["macs", "kept"])
def test_three_sizes_tell_all(field):
    for name in ("coatnet-0", "coatnet-6"):
        found = growth.growth_of(coatnet_tf.FAMILY[name], field)
        assert found.at(640) == getattr(coatnet_tf.profile(name, (640, 640, 3)), field)


def test_where_scores_take_over():
    found = growth.Growth(constant=0, linear=100, squared=4)
    assert found.takes_over() == 5 * growth.STRIDE and found.share(5 * growth.STRIDE) == 0.5


def test_the_squared_term_is_that_of_scores():
    """Both products, of each pair of positions, in each attention of CoAtNet-0."""
    config = coatnet_tf.FAMILY["coatnet-0"]
    pairs = {"s3": 4**2, "s4": 1}  # of positions, in 32 x 32 pixels
    products = sum(2 * pairs[s.name] * s.depth * s.width for s in config.stages if s.block == "transformer")
    assert growth.growth_of(config, "macs").squared == products


@pytest.mark.slow
def test_the_page_holds_the_tables():
    page = (DOCS / "growth.md").read_text()
    assert growth.tables(growth.read_times(DOCS), DOCS / "compiled") in page
