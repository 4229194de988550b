"""The benchmark's arithmetic and its data; times are not tested."""

from PIL import Image

from tools import benchmark, draw_randaugment


def test_medians_leave_the_first_round_out():
    values = iter([100.0, 1.0, 5.0, 3.0])
    assert benchmark.medians({"one": lambda: next(values)}, rounds=3) == {"one": 3.0}
    assert list(benchmark.report({"a": 4.0, "b": 2.0})) == [
        "a: 4.00 (1.000 of the first)",
        "b: 2.00 (0.500 of the first)",
    ]


def test_synthetic_jpegs_have_the_usual_size(tmp_path):
    benchmark.synthetic_jpegs(tmp_path, 4)
    files = sorted(tmp_path.glob("*/*.jpg"))
    assert len(files) == 4 and len({path.read_bytes() for path in files}) == 4
    assert Image.open(files[0]).size == (500, 375)
    assert 20_000 < files[0].stat().st_size < 200_000


def test_contact_sheet_shows_every_operation(tmp_path):
    draw_randaugment.draw(str(tmp_path / "sheet.png"))
    width, height = Image.open(tmp_path / "sheet.png").size
    assert height > 2 * width
