"""CoAtNet as a functional `keras.Model`, with a classifier or as the backbone of detectors and segmenters."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from pathlib import Path
from typing import Any

import keras

from coatnet_tf.builder import build_backbone, build_model, make_factory, warn_of_changes
from coatnet_tf.config import CoAtNetConfig
from coatnet_tf.family import FAMILY, get_config
from coatnet_tf.layers.options import check
from coatnet_tf.layers.parts import change_of
from coatnet_tf.network import ImageShape
from coatnet_tf.pretrained import (
    find_pretrained,
    find_published,
    is_pretrained_name,
    is_published_name,
    load_initial_weights,
)
from coatnet_tf.weights import load_weights as load_weights_of_file

PRESET_CONFIG, PRESET_WEIGHTS = "config.json", "model.weights.h5"
PRESET_PACKAGE, PRESET_CLASS = "coatnet_tf", "CoAtNetKerasHubBackbone"  # of coatnet_tf.keras_hub


def CoAtNet(config: str | CoAtNetConfig, *args: Any, **kwargs: Any) -> keras.Model:
    return build_model(get_config(config), *args, **kwargs)


CoAtNet.__signature__ = inspect.signature(build_model, eval_str=True)  # type: ignore[attr-defined]
CoAtNet.__doc__ = f"""{build_model.__doc__}
    For a CoAtNet `config` can be a name too: of `FAMILY`, `"coatnet-0"` .. `"coatnet-7"`, or of `RELATIVES`.

    Example:
    >>> import numpy as np
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 16, 16, 32, 32))
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(64, 96, 3), classes=10, downsampling="depthwise_conv")
    >>> images = np.random.uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    >>> tuple(model(images).shape)
    (2, 10)
    """


def from_pretrained(
    name: str,
    /,
    path: str | os.PathLike[str] | None = None,
    reset_head: bool = False,
    **arguments: Any,
) -> keras.Model:
    """Builds a CoAtNet with weights that somebody trained, exactly as its author's code computes it.

    Bias tables are resized if `input_shape` is not what the weights were trained for, and the first kernel is
    adapted if the images have other channels than red, green and blue (`weights.adapt_channels`). That, and a
    classifier that begins anew, is reported in a warning that names them.

    Args:
        name: A name that `list_weights` lists, such as `"timm/coatnet_0_rw_224.sw_in1k"`, or `"hf://USER/NAME"` of a
            model that `tools.publish` put on Hugging Face's Hub. The file is downloaded once,
            checked by its hash and kept in the cache of huggingface_hub (of Keras for keras-cv-attention-models).
        path: A file to use in place of the download: `.safetensors` or `.pth` of timm, `.h5` of
            keras-cv-attention-models, the folder of `tools.publish`. The tag behind the dot of `name` may be left out
            then, and networks without published weights are known too, such as `"timm/coatnet_0_224"`.
        reset_head: Whether the classifier begins anew, as it must for another number of `classes`.
        **arguments: Arguments of `CoAtNet` but `config` and `weights`; `input_shape` and `classes` are those of the
            weights by default.

    Returns:
        A functional `keras.Model` that takes images in [0, 255] and preprocesses them as the weights need it.

    Raises:
        ValueError: If the name is unknown, the file damaged, the weights do not fit, or `classes` is another number
            than the weights' without `reset_head`.
        FileNotFoundError: If `path` does not exist.
        OSError: If the file can neither be found in the cache nor downloaded.
        ImportError: If huggingface_hub or safetensors is needed and not installed.

    Example:
        model = coatnet_tf.from_pretrained("timm/coatnet_2_rw_224.sw_in12k_ft_in1k")
        tuned = coatnet_tf.from_pretrained(
            "timm/coatnet_0_rw_224", path="coatnet_0_rw.safetensors", classes=6, reset_head=True
        )
    """
    if "weights" in arguments:
        raise ValueError(f"from_pretrained takes no weights beside those of {name}; give a file of its own as `path`.")
    network: Any = find_published(name, path) if is_published_name(name) else find_pretrained(name, path)
    pretrained = network.read()
    classes = arguments.pop("classes", None)
    if arguments.get("include_top", True) and (classes is None or not reset_head):
        found = pretrained.classes
        if classes not in (None, found):
            raise ValueError(
                f"{name} distinguishes {found} classes, not {classes}; give reset_head=True for a new classifier, or "
                "leave classes out."
            )
        classes = found
    shape = arguments.pop("input_shape", None)
    if shape is None and arguments.get("input_tensor") is None:
        shape = network.input_shape
    arguments = {"classifier_activation": network.classifier_activation, **arguments}
    model = CoAtNet(network.config, input_shape=shape, classes=1000 if classes is None else classes, **arguments)
    warn_of_changes(pretrained.load(model, reset_head), name)
    return model


@keras.saving.register_keras_serializable(package="coatnet_tf")
class CoAtNetBackbone(keras.Model):
    """A CoAtNet without its classifier, whose `pyramid_outputs` are its feature maps by resolution.

    `model.pyramid_outputs` is `{"P1": ..., "P2": ..., ...}`, the last feature map at each of the strides 2, 4, ...: P1
    is the stem, P2 to P5 are S1 to S4. KerasHub's detectors and segmenters take it as their `image_encoder`. The
    model's own output is the last of them, `[batch, H / 32, W / 32, width]`.

    Args:
        config: A name, `"coatnet-0"` .. `"coatnet-7"` or one of `RELATIVES`, a name that `list_weights` lists (it
            stands for its configuration), or a `CoAtNetConfig`.
        input_shape: `(height, width, channels)`, `(224, 224, 3)` by default; height and width are divisible by 32.
        weights: `None`, a `.weights.h5` or `.keras` file of a whole model, or a name that `list_weights` lists. Bias
            tables of another input size are resized, which a warning reports; the head is left aside.
        include_preprocessing: Whether the model takes images in [0, 255].
        name: Model name; the configuration's and `_backbone` by default.
        dtype: Dtype or dtype policy of all layers; Keras' global one by default.
        trainable: Whether its weights are trained.
        parts: What `get_config` has of layers that were frozen or quantised.
        **options: Fields of the configuration to replace, by name at any depth, such as `drop_path_rate`.

    Raises:
        ValueError, FileNotFoundError, OSError, ImportError: As `CoAtNet` and `from_pretrained` raise them.

    Example:
    >>> import numpy as np
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 16, 16, 32, 64))
    >>> backbone = coatnet_tf.CoAtNetBackbone(config, input_shape=(64, 96, 3))
    >>> {level: tuple(x.shape[1:]) for level, x in backbone.pyramid_outputs.items()}["P5"]
    (2, 3, 64)
    """

    def __init__(
        self,
        config: str | CoAtNetConfig,
        input_shape: ImageShape | None = None,
        weights: str | os.PathLike[str] | None = None,
        include_preprocessing: bool = True,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        parts: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if isinstance(config, str) and is_pretrained_name(config):
            config = find_pretrained(config).config
        config = get_config(config, **options)
        check("include_preprocessing", include_preprocessing, bool)
        features = build_backbone(config, None, input_shape, include_preprocessing, dtype, parts)
        if weights is not None:
            loaded = load_initial_weights(features, weights, resize=True, reset_head=True)
            warn_of_changes(loaded, os.fspath(weights))
        super().__init__(
            inputs=features.input, outputs=features.output, name=name or features.name, trainable=trainable
        )
        self.dtype_policy = keras.dtype_policies.get(dtype)
        self.config = config
        self.include_preprocessing = include_preprocessing
        self.pyramid_outputs = {
            level: features.get_layer(name).output for level, name in config.pyramid_layers().items()
        }

    def get_config(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.config),
            "input_shape": tuple(self.input_shape[1:]),
            "include_preprocessing": self.include_preprocessing,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "trainable": self.trainable,
            "parts": {layer.name: change for layer in self.layers if (change := change_of(layer, self))},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> CoAtNetBackbone:
        del custom_objects
        return cls(
            **{**config, "config": CoAtNetConfig(**config["config"]), "input_shape": tuple(config["input_shape"])}
        )

    def save_to_preset(self, folder: str | os.PathLike[str]) -> None:
        """Writes the backbone as a folder that KerasHub calls a preset: `config.json` and `model.weights.h5`.

        KerasHub reads it once `coatnet_tf.keras_hub` is imported, as a `CoAtNetKerasHubBackbone`.

        Args:
            folder: The folder; made if it is missing.

        Raises:
            FileExistsError: If it holds a preset already.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / PRESET_CONFIG).exists():
            raise FileExistsError(f"{folder} holds a preset already; give another folder.")
        self.save_weights(folder / PRESET_WEIGHTS)
        config = {
            **keras.saving.serialize_keras_object(self),
            "module": "coatnet_tf.keras_hub",
            "class_name": PRESET_CLASS,
            "registered_name": f"{PRESET_PACKAGE}>{PRESET_CLASS}",
        }
        (folder / PRESET_CONFIG).write_text(json.dumps(config, indent=2))

    @classmethod
    def from_preset(cls, preset: str | os.PathLike[str], load_weights: bool = True) -> CoAtNetBackbone:
        """Reads what `save_to_preset` wrote, or that of a `CoAtNetKerasHubBackbone`.

        Args:
            preset: The folder.
            load_weights: Whether to load the weights, or leave them random.

        Raises:
            FileNotFoundError: If the folder is no preset.
            ValueError: If it is the preset of another class, or the weights do not fit.
        """
        path = Path(preset) / PRESET_CONFIG
        if "://" in os.fspath(preset):
            raise ValueError(
                f"{preset} is no folder of this machine; coatnet_tf.keras_hub.{PRESET_CLASS}.from_preset reads it."
            )
        if not path.is_file():
            raise FileNotFoundError(f"{preset} is no preset: there is no {PRESET_CONFIG} in it.")
        config = json.loads(path.read_text())
        if config.get("class_name") != PRESET_CLASS:
            raise ValueError(f"{preset} is a preset of {config.get('class_name')!r}, not of {PRESET_CLASS}.")
        backbone = cls.from_config(config["config"])
        if load_weights:
            load_weights_of_file(backbone, Path(preset) / PRESET_WEIGHTS)
        return backbone


CoAtNet0 = make_factory("CoAtNet0", FAMILY["coatnet-0"], "Table 3: 25.0 M parameters, 4.1 B MACs at 224.")
CoAtNet1 = make_factory("CoAtNet1", FAMILY["coatnet-1"], "Table 3: 42.2 M parameters, 8.2 B MACs at 224.")
CoAtNet2 = make_factory("CoAtNet2", FAMILY["coatnet-2"], "Table 3: 74.7 M parameters, 15.5 B MACs at 224.")
CoAtNet3 = make_factory("CoAtNet3", FAMILY["coatnet-3"], "Table 3: 167.0 M parameters, 34.4 B MACs at 224.")
CoAtNet4 = make_factory(
    "CoAtNet4", FAMILY["coatnet-4"], "CoAtNet-4 (Table 3): 275.4 M parameters; 186.5 B MACs at 384."
)
CoAtNet5 = make_factory(
    "CoAtNet5", FAMILY["coatnet-5"], "CoAtNet-5 (Table 11): 687.1 M parameters; 804.0 B MACs at 512."
)
CoAtNet6 = make_factory(
    "CoAtNet6",
    FAMILY["coatnet-6"],
    """Table 12: 1471 M parameters; 1495 B MACs at 512.

    Table 12 prints D2048 for its S4. That makes 1350 M parameters, 8 % below the 1.47 B of Table 5, so
    S4 is D3072 here, which meets the parameters and the FLOPs of Table 5.""",
)
CoAtNet7 = make_factory("CoAtNet7", FAMILY["coatnet-7"], "Table 12: 2442 M parameters; 2539 B MACs at 512.")
