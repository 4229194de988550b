"""Charts: colours, letters of any script, and labels that lie beside each other."""

import itertools
import warnings

import numpy as np
import pytest
from etils import epath
from matplotlib import colors, font_manager

from experiments import charts, report
from tests.tools.samples import photo

# Machado, Oliveira and Fernandes (2009), of linear RGB: who lacks the cones for red, green or blue.
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour):
    rgb = np.array(colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear RGB."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", DEFICIENCIES)
def test_colours_of_a_chart_differ_for_everyone(name):
    """Of three series, as charts here have at most; for matplotlib's own the smallest difference is 5."""
    seen = [lab(np.array(DEFICIENCIES[name]) @ linear(colour)) for colour in charts.COLOURS[:3]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


@pytest.fixture
def drawn(monkeypatch):
    """The figures that the report draws, before they are closed."""
    figures = []

    def keep(figure, path):
        figure.savefig(path, format="png")
        figures.append(figure)

    monkeypatch.setattr(report, "_save", keep)
    yield figures
    for figure in figures:
        charts.plt.close(figure)


def overlapping(texts, figure):
    boxes = [(text.get_text(), text.get_window_extent(figure.canvas.get_renderer())) for text in texts]
    shown = [(text, box) for text, box in boxes if text]
    return [(a, b) for (a, box), (b, other) in itertools.combinations(shown, 2) if box.overlaps(other)]


NAMES = [
    "Anthracite-coloured hummingbird of the western mountain forests",
    "$5 to $10",
    "ant",
    "猫の写真がたくさんあるところ",
]


def test_titles_of_a_contact_sheet_lie_beside_each_other(drawn, tmp_path):
    images = np.stack([photo(32, 32, seed=seed) for seed in range(16)])
    targets, scores = np.eye(4)[np.arange(16) % 4], np.roll(np.eye(4), 1, axis=0)[np.arange(16) % 4]
    report.plot_predictions(images, targets, scores, NAMES, epath.Path(tmp_path) / "sheet.png")
    (figure,) = drawn
    (axes,) = figure.axes
    assert len(axes.texts) == 16 and overlapping(axes.texts, figure) == []
    assert any("$5 to $10 100%" in text.get_text() for text in axes.texts)
    for text, image in zip(axes.texts, axes.images, strict=True):
        boxes = [artist.get_window_extent(figure.canvas.get_renderer()) for artist in (text, image)]
        assert not boxes[0].overlaps(boxes[1]) and abs(boxes[0].x0 + boxes[0].x1 - boxes[1].x0 - boxes[1].x1) < 4


def test_what_a_held_out_image_is_instead(monkeypatch, tmp_path):
    """One class, several, or none."""
    shown = []
    monkeypatch.setattr(report, "_plot_sheet", lambda images, titles, path: shown.extend(text for text, _ in titles))
    targets = np.array([[0, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]])
    scores = np.tile([0.9, 0.2, 0.1], (4, 1))
    report.plot_predictions(np.zeros((4, 2, 2, 3)), targets, scores, ("ant", "bee", "cat"), tmp_path / "a.png")
    assert shown == ["ant 90%\nnot cat", "ant 90%\nnot bee, cat", "ant 90%\nhas none", "ant 90%"]


@pytest.mark.parametrize("classes", [2, 20])
def test_names_of_a_confusion_lie_beside_each_other(drawn, tmp_path, classes):
    names = [f"{index} {NAMES[index % 4]}" for index in range(classes)]
    report.plot_confusion(np.eye(classes) * 1000, names, epath.Path(tmp_path) / "confusion.png")
    (axes,) = drawn[0].axes
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert len(labels) == classes and overlapping(labels, drawn[0]) == []
    assert axes.get_window_extent().width > 0.3 * drawn[0].bbox.width


def test_labels_of_points(tmp_path):
    """Two close to each other, and close to the edges."""
    figure, axes = charts.plt.subplots()
    points = [(x / 100, y / 100) for x in (1, 3, 50, 52, 97, 99) for y in (1, 50, 98)]
    axes.plot(*zip(*points, strict=True), "o", markersize=5)
    charts.label_points(axes, points, [f"point {index}" for index in range(len(points))])
    assert [text.get_text() for text in axes.texts] == [f"point {index}" for index in range(len(points))]
    assert overlapping(axes.texts, figure) == []
    figure.savefig(tmp_path / "points.png")
    charts.plt.close(figure)


class TestScripts:
    def test_letters_that_a_font_of_the_machine_has(self, tmp_path, caplog):
        names = ["γάτα", "кошка", "猫", "고양이"]
        _, missing = charts._find_fonts(frozenset("".join(names)))
        if missing:
            pytest.skip(f"no font of this machine has {missing}")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
            report.plot_confusion(np.eye(4), names, epath.Path(tmp_path) / "confusion.png")
        assert "No font" not in caplog.text

    def test_letters_that_no_font_has_are_warned_of(self, tmp_path, caplog, monkeypatch):
        own = [entry for entry in font_manager.fontManager.ttflist if entry.name.startswith("DejaVu")]
        monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
        charts._find_fonts.cache_clear()
        with caplog.at_level("WARNING"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report.plot_confusion(np.eye(2), ["ant", "猫"], epath.Path(tmp_path) / "confusion.png")
        charts._find_fonts.cache_clear()
        assert "No font of this machine has 1 of the letters in the names (猫): charts show boxes" in caplog.text

    def test_nothing_lasts(self):
        before = charts.plt.rcParams["font.family"], charts.plt.rcParams["text.parse_math"]
        with charts.names_in_any_script(["猫"]):
            pass
        assert (charts.plt.rcParams["font.family"], charts.plt.rcParams["text.parse_math"]) == before
