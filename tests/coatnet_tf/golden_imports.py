"""Small networks of timm and keras-cv-attention-models, as `tools/imports/*_reference.py` wrote them."""

import dataclasses
import json
from pathlib import Path

import numpy as np

import coatnet_tf
from coatnet_tf.pretrained.correspondence import load_named
from coatnet_tf.pretrained.kecam import KECAM
from coatnet_tf.pretrained.timm import TIMM

FOLDER = Path(__file__).parents[1] / "golden" / "imports"
NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))
TIMM_NAMES = [name for name in NAMES if name != "kecam_coatnet0"]


def read(name, folder=FOLDER):
    """Tensors by name in float32 (counters in int64), images and logits."""
    with np.load(folder / f"{name}.npz") as file:
        layout, values = json.loads(str(file["layout"])), file["values"].astype("float32")
        images, logits = file["images"], file["logits"]
    ends = np.cumsum([int(np.prod(shape)) for shape in layout.values()])
    tensors = {}
    for (key, shape), part in zip(layout.items(), np.split(values, ends[:-1]), strict=True):
        key = key.partition(":")[0]  # as `read_tensors` names the weights of an `.h5` file
        tensors[key] = part.reshape(shape).astype("int64" if key.endswith("num_batches_tracked") else "float32")
    return tensors, images, logits


def naming(name):
    """How the author of a golden case names its tensors."""
    return KECAM if name == "kecam_coatnet0" else TIMM


def load(model, name, tensors, **options):
    """Loads the tensors of a golden case."""
    return load_named(model, naming(name), tensors, "the file", **options)


def small_config(name):
    """The configuration of a golden case: as its relative's, narrow and shallow."""
    config = coatnet_tf.RELATIVES[name]
    if name == "kecam_coatnet0":
        sizes = zip(config.stages, (1, 2, 2, 1), (64, 32, 64, 32), strict=True)
        stages = [dataclasses.replace(stage, depth=depth, width=width) for stage, depth, width in sizes]
        return coatnet_tf.get_config(config, stem_width=32, stages=tuple(stages), head_size=16)
    widths = dict(zip(("s1", "s2", "s3", "s4"), (8, 16, 16, 32), strict=True))
    left = dict.fromkeys(widths, 2)  # blocks a stage
    stages = []
    for stage in config.stages:
        depth = min(stage.depth, left[stage.name])
        left[stage.name] -= depth
        stages.append(dataclasses.replace(stage, depth=depth, width=widths[stage.name]))
    units = config.transformer.attention.relative_mlp_units
    return coatnet_tf.get_config(
        config,
        stem_width=(4, 8) if isinstance(config.stem.stem_width, tuple) else 8,
        stages=tuple(stages),
        head_size=8,
        relative_mlp_units=units and 16,
    )


def make_model(name, **arguments):
    """The untrained model of a golden case."""
    return coatnet_tf.CoAtNet(
        small_config(name),
        **{"input_shape": (64, 64, 3), "classes": 10, "classifier_activation": None, **arguments},
    )
