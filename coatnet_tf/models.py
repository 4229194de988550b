"""CoAtNet as a functional `keras.Model`: S0 (stem), the stages of the configuration, the head."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import keras

from coatnet_tf.config import CoAtNetConfig, StageConfig, is_positive_int
from coatnet_tf.family import get_config
from coatnet_tf.imagenet import preprocessing_layer
from coatnet_tf.layers import MBConv, TransformerBlock, common, pooling
from coatnet_tf.pretrained import find_pretrained, load_initial_weights
from coatnet_tf.weights import Loaded

DEFAULT_SIZE = 224

Shape = tuple[int, int, int]


def CoAtNet(
    config: str | CoAtNetConfig,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: Any = None,
    input_shape: Shape | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    include_preprocessing: bool = True,
    downsampling: str | None = None,
    relative_attention: bool | None = None,
    drop_path_rate: float | None = None,
    dropout: float | None = None,
) -> keras.Model:
    """Builds a CoAtNet of any configuration.

    Args:
        config: A name of `FAMILY`, `"coatnet-0"` .. `"coatnet-7"`, or of `RELATIVES`, or a `CoAtNetConfig`.
        include_top: Whether to end in the classifier: global average pool, LayerNorm, Dense + tanh,
            Dense. Without it the output is the last feature map, `[batch, H / 32, W / 32, width]`.
        weights: `None` for random initialisation, the path of a `.weights.h5` or `.keras` file, or a name that
            `list_weights` lists, if the configuration is that of the name (`from_pretrained` finds it for you).
            Without the top the head in the file is left aside.
        input_tensor: Keras tensor to use as input, in place of a new `keras.Input`.
        input_shape: `(height, width, channels)`, channels last; `(224, 224, 3)` by default. Height and
            width fix the size of the bias tables and are divisible by the total stride (32).
        pooling: Without the top: `None`, `"avg"` or `"max"` to pool the last feature map globally.
        classes: Number of classes of the top.
        classifier_activation: Activation of the top; `None` returns the logits.
        name: Model name; the configuration's by default.
        include_preprocessing: Whether the model takes images in [0, 255] and rescales them itself to
            its own range. With `False`, call `preprocess_input` first, with the configuration's `preprocessing`.
        downsampling: Replaces the configuration's `downsampling`: `"expand_conv"` (the paper's default)
            or `"depthwise_conv"` (the dagger variant of Table 5), or a relative's `"avg_pool"`.
        relative_attention: Replaces the configuration's `relative_attention` (Table 6).
        drop_path_rate: Replaces the configuration's stochastic depth rate.
        dropout: Replaces the configuration's dropout rate before the classifier.

    Returns:
        A functional `keras.Model`. Its output is float32 under every dtype policy if it has the top.

    Raises:
        ValueError: If an argument is out of its range, the input size cannot be halved by every
            stage, or the weights do not fit (by name and shape).
        FileNotFoundError: If `weights` does not exist.

    Example:
    >>> import numpy as np
    >>> import coatnet_tf
    >>> config = coatnet_tf.make_config("tiny", (1, 1, 1, 1, 1), (8, 16, 16, 32, 32))
    >>> model = coatnet_tf.CoAtNet(config, input_shape=(64, 96, 3), classes=10)
    >>> images = np.random.uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    >>> tuple(model(images).shape)
    (2, 10)
    """
    replaced = {
        "downsampling": downsampling,
        "relative_attention": relative_attention,
        "drop_path_rate": drop_path_rate,
        "dropout": dropout,
    }
    config = get_config(config, **{field: value for field, value in replaced.items() if value is not None})
    check_top(include_top, pooling, classes)
    image = image_input(input_tensor, input_shape)
    check_input_shape(config, image.shape[1:])

    x = preprocessing_layer(config.preprocessing)(image) if include_preprocessing else image
    for layer in feature_layers(config):
        x = layer(x)
    for layer in head_layers(config, classes, classifier_activation) if include_top else pooling_layers(pooling):
        x = layer(x)

    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    model = keras.Model(inputs, x, name=name or config.name)
    if weights is not None:
        loaded = load_initial_weights(model, weights, reset_head=not include_top)
        report(loaded, os.fspath(weights))
    return model


def from_pretrained(
    name: str,
    /,
    path: str | os.PathLike[str] | None = None,
    reset_head: bool = False,
    **arguments: Any,
) -> keras.Model:
    """Builds a CoAtNet with weights that somebody trained, exactly as its author's code computes it.

    Bias tables are resized if `input_shape` is not what the weights were trained for. That, and a classifier that
    begins anew, is reported in a warning that names them.

    Args:
        name: A name that `list_weights` lists, such as `"timm/coatnet_0_rw_224.sw_in1k"`. The file is downloaded once,
            checked by its hash and kept in the cache of huggingface_hub (of Keras for keras-cv-attention-models).
        path: A file to use in place of the download: `.safetensors` or `.pth` of timm, `.h5` of
            keras-cv-attention-models. The tag behind the dot of `name` may be left out then, and networks without
            published weights are known too, such as `"timm/coatnet_0_224"`.
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
    network = find_pretrained(name, path)
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
        shape = (network.image_size, network.image_size, 3)
    model = CoAtNet(network.config, input_shape=shape, classes=classes or 1000, **arguments)
    report(pretrained.load(model, reset_head), name)
    return model


def report(loaded: Loaded, name: str) -> None:
    """Warns of what was resized or begun anew."""
    if loaded.resized or loaded.reset:
        warnings.warn(f"{name}: {loaded}.", stacklevel=3)


def check_top(include_top: bool, pooling: str | None, classes: Any) -> None:
    """Refuses arguments of a factory that say how the model ends and are out of range."""
    if pooling not in (None, "avg", "max"):
        raise ValueError(f'pooling must be None, "avg" or "max"; got {pooling!r}.')
    if include_top and not is_positive_int(classes):
        raise ValueError(f"classes must be a positive integer; got {classes!r}.")


def image_input(input_tensor: Any, input_shape: Shape | None) -> Any:
    """The tensor of images that the model starts from."""
    if input_tensor is None:
        return keras.Input(input_shape or (DEFAULT_SIZE, DEFAULT_SIZE, 3), name="image")
    if not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(f"input_tensor must be a Keras tensor, as keras.Input returns; got {type(input_tensor)}.")
    if input_shape is not None and tuple(input_tensor.shape[1:]) != tuple(input_shape):
        raise ValueError(
            f"input_shape {tuple(input_shape)} and the shape {tuple(input_tensor.shape[1:])} of input_tensor "
            "disagree: leave input_shape out, or make them equal."
        )
    return input_tensor


def check_input_shape(config: CoAtNetConfig, input_shape: tuple[Any, ...]) -> None:
    """Refuses input shapes that the configuration cannot take.

    Args:
        config: The configuration.
        input_shape: `(height, width, channels)`.

    Raises:
        ValueError: If it is not three positive numbers, or a stage cannot divide it by its stride.
    """
    check_image_shape(config.name, input_shape)
    for axis, size in zip(("height", "width"), input_shape[:2], strict=True):
        left = size
        for stage, stride in [("s0", config.stem_stride)] + [(s.name, s.stride) for s in config.stages]:
            if left % stride:
                below = size // config.total_stride * config.total_stride
                near = [str(n) for n in (below, below + config.total_stride) if n]
                raise ValueError(
                    f"{config.name}: stage {stage} cannot divide an input of {axis} {size} by {stride} (it arrives "
                    f"there as {left}); choose a multiple of {config.total_stride}, such as {' or '.join(near)}."
                )
            left //= stride


def check_image_shape(name: str, input_shape: tuple[Any, ...]) -> None:
    """Refuses what is not `(height, width, channels)`, channels last."""
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(map(is_positive_int, shape)):
        raise ValueError(
            f"{name}: input_shape must be (height, width, channels), three positive integers; got {shape}."
        )
    if shape[0] in (1, 3) and shape[2] > 4:
        raise ValueError(f"{name}: input_shape is (height, width, channels), channels last; got {shape}.")


def feature_layers(config: CoAtNetConfig) -> list[keras.layers.Layer]:
    """The unbuilt layers from the preprocessed image to the last feature map, each called on the one before.

    Args:
        config: The configuration.

    Returns:
        The stem's layers (`stem_conv01`, ...), then one layer a block (`s1_block01`, ...).
    """
    layers = []
    for i, width in enumerate(config.stem_widths, start=1):
        strides = config.stem_stride if i == 1 else 1
        centred = config.stem_kernel_size > strides > 1 and config.padding == "centred"
        if centred:
            layers.append(pooling.make_padding(config.stem_kernel_size, f"stem_padding{i:02d}"))
        layers.append(
            common.conv(
                width,
                config.stem_kernel_size,
                f"stem_conv{i:02d}",
                config.kernel_initializer,
                padding="valid" if centred else "same",
                strides=strides,
                use_bias=config.stem_bias,
            )
        )
        if i < config.stem_depth:  # no norm after the last
            layers.append(common.make_norm(config.conv_norm, f"stem_norm{i:02d}", config.conv_norm_epsilon))
            activation = common.get_activation(config.activation)
            layers.append(keras.layers.Activation(activation, name=f"stem_act{i:02d}"))

    block_index = 0
    number_in_stage: dict[str, int] = {}
    for stage in config.stages:
        for i in range(stage.depth):
            number = number_in_stage[stage.name] = number_in_stage.get(stage.name, 0) + 1
            drop_path_rate = config.drop_path_rate * block_index / max(1, config.num_blocks - 1)
            strides = stage.stride if i == 0 else 1
            layers.append(_block(config, stage, strides, drop_path_rate, f"{stage.name}_block{number:02d}"))
            block_index += 1
    return layers


def _block(
    config: CoAtNetConfig, stage: StageConfig, strides: int, drop_path_rate: float, name: str
) -> keras.layers.Layer:
    if stage.block == "mbconv":
        return MBConv(
            stage.width,
            strides,
            downsampling=config.downsampling,
            expansion_of=config.expansion_of,
            se_ratio=config.se_ratio,
            se_ratio_of=config.se_ratio_of,
            se_activation=config.se_activation,
            se_before_norm=config.se_before_norm,
            padding=config.padding,
            pool=config.pool,
            activation=config.activation,
            pre_norm_activation=config.pre_norm_activation,
            use_bias=config.conv_bias,
            norm=config.conv_norm,
            norm_epsilon=config.conv_norm_epsilon,
            drop_path_rate=drop_path_rate,
            kernel_initializer=config.kernel_initializer,
            name=name,
        )
    return TransformerBlock(
        stage.width,
        strides,
        head_size=config.head_size,
        relative=config.relative_attention,
        reindexing=config.bias_reindexing,
        drop_path_rate=drop_path_rate,
        kernel_initializer=config.kernel_initializer,
        relative_mlp_units=config.relative_mlp_units,
        attention_width=config.attention_width,
        attention_bias=config.attention_bias,
        shortcut_bias=config.shortcut_bias,
        ffn_bias=config.ffn_bias,
        pool=config.pool,
        activation=config.transformer_activation,
        norm=config.transformer_norm,
        norm_epsilon=config.transformer_norm_epsilon,
        layer_scale=config.layer_scale,
        name=name,
    )


def head_layers(config: CoAtNetConfig, classes: int, activation: Any) -> list[keras.layers.Layer]:
    """The unbuilt layers from the last feature map to the classes.

    Args:
        config: The configuration.
        classes: Number of classes.
        activation: Activation of the last layer, or `None` for logits.

    Returns:
        Global average pool, norm, Dense(last width) + tanh, dropout if any, Dense(classes), in the paper's code;
        see `CoAtNetConfig.head`.
    """
    pool = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="head_pool")
    norm = common.make_norm(config.transformer_norm, "head_norm", config.transformer_norm_epsilon)
    layers = {"pool": [pool], "norm_pool": [norm, pool], "pool_norm_hidden": [pool, norm]}[config.head]
    if config.head == "pool_norm_hidden":
        width = config.stages[-1].width
        layers.append(common.dense(width, "head_hidden", config.kernel_initializer, activation="tanh"))
    if config.dropout:
        layers.append(keras.layers.Dropout(config.dropout, name="head_dropout"))
    layers.append(predictions_layer(classes, activation, config.kernel_initializer))
    return layers


def predictions_layer(classes: int, activation: Any, initializer: Any = None) -> keras.layers.Layer:
    """The unbuilt classifier, in float32: probabilities and logits rounded to bfloat16 would be of little use."""
    half = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    return common.dense(classes, "predictions", initializer, activation=activation, dtype="float32" if half else None)


def pooling_layers(pooling: str | None) -> list[keras.layers.Layer]:
    """The unbuilt layers behind the last feature map of a model without the top."""
    if pooling is None:
        return []
    pool = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}[pooling]
    return [pool(data_format="channels_last", name="head_pool")]


def _factory(config_name: str, summary: str) -> Callable[..., keras.Model]:
    """One member of the family, with the signature of `keras.applications`."""
    function_name = "CoAtNet" + config_name.removeprefix("coatnet-")

    def build(
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = None,
        input_tensor: Any = None,
        input_shape: Shape | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Any = "softmax",
        name: str = function_name.lower(),
        include_preprocessing: bool = True,
        downsampling: str = "expand_conv",
        relative_attention: bool = True,
        drop_path_rate: float = 0.0,
        dropout: float = 0.0,
    ) -> keras.Model:
        return CoAtNet(
            config_name,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            name=name,
            include_preprocessing=include_preprocessing,
            downsampling=downsampling,
            relative_attention=relative_attention,
            drop_path_rate=drop_path_rate,
            dropout=dropout,
        )

    build.__name__ = build.__qualname__ = function_name
    build.__doc__ = f"{summary}\n\n    The arguments are those of `CoAtNet`, which documents them, without `config`.\n"
    return build


CoAtNet0 = _factory("coatnet-0", "CoAtNet-0 (Table 3): 25.0 M parameters, 4.1 B MACs at 224.")
CoAtNet1 = _factory("coatnet-1", "CoAtNet-1 (Table 3): 42.2 M parameters, 8.2 B MACs at 224.")
CoAtNet2 = _factory("coatnet-2", "CoAtNet-2 (Table 3): 74.7 M parameters, 15.5 B MACs at 224.")
CoAtNet3 = _factory("coatnet-3", "CoAtNet-3 (Table 3): 167.0 M parameters, 34.4 B MACs at 224.")
CoAtNet4 = _factory("coatnet-4", "CoAtNet-4 (Table 3): 275.4 M parameters; 186.5 B MACs at 384.")
CoAtNet5 = _factory("coatnet-5", "CoAtNet-5 (Table 11): 687.1 M parameters; 804.0 B MACs at 512.")
CoAtNet6 = _factory(
    "coatnet-6",
    """CoAtNet-6 (Table 12): 1471 M parameters; 1495 B MACs at 512.

    Table 12 prints D2048 for its S4. That makes 1350 M parameters, 8 % below the 1.47 B of Table 5, so
    S4 is D3072 here, which meets the parameters and the FLOPs of Table 5.""",
)
CoAtNet7 = _factory("coatnet-7", "CoAtNet-7 (Table 12): 2442 M parameters; 2539 B MACs at 512.")
