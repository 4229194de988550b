"""The signatures that a server gets: the model's answers, and answers to bad input."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from experiments.data.views import View
from tests.tools.samples import BAD, LABELS, SIZE, encode, photo
from tools.serving import signatures

VIEW = View((SIZE, SIZE), "center")


def test_the_signatures_give_the_models_answers(served, model):
    files = [encode(photo(), "JPEG"), encode(photo(seed=1)), encode(photo(90, 30, seed=2), "JPEG")]
    pixels = np.stack([VIEW.load(tf.constant(file), 3)[0] for file in files]).astype("float32")
    expected = model.predict(pixels, verbose=0)
    assert np.ptp(expected, axis=0).max() > 1e-3  # the images differ

    found = served.signatures["serving_default"](images=tf.constant(pixels))
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-4, atol=1e-6)
    found = served.signatures["serving_bytes"](image_bytes=tf.constant(files))
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-4, atol=1e-6)
    assert found["error"].numpy().tolist() == [b""] * 3
    found = served.signatures["classify"](image_bytes=tf.constant(files))
    order = np.argsort(-expected, axis=-1)[:, :3]
    assert [[name.decode() for name in row] for row in found["classes"].numpy()] == [
        [LABELS[i] for i in row] for row in order
    ]
    np.testing.assert_allclose(found["scores"], np.take_along_axis(expected, order, -1), rtol=1e-4)


def test_any_number_of_images(served):
    serve = served.signatures["serving_default"]
    several = tf.random.uniform((3, SIZE, SIZE, 3), 0, 255, seed=0)
    together = serve(images=several)["probabilities"].numpy()
    for i in range(3):
        np.testing.assert_allclose(serve(images=several[i : i + 1])["probabilities"][0], together[i], rtol=1e-4)
    assert serve(images=several[:0])["probabilities"].shape == (0, len(LABELS))
    found = served.signatures["classify"](image_bytes=tf.constant([], tf.string))
    assert found["classes"].shape == found["scores"].shape == (0, 3)


@pytest.fixture(scope="module")
def good():
    """Two readable files."""
    return [encode(photo(seed=seed), "JPEG") for seed in (1, 2)]


@pytest.fixture(scope="module")
def alone(served, good):
    """Their probabilities, when nothing else is in the batch."""
    return served.signatures["serving_bytes"](image_bytes=tf.constant(good))["probabilities"].numpy()


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_and_spoils_no_other(served, case, good, alone):
    data, error = BAD[case]
    found = served.signatures["serving_bytes"](image_bytes=tf.constant([good[0], data, good[1]]))
    assert error in found["error"].numpy()[1].decode()
    assert np.isnan(found["probabilities"][1]).all()
    np.testing.assert_allclose(found["probabilities"].numpy()[[0, 2]], alone, rtol=1e-4)
    assert found["error"].numpy()[[0, 2]].tolist() == [b"", b""]


def test_bad_files_have_no_classes(served):
    files, errors = zip(*BAD.values(), strict=True)
    found = served.signatures["classify"](image_bytes=tf.constant(files))
    assert found["classes"].numpy().tolist() == [[b""] * 3] * len(BAD)
    assert np.isnan(found["scores"]).all()
    assert all(error in said.decode() for error, said in zip(errors, found["error"].numpy(), strict=True))


def test_unusual_images_are_read(served):
    files = {
        "1x1 PNG": encode(photo(1, 1)),
        "1x1 JPEG": encode(photo(1, 1), "JPEG"),
        "1x4000": encode(photo(1, 4000)),
        "4000x1": encode(photo(4000, 1), "JPEG"),
        "RGBA": encode(photo(channels=4)),
        "grey": encode(photo()[..., 0]),
        "16 bit": encode(photo()[..., 0].astype("uint16") * 257),
    }
    found = served.signatures["serving_bytes"](image_bytes=tf.constant([*files.values()]))
    assert dict(zip(files, found["error"].numpy(), strict=True)) == dict.fromkeys(files, b"")
    np.testing.assert_allclose(tf.reduce_sum(found["probabilities"], axis=-1), [1] * len(files), atol=1e-4)


def test_transparent_png_is_laid_on_white(served):
    clear = np.zeros((SIZE, SIZE, 4), "uint8")
    white = np.full((SIZE, SIZE, 3), 255, "uint8")
    found = served.signatures["serving_bytes"](image_bytes=tf.constant([encode(clear), encode(white)]))["probabilities"]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_nan_pixels_reach_no_other_image(served):
    batch = np.stack([photo(SIZE, SIZE, seed=seed) for seed in range(3)]).astype("float32")
    serve = served.signatures["serving_default"]
    expected = serve(images=tf.constant(batch))["probabilities"].numpy()
    batch[1, 5, 5, 0] = np.nan
    found = serve(images=tf.constant(batch))["probabilities"].numpy()
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-4)


@pytest.mark.parametrize("shape", [(SIZE, SIZE, 3), (1, SIZE, SIZE, 4), (1, 2 * SIZE, SIZE, 3)])
def test_wrong_shapes_are_refused(served, shape):
    with pytest.raises(
        (TypeError, ValueError, tf.errors.InvalidArgumentError), match="not compatible with expected shape"
    ):
        served.signatures["serving_default"](images=tf.zeros(shape))


def test_ten_thousand_mutated_files():
    """Bytes changed, cut out, doubled or cut off: an answer to each, and the right one to the file left whole."""
    generator = np.random.default_rng(0)
    originals = [encode(photo(), "JPEG"), encode(photo(), "JPEG", progressive=True), encode(photo())]
    originals += [encode(photo(channels=4)), encode(photo()[..., 0], "JPEG")]

    def mutate():
        data = bytearray(originals[generator.integers(len(originals))])
        for _ in range(generator.integers(1, 6)):
            at, length = generator.integers(len(data)), generator.integers(1, 40)
            match generator.integers(4):
                case 0:
                    data[at] = generator.integers(256)
                case 1:
                    del data[at : at + length]
                case 2:
                    data[at:at] = data[at : at + length]
                case 3:
                    data[at : at + 4] = generator.bytes(4)
            if not data:
                break
        return bytes(data[: generator.integers(1, len(data) + 1)] if data and generator.random() < 0.2 else data)

    decode = tf.function(
        lambda encoded: signatures.decode(encoded, 3, VIEW),
        input_signature=[tf.TensorSpec((None,), tf.string)],
    )
    expected = VIEW.load(tf.constant(originals[0]), 3)[0].numpy()
    readable = 0
    for _ in range(20):
        pixels, errors = decode([*(mutate() for _ in range(500)), originals[0]])
        assert pixels.shape == (501, SIZE, SIZE, 3)
        np.testing.assert_array_equal(pixels[-1], expected)
        errors = errors.numpy()
        assert errors[-1] == b""
        assert not pixels.numpy()[errors != b""].any()
        readable += int((errors == b"").sum()) - 1
    assert 500 < readable < 9500  # both happen


@pytest.mark.slow
def test_saved_model_cli(version):
    cli = [sys.executable, "-c", "import sys; from tensorflow.python.tools.saved_model_cli import main; main()"]
    shown = subprocess.run([*cli, "show", "--dir", version, "--all"], capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr
    for text in ("signature_def['classify']", "signature_def['serving_bytes']", "(-1, 32, 32, 3)"):
        assert text in shown.stdout
    pixels = version.parent / "image.npy"
    np.save(pixels, photo(SIZE, SIZE)[None].astype("float32"))
    run = [*cli, "run", "--dir", version, "--tag_set", "serve", "--signature_def", "serving_default"]
    ran = subprocess.run([*run, "--inputs", f"images={pixels}"], capture_output=True, text=True, timeout=300)
    pixels.unlink()
    assert ran.returncode == 0, ran.stderr
    assert "Result for output key probabilities" in ran.stdout
