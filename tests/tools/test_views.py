"""What a served model sees of an image follows its weights, and its card says it."""

import numpy as np
import pytest
import tensorflow as tf

from experiments.data.views import View
from tests.coatnet_tf import golden_imports as golden
from tests.tools.samples import encode, photo
from tools import predict
from tools.export_saved_model import ExportOptions, export
from tools.serving import model_card

WANTED = View((64, 64), "0.95", "bicubic")
FILES = [encode(photo(90, 130, seed=1), "JPEG"), encode(photo(97, 64, seed=2)), encode(photo(64, 64, seed=3))]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as `tools.convert_checkpoint` writes it, of a small network of the name of a published one."""
    path = tmp_path_factory.mktemp("published") / "published.keras"
    model = golden.make_model("coatnet_0_rw", classifier_activation="softmax")
    golden.load(model, "coatnet_0_rw", golden.read("coatnet_0_rw")[0])
    model.save(path)
    return model, path


def answers(model, view):
    return model.predict(np.stack([view.load(tf.constant(file), 3)[0] for file in FILES]).astype("float32"), verbose=0)


@pytest.mark.slow
def test_an_export_sees_what_published_weights_want(published, tmp_path, caplog):
    model, path = published
    version = export(ExportOptions(output=tmp_path / "serving", weights=path, fold=True))
    assert (
        "published.keras has the name of a network of timm/coatnet_0_rw_224.sw_in1k, and sees images as" in caplog.text
    )
    card = (version / model_card.FILE).read_text()
    assert (
        "| Crop | 0.95: the middle, 0.95 of the sides of the largest part shaped like 64 x 64, resized to that" in card
    )
    assert "| Interpolation | bicubic |" in card
    assert model_card.view_of(version, (64, 64)) == WANTED
    expected = answers(model, WANTED)
    assert np.abs(answers(model, View((64, 64), "center")) - expected).max() > 1e-3
    served = tf.saved_model.load(str(version)).signatures["serving_bytes"](image_bytes=tf.constant(FILES))
    np.testing.assert_allclose(served["probabilities"], expected, rtol=1e-3, atol=1e-5)
    for index, file in enumerate(FILES):
        (tmp_path / f"{index}").write_bytes(file)
    for source in (path, version):
        classifier = predict.load_classifier(source)
        assert classifier.view == WANTED
        found = predict.predict(classifier, predict.find_files([str(tmp_path / str(i)) for i in range(3)]))
        np.testing.assert_allclose([row.probabilities for row in found], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_flags_count_more(published, tmp_path):
    _, path = published
    whole = export(ExportOptions(output=tmp_path, weights=path, format="onnx", crop="none", interpolation="bilinear"))
    assert model_card.view_of(whole, (64, 64)) == View((64, 64))
    assert predict.load_classifier(whole).view == View((64, 64))
    assert predict.load_classifier(whole, crop="0.9").view == View((64, 64), "0.9")
    assert predict.load_classifier(path, interpolation="bilinear").view == View((64, 64), "0.95")
    with pytest.raises(ValueError, match="--crop must be none, center, or a share above 0 and up to 1"):
        export(ExportOptions(output=tmp_path, weights=path, crop="half"))
    with pytest.raises(ValueError, match="--interpolation must be one of bilinear, bicubic; got 'cubic'"):
        export(ExportOptions(output=tmp_path, weights=path, interpolation="cubic"))


@pytest.mark.slow
def test_another_size_keeps_what_the_weights_want(published, tmp_path):
    _, path = published
    larger = export(ExportOptions(output=tmp_path, weights=path, image_size=(64, 96)))
    assert model_card.view_of(larger, (64, 96)) == View((64, 96), "0.95", "bicubic")


@pytest.mark.slow
def test_a_model_that_does_not_say_what_it_wants(model_file, tmp_path, caplog):
    version = export(ExportOptions(output=tmp_path, weights=model_file))
    assert "does not say what it sees of an image: the middle, 0.5 of the sides" in caplog.text
    assert model_card.view_of(version, (32, 32)) == View((32, 32), "center")
    (version / model_card.FILE).unlink()
    assert model_card.view_of(version, (32, 32)) is None
    assert predict.load_classifier(version).view == View((32, 32), "center")
