"""Numbers in place of classes: read from tables, standardised, learned, measured and given in their units."""

import json
import re

import keras
import numpy as np
import pytest
from etils import epath
from sklearn import metrics as sklearn_metrics

from experiments import checks, cross_validation, evaluate, history, loop, losses, metrics, tries, workdir
from experiments.data import labels_file, pipeline, sources, values
from tests.experiments.samples import jpeg

COLUMNS = "path,Year,weight,split"


@pytest.fixture
def photos(tmp_path):
    """90 photos of three colours, by which the year goes, and the weight the other way."""
    (tmp_path / "photos").mkdir()
    for number in range(90):
        (tmp_path / "photos" / f"{number:02d}.jpg").write_bytes(jpeg(number, color=number % 3))
    return tmp_path


def numbers_of(number):
    return 2000.5 + 10 * (number % 3), 3e-3 - 1e-3 * (number % 3)


def rows():
    of = lambda n: "validation" if n % 5 == 0 else "train"  # noqa: E731
    return [[f"photos/{n:02d}.jpg", *numbers_of(n), of(n)] for n in range(90)]


def write(folder, table, header=COLUMNS, name="numbers.csv"):
    (folder / name).write_text("\n".join([header, *(",".join(map(str, row)) for row in table)]) + "\n")
    return str(folder / name)


@pytest.fixture
def of_numbers(config, photos):
    """A recipe of both columns."""
    config.loss, config.label_smoothing = "squared_error", 0.0
    config.dataset.update(name=f"csv:{write(photos, rows())}", value_columns="year, weight")
    config.dataset.update(train_split="train", eval_split="validation")
    config.image_size, config.batch_size, config.epochs = 16, 16, 12
    return config


def test_tables_of_numbers(photos):
    found = labels_file.read(write(photos, rows()), "train", "validation", value_columns=("year", "weight"))
    assert found.class_names == ("year", "weight") and not found.multi_label
    assert (found.train.count, found.held_out.count) == (72, 18)
    for split in (found.train, found.held_out):
        for path, numbers in zip(split.paths, split.labels, strict=True):
            assert numbers == numbers_of(int(path[-6:-4]))
    table = [[path, year, number // 5] for number, (path, year, _, _) in enumerate(rows())]
    found = labels_file.read(write(photos, table, "path,value,group"), "train", "validation", value_columns=("value",))
    groups = [{int(path[-6:-4]) // 5 for path in split.paths} for split in (found.train, found.held_out)]
    assert not groups[0] & groups[1] and 10 <= found.held_out.count <= 25


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,age\na.jpg,1", "has no column 'value'; its first line has 'path', 'age', and path and value are needed"),
        ("path,value\na.jpg,", "line 2: the column value is empty; give a finite number, or leave the row out"),
        ("path,value\na.jpg,old", "line 2: the column value has 'old', which is no number; give a finite number, or"),
        ("path;value\na.jpg;1,5", "line 2: the column value has '1,5', .* write a decimal point .* as 1234.5"),
        ("path,value\na.jpg,nan", "line 2: the column value has 'nan', which is no number; give a finite number"),
        ("path,value\na.jpg,1\na.jpg,2", "lines 2 and 3: .*a.jpg has the numbers '1.0' and '2.0'"),
    ],
)
def test_wrong_tables_get_a_sentence(photos, content, message):
    (photos / "wrong.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        labels_file.read(str(photos / "wrong.csv"), "train", "validation", value_columns=("value",))


def test_a_table_of_numbers_says_what_learns_it(photos):
    with pytest.raises(ValueError, match=r"no column 'label'.*--config.loss=squared_error --config.dataset.value_col"):
        labels_file.read(write(photos, rows()), "train", "validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_smoothing": 0.1}, "config.label_smoothing is of classes, .* set --config.label_smoothing=0.0"),
        ({"dataset.balance": "weights"}, "config.dataset.balance is of classes, .* set --config.dataset.balance=none"),
        ({"dataset.balance": "sampling"}, "config.dataset.balance is of classes"),
        ({"teacher": "runs/other"}, "config.teacher is of classes, .* set --config.teacher=\\."),
        ({"loss": "softmax"}, "value_columns=year,weight are numbers to learn, and config.loss=softmax is of classes"),
        ({"dataset.value_columns": "year,split"}, "value_columns names split, which mean something else"),
        ({"dataset.value_columns": "year,year"}, "value_columns=year,year names a column twice"),
        ({"dataset.value_columns": ""}, "has no column 'value'"),
        ({"dataset.value_columns": "age"}, "has no column 'age'"),
        ({"dataset.name": "digits"}, "config.loss=squared_error learns numbers, .* digits has classes"),
        ({"dataset.name": "folder:photos"}, "config.loss=squared_error learns numbers, .* folder:photos has classes"),
    ],
)
def test_what_is_of_classes_is_refused(of_numbers, devices, tmp_path, change, message):
    of_numbers.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
        loop.prepare(of_numbers, tmp_path / "run", devices)


def test_numbers_that_do_not_vary_are_refused(of_numbers, photos, devices, tmp_path):
    table = [[path, year, 7, split] for path, year, _, split in rows()]
    of_numbers.dataset.name = f"csv:{write(photos, table, name='same.csv')}"
    with pytest.raises(ValueError, match="the column weight is 7 for all 72 training images"):
        loop.prepare(of_numbers, tmp_path / "run", devices)


def test_batches_are_standardised_by_the_training_images(of_numbers):
    checks.settle_values(of_numbers)
    source = sources.prepare(of_numbers.dataset)
    told = source.train.numbers
    np.testing.assert_allclose(source.values.means, told.mean(axis=0))
    batches = list(pipeline.evaluation_batches(source, of_numbers).as_numpy_iterator())
    targets = np.concatenate([part for _, part, _ in batches])[: source.eval.count]
    assert targets.dtype == np.float32
    expected = (source.eval.numbers - told.mean(axis=0)) / told.std(axis=0)
    np.testing.assert_allclose(targets, expected, atol=1e-6)
    np.testing.assert_allclose(source.values.in_units(targets), source.eval.numbers, rtol=1e-6)
    np.testing.assert_allclose(source.values.layer()(targets), source.eval.numbers, rtol=1e-6)
    loss = losses.make_loss("squared_error", 0.0)(targets, np.zeros_like(targets))
    np.testing.assert_allclose(loss, np.square(expected).mean(axis=-1), atol=1e-5)


def test_measures_of_numbers():
    generator = np.random.default_rng(0)
    told = generator.normal([5.0, 0.0], [2.0, 1.0], (200, 2))
    predicted = told + generator.normal(0, [1.0, 3.0], (200, 2))
    measured = metrics.measure_values(predicted, told, [5.0, 0.0], [2.0, 1.0], ["good", "bad"])
    good, bad = measured["by_value"].values()
    assert good["r2"] == pytest.approx(sklearn_metrics.r2_score(told[:, 0], predicted[:, 0])) and bad["r2"] < 0
    assert good["error_of_the_mean"] == pytest.approx(2 * (2 / np.pi) ** 0.5, rel=0.1)
    for of_value, error in ((good, 1.0), (bad, 3.0)):  # of normal noise the mean distance is this times sqrt(2 / pi)
        low, high = of_value["mean_absolute_error_interval"]
        assert low < of_value["mean_absolute_error"] < high and low < error * (2 / np.pi) ** 0.5 < high
        low, high = of_value["r2_interval"]
        assert low < of_value["r2"] < high
    assert measured["loss"] == pytest.approx(((1 / 2) ** 2 + 3**2) / 2, rel=0.2)
    same = metrics.measure_values(predicted[:, :1], np.full((200, 1), 3.0), [5.0], [2.0], ["same"])["by_value"]["same"]
    assert same["r2"] is None and same["r2_interval"] is None and same["error_of_the_mean"] == 2
    one = metrics.measure_values(predicted[:1, :1], told[:1, :1], [5.0], [2.0], ["one"])["by_value"]["one"]
    assert one["r2"] is None and one["mean_absolute_error_interval"] is None


def test_folds_and_tries_of_numbers(monkeypatch, tmp_path):
    of_value = {"mean_absolute_error": 2.0, "error_of_the_mean": 8.0, "r2": 0.9}
    measured = [
        {
            "images": 10,
            "loss": 0.5,
            "epoch": 3,
            "chose_the_weights": False,
            "by_value": {"a|ge": {**of_value, "r2": r2}},
        }
        for r2 in (0.8, 0.9, 1.0)
    ]
    text = cross_validation.describe(measured)
    assert (
        "| 2 | 10 | 2 | 8 | 0.9 | 0.5000 | 3 |" in text and "a\\|ge: R² 0.9 in the mean, 95 % interval 0.6516" in text
    )
    row = {"step": 5, "epoch": 1, "eval_loss": 0.5, "eval_absolute_error": 0.25}
    monkeypatch.setattr(tries.train, "run", lambda config, folder: _leave(folder, row))
    tries.run(lambda way: way, epath.Path(tmp_path), 60)
    assert "| head | 0.5000 | absolute error 0.2500 deviations | 1 |" in (tmp_path / workdir.TRIES).read_text()
    assert history.score({"train_accuracy": 0.5}, "train") == "accuracy 50.00%"


def _leave(folder, row):
    folder.mkdir(parents=True)
    workdir.append_metrics(folder, row)


@pytest.mark.slow
def test_a_run_gives_numbers_in_their_units(run, of_numbers, photos, devices, tmp_path):
    of_numbers.augment.mixup_alpha, of_numbers.augment.cutmix_alpha, of_numbers.ema_decay = 0.2, 1.0, 0.5
    (photos / "photos" / "03.jpg").write_bytes(b"no image")
    table = rows()
    table[3][3] = table[6][3] = "validation"
    of_numbers.dataset.update(name=f"csv:{write(photos, table)}", max_damaged_share=0.5)
    folder = epath.Path(tmp_path / "run")
    run(of_numbers, folder, devices)
    assert not (folder / workdir.CLASSES).exists()
    assert (folder / workdir.VALUES).read_text().split() == ["year", "weight"]

    measured = evaluate.evaluate(folder, folder / "evaluation")
    rows_ = workdir.read_metrics(folder)
    assert measured["loss"] == pytest.approx(rows_[-1]["eval_loss"], rel=1e-3)
    year, weight = measured["by_value"].values()
    assert year["r2"] > 0.5 and weight["r2"] > 0.5
    assert year["mean_absolute_error"] < year["error_of_the_mean"] < 10
    assert weight["mean_absolute_error"] < weight["error_of_the_mean"] < 1e-3
    model = keras.models.load_model(folder / workdir.MODEL)
    assert values.gives_values(model)
    source = sources.prepare(of_numbers.dataset)
    images, _, kept = (
        np.concatenate(part)
        for part in zip(*pipeline.evaluation_batches(source, of_numbers).as_numpy_iterator(), strict=True)
    )
    images, kept = images[: source.eval.count], kept[: source.eval.count] > 0
    assert not kept.all()  # the damaged one
    distance = np.abs(np.array(model(images.astype("float32"))) - source.eval.numbers)[kept].mean(axis=0)
    errors = [of_value["mean_absolute_error"] for of_value in (year, weight)]
    np.testing.assert_allclose(distance, errors, rtol=1e-3)

    report, evaluation = (folder / workdir.REPORT).read_text(), (folder / "evaluation" / "evaluation.md").read_text()
    line = f"| year | {year['mean_absolute_error']:.4g} |"[:12]
    assert line in report and f"| {year['error_of_the_mean']:.4g} |" in evaluation
    assert "are of classes, and left out" in report and "ccuracy |" not in report
    for picture in ("values.png", "predictions.png", "curves.png", "evaluation/values.png"):
        assert (tmp_path / "run" / picture).stat().st_size > 0
    assert not (folder / "disagreements.csv").exists() and not (folder / "confusion.png").exists()
    text = evaluate.describe_result(measured)
    assert re.match(
        r"year: mean absolute error [\d.]+ \(95 % interval: .*; always the mean: .*\), R² 0.*; weight: ", text
    )

    # Another table is measured by the mean of these training images, not by its own.
    others = [[path, 2100, 0.5, "test"] for path, *_ in table[10:20]]
    other = write(photos, [*others, *table[20:25]], name="other.csv")
    on_others = evaluate.evaluate(folder, folder / "others", f"csv:{other}", "test")["by_value"]["year"]
    mean = json.loads((folder / workdir.DATA).read_text())["values"]["mean"][0]
    assert on_others["error_of_the_mean"] == pytest.approx(2100 - mean) and on_others["r2"] is None
    with pytest.raises(ValueError, match="learns numbers, the columns year, weight of a table"):
        evaluate.evaluate(folder, folder / "no", f"folder:{photos}", "all")

    (folder / workdir.MODEL).unlink()
    run(of_numbers, folder, devices)  # its end again
    again = keras.models.load_model(folder / workdir.MODEL)(images.astype("float32"))
    np.testing.assert_allclose(again, model(images.astype("float32")), rtol=1e-6)
    table[1][1] = 1900
    write(photos, table)
    with pytest.raises(ValueError, match="has changed since the run"):
        run(of_numbers, folder, devices)
