"""A whole CoAtNet against an independent one: TensorFlow's Model Garden (`official/projects/maxvit`), stage by stage.

Its 'mbconv' and 'tfm' blocks in CoAtNet's order, with random weights, moving statistics and images, were computed by
tf-models-official 2.19.1; `tools/imports/model_garden_reference.py` records them.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import coatnet_tf
from tests.coatnet_tf.test_layers import RENAMED as NAMES_IN_BLOCKS

FOLDER = Path(__file__).parents[1] / "golden" / "whole_network"
CASES = sorted(path.stem for path in FOLDER.glob("*.npz"))
DOWNSAMPLING = {"expand_conv": "expand_conv", "depth_conv": "depthwise_conv", "inputs": "avg_pool"}
RENAMED = {
    **NAMES_IN_BLOCKS["mbconv"],
    **NAMES_IN_BLOCKS["transformer"],
    # around the blocks
    "conv_0": "stem_conv01",
    "norm_0": "stem_norm01",
    "conv_1": "stem_conv02",
    "final_layer_norm": "head_norm",
    "pre_logits": "head_hidden",
    "dense": "predictions",
}


def read(case):
    """Arrays, and weights `{(layer, path of attributes): value}`, named as here."""
    with np.load(FOLDER / f"{case}.npz") as file:
        arrays = {name: file[name] for name in file.files}
    weights = {}
    for name, value in arrays.items():
        if not name.startswith("weights/"):
            continue
        layer, *path = name.removeprefix("weights/").removeprefix("maxvit/").split("/")
        if layer.startswith("block_"):
            _, stage, number = layer.split("_")
            layer = f"s{int(stage) + 1}_block{int(number) + 1:02d}"
        weights[RENAMED.get(layer, layer), "/".join(RENAMED.get(part, part) for part in path)] = value
    return arrays, weights


def build(settings, input_shape, classes, **arguments):
    pool = settings["pool_type"].removeprefix("2d:")
    config = coatnet_tf.make_config(
        "whole",
        (len(settings["stem_hsize"]), *settings["num_blocks"]),
        (settings["stem_hsize"][-1], *settings["hidden_size"]),
        stem_width=tuple(settings["stem_hsize"]),
        head_size=settings["head_size"],
        downsampling=DOWNSAMPLING[settings["downsample_loc"]],
        mbconv={"pool": pool},
        transformer={"pool": pool},
    )
    return coatnet_tf.CoAtNet(
        config,
        input_shape=tuple(input_shape),
        classes=classes,
        classifier_activation=None,
        include_preprocessing=False,
        **arguments,
    )


def assign(model, weights):
    """Every weight of theirs once, and every weight of ours."""
    assigned = set()
    for (layer, path), value in weights.items():
        variable = model.get_layer(layer)
        for attribute in path.split("/"):
            variable = getattr(variable, attribute)
        variable.assign(value.reshape(variable.shape))
        assigned.add(variable.path)
    assert assigned == {variable.path for variable in model.weights}
    assert len(weights) == len(model.weights) == 168


@pytest.mark.parametrize("case", CASES)
def test_every_stage_is_the_model_gardens(case):
    arrays, weights = read(case)
    meta = json.loads(str(arrays["meta"]))
    model = build(meta["settings"], meta["input_shape"], meta["classes"])
    assign(model, weights)
    ends = {
        "endpoints/stem": "stem_conv02",
        **{f"endpoints/{level}": f"s{level - 1}_block02" for level in (2, 3, 4, 5)},
        "endpoints/pre_logits": "head_hidden",
        "output": "predictions",
    }
    stages = keras.Model(model.inputs, [model.get_layer(name).output for name in ends.values()])
    for name, found in zip(ends, stages.predict(arrays["input"], verbose=0), strict=True):
        np.testing.assert_allclose(found, arrays[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_folded_network_is_the_model_gardens():
    arrays, weights = read("max_expand")
    meta = json.loads(str(arrays["meta"]))
    model = build(meta["settings"], meta["input_shape"], meta["classes"])
    assign(model, weights)
    folded = coatnet_tf.fold_for_inference(model)
    np.testing.assert_allclose(folded.predict(arrays["input"], verbose=0), arrays["output"], rtol=1e-5, atol=1e-5)


def test_another_activation_would_show():
    """The ReLU into which the Model Garden's factory falls by default moves the logits far beyond the tolerance."""
    arrays, weights = read("max_expand")
    meta = json.loads(str(arrays["meta"]))
    model = build(meta["settings"], meta["input_shape"], meta["classes"], activation="relu", ffn_activation="relu")
    assign(model, weights)
    assert np.abs(model.predict(arrays["input"], verbose=0) - arrays["output"]).max() > 0.01
