"""The benchmark's arithmetic and its data; times are not tested."""

import functools
import sys

import pytest
from PIL import Image

from tools.benchmarks import inference, input_pipelines, input_worker, operations, start, timing, training
from tools.benchmarks.process import Process
from tools.paper import draw_randaugment


def test_medians_leave_the_first_round_out():
    values = iter([100.0, 1.0, 5.0, 3.0])
    assert timing.medians({"one": lambda: next(values)}, rounds=3) == {"one": 3.0}
    assert list(timing.describe_medians({"a": 4.0, "b": 2.0})) == [
        "a: 4.00 (1.000 of the first)",
        "b: 2.00 (0.500 of the first)",
    ]


def test_synthetic_jpegs_have_the_usual_size(tmp_path):
    input_pipelines.synthetic_jpegs(tmp_path, 4)
    files = sorted(tmp_path.glob("*/*.jpg"))
    assert len(files) == 4 and len({path.read_bytes() for path in files}) == 4
    assert Image.open(files[0]).size == (500, 375)
    assert 20_000 < files[0].stat().st_size < 200_000


def test_contact_sheet_shows_every_operation(tmp_path):
    draw_randaugment.draw_randaugment(str(tmp_path / "sheet.png"))
    width, height = Image.open(tmp_path / "sheet.png").size
    assert height > 2 * width


def test_inference_table_and_picture(tmp_path):
    rows = [
        inference.Row("SavedModel", "float32", {1: 80.0, 8: 60.0}, 2.0, 0.0),
        inference.Row("folded SavedModel", "bfloat16", {1: 40.0, 8: 30.0}, 1.5, 0.02),
    ]
    lines = inference.benchmark_table(rows, {"float32": 100.0, "bfloat16": 400.0}, macs=2_000_000_000)
    assert "take at least 40 ms in float32, 10 ms in bfloat16" in lines[1]
    assert lines[-1] == "| folded SavedModel | bfloat16 | 40.0 | 2.00x | 25% | 30.0 | 2.00x | 33% | 1.5 | 2e-02 |"
    inference.draw_times(rows, tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").width == 960


def test_operations_have_a_kind():
    found = {operations.kind_of(name) for name in ("_MklNativeFusedConv2D", "MatMul", "_MklBatchMatMulV2", "Conv2D")}
    assert found == {"products and convolutions"}
    assert operations.kind_of("_MklSoftmax") == "softmax"
    assert operations.kind_of("Cast") == "conversion of dtypes"
    assert operations.kind_of("StatefulPartitionedCall") is None


ECHO = "import sys; print(0, flush=True); [print(line.strip(), flush=True) for line in sys.stdin]"


def test_a_paused_process_goes_on_and_one_that_is_killed_is_named(tmp_path):
    process = Process("echo", (sys.executable, "-c", ECHO), tmp_path / "log")
    try:
        process.pause()
        process.resume()
        assert process.ask(3) == 3
    finally:
        process.stop()
    with pytest.raises(RuntimeError, match="echo was killed, as the system does where memory is full"):
        process.ask(4)
    process.stop()


def test_seconds_to_the_first_line():
    assert 0.2 < start.seconds_to_line([sys.executable, "-c", "import time; time.sleep(0.2); print(1)"]) < 60
    with pytest.raises(RuntimeError, match="has stopped before it was ready"):
        start.seconds_to_line([sys.executable, "-c", "raise SystemExit"])


@pytest.mark.slow
def test_contenders_speak_the_protocol(tmp_path):
    command = (sys.executable, "-m", "tools.benchmarks.worker", "ceiling", "")
    process = Process("product", command, tmp_path / "log")
    try:
        assert process.first["seconds"] > 0
        assert 0 < process.ask(3) < 60
    finally:
        process.stop()
    with pytest.raises(RuntimeError, match=r"broken has stopped; .*log says why"):
        Process("broken", (sys.executable, "-c", "raise SystemExit('no')"), tmp_path / "log")
    with pytest.raises(ValueError, match="must be NAME=PYTHON, with a name of timm, kecam"):
        inference.contenders(tmp_path, ["other=python"])


@pytest.mark.slow
def test_training_is_measured_and_told(tmp_path, capsys, monkeypatch):
    """Both engines, one step each after the first, on what this machine has."""
    monkeypatch.setattr(timing, "ROUNDS", 1)
    training.measure_training(tmp_path, ["coatnet-0"], 2, ["float32"], [], rounds=1)
    table = (tmp_path / training.TABLE_FILE).read_text()
    assert capsys.readouterr().out.strip() == table.strip()
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| coatnet-0")]
    assert [row[1] for row in rows] == ["tensorflow engine", "jax engine"]
    for row in rows:
        assert float(row[4]) == pytest.approx(1e3 / float(row[3]), rel=0.6, abs=1)
    training.measure_training(tmp_path, ["coatnet-0"], 2, ["float32"], [], rounds=1, frozen=True)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| coatnet-0")]
    assert row.split(" | ")[1] == "tensorflow engine, features once"
    with pytest.raises(ValueError, match="must be NAME=PYTHON, with a name of timm, kecam"):
        training.contenders("coatnet-0", 2, ["float32"], ["other=python"])


def test_input_table():
    images = input_worker.BATCHES * input_worker.BATCH_SIZE
    lines = input_pipelines.table({"ours": 2.0, "theirs": 3.0}, cores=2)
    assert lines[-2:] == [
        f"| ours | {images / 2:.0f} | {images / 4:.0f} | 1.00x |",
        f"| theirs | {images / 3:.0f} | {images / 6:.0f} | 1.50x |",
    ]
    with pytest.raises(ValueError, match="must be NAME=PYTHON, with a name of timm and a file"):
        input_pipelines.measure_input(None, ["other=python"], rounds=1)


@pytest.mark.slow
def test_an_input_pipeline_speaks_the_protocol(tmp_path):
    input_pipelines.synthetic_jpegs(tmp_path / "images", 40)
    command = (sys.executable, "-m", "tools.benchmarks.input_worker", "whole", str(tmp_path / "images"))
    process = Process("ours", command, tmp_path / "log")
    try:
        assert process.first["seconds"] > 0
        assert 0 < process.ask()["seconds"] < 60
    finally:
        process.stop()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "alone", "keras"])
def test_input_batches(kind, tmp_path):
    input_pipelines.synthetic_jpegs(tmp_path, 40)
    make = input_worker.keras_layers if kind == "keras" else functools.partial(input_worker.ours, kind)
    batch = next(make(str(tmp_path)))
    images, labels = batch.values() if kind == "keras" else batch[:2]
    assert images.shape == (32, 224, 224, 3) and labels.shape[0] == 32
    mixed = ((labels.numpy() > 0) & (labels.numpy() < 1)).any()
    assert mixed == (kind != "alone")
