"""Post-training quantisation of a whole exported network to 8 bits, convolutions included, by its runtime's library.

OpenVINO's is NNCF, ONNX Runtime's its quantiser. Both look at images to see which range each tensor has. What changes
too many answers stays in float: that is measured, and said.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging as python_logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from absl import logging

from experiments import logs
from tools.serving import exported

NEEDS = {"onnx": "onnxruntime", "openvino": "nncf"}  # what quantises a format
CHANGED = 0.01  # share of the answers that may be others
_BATCH = 32
_RANKING = 100  # images on which OpenVINO's layers are ranked
_LARGE = 1024  # numbers of a constant that is worth 16 bits
_ONNX_TYPES = ("Conv", "MatMul", "Gemm")  # others in 8 bits made ONNX Runtime slower

# What a model answers: the most probable class, all classes above one half or else that one, or numbers.
Answer = Literal["class", "classes", "values"]


def check_installed(name: str) -> None:
    """Refuses a format, one of `NEEDS`, whose library is missing.

    Raises:
        ImportError: If it is.
    """
    if importlib.util.find_spec(NEEDS[name]) is None:
        raise ImportError(f"--quantize=int8 for {name} needs {NEEDS[name]}; pip install 'coatnet_tf[runtimes]'.")


def quantise(folder: Path, name: str, calibration: np.ndarray, compared: np.ndarray, answer: Answer = "class") -> str:
    """Replaces the model of an export by one that computes in 8 bits.

    Args:
        folder: Of the export.
        name: Its format, one of `NEEDS`.
        calibration: Images as the model sees them, `[n, height, width, channels]` in [0, 255].
        compared: Images on which its answers are compared with those before, likewise.
        answer: What it answers.

    Returns:
        What was left in float and what changed, in words.

    Raises:
        ValueError: If more than `CHANGED` of the answers change whatever is left in float.
    """
    comparison = _Comparison(compared, answers(exported.load_export(folder).classify, compared), answer)
    left, found = {"onnx": _onnx, "openvino": _openvino}[name](folder, calibration, comparison)
    if found > CHANGED:
        raise ValueError(
            f"In 8 bits {found:.1%} of the answers to {len(compared)} images change, whatever is left in float, and "
            f"{CHANGED:.0%} may: the export was not written. Leave out --quantize."
        )
    what = "squared error over the variance" if answer == "values" else "answers changed"
    said = f"{found:.2%} {what}, on {len(compared)} images; left in float: {', '.join(left) or 'no layer'}"
    logging.info("int8: %s.", said)
    return said


def answers(classify: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """A model's answers to images, float32 `[n, classes]`."""
    batches = (images[first : first + _BATCH].astype("float32") for first in range(0, len(images), _BATCH))
    return np.concatenate([classify(batch) for batch in batches])


def share_changed(before: np.ndarray, after: np.ndarray, answer: Answer = "class") -> float:
    """Share of answers that are others; of numbers the squared error over the variance.

    Args:
        before: `[n, classes]`.
        after: Likewise.
        answer: What they are.

    Example:
    >>> import numpy as np
    >>> from tools.serving.quantisation import share_changed
    >>> before, after = np.array([[0.9, 0.1], [0.7, 0.6]]), np.array([[0.8, 0.2], [0.7, 0.4]])
    >>> share_changed(before, after), share_changed(before, after, "classes")
    (0.0, 0.5)
    """
    if answer == "values":
        return float(np.mean((after - before) ** 2) / max(np.var(before), 1e-12))
    least = np.inf if answer == "class" else 0.5
    given = [(scores > least) | (scores == scores.max(axis=-1, keepdims=True)) for scores in (before, after)]
    return float(np.mean((given[0] != given[1]).any(axis=-1)))


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """Images, what the export answered to them before, and what kind of answer that is."""

    images: np.ndarray
    before: np.ndarray
    answer: Answer

    def changed(self, folder: Path) -> float:
        """What the export answers otherwise now, as `share_changed` has it."""
        return share_changed(self.before, answers(exported.load_export(folder).classify, self.images), self.answer)


def _openvino(folder: Path, calibration: np.ndarray, comparison: _Comparison) -> tuple[list[str], float]:
    """NNCF quantises all, and takes back what changes too much, ranked by what it changes."""
    openvino = exported.import_openvino()
    import nncf

    nncf.set_log_level(python_logging.ERROR)
    file = folder / exported.FORMATS["openvino"]
    core = openvino.Core()
    model = core.read_model(file)

    def as_input(image: np.ndarray) -> np.ndarray:
        return image[None].astype("float32")

    def agreement(compiled: Any, data: Any) -> tuple[float, None]:
        given = [(compiled(as_input(image))[0][0], expected) for image, expected in data]
        after, before = (np.stack(column) for column in zip(*given, strict=True))
        return 1 - share_changed(before, after, comparison.answer), None

    pairs = list(zip(comparison.images, comparison.before, strict=True))
    quantised = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(list(calibration), as_input),
        nncf.Dataset(pairs, lambda pair: as_input(pair[0])),
        agreement,
        max_drop=CHANGED,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER,  # norms and residual sums stay in float
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=_RANKING),
    )
    products = [op for op in quantised.get_ops() if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")]
    left = [op.get_friendly_name() for op in products if _has_float_weights(op)]
    del model  # it maps the file that is replaced
    unfinished = folder / "unfinished.xml"
    openvino.save_model(quantised, unfinished, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        unfinished.with_suffix(suffix).replace(file.with_suffix(suffix))
    return sorted(left), comparison.changed(folder)


def _has_float_weights(operation: Any) -> bool:
    """Whether the kernel of an operation is a constant of more than 8 bits; that of attention's products is none."""
    node = operation.input_value(1).get_node()
    while node.get_type_name() in ("Multiply", "Convert", "Reshape", "Subtract", "FakeQuantize"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and node.get_output_element_type(0).get_type_name() not in ("i8", "u8")


def _onnx(folder: Path, calibration: np.ndarray, comparison: _Comparison) -> tuple[list[str], float]:
    """ONNX Runtime's quantiser; as long as too much changes, the block that changes most by itself stays in float."""
    import onnx
    import onnxruntime
    from onnxruntime import quantization

    file = folder / exported.FORMATS["onnx"]
    plain = file.rename(folder / "plain.onnx")
    image = onnxruntime.InferenceSession(plain).get_inputs()[0].name
    blocks: dict[str, list[str]] = {}
    for node in onnx.load(plain).graph.node:
        if node.op_type in _ONNX_TYPES:
            blocks.setdefault(_block(node.name), []).append(node.name)

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._images = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self._images, None)
            return None if found is None else {image: found[None].astype("float32")}

    def write(left: list[str]) -> float:
        """Quantises all blocks but some; gives what changes."""
        with logs.without_prints():
            quantization.quantize_static(
                plain,
                file,
                Images(),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=list(_ONNX_TYPES),
                nodes_to_exclude=[name for block in left for name in blocks[block]],
            )
        onnx.save(_in_half_precision(onnx.load(file)), file)
        return comparison.changed(folder)

    left: list[str] = []
    ranking: list[str] = []
    while (changed := write(left)) > CHANGED and len(left) < len(blocks):
        if not ranking:
            logging.info("Quantising %d blocks one by one, to see which change most.", len(blocks))
            alone = {block: write([other for other in blocks if other != block]) for block in blocks}
            ranking = sorted(blocks, key=lambda block: -alone[block])
        left.append(ranking[len(left)])
    plain.unlink()
    return left, changed


def _block(name: str) -> str:
    """The block or layer of a node.

    >>> _block("coatnet0_1/s1_block02_expand_conv_channels_first_1/convolution"), _block("my_1/predictions_1/MatMul")
    ('s1_block02', 'predictions_1')
    >>> _block("MatMul_7")
    'MatMul_7'
    """
    found = re.search(r"(?:^|/)([a-z][a-z0-9]*_block\d+)", name)
    parts = name.split("/")
    return found[1] if found else parts[1] if len(parts) > 2 else parts[0]


def _in_half_precision(model: Any) -> Any:
    """Large constants that are left in float32, such as attention's biases, in 16 bits, which loading widens."""
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    for tensor in list(graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _LARGE:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo("float16").max:
            continue
        name = f"{tensor.name}_half"
        graph.node.insert(0, helper.make_node("Cast", [name], [tensor.name], to=onnx.TensorProto.FLOAT))
        graph.initializer.append(numpy_helper.from_array(values.astype("float16"), name))
        graph.initializer.remove(tensor)
    return model
