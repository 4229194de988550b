"""The steps of training that a TPU would run, lowered without one: of both strategies, and of peers."""

from __future__ import annotations

from typing import Any

import keras
import ml_collections
import tensorflow_datasets as tfds

from coatnet_tf.builder import build_model
from coatnet_tf.rivals import RIVALS
from experiments import checks, loop, sizes
from experiments.data.sources import Source, find_builder
from experiments.recipes.paper import TRAINING_IMAGES
from tools.tpu.chips import Topology
from tools.tpu.compiling import Step

PEERS = ("ConvNeXtTiny", "EfficientNetV2S", *RIVALS)  # the first two of keras.applications
# Classes of the paper's datasets that TFDS does not have.
_CLASSES = {"image_archives": 21_841, "": 18_291}  # ImageNet-21K; JFT-300M (Sun et al., arXiv:1707.02968)


class _Counted:
    """A split of which only the number of images is known."""

    num_files = 1

    def __init__(self, count: int) -> None:
        self.count = count


def source_of(config: ml_collections.ConfigDict) -> Source:
    """The dataset of a recipe as far as a step has to know it, without its files.

    Args:
        config: The recipe.

    Returns:
        A `Source` that cannot be read.

    Raises:
        ValueError: If the number of its classes is not known, or the step would depend on its labels.
    """
    if config.dataset.balance != "none":
        raise ValueError(
            f"config.dataset.balance={config.dataset.balance} follows the labels, which are not read here; leave it "
            "out: it costs next to nothing."
        )
    name = config.dataset.name.removeprefix("tfds:")
    images, channels = TRAINING_IMAGES["imagenet1k"], config.dataset.channels or 3
    if name in _CLASSES:
        classes = _CLASSES[name]
        images = TRAINING_IMAGES["imagenet21k" if name else "jft"]
    elif name.startswith(("folder:", "csv:")):
        raise ValueError(
            f"A step is compiled for a dataset of TFDS, such as --config.dataset.name=imagenet2012; got {name}."
        )
    else:
        features: Any = find_builder(name).info.features
        label = features["label"]
        classes = getattr(label, "feature", label).num_classes
        if isinstance(features["image"], tfds.features.Image):
            channels = config.dataset.channels or min(features["image"].shape[-1] or 3, 3)
    split: Any = _Counted(images)
    names = tuple(map(str, range(classes)))
    return Source(name or "JFT-300M", split, split, names, channels, multi_label=config.loss == "sigmoid")


def sharded_step(
    config: ml_collections.ConfigDict, topology: Topology, shards: int | None = None, peer: str = ""
) -> tuple[keras.Model, Step, Source]:
    """The step that `--strategy=sharded` runs, for all devices of a topology.

    Args:
        config: The recipe.
        topology: The devices.
        shards: Devices that hold one copy of the state; all by default.
        peer: One of `PEERS` to train in place of the recipe's network.

    Returns:
        The model, which has shapes and no values, its step, and the dataset as far as it is known.

    Raises:
        ValueError: If the recipe, its batch or the shards do not fit.
    """
    from experiments.engine.jax_devices import JaxDevices, make_mesh
    from experiments.engine.jax_engine import JaxEngine, without_values

    devices = JaxDevices(make_mesh(topology.devices, shards))
    checks.check_values(config)
    checks.check_batch_size(config, devices)
    source = source_of(config)

    class PeerEngine(JaxEngine):
        def _make_model(self) -> keras.Model:
            return _make_peer(peer, config, source)

    engine_class = PeerEngine if peer else JaxEngine
    engine = without_values(lambda: engine_class(config, source, loop.make_schedule(config, source), devices))
    lowered = engine.lower()

    def compile_it() -> tuple[str, Any, dict[str, float]]:
        compiled = lowered.compile()
        return compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis()

    return engine.model, Step(lowered.as_text(), compile_it), source


def _make_peer(name: str, config: ml_collections.ConfigDict, source: Source) -> keras.Model:
    shape = (*sizes.of(config), source.channels)
    if name in RIVALS:
        return build_model(
            RIVALS[name],
            input_shape=shape,
            classes=source.num_classes,
            classifier_activation=None,
            dtype=config.dtype,
        )
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.dtype)
    try:
        return getattr(keras.applications, name)(
            weights=None,
            input_shape=shape,
            classes=source.num_classes,
            classifier_activation=None,
        )
    finally:
        keras.config.set_dtype_policy(before)


def replica_step(config: ml_collections.ConfigDict, topology: Topology) -> tuple[keras.Model, Step, Source]:
    """The step of one replica of `--strategy=tpu`, on its share of the batch, without the sums over replicas.

    XLA's bridge gives the program on a CPU; what TensorFlow would do beside it on a TPU is not in it.

    Args:
        config: The recipe.
        topology: The devices.

    Returns:
        The model, its step, and the dataset as far as it is known.

    Raises:
        ValueError: If the recipe or its batch do not fit.
    """
    import tensorflow as tf
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jax._src.lib.mlir import ir

    from experiments.engine.tensorflow_devices import TensorFlowDevices
    from experiments.engine.tensorflow_engine import TensorFlowEngine

    replicas = len(topology.devices)
    if not config.batch_size or config.batch_size % replicas:
        raise ValueError(
            f"config.batch_size {config.batch_size} is for all replicas together and must be a positive multiple of "
            f"their number, {replicas}."
        )
    config = config.copy_and_resolve_references()
    config.batch_size //= replicas
    with config.model.unlocked():
        config.model.bias_reindexing = "einsum"  # as the engine has it on TPUs
    devices = TensorFlowDevices(tf.distribute.OneDeviceStrategy("/cpu:0"))
    checks.check_values(config)
    checks.check_batch_size(config, devices)
    source = source_of(config)
    engine = TensorFlowEngine(config, source, loop.make_schedule(config, source), devices)
    batch = config.batch_size
    parts = (
        tf.zeros((batch, *sizes.of(config), source.channels), tf.uint8),
        tf.zeros((batch, source.num_classes), tf.uint8),
        tf.zeros((batch,)),
        tf.zeros((batch, 2)),
    )

    @tf.function(jit_compile=True)
    def step(*batch: tf.Tensor) -> None:
        engine._strategy.run(engine.train_step, args=batch)

    hlo = step.experimental_get_compiler_ir(*parts)(stage="hlo_serialized")
    with mlir.make_ir_context():
        found = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo))
        module = ir.Module.parse(found)
        copies: list[Any] = []  # which the compiler does not take, and which copy nothing

        def collect(operation: Any) -> Any:
            if operation.name == "mhlo.copy":
                copies.append(operation)
            return ir.WalkResult.ADVANCE

        module.operation.walk(collect)
        for copy in copies:
            copy.results[0].replace_all_uses_with(copy.operands[0])
            copy.erase()
        text, located = str(module), str(module.operation.get_asm(enable_debug_info=True))

    def compile_it() -> tuple[str, Any, dict[str, float]]:
        device = topology.devices[0]
        with mlir.make_ir_context():
            module = ir.Module.parse(located)
        options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
        compiled = device.client.compile(module, xla_client.DeviceList((device,)), options)
        cost = compiled.cost_analysis()
        cost = cost[0] if isinstance(cost, list) else cost
        return compiled.hlo_modules()[0].to_string(), compiled.get_compiled_memory_stats(), cost

    return engine.model, Step(text, compile_it), source
