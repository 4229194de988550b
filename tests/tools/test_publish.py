"""A run becomes a folder for the Hub, goes to a hub on loopback, and comes back from it."""

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import huggingface_hub.constants
import keras
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

import coatnet_tf
from experiments import evaluate
from tools import publish
from tools.serving import check

TO = "hf://somebody/digits"
TOKEN = "hf_of_this_test"


@pytest.fixture(scope="module")
def run_evaluated(run_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "run"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    evaluate.evaluate(epath.Path(folder), epath.Path(folder) / "evaluation")
    return folder


@pytest.fixture(scope="module")
def folder(run_evaluated):
    return publish.write(publish.PublishOptions(run_evaluated, TO, "apache-2.0"))


@pytest.fixture(scope="module")
def trained(run_evaluated):
    return keras.models.load_model(run_evaluated / "model.keras", compile=False)


@pytest.fixture
def digits():
    return np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 1)).astype("float32")


class TestFolder:
    def test_what_is_in_it(self, folder, run_evaluated, trained):
        assert sorted(file.name for file in folder.iterdir()) == [
            "README.md",
            "certificate.json",
            "check.py",
            "config.json",
            "model.keras",
            "model.safetensors",
            "probes.npz",
        ]
        assert (folder / "model.keras").read_bytes() == (run_evaluated / "model.keras").read_bytes()
        tensors = safetensors.numpy.load_file(folder / "model.safetensors")
        assert {name: tensor.shape for name, tensor in tensors.items()} == {
            weight.path: tuple(weight.shape) for weight in trained.weights
        }

    def test_the_card_says_what_was_measured(self, folder, run_evaluated):
        card = huggingface_hub.ModelCard.load(folder / "README.md")
        measured = json.loads((run_evaluated / "evaluation" / "evaluation.json").read_text())
        assert (card.data.license, card.data.library_name) == ("apache-2.0", "coatnet_tf")
        assert card.data.pipeline_tag == "image-classification"
        (result,) = card.data.eval_results
        assert (result.metric_type, result.metric_value) == ("accuracy", measured["top1"])
        low, high = measured["top1_interval"]
        assert f"| {measured['images']} | {measured['top1']:.2%} | {low:.2%} to {high:.2%} |" in card.text
        data = json.loads((run_evaluated / "data.json").read_text())
        assert data["files"]["train"] in card.text
        assert 'image = keras.utils.load_img("photo.jpg", "grayscale", (16, 16), "bilinear")\n' in card.text
        assert hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest() in card.text

    def test_it_does_not_say_where_things_lie_on_this_machine(self, folder, run_evaluated):
        recipe = json.loads((run_evaluated / "config.json").read_text())
        assert recipe["dataset"]["data_dir"].startswith("/")
        text = (folder / "README.md").read_text() + (folder / "config.json").read_text()
        assert recipe["dataset"]["data_dir"] not in text
        assert str(run_evaluated.parent) not in text
        assert publish._without_places({"a": ["folder:/home/me/my birds/", "tfds:a/b", "runs/b/c"]}) == {
            "a": ["folder:my birds", "tfds:a/b", "c"]
        }
        assert publish._without_places("timm/coatnet_0_rw_224.sw_in1k") == "timm/coatnet_0_rw_224.sw_in1k"

    def test_the_same_model_comes_of_it(self, folder, trained, digits):
        model = coatnet_tf.from_pretrained(TO, path=folder)
        np.testing.assert_array_equal(model.predict(digits, verbose=0), trained.predict(digits, verbose=0))

    def test_its_certificate(self, folder, run_evaluated, tmp_path):
        """By images that are nobody's; and the card may change."""
        copy = shutil.copytree(folder, tmp_path / "copy")
        (copy / "README.md").write_text("")
        assert check.check(copy).startswith("4 images, largest difference ")
        with np.load(copy / "probes.npz") as probes, np.load(run_evaluated / "probes.npz") as held_out:
            assert probes["images"].shape == held_out["images"].shape
            assert not np.array_equal(probes["images"], held_out["images"])
        tensors = safetensors.numpy.load_file(copy / "model.safetensors")
        tensors["predictions/bias"] += np.arange(10, dtype="float32") * 1e-3
        safetensors.numpy.save_file(tensors, copy / "model.safetensors")
        with pytest.raises(check.Refused, match=r"model.safetensors has changed"):
            check.check(copy)
        certificate = json.loads((copy / "certificate.json").read_text())
        certificate["files"]["model.safetensors"] = check.sha256(copy / "model.safetensors")
        (copy / "certificate.json").write_text(json.dumps({**certificate, "seal": check.seal(certificate)}))
        with pytest.raises(check.Refused, match=r"answers to the 4 images differ by 0.004"):
            check.check(copy)

    def test_written_again(self, folder, run_evaluated):
        before = (folder / "README.md").read_text()
        assert publish.write(publish.PublishOptions(run_evaluated, TO, "apache-2.0")) == folder
        assert (folder / "README.md").read_text() == before
        assert not list(run_evaluated.glob(".unfinished*"))

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"to": "somebody/digits"}, "address of a model on the Hub is hf://USER/NAME; got 'somebody/digits'"),
            ({"to": "hf://digits"}, "address of a model on the Hub is hf://USER/NAME"),
            ({"licence": "Apache 2.0"}, "--licence is a name of the Hub's, such as apache-2.0"),
        ],
    )
    def test_options_are_checked(self, run_evaluated, changes, message):
        options = {"run": run_evaluated, "to": TO, "licence": "apache-2.0", **changes}
        with pytest.raises(ValueError, match=message):
            publish.write(publish.PublishOptions(**options))

    def test_nothing_else_is_overwritten(self, run_evaluated, tmp_path):
        (tmp_path / "README.md").write_text("")
        (tmp_path / "thesis.md").write_text("")
        with pytest.raises(FileExistsError, match="holds other files than README.md, .*; give another --output"):
            publish.write(publish.PublishOptions(run_evaluated, TO, "apache-2.0", tmp_path))

    def test_a_run_without_numbers_is_not_shared(self, run_folder, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"was not evaluated.*python -m experiments.evaluate --workdir="):
            publish.write(publish.PublishOptions(run_folder, TO, "apache-2.0", tmp_path / "out"))


class TestEvaluations:
    """The card says what was measured on images that were held out, of the very model."""

    @pytest.fixture
    def measured(self, run_evaluated):
        path = run_evaluated / "evaluation" / "evaluation.json"
        before = path.read_text()
        yield path, json.loads(before)
        path.write_text(before)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"trained_on": True}, "is of the split test of digits, and not of images that were held out"),
            ({"split": "all"}, "is of the split all of .*: python -m experiments.evaluate --workdir="),
            ({"model": "0" * 64}, "is of another model.keras than the one that is there"),
        ],
    )
    def test_others_are_refused(self, run_evaluated, measured, change, message):
        path, found = measured
        path.write_text(json.dumps(found | change))
        with pytest.raises(ValueError, match=message):
            publish.write(publish.PublishOptions(run_evaluated, TO, "apache-2.0"))

    def test_other_images_have_a_folder_of_their_own(self, run_evaluated, tmp_path):
        run = epath.Path(run_evaluated)
        assert evaluate.folder_of(run) == run / "evaluation"
        assert evaluate.folder_of(run, "folder:/data/my photos/", "test") == run / "evaluation_my_photos_test"
        for split, is_seen in (("train[250:270]", True), ("train[256:276]", False)):  # of train[:256]
            found = evaluate.evaluate(run, epath.Path(tmp_path), split=split)
            assert (found["split"], found["trained_on"], found["images"]) == (split, is_seen, 20)

    def test_several_classes_an_image(self):
        found = {"images": 40, "mean_average_precision": 0.75, "loss": 0.5, "chose_the_weights": True}
        head, _, line = publish._table_of({"evaluation": found})
        assert head == "| | images | mean average precision | loss |"
        assert line == "| held-out images (they chose the weights: optimistic) | 40 | 75.00% | 0.5000 |"


class TestReading:
    def test_other_classes_and_sizes(self, folder, trained):
        with pytest.raises(ValueError, match="distinguishes 10 classes, not 3; give reset_head=True"):
            coatnet_tf.from_pretrained(TO, path=folder, classes=3)
        with pytest.warns(UserWarning, match="bias tables resized: s2_block01.*begun anew: predictions/kernel"):
            model = coatnet_tf.from_pretrained(TO, path=folder, classes=3, reset_head=True, input_shape=(32, 32, 1))
        assert model.output_shape == (None, 3)
        features = coatnet_tf.from_pretrained(TO, path=folder, include_top=False)
        np.testing.assert_array_equal(features.get_layer("stem_conv01").kernel, trained.get_layer("stem_conv01").kernel)

    def test_another_network_is_refused(self, folder):
        with pytest.raises(ValueError, match="has another configuration than .*relative_attention is False"):
            coatnet_tf.from_pretrained(TO, path=folder, relative_attention=False)

    def test_what_is_no_model_of_ours(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no config.json; give a folder that tools.publish wrote"):
            coatnet_tf.from_pretrained(TO, path=tmp_path)
        (tmp_path / "config.json").write_text('{"library_name": "diffusers"}')
        with pytest.raises(ValueError, match="is no model of coatnet_tf: its config.json is not as tools.publish"):
            coatnet_tf.from_pretrained(TO, path=tmp_path)


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as an upload and a download need; its files are `server.files`."""

    def _answer(self, content, status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._answer({"url": "http://127.0.0.1/somebody/digits"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitOid": "0" * 40, "commitUrl": f"http://127.0.0.1/somebody/digits/commit/{'0' * 40}"})
        else:
            self._answer({}, 404)

    def do_GET(self):
        found = re.fullmatch(r"/somebody/digits/resolve/main/(.*)", self.path)
        if found and found[1] in self.server.files:
            content = self.server.files[found[1]]
            self._answer(content, **{"X-Repo-Commit": "0" * 40, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})
        elif self.path.startswith("/api/models/somebody/digits"):
            self._answer({"id": "somebody/digits", "sha": "0" * 40, "siblings": []})
        else:
            self._answer({}, 404, **{"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.created = {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


class TestUpload:
    def test_there_and_back(self, hub, folder, trained, digits):
        assert publish.upload(folder, TO).endswith("0" * 40)
        assert hub.files == {file.name: file.read_bytes() for file in folder.iterdir()}
        assert (hub.created[0]["organization"], hub.created[0]["name"]) == ("somebody", "digits")
        model = coatnet_tf.from_pretrained(TO)
        np.testing.assert_array_equal(model.predict(digits, verbose=0), trained.predict(digits, verbose=0))

    def test_the_example_of_the_card(self, hub, folder, tmp_path, monkeypatch, capsys):
        publish.upload(folder, TO)
        monkeypatch.chdir(tmp_path)
        keras.utils.save_img("photo.jpg", np.zeros((20, 30, 3)), scale=False)
        exec(re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0], {})
        scores = re.findall(r"^(\d): ([\d.]+)%$", capsys.readouterr().out, re.MULTILINE)
        assert [name for name, _ in scores] == [str(digit) for digit in range(10)]
        assert sum(float(score) for _, score in scores) == pytest.approx(100, abs=0.1)

    def test_damage_on_the_way(self, hub, folder):
        publish.upload(folder, TO)
        content = hub.files["model.safetensors"]
        hub.files["model.safetensors"] = content[:-1]
        with pytest.raises(ValueError, match=r"model.safetensors' is not a .safetensors file, or is damaged"):
            coatnet_tf.from_pretrained(TO)

    def test_without_a_token(self, hub, folder, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(OSError, match=r"could not be uploaded to hf://somebody/digits \(.*401.*token of `hf auth"):
            publish.upload(folder, TO)
        assert not hub.files

    def test_not_on_the_hub(self, hub):
        with pytest.raises(OSError, match="hf://somebody/letters is not there"):
            coatnet_tf.from_pretrained("hf://somebody/letters")
