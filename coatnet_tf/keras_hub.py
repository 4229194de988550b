"""CoAtNet as KerasHub has its models: presets of `hf://`, `kaggle://` and folders, and its tasks.

Nothing else imports this module, which needs KerasHub: `import coatnet_tf.keras_hub` makes the classes known to it.
"""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

from coatnet_tf.config import CoAtNetConfig
from coatnet_tf.family import get_config
from coatnet_tf.imagenet import preprocessing_layer
from coatnet_tf.layers import common
from coatnet_tf.layers.parts import change_of
from coatnet_tf.model import PRESET_CLASS, PRESET_PACKAGE, CoAtNetBackbone
from coatnet_tf.pretrained.differences import find_differences
from coatnet_tf.weights.keras_file import enumerate_names

try:
    import keras_hub
except ImportError as error:
    raise ImportError("coatnet_tf.keras_hub needs the package keras-hub: pip install keras-hub.") from error


@keras.saving.register_keras_serializable(package=PRESET_PACKAGE, name=PRESET_CLASS)
class CoAtNetKerasHubBackbone(CoAtNetBackbone, keras_hub.models.Backbone):
    """`CoAtNetBackbone` as a `keras_hub.models.Backbone`, with the same arguments.

    What either of them saves as a preset, the other reads.

    Example:
    >>> import coatnet_tf
    >>> from coatnet_tf.keras_hub import CoAtNetImageClassifier, CoAtNetKerasHubBackbone
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 16, 16, 32, 64))
    >>> backbone = CoAtNetKerasHubBackbone(config, input_shape=(64, 96, 3))
    >>> CoAtNetImageClassifier(backbone, num_classes=3).output_shape
    (None, 3)
    """

    @classmethod
    def from_preset(cls, preset: str | os.PathLike[str], load_weights: bool = True, **options: Any) -> Any:
        """Reads a preset.

        Args:
            preset: `hf://USER/NAME`, `kaggle://USER/MODEL/keras/VARIATION`, or a folder that `save_to_preset` wrote.
            load_weights: Whether to load the weights, or leave them random.
            **options: `dtype`; Keras' global one by default, as in all of KerasHub.

        Raises:
            ValueError, FileNotFoundError, ImportError: As KerasHub raises them.
        """
        return keras_hub.models.Backbone.from_preset.__func__(cls, os.fspath(preset), load_weights, **options)

    def save_to_preset(self, folder: str | os.PathLike[str], max_shard_size: float | None = 10) -> None:
        """Writes a preset, to be read by `from_preset` or shared by `keras_hub.upload_preset`.

        Args:
            folder: The folder; made if it is missing.
            max_shard_size: Gigabytes above which the weights are cut into several files.
        """
        keras_hub.models.Backbone.save_to_preset(self, os.fspath(folder), max_shard_size)


@keras.saving.register_keras_serializable(package=PRESET_PACKAGE)
class CoAtNetImageConverter(keras_hub.layers.ImageConverter):
    """Brings images to the size of a backbone; `of` makes one that fits."""

    backbone_cls = CoAtNetKerasHubBackbone

    @classmethod
    def of(cls, backbone: CoAtNetBackbone, **options: Any) -> CoAtNetImageConverter:
        """The converter of images in [0, 255] for a backbone: to its size, and to its range if it does not itself.

        Args:
            backbone: The backbone.
            **options: Arguments of `keras_hub.layers.ImageConverter`, such as `interpolation`.
        """
        height, width, channels = backbone.input_shape[1:]
        scale: dict[str, Any] = {}
        if not backbone.include_preprocessing:
            rescaling = preprocessing_layer(backbone.config.preprocessing, channels)
            of_channels = {"scale": np.ravel(rescaling.scale), "offset": np.ravel(rescaling.offset)}
            scale = {
                name: values.tolist() if len(values) > 1 else values.item() for name, values in of_channels.items()
            }
        return cls(image_size=(height, width), data_format="channels_last", **{**scale, **options})


@keras.saving.register_keras_serializable(package=PRESET_PACKAGE)
class CoAtNetImageClassifierPreprocessor(keras_hub.models.ImageClassifierPreprocessor):
    """Applies a `CoAtNetImageConverter` to the images of a classifier."""

    backbone_cls = CoAtNetKerasHubBackbone
    image_converter_cls = CoAtNetImageConverter


@keras.saving.register_keras_serializable(package=PRESET_PACKAGE)
class CoAtNetImageClassifier(keras_hub.models.ImageClassifier):
    """A `keras_hub.models.ImageClassifier` with the head of the backbone's configuration, as `CoAtNet` has it.

    `of` makes one of a trained model.

    Args:
        backbone: A `CoAtNetKerasHubBackbone`.
        num_classes: Number of classes.
        preprocessor: What `fit` and `predict` put images through, such as a `CoAtNetImageClassifierPreprocessor`; none
            by default, for images of the backbone's size.
        activation: Of the classifier; `None` gives logits.
        head_dtype: Dtype policy of the head; the backbone's by default.
        **options: `name`.
    """

    backbone_cls = CoAtNetKerasHubBackbone
    preprocessor_cls = CoAtNetImageClassifierPreprocessor

    def __init__(
        self,
        backbone: CoAtNetKerasHubBackbone,
        num_classes: int,
        preprocessor: Any = None,
        activation: Any = None,
        head_dtype: Any = None,
        **options: Any,
    ) -> None:
        head = backbone.config.head_layers(num_classes, activation, head_dtype or backbone.dtype_policy)
        self.backbone = backbone
        self.preprocessor = preprocessor
        outputs = common.chain(head, backbone(backbone.input))
        keras_hub.models.Task.__init__(self, inputs=backbone.input, outputs=outputs, **options)
        self.num_classes = num_classes
        self.activation = activation
        self.head_dtype = head_dtype

    @classmethod
    def of(cls, model: keras.Model, config: str | CoAtNetConfig) -> CoAtNetImageClassifier:
        """A classifier with the weights of a model, and a preprocessor that brings images to its size.

        Args:
            model: A model that `CoAtNet` built, or `from_pretrained`, with its top.
            config: Its configuration, or the name of that.

        Raises:
            ValueError: If the model has another configuration, no top, or layers that are quantised or have LoRA.
        """
        config = get_config(config)
        layers = {layer.name: layer for layer in model.layers}
        differences = find_differences(model, config)
        if "predictions" not in layers:
            differences.append("it lacks the layer predictions")
        if differences:
            raise ValueError(f"{model.name!r} is not {config.name}: {enumerate_names(differences, '; ')}.")
        if any(layer.quantization_mode or getattr(layer, "lora_enabled", False) for layer in model._flatten_layers()):
            raise ValueError(f"{model.name!r} is quantised or has LoRA; give the model that it was before.")
        top = layers["predictions"]
        backbone = CoAtNetKerasHubBackbone(
            config,
            input_shape=model.input_shape[1:],
            include_preprocessing="preprocessing" in layers,
            dtype=layers[config.block_names()[0]].dtype_policy,
            parts={layer.name: change for layer in model.layers if (change := change_of(layer, model))},
        )
        preprocessor = CoAtNetImageClassifierPreprocessor(CoAtNetImageConverter.of(backbone))
        classifier = cls(backbone, top.units, preprocessor, top.activation)
        for layer in (*backbone.layers, *classifier.layers):
            if layer.name in layers:
                layer.set_weights(layers[layer.name].get_weights())
        for layer in classifier.layers:
            if layer.name in layers:
                layer.trainable = layers[layer.name].trainable
        return classifier

    def get_config(self) -> dict[str, Any]:
        return {
            **keras_hub.models.Task.get_config(self),
            "num_classes": self.num_classes,
            "activation": self.activation and keras.activations.serialize(keras.activations.get(self.activation)),
            "head_dtype": self.head_dtype and keras.dtype_policies.serialize(keras.dtype_policies.get(self.head_dtype)),
        }
