"""`from_pretrained`: names, files, downloads, and what goes wrong with them."""

import errno
import hashlib
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import huggingface_hub.file_download
import keras
import numpy as np
import pytest
import safetensors.numpy

import coatnet_tf
from coatnet_tf.pretrained import catalog, configs, find_pretrained
from tests.coatnet_tf import golden_imports as golden

NAME = "timm/coatnet_0_rw_224.sw_in1k"


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A file of `NAME`'s network, which is the small one here."""
    monkeypatch.setitem(configs.RELATIVES, "coatnet_0_rw", golden.small_config("coatnet_0_rw"))
    tensors, images, logits = golden.read("coatnet_0_rw")
    path = tmp_path / "small.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path, images.astype("float32"), logits


def outputs(model, images):
    return keras.ops.convert_to_numpy(model(images))


class TestNames:
    def test_every_entry_has_a_configuration(self):
        for entry in coatnet_tf.list_weights():
            network = find_pretrained(entry.name)
            assert network.config in coatnet_tf.RELATIVES
            assert str(network.image_size) in entry.name
            params = coatnet_tf.profile(entry.config, classes=entry.classes).params / 1e6
            assert params == pytest.approx(entry.params, abs=0.05)
            assert entry.name in str(entry)

    def test_the_tag_may_be_left_out_with_a_file(self, small):
        assert find_pretrained("timm/coatnet_0_rw_224", small[0]).config == "coatnet_0_rw"
        assert find_pretrained("timm/coatnet_3_224", small[0]).config == "coatnet_3"
        with pytest.raises(ValueError, match="those of this network are timm/coatnet_0_rw_224.sw_in1k"):
            find_pretrained("timm/coatnet_0_rw_224")

    @pytest.mark.parametrize("name", ["timm/resnet50.a1", "keras_cv_attention_models/coatnet1", "coatnet_0_rw"])
    def test_unknown_names(self, name, small):
        with pytest.raises(ValueError, match="There are no trained weights .* the known ones are timm/coatnet_nano"):
            coatnet_tf.from_pretrained(name)
        with pytest.raises(ValueError, match="There is no network .* for the weights in"):
            coatnet_tf.from_pretrained(name, path=small[0])

    def test_no_such_file(self):
        with pytest.raises(FileNotFoundError, match="There is no weights file 'none.safetensors'"):
            coatnet_tf.from_pretrained(NAME, path="none.safetensors")


class TestFiles:
    def test_outputs_of_their_code(self, small, recwarn):
        path, images, logits = small
        model = coatnet_tf.from_pretrained(NAME, path=path, input_shape=(64, 64, 3), classifier_activation=None)
        np.testing.assert_allclose(outputs(model, images), logits, atol=1e-5 * np.abs(logits).max())
        assert not [warning for warning in recwarn if "resized" in str(warning.message)]

    def test_what_torch_saved(self, monkeypatch):
        monkeypatch.setitem(configs.RELATIVES, "coatnet_pico_rw", golden.small_config("coatnet_pico_rw"))
        _, images, logits = golden.read("coatnet_pico_rw")
        model = coatnet_tf.from_pretrained(
            "timm/coatnet_pico_rw_224",
            path=golden.FOLDER / "coatnet_pico_rw.pth",
            input_shape=(64, 64, 3),
            classifier_activation=None,
        )
        np.testing.assert_allclose(outputs(model, images.astype("float32")), logits, atol=1e-5 * np.abs(logits).max())

    def test_another_size_and_other_classes_are_reported(self, small):
        with pytest.warns(UserWarning, match=r"bias tables resized: s3_block01.*begun anew: predictions/kernel"):
            model = coatnet_tf.from_pretrained(NAME, path=small[0], input_shape=(64, 96, 3), classes=3, reset_head=True)
        assert model.output_shape == (None, 3)

    @pytest.mark.parametrize("channels", [1, 2, 4, 6])
    def test_images_of_other_channels(self, small, channels):
        """As timm's `in_chans`, and as the network itself for grey images, whose channels are equal."""
        rgb = coatnet_tf.from_pretrained(NAME, path=small[0], input_shape=(64, 64, 3), classifier_activation=None)
        how = "summed for 1" if channels == 1 else f"repeated for {channels} channels and scaled by 3/{channels}"
        with pytest.warns(UserWarning, match=f"trained on RGB images: stem_conv01/kernel {how}"):
            model = coatnet_tf.from_pretrained(
                NAME, path=small[0], input_shape=(64, 64, channels), classifier_activation=None
            )
        kernel, expected = (np.array(m.get_layer("stem_conv01").kernel) for m in (model, rgb))
        if channels == 1:
            expected = expected.sum(axis=2, keepdims=True)
        else:
            expected = np.concatenate([expected] * 3, axis=2)[:, :, :channels] * 3 / channels
        np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-8)
        grey = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype("float32")
        found, theirs = (outputs(m, np.repeat(grey, m.input_shape[-1], axis=-1)) for m in (model, rgb))
        if channels % 3 == 0 or channels == 1:  # the others weigh red, green and blue otherwise
            np.testing.assert_allclose(found, theirs, atol=1e-4 * np.abs(theirs).max())

    @pytest.mark.parametrize("name", ["coatnet_bn_0_rw", "kecam_coatnet0"])
    def test_grey_images_of_networks_with_imagenets_statistics(self, name):
        """The sum over the channels, of an image that is rescaled by the means of the three."""
        tensors, _, _ = golden.read(name)
        model = golden.make_model(name, input_shape=(64, 64, 1))
        assert golden.load(model, name, tensors).adapted == ("stem_conv01/kernel summed for 1 channel",)
        rgb = golden.make_model(name, include_preprocessing=False)
        golden.load(rgb, name, tensors)
        grey = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype("float32")
        expected = outputs(rgb, np.repeat(coatnet_tf.rescale(grey, "torch"), 3, axis=-1))
        np.testing.assert_allclose(outputs(model, grey), expected, atol=1e-4 * np.abs(expected).max())

    def test_a_backbone_for_other_channels(self, small, monkeypatch):
        monkeypatch.setattr(catalog, "download", lambda entry: small[0])
        with pytest.warns(UserWarning, match="stem_conv01/kernel repeated for 4 channels and scaled by 3/4"):
            coatnet_tf.CoAtNetBackbone(NAME, input_shape=(64, 64, 4), weights=NAME)

    def test_other_classes_need_a_new_head(self, small):
        with pytest.raises(ValueError, match="distinguishes 10 classes, not 3; give reset_head=True"):
            coatnet_tf.from_pretrained(NAME, path=small[0], classes=3)

    def test_no_classes_are_not_all_of_them(self, small):
        with pytest.raises(ValueError, match="classes must be .*; got 0"):
            coatnet_tf.from_pretrained(NAME, path=small[0], classes=0, reset_head=True)

    def test_weights_beside_its_own_are_refused(self, small):
        with pytest.raises(ValueError, match="takes no weights beside those of .*; give a file of its own as `path`"):
            coatnet_tf.from_pretrained(NAME, path=small[0], weights="mine.weights.h5")

    def test_the_arguments_of_the_factories(self, small):
        image = keras.Input((64, 64, 3))
        model = coatnet_tf.from_pretrained(
            NAME,
            path=small[0],
            input_tensor=image,
            include_top=False,
            pooling="avg",
            drop_path_rate=0.3,
            name="mine",
        )
        assert model.output_shape == (None, 32)
        assert model.name == "mine"
        assert model.get_layer("s4_block02").drop_path_rate == 0.3

    def test_a_changed_network_is_refused(self, small):
        with pytest.raises(ValueError, match="downsampling is 'depthwise_conv' and must be 'avg_pool'"):
            coatnet_tf.from_pretrained(NAME, path=small[0], input_shape=(64, 64, 3), downsampling="depthwise_conv")

    def test_weights_of_another_network(self, small):
        with pytest.raises(ValueError, match="belongs to the configuration 'coatnet_0_rw', and 'coatnet0' differs"):
            model = coatnet_tf.CoAtNet0(input_shape=(64, 64, 3))
            find_pretrained(NAME, small[0]).read().load(model)

    def test_a_file_of_something_else(self, tmp_path):
        safetensors.numpy.save_file({"layer.weight": np.zeros(3, "float32")}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="has no head.fc.bias. Its first tensors are layer.weight"):
            coatnet_tf.from_pretrained(NAME, path=tmp_path / "a.safetensors")


SMALL = "timm/coatnet_0_rw_64"  # as `timm.create_model("coatnet_0_rw_224", img_size=64)`


class TestWritingForTimm:
    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
    def test_what_was_loaded_is_written(self, small, tmp_path, policy):
        """After saving as a Keras file, with probabilities, stochastic depth and another dtype policy, too."""
        path, _, _ = small
        model = coatnet_tf.from_pretrained(SMALL, path=path, drop_path_rate=0.2, dtype=policy)
        model.save(tmp_path / "model.keras")
        coatnet_tf.save_timm(keras.models.load_model(tmp_path / "model.keras"), SMALL, tmp_path / "back.safetensors")
        theirs, ours = (safetensors.numpy.load_file(file) for file in (path, tmp_path / "back.safetensors"))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
            np.testing.assert_array_equal(ours[name], 0 * tensor if name.endswith("tracked") else tensor, err_msg=name)

    @pytest.mark.parametrize(
        "fields, arguments, message",
        [
            ({"downsampling": "depthwise_conv"}, {}, "s1_block01: downsampling is 'depthwise_conv' and must be 'avg_"),
            ({"se_ratio": 0.5}, {}, "s1_block01: se_ratio is 0.5 and must be 0.25"),
            ({"conv_norm_epsilon": 1e-3}, {}, "stem_norm01: epsilon is 0.001 and must be 1e-05"),
            ({"preprocessing": "torch"}, {}, "preprocessing: scale is .* and must be 0.0078"),
            ({"head": "pool"}, {}, "it lacks the layer head_norm"),
            ({"relative_attention": False}, {}, "s3_block01: relative_attention is False and must be True"),
            ({"padding": "same"}, {}, "'same' and must be .*The paper's own CoAtNets have no equal in timm"),
            ({}, {"input_shape": (64, 96, 3)}, r"takes images \(64, 96, 3\) and must take \(64, 64, 3\)"),
            ({}, {"include_top": False}, "it lacks the layer predictions"),
        ],
    )
    def test_another_network_is_refused(self, small, tmp_path, fields, arguments, message):
        config = coatnet_tf.get_config(golden.small_config("coatnet_0_rw"), **fields)
        model = coatnet_tf.CoAtNet(config, **{"input_shape": (64, 64, 3), **arguments})
        with pytest.raises(ValueError, match=f"is not {SMALL}: .*{message}"):
            coatnet_tf.save_timm(model, SMALL, tmp_path / "a.safetensors")
        assert not (tmp_path / "a.safetensors").exists()

    def test_added_weights_are_refused(self, small, tmp_path):
        model = golden.make_model("coatnet_0_rw")
        model.get_layer("predictions").enable_lora(2)
        with pytest.raises(ValueError, match="has weights that no tensor of theirs holds: .*lora"):
            coatnet_tf.save_timm(model, SMALL, tmp_path / "a.safetensors")

    @pytest.mark.parametrize("network", ["timm/resnet50", "coatnet_0_rw_224", "timm/coatnet-0"])
    def test_unknown_networks_are_refused(self, small, tmp_path, network):
        with pytest.raises(ValueError, match=f"There is no network '{network}'; those of timm are timm/coatnet_pico"):
            coatnet_tf.save_timm(keras.Sequential(name="any"), network, tmp_path / "a.safetensors")


def test_a_habit_of_keras_is_told_the_names(small):
    with pytest.raises(ValueError, match="There are no weights 'imagenet' for small: .* the nearest are timm/coatnet_"):
        coatnet_tf.CoAtNet(golden.small_config("coatnet_0_rw"), weights="imagenet", name="small")
    with pytest.raises(ValueError, match="the nearest are timm/coatnet_bn_0_rw_224.sw_in1k"):
        coatnet_tf.CoAtNet(golden.small_config("coatnet_0_rw"), weights="coatnet_bn_0_rw_224")


@pytest.fixture
def hub(monkeypatch, tmp_path, small):
    """A hub on loopback that has the file of `NAME`, and an empty cache."""
    content = small[0].read_bytes()
    served = {"content": content, "requests": []}

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, with_body):
            served["requests"].append((self.command, self.path))
            if not self.path.startswith(f"/{NAME}/resolve/"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(served["content"])

        def do_HEAD(self):
            self._answer(False)

        def do_GET(self):
            self._answer(True)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield served, tmp_path / "hub", server
    server.shutdown()
    server.server_close()


class TestDownloads:
    def test_once_and_then_from_the_cache(self, hub, small):
        served, _, server = hub
        models = []
        for _ in range(2):
            models.append(coatnet_tf.from_pretrained(NAME, input_shape=(64, 64, 3), classifier_activation=None))
            bodies = [path for command, path in served["requests"] if command == "GET" and "safetensors" in path]
            assert len(bodies) == 1
        for model in models:
            np.testing.assert_allclose(outputs(model, small[1]), small[2], atol=1e-5 * np.abs(small[2]).max())
        server.shutdown()
        server.server_close()
        coatnet_tf.from_pretrained(NAME, input_shape=(64, 64, 3))  # without network, from the cache

    def test_weights_argument(self, hub, small):
        model = coatnet_tf.CoAtNet(
            coatnet_tf.RELATIVES["coatnet_0_rw"],
            weights=NAME,
            input_shape=(64, 64, 3),
            classes=10,
            classifier_activation=None,
        )
        np.testing.assert_allclose(outputs(model, small[1]), small[2], atol=1e-5 * np.abs(small[2]).max())

    def test_damage_on_the_way(self, hub):
        served, cache, _ = hub
        served["content"] = served["content"][:-1] + bytes([served["content"][-1] ^ 1])
        with pytest.raises(ValueError, match="arrived damaged: its SHA-256 is not .* The file was removed; call again"):
            coatnet_tf.from_pretrained(NAME, input_shape=(64, 64, 3))
        assert not [path for path in cache.rglob("blobs/*") if path.is_file()]

    def test_no_network(self, hub, monkeypatch):
        _, cache, server = hub
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits long between its tries
        server.shutdown()
        server.server_close()
        with pytest.raises(OSError, match="is not there: it is not in the cache and could not be downloaded"):
            coatnet_tf.from_pretrained(NAME, input_shape=(64, 64, 3))
        assert not [path for path in cache.rglob("blobs/*") if path.is_file()]

    def test_not_on_the_hub(self, hub, monkeypatch):
        other = "timm/coatnet_1_rw_224.sw_in1k"
        with pytest.raises(OSError, match=f"{other} is not there"):
            catalog.download(catalog.CATALOG[other])

    def test_a_full_disk(self, hub, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(shutil, "move", full)
        monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
        with pytest.raises(OSError, match="is not there: the disk is full. Make room and call again"):
            coatnet_tf.from_pretrained(NAME, input_shape=(64, 64, 3))
        assert not [path for path in hub[1].rglob("blobs/*") if not path.name.endswith(".incomplete")]

    def test_a_release_with_another_hash(self, monkeypatch, tmp_path):
        name = "keras_cv_attention_models/coatnet0_224_imagenet"
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))

        def fetch(url, target, *_):
            with open(target, "wb") as file:
                file.write(b"something else")

        monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", fetch)
        with pytest.raises(ValueError, match="coatnet0_224_imagenet arrived damaged"):
            catalog.download(catalog.CATALOG[name])
        assert not list((tmp_path / "models").iterdir())

    def test_no_release(self, monkeypatch, tmp_path):
        import urllib.error

        monkeypatch.setenv("KERAS_HOME", str(tmp_path))

        def fail(*_):
            raise urllib.error.URLError("no network")

        monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", fail)
        with pytest.raises(OSError, match="is not in the cache and could not be downloaded .*no network"):
            catalog.download(catalog.CATALOG["keras_cv_attention_models/coatnet0_160_imagenet"])
        assert not list((tmp_path / "models").iterdir())
