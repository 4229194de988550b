"""Labels from a file: tables as people write them, splits, groups, several labels, every file accounted for."""

import numpy as np
import pytest
from etils import epath

from experiments import evaluate, workdir
from experiments.data import folder, labels_file, pipeline, sources
from experiments.data.readers import MultiLabelFiles
from experiments.engine import connect
from tests.experiments.samples import jpeg
from tools.fine_tuning.images import find_images

NAMES = ("blue", "green", "red")
COLOR = {"red": 0, "green": 1, "blue": 2}


@pytest.fixture
def photos(tmp_path):
    """30 photos of each of three colours."""
    (tmp_path / "photos").mkdir()
    for number in range(90):
        (tmp_path / "photos" / f"{number:02d}.jpg").write_bytes(jpeg(number, color=COLOR[color_of(number)]))
    return tmp_path


def color_of(number):
    return NAMES[number % 3]


def rows(*columns):
    """A row for each photo: path, label and further columns, functions of its number."""
    return [[f"photos/{n:02d}.jpg", color_of(n), *(column(n) for column in columns)] for n in range(90)]


def write(folder_, table, header="path,label", name="labels.csv", ends="\n", begin="", encoding="utf-8"):
    lines = [header, *(",".join(map(str, row)) for row in table)]
    (folder_ / name).write_bytes((begin + ends.join(lines) + ends).encode(encoding))
    return str(folder_ / name)


def read(path, eval_split="validation", **options):
    return labels_file.read(path, "train", eval_split, **options)


def labelled(*splits):
    return {
        path.rpartition("/")[2]: label
        for split in splits
        for path, label in zip(split.paths, split.labels, strict=True)
    }


def test_a_table_is_read_as_folders_are(photos):
    found = read(write(photos, rows()))
    assert found.class_names == NAMES and not found.multi_label and not found.left_out
    assert labelled(found.train, found.held_out) == {f"{n:02d}.jpg": n % 3 for n in range(90)}
    assert found.train.count + found.held_out.count == 90 and 8 <= found.held_out.count <= 30
    for path in found.held_out.paths:
        assert folder.is_held_out(str(photos), path)
    (note,) = found.notes
    assert "90 images" in note and "held out, by their paths; one label an image; nothing is left out." in note
    shuffled = read(write(photos, rows()[::-1], name="again.csv"))
    assert set(shuffled.train.paths) == set(found.train.paths)  # whatever the order of the rows


def test_however_the_table_is_named_the_same_images_are_held_out(photos, monkeypatch):
    (photos / "tables").mkdir()
    for name, up in (("labels.csv", ""), ("tables/labels.csv", "../")):
        write(photos, [[f"{up}{path}", label] for path, label in rows()], name=name)
        monkeypatch.chdir(photos)
        expected = {path[-6:] for path in read(f"{photos}/{name}").held_out.paths}
        assert 8 <= len(expected) <= 30
        for other in (name, f"./{name}", f"../{photos.name}/{name}"):
            assert {path[-6:] for path in read(other).held_out.paths} == expected
    (photos / "photos" / "labels.csv").write_text("path,label\n" + "".join(f"{n:02d}.jpg,{n % 3}\n" for n in range(90)))
    monkeypatch.chdir(photos / "photos")
    assert read("labels.csv").held_out.count and not read("labels.csv").left_out


@pytest.mark.parametrize(
    "options",
    [
        {"begin": "\ufeff"},
        {"ends": "\r\n"},
        {"ends": "\r"},
        {"header": "Label ,PATH, note"},
        {"header": "label;path;note"},
        {"header": "label\tpath\tnote", "begin": "\ufeff", "ends": "\r\n"},
    ],
)
def test_tables_as_programs_write_them(photos, options):
    table = [[label, path, "it"] for path, label in rows()]
    delimiter = next((mark for mark in ";\t" if mark in options.get("header", "")), ",")
    options = {"header": "label,path,note", **options}
    lines = [options["header"], *(delimiter.join(row) for row in table), "", delimiter * 2]  # and empty rows
    text = options.get("begin", "") + options.get("ends", "\n").join(lines)
    (photos / "labels.csv").write_bytes(text.encode())
    found = read(str(photos / "labels.csv"))
    assert labelled(found.train, found.held_out) == {f"{n:02d}.jpg": n % 3 for n in range(90)}


def test_quoted_cells_and_other_ways_to_write_a_path(photos):
    odd = photos / "photos" / 'so, "odd".jpg'
    odd.write_bytes(jpeg(200))
    table = [[f"{photos}/{path}", label] for path, label in rows()[:30]]
    table += [[f".\\{path}".replace("/", "\\"), label] for path, label in rows()[30:60]] + rows()[60:]
    table += [['"photos/so, ""odd"".jpg"', '"red, or\nnearly"']]
    found = read(write(photos, table))
    assert found.class_names == (*NAMES, "red, or nearly")
    assert labelled(found.train, found.held_out)[odd.name] == 3 and not found.left_out
    assert len(set(found.train.paths) | set(found.held_out.paths)) == 91


def test_paths_are_taken_as_they_are_written(photos):
    """Accents of a file system that parts them from their letters, and spaces, which elsewhere in a table are none."""
    table = rows()
    for number, name in ((0, "cha\u0302teau.jpg"), (1, " space.jpg"), (2, "ch\u00e2let.jpg")):
        (photos / table[number][0]).rename(photos / "photos" / name)
        table[number][0] = f"photos/{name}"
    table[2][0] = "photos/cha\u0302let.jpg"  # and as the table's program writes them
    (photos / " first.jpg").write_bytes(jpeg(91))
    found = read(write(photos, [*table, ['" first.jpg"', "red"]]))
    assert found.train.count + found.held_out.count == 91


def test_a_table_of_test_rows_is_evaluated_whole(photos):
    table = write(photos, rows(lambda n: "test"), "path,label,split")
    assert read(table, folder.ALL).held_out.count == 90
    with pytest.raises(ValueError, match="no split to train on; .* evaluate all of its images with --split=all"):
        read(table)


def test_addresses_of_the_web_are_refused(photos):
    table = [*rows(), ["https://example.org/1.jpg", "red"]]
    with pytest.raises(ValueError, match=r"names 1 addresses of the web, as https://example.org/1.jpg \(line 92\)"):
        read(write(photos, table))


def test_labels_that_look_alike(photos):
    """What nobody sees makes no class of its own; case and the way to write a number do, and it is said."""
    unseen = {0: "red", 3: "red\u200b", 6: "\ufeffred", 9: "caf\u00e9", 12: "cafe\u0301", 15: "red\u00a0"}
    table = [[path, unseen.get(number, label)] for number, (path, label) in enumerate(rows())]
    found = read(write(photos, table))
    assert found.class_names == (*sorted({*NAMES, "caf\u00e9"}),) and "look alike" not in found.notes[0]
    spaced = [[path, f' "{label}"'] for path, label in rows()]
    assert read(write(photos, spaced)).class_names == NAMES
    table = [[path, {0: "Red", 3: "1", 6: "1.0"}.get(number, label)] for number, (path, label) in enumerate(rows())]
    note = read(write(photos, table)).notes[0]
    numbers = [[path, f"1000000{index % 3}"] for index, (path, _) in enumerate(rows())]
    assert "look alike" not in read(write(photos, numbers)).notes[0]
    assert "labels that look alike are classes of their own: '1' and '1.0'; 'Red' and 'red'" in note


def test_one_file_by_two_ways_is_one(photos):
    table = [[f"{photos}/{path}", label] for path, label in rows()]
    found = read(write(photos, rows() + table))
    assert found.train.count + found.held_out.count == 90
    table[0][1] = "other"
    with pytest.raises(ValueError, match=f"lines 2 and 92: .* has the labels {rows()[0][1]!r} and 'other'"):
        read(write(photos, rows() + table))


def test_rows_that_repeat_others_count_once(photos):
    found = read(write(photos, rows() + rows()[:3]))
    assert found.train.count + found.held_out.count == 90 and "; 3 rows repeat others;" in found.notes[0]


def test_every_file_is_accounted_for(photos):
    (photos / "photos" / "notes.txt").write_text("no image")
    (photos / "photos" / "forgotten.jpg").write_bytes(jpeg(1))
    (photos / "photos" / "nowhere.jpg").symlink_to("gone.jpg")
    table = rows(lambda n: "other" if n == 5 else "train" if n % 4 else "val")
    table += [["photos/notes.txt", "red", "train"], ["photos/nowhere.jpg", "red", "train"]]
    found = read(write(photos, table, "path,label,split"))
    reasons = {entry.path.rpartition("/")[2]: entry.reason for entry in found.left_out}
    assert reasons == {
        "notes.txt": "no images, by name and content",
        "nowhere.jpg": "links that lead nowhere",
        "forgotten.jpg": labels_file.NOT_NAMED,
        "05.jpg": labels_file.OTHER_SPLIT,
    }
    assert found.held_out.count == 23 and found.train.count == 66
    assert "held out, as the column split says" in found.notes[0] and "left out: 1 " in found.notes[0]


def test_splits_are_found_by_any_usual_name(photos):
    of = lambda n: ("Training", "val", "test")[0 if n % 5 else 1 if n % 2 else 2]  # noqa: E731
    path = write(photos, rows(of), "path,label,split")
    counts = {name: sum(of(n) == name for n in range(90)) for name in ("Training", "val", "test")}
    for split, expected in (("validation", "val"), ("test", "test"), ("val", "val"), ("test[:50]", "test")):
        found = read(path, split)
        assert (found.train.count, found.held_out.count) == (counts["Training"], counts[expected])
    everything = read(path, folder.ALL)
    assert everything.held_out.count == 90
    assert read(path, "train").held_out == read(path, "train").train  # to evaluate on them
    assert labels_file.has_test_images(path)
    with pytest.raises(
        ValueError, match="has no split 'other', as config.dataset.eval_split says; it has Training, te"
    ):
        read(path, "other")
    labels_file.check_split(path, "train", "validation")
    with pytest.raises(
        ValueError, match="has no split 'other'; the splits in it are Training, test, val, and --split=all"
    ):
        labels_file.check_split(path, "train", "other")
    # Without rows for validation, some of the training images are held out, and those of the test are left alone.
    path = write(photos, rows(lambda n: "test" if n % 3 == n % 2 == 0 else "train"), "path,label,split")
    found = read(path)
    assert found.train.count + found.held_out.count == 75 and not set(found.train.paths) & set(found.held_out.paths)
    assert [entry.reason for entry in found.left_out] == [labels_file.OTHER_SPLIT] * 15


def test_groups_are_on_one_side(photos):
    group = lambda n: f"patient {n // 4}"  # noqa: E731
    path = write(photos, rows(group), "path,label,group")
    found = read(path)
    sides = [{group(int(p[-6:-4])) for p in split.paths} for split in (found.train, found.held_out)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 23
    assert 0.1 < found.held_out.count / 90 < 0.3 and min(found.held_out.counts(3)) >= 4  # stratified
    assert "held out, with none of 23 groups in both" in found.notes[0]
    again = read(write(photos, rows(group)[::-1], "path,label,group"))
    assert set(again.held_out.paths) == set(found.held_out.paths)
    # One without a group is on its own, and few groups are parted too.
    found = read(write(photos, rows(lambda n: "a" if n < 40 else "b" if n < 80 else ""), "path,label,group"))
    names = [{p[-6:-4] for p in split.paths} for split in (found.train, found.held_out)]
    assert all({"00", "39"} <= side or not {"00", "39"} & side for side in names)
    assert found.held_out.count == 4  # of five parts the one that is nearest to a fifth
    # As the column split says, if that does not part a group.
    split = lambda n: "val" if n // 4 % 5 == 0 else "train"  # noqa: E731
    assert read(write(photos, rows(group, split), "path,label,group,split")).held_out.count == 20
    with pytest.raises(ValueError, match="column split parts the groups patient 0, patient 1, .* and 18 more"):
        read(write(photos, rows(group, lambda n: "val" if n % 4 == 0 else "train"), "path,label,group,split"))


def several(n):
    """Of the colour, and whether the number is even; a photo has both, one or none."""
    return "|".join([color_of(n)] * (n % 5 > 0) + ["even"] * (n % 2 == 0))


def test_several_labels(photos):
    path = write(photos, [[f"photos/{n:02d}.jpg", several(n)] for n in range(90)])
    found = read(path)
    assert found.multi_label and found.class_names == ("blue", "even", "green", "red")
    assert isinstance(found.train, MultiLabelFiles)
    (example,) = found.train.read(3, 4)
    number = int(found.train.paths[3][-6:-4])
    named = {name for name, is_one in zip(found.class_names, example["label"].numpy(), strict=True) if is_one}
    assert named == set(several(number).split("|")) - {""} and example["label"].dtype == np.uint8
    counts = found.train.counts(4) + found.held_out.counts(4)
    assert counts.tolist() == [sum(name in several(n) for n in range(90)) for name in found.class_names]
    labels_file.check_classes(path, found.class_names, {"to train on": found.train})
    with_groups = [[f"photos/{n:02d}.jpg", several(n), n // 9] for n in range(90)]
    grouped = read(write(photos, with_groups, "path,label,group"))
    sides = [{int(p[-6:-4]) // 9 for p in split.paths} for split in (grouped.train, grouped.held_out)]
    assert not sides[0] & sides[1] and all(sides)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; a first line with the columns path and label is expected"),
        (b"file,label\nphotos/00.jpg,red\n", "has no column 'path'; its first line has 'file', 'label', and path and"),
        (b"path\nphotos/00.jpg\n", "has no column 'label'"),
        (b"path,label,Label\n", "has 2 columns 'label'; one is needed"),
        (b"path,label\n", "has no row below its first line"),
        (b"path,label\nphotos/00.jpg,a,b\n", "line 2: 3 cells, where the first line has 2 columns; .* double quotes"),
        (b"path,label\n,red\n", "line 2: the column path is empty"),
        (b"path,label\nphotos/00.jpg,red\nphotos/01.jpg,\n", "line 3: .*01.jpg has no label; give it one, or leave"),
        (
            b"path,label\nphotos/00.jpg,red\nphotos/./00.jpg,blue\n",
            r"lines 2 and 3: .*photos/00.jpg has the labels 'red' and 'blue'; several .* as cat\|dog",
        ),
        (b"path,label,split\nphotos/00.jpg,a,train\nphotos/00.jpg,a,val\n", "has the split 'train' and 'val'."),
        (
            b"path,label,split\nphotos/00.jpg,a,train\nphotos/01.jpg,a,\n",
            "line 3: the column split is empty; say train",
        ),
        (b"path,label,split\nphotos/00.jpg,a,test\n", "has no split to train on; its column split has test"),
        (b"path,label,group\nphotos/00.jpg,a,g\nphotos/01.jpg,b,g\n", "all images are of the group 'g', so that none"),
        (
            b"path,label\nphotos/0.jpg,a\nphotos/00.jpg,b\n",
            r"names 1 of 2 files .* as .*photos/0.jpg \(line 2\); paths",
        ),
        (b"path,label\nphotos,a\nphotos/00.jpg,b\n", r"that are not there, or are folders, as .*photos \(line 2\)"),
        (b'path,label\n"photos/00.jpg,red\n', "cannot be read as a table: unexpected end of data"),
        ("path,label\nfür.jpg,red\n".encode("latin-1"), r"is not in UTF-8 \(byte 12\); save it as CSV in UTF-8"),
        ("path,label\nphotos/00.jpg,red\n".encode("utf-16"), "is not in UTF-8"),
        (
            b"path,label,split\nphotos/00.jpg,a,train\nphotos/01.jpg,b,val\n",
            "images are held out with labels that no training image has: b",
        ),
    ],
)
def test_wrong_tables_get_a_sentence(photos, content, message):
    (photos / "labels.csv").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(str(photos / "labels.csv"))


def test_what_cannot_be_learned_is_refused(photos, config):
    with pytest.raises(FileNotFoundError, match="There is no file .*nowhere.csv'; --data=csv:FILE takes a table"):
        read(str(photos / "nowhere.csv"))
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read(str(photos))
    config.dataset.update(train_split="train", eval_split="validation")

    def check(path):
        config.dataset.name = f"csv:{path}"
        sources.check_for_training(sources.prepare(config.dataset), config.dataset)

    with pytest.raises(ValueError, match="has one label, 'it'; two or more are needed"):
        check(write(photos, [[path, "it"] for path, _ in rows()]))
    with pytest.raises(
        ValueError, match=r"different numbers label .* images, .* For quantities give --config.loss=squ"
    ):
        check(write(photos, [[path, n / 7] for n, (path, _) in enumerate(rows())]))
    with pytest.raises(ValueError, match="images of rare is to train on. Add images, .* a column `split` of train"):
        held_out = next(n for n in range(90) if folder.is_held_out(str(photos), f"{photos}/photos/{n:02d}.jpg"))
        check(write(photos, [[path, "rare" if n == held_out else label] for n, (path, label) in enumerate(rows())]))
    with pytest.raises(FileNotFoundError, match="names no training images"):
        check(write(photos, rows()[held_out : held_out + 1]))


def test_batches_have_every_label(photos, config):
    config.dataset.update(name=f"csv:{write(photos, [[p, several(n)] for n, (p, _) in enumerate(rows())])}")
    config.dataset.update(train_split="train", eval_split="validation")
    source = sources.prepare(config.dataset)
    assert source.multi_label and source.num_classes == 4
    batches = list(pipeline.evaluation_batches(source, config).as_numpy_iterator())
    targets = np.concatenate([batch[1] for batch in batches])[: source.eval.count]
    for path, target in zip(source.eval.paths, targets, strict=True):
        assert {n for n, one in zip(source.class_names, target, strict=True) if one} == set(
            several(int(path[-6:-4])).split("|")
        ) - {""}


def test_what_fine_tuning_makes_of_a_table(photos):
    of = lambda n: "test" if n % 6 == 0 else "train"  # noqa: E731
    images = find_images(f"csv:{write(photos, rows(of), 'path,label,split')}")
    assert images.test == images.data == f"csv:{photos}/labels.csv" and not images.multi_label
    table = [[path, several(n)] for n, (path, _) in enumerate(rows())]
    images = find_images(f"csv:{write(photos, table)}")
    assert images.multi_label and not images.test
    with pytest.raises(FileNotFoundError, match="There is no file"):
        find_images("csv:nowhere.csv")


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["one", "several"])
def test_a_run_on_a_table(run, photos, config, tmp_path, labels):
    table = [[p, several(n) if labels == "several" else c, n // 5] for n, (p, c) in enumerate(rows())]
    config.dataset.update(name=f"csv:{write(photos, table, 'path,label,group')}")
    config.dataset.update(train_split="train", eval_split="validation")
    config.image_size, config.batch_size, config.epochs = 16, 16, 16
    output = epath.Path(tmp_path / "run")
    if labels == "several":
        with pytest.raises(ValueError, match="can have several classes, which softmax cannot learn; set --config.loss"):
            run(config, output, connect("one_device"))
        config.loss = "sigmoid"
    run(config, output, connect("one_device"))
    measured = evaluate.evaluate(output, tmp_path / "evaluation")
    text = (output / workdir.REPORT).read_text()
    evaluation = (tmp_path / "evaluation" / "evaluation.md").read_text()
    result = workdir.result_of(workdir.read_metrics(output))
    assert measured["loss"] == pytest.approx(result["eval_loss"], rel=1e-3)
    if labels == "several":
        precision = f"| Mean average precision | {measured['mean_average_precision']:.2%} |"
        assert precision in text and precision in evaluation
        assert measured["mean_average_precision"] > 0.5  # a guess has the share of the images, a third
        assert "| class | images | average precision | precision | recall | F1 |" in text
    else:
        assert measured["top1"] == pytest.approx(result["eval_accuracy"], abs=1e-6) and measured["top1"] > 0.8
        assert f"| Balanced accuracy (mean recall) | {measured['balanced_accuracy']:.2%} |" in text
    assert not (output / workdir.LEFT_OUT).exists()
    with pytest.raises(ValueError, match="has no split 'test'; it has no column `split`, and --split=all takes all"):
        evaluate.evaluate(output, tmp_path / "evaluation", split="test")
    assert evaluate.evaluate(output, tmp_path / "all", split="all")["images"] == 90
    if labels == "one":
        table = [[path, "|".join(NAMES) if n % 2 else label] for n, (path, label) in enumerate(rows())]
        other = f"csv:{write(photos, table, name='several.csv')}"
        with pytest.raises(ValueError, match=r"can have several classes, and the model gives each one \(softmax\)"):
            evaluate.evaluate(output, tmp_path / "other", other, "all")
