"""Other people's weights: the outputs of their code, and every tensor used exactly once."""

import dataclasses
import json
import pickle
import struct
import zipfile
from pathlib import Path

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import coatnet_tf
from coatnet_tf.pretrained import read_tensors
from coatnet_tf.pretrained.correspondence import make_tensors
from coatnet_tf.weights import Loaded, resize_table
from tests.coatnet_tf import golden_imports as golden

# Counted from timm 1.0.31's models, in millions; coatnet_3_rw for its 11,821 classes.
TIMM_PARAMS = {
    "coatnet_pico_rw": 10.85,
    "coatnet_nano_rw": 15.14,
    "coatnet_0_rw": 27.44,
    "coatnet_1_rw": 41.72,
    "coatnet_2_rw": 73.87,
    "coatnet_3_rw": 181.81,
    "coatnet_bn_0_rw": 27.44,
    "coatnet_rmlp_nano_rw": 15.15,
    "coatnet_rmlp_0_rw": 27.45,
    "coatnet_rmlp_1_rw": 41.69,
    "coatnet_rmlp_1_rw2": 41.72,
    "coatnet_rmlp_2_rw": 73.88,
    "coatnet_rmlp_3_rw": 165.15,
    "coatnet_nano_cc": 13.76,
    "coatnet_0": 25.04,
    "coatnet_1": 42.23,
    "coatnet_2": 74.68,
    "coatnet_3": 166.97,
    "coatnet_4": 275.43,
    "coatnet_5": 687.47,
}


def load_timm(model, tensors, **options):
    return golden.load(model, "coatnet_0_rw", tensors, **options)


def assert_close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def outputs(model, images):
    return keras.ops.convert_to_numpy(model(images.astype("float32")))


@dataclasses.dataclass(frozen=True)
class Case:
    """A golden case and its model with the weights; built once, as no test changes it."""

    name: str
    tensors: dict[str, np.ndarray]
    images: np.ndarray
    logits: np.ndarray
    model: keras.Model
    loaded: Loaded


@pytest.fixture(scope="module")
def case(request):
    tensors, images, logits = golden.read(request.param)
    model = golden.make_model(request.param)
    return Case(request.param, tensors, images, logits, model, golden.load(model, request.param, tensors))


@pytest.mark.parametrize("case", golden.NAMES, indirect=True)
def test_outputs_of_their_code(case):
    assert not case.loaded.resized and not case.loaded.reset
    assert_close(outputs(case.model, case.images), case.logits)


@pytest.mark.parametrize("case", golden.NAMES, indirect=True)
def test_there_and_back(case):
    """What is loaded is written again with the same names, shapes and bits; counters begin at 0."""
    written = make_tensors(case.model, golden.naming(case.name))
    expected = {n: np.zeros_like(x) if n.endswith("num_batches_tracked") else x for n, x in case.tensors.items()}
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (written[name].dtype, written[name].shape) == (tensor.dtype, tensor.shape), name
        assert written[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("case", golden.NAMES, indirect=True)
def test_folded_outputs_of_their_code(case):
    folded = coatnet_tf.fold_for_inference(case.model)
    assert len(folded.weights) < len(case.model.weights)
    assert_close(outputs(folded, case.images), case.logits)


@pytest.mark.parametrize("name", TIMM_PARAMS)
def test_parameters_of_timm(name):
    classes = 11821 if name == "coatnet_3_rw" else 1000
    assert round(coatnet_tf.profile(name, classes=classes).params / 1e6, 2) == TIMM_PARAMS[name]


@pytest.mark.parametrize("case", golden.NAMES, indirect=True)
def test_profile_counts_what_is_built(case):
    report = coatnet_tf.profile(golden.small_config(case.name), (64, 64, 3), classes=10)
    trained = sum(int(np.prod(variable.shape)) for variable in case.model.trainable_weights)
    assert report.params == trained
    assert report.params + report.non_trainable_params == case.model.count_params()


@pytest.mark.parametrize("case", ["coatnet_rmlp_2_rw", "coatnet_nano_cc", "kecam_coatnet0"], indirect=True)
def test_configurations_survive_saving(case, tmp_path):
    case.model.save(tmp_path / "model.keras")
    assert_close(outputs(keras.models.load_model(tmp_path / "model.keras"), case.images), case.logits)


@pytest.mark.parametrize("case", ["coatnet_0_rw"], indirect=True)
def test_counters_and_nothing_else_are_left_aside(case):
    assert any(name.endswith("num_batches_tracked") for name in case.tensors)
    load_timm(case.model, {n: x for n, x in case.tensors.items() if "num_batches" not in n})
    with pytest.raises(ValueError, match=r"stages.9.weight \(2,\) is used by no layer"):
        load_timm(case.model, {**case.tensors, "stages.9.weight": np.zeros(2)})


def without(tensors, name):
    assert name in tensors
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    "case, tensor",
    [
        ("coatnet_0_rw", "stages.2.blocks.1.attn.qkv.weight"),
        ("coatnet_0_rw", "stages.0.blocks.0.se_early.fc1.bias"),
        ("coatnet_0_rw", "norm.weight"),
        ("coatnet_rmlp_nano_rw", "stages.3.blocks.0.attn.rel_pos.mlp.fc1.weight"),
        ("coatnet_3_rw", "stages.2.blocks.0.ls1.gamma"),
        ("coatnet_0", "head.pre_logits.fc.weight"),
        ("kecam_coatnet0", "stack_3_block_1_mhsa_pos_emb/positional_embedding"),
    ],
    indirect=["case"],
)
def test_a_missing_tensor_is_named_and_nothing_is_loaded(case, tensor):
    others = {name: 2 * value for name, value in without(case.tensors, tensor).items()}
    before = [variable.numpy() for variable in case.model.weights]
    with pytest.raises(ValueError, match=f"{tensor} is missing in the file.*Nothing was loaded"):
        golden.load(case.model, case.name, others)
    assert all(np.array_equal(a, variable.numpy()) for a, variable in zip(before, case.model.weights, strict=True))


@pytest.mark.parametrize("case", ["coatnet_0_rw"], indirect=True)
@pytest.mark.parametrize(
    "tensor, rows, message",
    [
        ("head.fc.weight", 7, r" makes \(32, 7\), and predictions/kernel of the model is \(32, 10\)"),
        ("stages.2.blocks.1.attn.qkv.weight", 25, r" \(25, 16, 1, 1\): does not hold q, k and v of heads of 8"),
        ("stages.2.blocks.1.attn.rel_pos.relative_position_bias_table", 48, r" \(48, 2\): is no table of a square"),
    ],
)
def test_a_tensor_of_another_shape_is_named(case, tensor, rows, message):
    with pytest.raises(ValueError, match=tensor + message):
        load_timm(case.model, {**case.tensors, tensor: case.tensors[tensor][:rows]})


@pytest.mark.parametrize("case", ["coatnet_0_rw"], indirect=True)
def test_linear_layers_may_be_stored_as_convolutions_and_the_other_way_round(case):
    """Published files are of several versions of timm, which reshapes them as well."""
    other = dict(case.tensors)
    other["head.fc.weight"] = other["head.fc.weight"][:, :, None, None]
    for name in ("stages.2.blocks.1.mlp.fc1.weight", "stages.2.blocks.1.attn.qkv.weight"):
        other[name] = other[name][:, :, 0, 0]
    load_timm(case.model, other)
    assert_close(outputs(case.model, case.images), case.logits)


def test_tables_are_resized_for_another_input():
    tensors, _, _ = golden.read("coatnet_0_rw")
    model = golden.make_model("coatnet_0_rw", input_shape=(96, 64, 3))
    loaded = load_timm(model, tensors)
    assert len(loaded.resized) == 4  # two blocks in each of S3 and S4
    stored = tensors["stages.2.blocks.1.attn.rel_pos.relative_position_bias_table"]
    table = stored.T.reshape(2, 7, 7)[:, ::-1, ::-1]
    attention = model.get_layer("s3_block02").attention
    np.testing.assert_array_equal(attention.relative_bias.table, resize_table(table, (11, 7)))


def test_computed_tables_need_no_resizing():
    tensors, _, _ = golden.read("coatnet_rmlp_2_rw")
    large, small = (golden.make_model("coatnet_rmlp_2_rw", input_shape=(size, size, 3)) for size in (96, 64))
    for model in (large, small):
        assert not load_timm(model, tensors).resized
    tables = [model.get_layer("s3_block01").attention.relative_bias.positional_table() for model in (large, small)]
    np.testing.assert_allclose(tables[0][:, 2:-2, 2:-2], tables[1], atol=1e-6)


@pytest.mark.parametrize("case", ["coatnet_0_rw", "coatnet_0", "kecam_coatnet0"], indirect=True)
def test_without_the_top(case):
    features = golden.make_model(case.name, include_top=False)
    golden.load(features, case.name, case.tensors)
    end = case.model.get_layer("s4_block02" if case.name != "kecam_coatnet0" else "s4_block01").output
    last = keras.Model(case.model.inputs, end)
    assert_close(outputs(features, case.images), outputs(last, case.images), 1e-6)


def test_a_new_head_begins_anew():
    tensors, _, _ = golden.read("coatnet_0_rw")
    model = golden.make_model("coatnet_0_rw", classes=3)
    kernel = model.get_layer("predictions").kernel.numpy()
    loaded = load_timm(model, tensors, reset_head=True)
    assert loaded.reset == ("predictions/kernel", "predictions/bias")
    np.testing.assert_array_equal(model.get_layer("predictions").kernel, kernel)


class TestFiles:
    def test_safetensors(self, tmp_path):
        tensors, _, _ = golden.read("coatnet_0_rw")
        safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
        read = read_tensors(tmp_path / "a.safetensors")
        assert read.keys() == tensors.keys()
        assert all(np.array_equal(read[name], tensors[name]) for name in tensors)

    def test_what_torch_saved(self):
        tensors, _, _ = golden.read("coatnet_pico_rw")
        read = read_tensors(golden.FOLDER / "coatnet_pico_rw.pth")
        assert read.keys() == tensors.keys()
        assert {x.dtype.name for name, x in read.items() if "num_batches" not in name} == {"float16"}
        assert all(np.array_equal(read[name], tensors[name]) for name in tensors)

    def test_bfloat16_of_torch(self, tmp_path):
        """The same file with its storages declared bfloat16: the bits of each number mean another."""
        with (
            zipfile.ZipFile(golden.FOLDER / "coatnet_pico_rw.pth") as source,
            zipfile.ZipFile(tmp_path / "a.pth", "w") as target,
        ):
            for name in source.namelist():
                target.writestr(name, source.read(name).replace(b"\nHalfStorage\n", b"\nBFloat16Storage\n"))
        halves, read = read_tensors(golden.FOLDER / "coatnet_pico_rw.pth"), read_tensors(tmp_path / "a.pth")
        name = "stages.2.blocks.1.attn.qkv.weight"
        assert read[name].dtype == "float32" and read.keys() == halves.keys()
        np.testing.assert_array_equal(read[name], halves[name].view(ml_dtypes.bfloat16).astype("float32"))

    def test_bfloat16_of_safetensors(self, tmp_path):
        values = np.array([[1.5, -2.25, 3e38]], ml_dtypes.bfloat16)
        header = json.dumps({"weight": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, 6]}}).encode()
        path = tmp_path / "a.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
        read = read_tensors(path)["weight"]
        assert read.dtype == "float32"
        np.testing.assert_array_equal(read, values.astype("float32"))

    def test_a_type_of_tensor_that_is_not_read(self, tmp_path):
        header = json.dumps({"weight": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
        path = tmp_path / "a.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"ab")
        with pytest.raises(ValueError, match="holds tensors of F8_E4M3; known are F64, F32"):
            read_tensors(path)

    @pytest.mark.parametrize("nested", [True, False])
    def test_keras_2(self, tmp_path, nested):
        tensors, _, _ = golden.read("kecam_coatnet0")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            root = file.create_group("model_weights") if nested else file
            for name, value in tensors.items():
                layer, weight = name.split("/")
                root.create_dataset(f"{layer}/{layer}/{weight}:0", data=value)
        read = read_tensors(tmp_path / "a.h5")
        assert read.keys() == tensors.keys()
        assert all(np.array_equal(read[name], tensors[name]) for name in tensors)

    def test_a_pickle_runs_nothing(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "exploded",))

        for name, content in {"call": Bomb(), "nested": {"weight": [Bomb()]}}.items():
            with zipfile.ZipFile(tmp_path / f"{name}.pth", "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(content))
            with pytest.raises(ValueError, match="which is no part of a tensor"):
                read_tensors(tmp_path / f"{name}.pth")
        assert not (tmp_path / "exploded").exists()

    def test_a_tensor_stays_in_its_storage(self, tmp_path):
        """A stride or size beyond the storage would read other memory."""
        original = golden.FOLDER / "coatnet_pico_rw.pth"
        with zipfile.ZipFile(original) as source, zipfile.ZipFile(tmp_path / "a.pth", "w") as target:
            for name in source.namelist():
                data = source.read(name)
                target.writestr(name, data[:-2] if "/data/" in name and len(data) > 100 else data)
        with pytest.raises(ValueError, match="storage .* has .* elements"):
            read_tensors(tmp_path / "a.pth")

    @pytest.mark.parametrize(
        "name, content, message",
        [
            ("a.safetensors", b"nothing", "is not a .safetensors file, or is damaged"),
            ("a.h5", b"nothing", "is not an .h5 file, or is damaged"),
            ("a.pth", b"nothing", "no state dict of plain tensors"),
            ("a.txt", b"nothing", "none of the weights files known here"),
        ],
    )
    def test_damaged_and_foreign_files(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_tensors(tmp_path / name)

    def test_no_file(self):
        with pytest.raises(FileNotFoundError, match="There is no weights file 'none.pth'"):
            read_tensors("none.pth")

    def test_a_zip_archive_of_something_else(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("readme.txt", "nothing")
        with pytest.raises(ValueError, match="none that torch.save wrote"):
            read_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["coatnet_bn_0_rw", "coatnet_0_rw"])
def test_preprocessing_is_in_the_model_or_before_it(name):
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    inside, outside = (golden.make_model(name, include_preprocessing=inside) for inside in (True, False))
    outside.set_weights(inside.get_weights())
    mode = coatnet_tf.RELATIVES[name].preprocessing
    assert_close(outputs(outside, coatnet_tf.rescale(images, mode)), outputs(inside, images))
    with pytest.raises(ValueError, match="mode must be one of tf, torch; got 'caffe'"):
        coatnet_tf.rescale(images, "caffe")
