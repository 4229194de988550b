"""Files to a table of classes: the same numbers from a run, its file and its export, and every file accounted for."""

import csv
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import workdir
from experiments.data import sources
from tests import programs
from tests.tools.samples import LABELS, encode, photo
from tools import model_files, predict
from tools.export_saved_model import ExportOptions, export

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Readable images, also below and as links, and what cannot be read."""
    folder = tmp_path_factory.mktemp("images") / "my photos"
    (folder / "below [1]").mkdir(parents=True)
    for index in range(5):
        (folder / f"{index}.jpg").write_bytes(encode(photo(90, 30 + index, seed=index), "JPEG"))
    (folder / "below [1]" / 'süß, "x".png').write_bytes(encode(photo(seed=7)))
    (folder / "broken.jpg").write_bytes(encode(photo(), "JPEG")[:60])
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "notes.txt").write_text("no image")
    return folder


def classify(model, files, **options):
    classifier = predict.load_classifier(Path(model), **options)
    return classifier, list(predict.predict(classifier, predict.find_files(files), batch_size=2))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("crop", ["none", "center"])
def test_same_numbers_from_a_run_its_file_and_its_export(crop, run_folder, photos, tmp_path):
    run = shutil.copytree(run_folder, tmp_path / "run")
    config = workdir.read_recipe(run)
    config.eval_crop = crop
    (run / workdir.CONFIG).write_text(config.to_json())
    serving = tmp_path / "serving"
    version = export(ExportOptions(output=serving, workdir=run, fold=True))
    expected = None
    for model in (run, run / workdir.MODEL, serving, version):
        classifier, found = classify(model, [str(photos)])
        assert classifier.view.crop == crop and classifier.class_names == tuple(map(str, range(10)))
        assert [not entry.error for entry in found] == [True] * 6 + [False] * 2
        scores = np.array([entry.probabilities for entry in found[:6]])
        expected = scores if expected is None else expected
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-4
    other = {"none": "center", "center": "none"}[crop]
    _, found = classify(run, [str(photos)], crop=other)
    assert np.abs(np.array([entry.probabilities for entry in found[:6]]) - expected).max() > 1e-5


def test_a_file_gives_what_training_evaluated(run_folder, tmp_path):
    source = sources.prepare(workdir.read_recipe(run_folder).dataset)
    right, files = [], []
    for index, example in enumerate(source.eval.read(0, 40).as_numpy_iterator()):
        files.append(tmp_path / f"{index:02d}")
        files[-1].write_bytes(example["image"])
        right.append(int(example["label"]))
    classifier, found = classify(run_folder, [str(tmp_path)])
    (batch,) = [classifier.classify(np.stack([entry.image for entry in found]))]
    np.testing.assert_allclose(batch, [entry.probabilities for entry in found], atol=1e-5)
    assert [Path(entry.file).name for entry in found] == [file.name for file in files]


def test_labels_of_a_file(model_file, photos, tmp_path, caplog):
    file = shutil.copy(model_file, tmp_path / "model.keras")
    assert predict.load_classifier(Path(file)).class_names == tuple("0123456")
    assert "does not say what it sees of an image: the middle, 0.5 of the sides of the largest part" in caplog.text
    (tmp_path / workdir.CLASSES).write_text("\n".join(LABELS))
    assert predict.load_classifier(Path(file)).class_names == tuple(LABELS)
    (tmp_path / "few").write_text("a\nb")
    with pytest.raises(ValueError, match="has 7 classes and there are 2 labels; give one for each"):
        predict.load_classifier(Path(file), labels=tmp_path / "few")
    with pytest.raises(FileNotFoundError, match="is neither a finished run, with its model.keras, nor an export"):
        predict.load_classifier(photos)
    with pytest.raises(FileNotFoundError, match="There is no file .*nothing.keras"):
        predict.load_classifier(tmp_path / "nothing.keras")
    with pytest.raises(ValueError, match=r"few is no .keras file; give a whole model"):
        predict.load_classifier(tmp_path / "few")


def test_which_files(photos):
    names = [Path(entry.file).name for entry in predict.find_files([str(photos)])]
    assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", 'süß, "x".png', "broken.jpg", "gone.jpg"]
    pattern = predict.find_files([f"{photos}/[0-2].jpg", f"{photos}/1.jpg", f"{photos}/below [[]1]/*.png"])
    assert [Path(entry.file).name for entry in pattern] == ["0.jpg", "1.jpg", "2.jpg", 'süß, "x".png']
    assert [Path(entry.file).name for entry in predict.find_files([f"{photos}/below [1]"])] == ['süß, "x".png']
    twice = predict.find_files([str(photos), f"{photos}/**", f"{photos}//1.jpg", os.path.relpath(photos / "2.jpg")])
    assert len(twice) == len(names) + 1  # the pattern names the notes too
    everything = predict.find_files([f"{photos}/**/*.png"])
    assert [Path(entry.file).name for entry in everything] == ['süß, "x".png']
    missing = [f"{photos}/*.gif", "gone"]
    assert {entry.file: entry.error for entry in predict.find_files(missing)} == dict.fromkeys(
        missing, "there is no such file"
    )
    (gone,) = predict.find_files([f"{photos}/gone.*"])
    assert gone.error == "left out: links that lead nowhere"


@pytest.mark.slow
def test_the_program(run_folder, photos, tmp_path):
    def run(*arguments):
        return programs.run("tools.predict", f"--model={run_folder}", *arguments, env={"HOME": str(tmp_path)})

    done = run(f"--images={photos}/", "--output=~/new/a.csv", "--top_k=2", "--contact_sheet=~/sheet.png", "also_none")
    assert done.returncode == 0, done.stderr
    assert f"6 images classified, 3 could not be read (column error): {tmp_path}/new/a.csv" in done.stdout
    assert "Traceback" not in done.stderr and "left out without a row: 1 no images" in done.stderr
    rows = rows_of(tmp_path / "new" / "a.csv")
    assert list(rows[0]) == ["file", "class_1", "score_1", "class_2", "score_2", "error"]
    assert rows[5]["file"] == f'{photos}/below [1]/süß, "x".png' and float(rows[5]["score_1"]) > float(
        rows[5]["score_2"]
    )
    assert [bool(row["error"]) for row in rows] == [False] * 6 + [True] * 3
    assert all(row["class_1"] == row["score_2"] == "" for row in rows[6:])
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")

    done = run(f"--images={photos}/broken.jpg", "--output=~/b.csv")
    assert done.returncode == 1 and rows_of(tmp_path / "b.csv")[0]["error"].startswith("it cannot be read")
    for arguments, sentence in (
        (["--images=nothing", "--output=~/c.csv"], "No image to read in nothing: there is no such file"),
        ([f"--images={photos}", "--output=~/new"], "new is a folder; give the name of a file to write"),
        ([f"--images={photos}", f"--output={photos}/broken.jpg"], "broken.jpg is read; give another file"),
        ([f"--images={photos}", "--output=~/a", "--contact_sheet=~/a"], "--output writes it too; give another file"),
        ([f"--images={photos}", "--output=~/c.csv", "--top_k=11"], "--top_k=11 is more than the 10 classes"),
    ):
        done = run(*arguments)
        assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "c.csv").exists()


def test_plain_keras_of_the_docs(model_file, tmp_path, monkeypatch, capsys):
    (block,) = re.findall("```python\n(.*?)```", (ROOT / "docs" / "predict.md").read_text(), re.DOTALL)
    assert len(list(filter(None, block.splitlines()))) == 5
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_file, "model.keras")
    Path("classes.txt").write_text("\n".join(LABELS))
    Path("photo.jpg").write_bytes(encode(photo(90, 70), "JPEG"))
    names: dict = {}
    exec(block, names)
    _, (found,) = classify("model.keras", ["photo.jpg"], crop="none")
    np.testing.assert_allclose(names["scores"], found.probabilities, atol=5e-3)
    assert capsys.readouterr().out.startswith(LABELS[int(found.probabilities.argmax())])


def test_names_of_classes_as_editors_leave_them(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffblue \r\n gr\u00fcn\r\n".encode())
    assert model_files.read_labels(path) == ["blue", "gr\u00fcn"]
    path.write_bytes("gr\u00fcn".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels.txt is not in UTF-8 \(byte 2\)"):
        model_files.read_labels(path)
