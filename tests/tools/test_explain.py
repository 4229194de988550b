"""The picture of what a model looks at, and every refusal."""

import dataclasses

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import coatnet_tf
from experiments.data import views
from tests import programs
from tests.tools.samples import cttt_config
from tools import explain, model_files
from tools.explain import ExplainOptions
from tools.explanations import maps, picture
from tools.explanations.picture import TIMES


@pytest.fixture(scope="module")
def cttt_file(cttt, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "cttt.keras"
    cttt.save(path)
    return path


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype="uint8")
    path = tmp_path_factory.mktemp("images") / "photo.jpg"
    Image.fromarray(pixels).resize((80, 60), Image.BICUBIC).save(path)
    return path


def shown_in(figure):
    """Title and pictures of every panel that has one."""
    return {axes.get_title(): axes.images for axes in figure.axes if axes.images}


def texts_of(figure):
    return " ".join(part.get_suptitle() for part in figure.subfigs)


@pytest.mark.parametrize(("preprocessing", "by_name"), [("tf", True), ("torch", True), ("torch", False)])
def test_models_without_preprocessing_are_shown_what_they_want(
    preprocessing, by_name, cttt, photo_file, tmp_path, monkeypatch
):
    """Of a known network by its name, of another by the flag; the picture is that of the model that rescales itself."""
    config = dataclasses.replace(cttt_config(), preprocessing=preprocessing)
    files = [tmp_path / "bare.keras", tmp_path / "whole.keras"]
    for file, whole in zip(files, (False, True), strict=True):
        model = coatnet_tf.CoAtNet(config, input_shape=(32, 48, 3), classes=7, include_preprocessing=whole)
        model.set_weights(cttt.get_weights())
        model.save(file)
    if by_name:
        monkeypatch.setitem(coatnet_tf.FAMILY, "cttt", config)
    else:
        with pytest.raises(ValueError, match="its name, cttt, is of no known network, .* --preprocessing=tf for"):
            explain.explain(ExplainOptions(output=tmp_path / "a.png", weights=files[0], files=(photo_file,)))
    explained = []

    def draw(model, names, found, *options):
        explained.extend(found)
        return Figure()

    monkeypatch.setattr(explain, "draw_explanations", draw)
    for file, flag in zip(files, ("" if by_name else preprocessing, ""), strict=True):
        options = ExplainOptions(output=tmp_path / "a.png", weights=file, files=(photo_file,), preprocessing=flag)
        explain.explain(options)
    found, expected = explained
    assert expected.maps[0].max() > 0
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-4)
    np.testing.assert_allclose(found.maps[0], expected.maps[0], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.rollout, expected.rollout, rtol=1e-3)


@pytest.mark.parametrize("kind", ["guide", "sequential", "backbone"])
def test_the_network_in_a_model_is_explained(kind, photo_file, tmp_path, monkeypatch):
    """As that of the same layers without a model inside."""
    config = cttt_config()
    if kind == "backbone":
        base = coatnet_tf.CoAtNetBackbone(config, input_shape=(32, 48, 3))
    else:
        base = coatnet_tf.CoAtNet(config, input_shape=(32, 48, 3), include_top=False, name="base")
    image = keras.Input((32, 48, 3))
    pool, dense = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(7, name="mine")
    if kind == "sequential":
        whole = keras.Sequential([image, base, pool, dense])
    else:
        augmentation = keras.Sequential([keras.layers.RandomFlip(), keras.layers.RandomRotation(0.1)])
        x = pool(base(augmentation(image), training=False))
        whole = keras.Model(image, dense(keras.layers.Dropout(0.2)(x)))
    flat = keras.Model(base.input, dense(pool(base.output)))
    explained = []
    monkeypatch.setattr(explain, "draw_explanations", lambda m, names, found, *_: explained.extend(found) or Figure())
    for name, model in (("whole", whole), ("flat", flat)):
        model.save(tmp_path / f"{name}.keras")
        options = ExplainOptions(
            output=tmp_path / "a.png", weights=tmp_path / f"{name}.keras", files=(photo_file,), stages=("s2", "s4")
        )
        explain.explain(options)
    found, expected = explained
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-4)
    np.testing.assert_allclose(found.rollout, expected.rollout, rtol=1e-4)
    for mine, theirs in zip(found.maps, expected.maps, strict=True):
        assert theirs.max() > 0
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-6)


def test_picture_of_an_image_that_is_not_square(cttt, cttt_file, photo_file, tmp_path):
    output = tmp_path / "new" / "explained.png"
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\neel\nfox\ngnu\n")
    figure = explain.explain(
        ExplainOptions(
            output=output,
            weights=cttt_file,
            labels=labels,
            files=(photo_file,),
            class_name="dog",
            stages=("s1", "s3"),
            heads=(1,),
            position=(1, 2),
        )
    )
    assert Image.open(output).size[0] > 500
    shown = shown_in(figure)
    image = shown["photo.jpg"][0].get_array()
    assert image.shape == (32, 48, 3)
    _, found_maps = maps.predict_and_grad_cam(cttt, image, ["s1", "s3"], target=3)
    for title, found in ((f"S1 (8 {TIMES} 12)", found_maps[0]), (f"S3 (2 {TIMES} 3)", found_maps[1])):
        heat = shown[f"Grad-CAM of {title}\nfor dog"][1].get_array()
        rows, columns = found.shape
        by_cell = heat.reshape(rows, 32 // rows, columns, 48 // columns).mean(axis=(1, 3))
        assert by_cell.argmax() == found.argmax()
        assert np.corrcoef(by_cell.ravel(), found.ravel())[0, 1] > 0.9

    share = 24 * maps.rollout(maps.attention(cttt, image, [1]), (1, 2))
    (title,) = (title for title in shown if title.startswith(f"Attention rollout (4 {TIMES} 6)"))
    assert title.endswith(f"{share.min():.1f} to {share.max():.1f} times an equal share")
    (axes,) = (axes for axes in figure.axes if axes.get_title() == title)
    assert axes.patches[0].get_bbox().bounds == (31.5, 15.5, 16, 16)  # the last of 2 x 3 cells
    assert "the framed position took more from there" in texts_of(figure) and "heads 1." in texts_of(figure)

    for name in ("s2_block01", "s3_block01", "s3_block02", "s4_block01"):
        table = cttt.get_layer(name).attention.relative_bias.table.numpy()[1]
        (drawn,) = shown[f"{name}, head 1"]
        np.testing.assert_array_equal(drawn.get_array(), table)
        assert drawn.norm.vcenter == 0 and drawn.norm.vmax == -drawn.norm.vmin
        # Each entry stands at its offset: rows downwards, columns to the right, 0 in the middle.
        height, width = table.shape
        assert tuple(drawn.get_extent()) == (-width / 2, width / 2, height / 2, -height / 2)


def test_a_map_of_zeros_is_dark_and_says_why(cttt, images):
    blank = picture.Explained("title", images[0], np.eye(7)[0], 0, [np.zeros((2, 3), "float32")], None)
    figure = picture.draw_explanations(cttt, list("abcdefg"), [blank], stages=("s4",))
    _, heat = shown_in(figure)[f"Grad-CAM of S4 (2 {TIMES} 3)\nfor a: nothing speaks for it"]
    assert not heat.norm(heat.get_array()).any()


def test_bars_are_the_best_classes_and_the_explained_one(cttt, images):
    probabilities = np.array([0.0, 0.4, 0.1, 0.25, 0.04, 0.06, 0.15])
    for target, expected in ((3, "bdgcf"), (0, "bdgca")):
        one = picture.Explained("title", images[0], probabilities, target, [], None)
        (axes,) = (axes for axes in picture.draw_explanations(cttt, list("abcdefg"), [one]).axes if axes.patches)
        assert [text.get_text()[0] for text in axes.texts] == list(expected)
        assert axes.texts[1].get_text() == "d  25.0%" and axes.get_title().startswith("predicted: b")
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches[:4]], [0.4, 0.25, 0.15, 0.1])
        blue = [bar.get_facecolor()[2] > bar.get_facecolor()[0] for bar in axes.patches]
        assert blue == [letter == "abcdefg"[target] for letter in expected]


def test_offsets_of_the_drawn_table_are_those_of_attention(cttt):
    """The entry at (rows down 1, columns right -2) is the bias towards the position there."""
    bias = cttt.get_layer("s2_block01").attention.relative_bias.bias().numpy().reshape(2, 4, 6, 4, 6)
    table = maps.bias_tables(cttt)["s2_block01"]
    assert bias[1, 2, 3, 2 + 1, 3 - 2] == table[1, 4 - 1 + 1, 6 - 1 - 2]


def test_heads_without_being_asked_for(cttt_file, photo_file, tmp_path):
    """The mean of all for rollout, and tables of the blocks that have the head."""
    figure = explain.explain(ExplainOptions(output=tmp_path / "a.png", weights=cttt_file, files=(photo_file,) * 2))
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles.count("photo.jpg") == 2
    assert [title for title in titles if "head 2" in title] == ["s4_block01, head 2"]
    assert sum("head 0" in title for title in titles) == 4
    assert "mean of all heads" in texts_of(figure) and "--heads" not in texts_of(figure)
    assert any(title.startswith("Grad-CAM of S1") for title in titles)


@pytest.mark.parametrize(
    "layout, relative, words",
    [("C-T", False, "relative_attention=False"), ("C-C", True, "no Transformer block")],
)
def test_models_without_tables_say_so(layout, relative, words, photo_file, tmp_path):
    config = coatnet_tf.make_config("small", (1, 1, 1), (8, 16, 16), layout, head_size=16, relative_attention=relative)
    path = tmp_path / "model.keras"
    coatnet_tf.CoAtNet(config, input_shape=(16, 16, 1), classes=2).save(path)
    options = ExplainOptions(output=tmp_path / "a.png", weights=path, files=(photo_file,))
    figure = explain.explain(options)
    assert f"no table of relative attention: {words}" in texts_of(figure)
    rollouts = [title for title in shown_in(figure) if title.startswith("Attention rollout")]
    assert len(rollouts) == ("T" in layout)
    if layout == "C-C":
        with pytest.raises(ValueError, match="has no Transformer block, and so no --heads"):
            explain.explain(ExplainOptions(**{**vars(options), "heads": (0,)}))


def test_models_take_the_middle_as_serving_does(photo_file):
    whole, center = (
        explain.decode(photo_file.read_bytes(), "photo", 3, views.View((32, 32), crop)).astype(int)
        for crop in ("none", "center")
    )
    assert whole.shape == center.shape == (32, 32, 3)
    assert np.abs(whole - center).max() > 20
    pixels = np.asarray(Image.open(photo_file)).astype(int)
    whole, middle = (
        explain.decode(photo_file.read_bytes(), "photo", 3, views.View((60, 80), crop)).astype(int)
        for crop in ("none", "center")
    )
    assert np.abs(whole - pixels).mean() < 3
    height, width = (round(side * 60 / 92) for side in (60, 80))
    expected = pixels[(60 - height) // 2 :, (80 - width) // 2 :][:height, :width]
    expected = np.asarray(Image.fromarray(expected.astype("uint8")).resize((80, 60), Image.BILINEAR))
    assert np.abs(middle - expected).mean() < 3


def test_held_out_images_of_a_run(run_folder, tmp_path):
    figure = explain.explain(ExplainOptions(output=tmp_path / "a.png", workdir=run_folder, count=3))
    titles = [title for title in shown_in(figure) if title.startswith("held-out image")]
    assert [title.splitlines()[0].split()[-1] for title in titles] == ["0", "179", "358"]
    assert all(title.splitlines()[1].removeprefix("true: ") in "0123456789" for title in titles)


@pytest.mark.slow
def test_the_readmes_command(cttt_file, photo_file, tmp_path):
    output = tmp_path / "explained.png"
    command = ["tools.explain", f"--weights={cttt_file}", f"--output={output}"]
    result = programs.run(*command, "--heads=0,1", "--position=1,2", "--stages=s1,s4", photo_file)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"Drew {output}\n"
    assert output.read_bytes().startswith(b"\x89PNG")


def test_what_explain_refuses(cttt, cttt_file, photo_file, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "load", lambda path: cttt)  # loading is tested, and takes time

    def refused(error, message, **changes):
        output = tmp_path / "out" / "a.png"
        given = {"output": output, "weights": cttt_file, "files": (photo_file,), **changes}
        with pytest.raises(error, match=message):
            explain.explain(ExplainOptions(**given))
        assert not output.exists()

    def refused_model(message, model):
        monkeypatch.setattr(model_files, "load", lambda path: model)
        refused(ValueError, message)

    refused(ValueError, "Give either --workdir", weights=None)
    refused(FileNotFoundError, "holds no model.keras", weights=None, workdir=tmp_path)
    refused(FileNotFoundError, "no file .*missing.keras", weights=tmp_path / "missing.keras")
    refused(ValueError, "photo.jpg is no .keras file", weights=photo_file)
    refused(ValueError, "has 7 classes and there are 1 labels", labels=one_line(tmp_path))
    refused(ValueError, "Name at least one image, or give --workdir", files=())
    refused(FileNotFoundError, "no image .*missing.png", files=(photo_file, tmp_path / "missing.png"))
    refused(ValueError, "one_line.txt cannot be read; an undamaged JPEG", files=(one_line(tmp_path),))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photo_file.read_bytes()[:200])
    refused(ValueError, "cut.jpg cannot be read; an undamaged JPEG", files=(cut,))
    refused(ValueError, "--count must be at least 1; got 0", weights=None, workdir=run_folder, files=(), count=0)
    with pytest.raises(ValueError, match="is a folder; give the name of a PNG file"):
        explain.explain(ExplainOptions(output=tmp_path, weights=cttt_file, files=(photo_file,)))
    refused(PermissionError, "cannot be written", output=photo_file / "a.png")

    refused(ValueError, "no class 'x'; cttt has 7: 0, 1, 2, 3, 4, 5, 6", class_name="x")
    refused(ValueError, "no stage 's9'; those of cttt are s1, s2, s3, s4", stages=("s1", "s9"))
    refused(ValueError, "no head 2 in s2_block01, whose heads are 0 to 1", heads=(0, 2))
    refused(ValueError, "no head -1 in s2_block01", heads=(-1,))
    refused(ValueError, "--position takes a row and a column, such as 3,0; got \\(1,\\)", position=(1,))
    with pytest.raises(ValueError, match="--heads takes whole numbers separated by commas, such as 0,3; got 0,x"):
        explain.whole_numbers("heads", ["0", "x"])
    refused(ValueError, "--position=2,0 is outside the grid of s4_block01, 2 rows and 3 columns", position=(2, 0))
    refused(ValueError, "--position=0,-1 is outside", position=(0, -1))

    refused_model("is folded, .* explain the model it came from", coatnet_tf.fold_for_inference(cttt))
    flat = keras.Input((8,))
    refused_model("has no block of CoAtNet", keras.Model(flat, keras.layers.Dense(2)(flat)))
    pair = [keras.Input((32, 48, 3)) for _ in range(2)]
    refused_model("calls blocks of CoAtNet several times", keras.Model(pair, keras.layers.Add()([*map(cttt, pair)])))
    config = coatnet_tf.make_config("small", (1, 1), (8, 16), "C")
    refused_model("not one score per class", coatnet_tf.CoAtNet(config, include_top=False, input_shape=(16, 16, 3)))
    base, other = (
        coatnet_tf.CoAtNet(config, include_top=False, input_shape=(16, 16, 3), pooling="avg"),
        keras.Input((4,)),
    )
    head = keras.layers.Dense(2)(keras.layers.Concatenate()([base.output, other]))
    refused_model("one batch of images of one size is expected", keras.Model([base.input, other], head))


def one_line(folder):
    path = folder / "one_line.txt"
    path.write_text("ant\n")
    return path
