"""Other people's weight files as NumPy arrays, without torch and without running what is in them."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from coatnet_tf.pretrained.correspondence import Tensors

_STORAGES: dict[str, Any] = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "int64",
    "IntStorage": "int32",
    "BoolStorage": "bool",
}
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": ml_dtypes.bfloat16,
    "I64": "int64",
    "I32": "int32",
    "BOOL": "bool",
}
_INSTALL = "needs the package safetensors: pip install 'coatnet_tf[pretrained]'."
_PREFIXES = ("state_dict", "model")  # under which checkpoints of training programs keep the state dict


def read_tensors(path: str | os.PathLike[str]) -> Tensors:
    """Reads the tensors of a weights file by name.

    Args:
        path: `.safetensors` (needs the package safetensors); `.pth`, `.pt` or `.bin` as `torch.save` writes state
            dicts since PyTorch 1.6; or `.h5` as Keras 2 writes weights, whose names become `layer/weight`.

    Returns:
        NumPy arrays by name. What is bfloat16 in the file, which NumPy lacks, is float32, which holds it exactly.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another kind or damaged, or a pickle that holds more than tensors.
        ImportError: If the package that reads it is not installed.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no weights file {path!r}.")
    readers: dict[str, Callable[[str], Tensors]] = {
        ".safetensors": _read_safetensors,
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".bin": _read_torch,
        ".h5": _read_keras2,
    }
    suffix = os.path.splitext(path)[1]
    if suffix not in readers:
        raise ValueError(f"{path!r} is none of the weights files known here, which end in {', '.join(readers)}.")
    return {
        name: tensor.astype("float32") if tensor.dtype == ml_dtypes.bfloat16 else tensor
        for name, tensor in readers[suffix](path).items()
    }


def write_tensors(tensors: Tensors, path: str | os.PathLike[str]) -> None:
    """Writes tensors into a `.safetensors` file, which PyTorch reads.

    Args:
        tensors: NumPy arrays by name.
        path: The file.

    Raises:
        ValueError: If the file has another suffix, by which it would be read as something else.
        FileNotFoundError: If there is no folder for it.
        ImportError: If safetensors is not installed.
    """
    place = os.fspath(path)
    if not place.endswith(".safetensors"):
        raise ValueError(f"{place!r} must end in .safetensors.")
    if not os.path.isdir(os.path.dirname(place) or "."):
        raise FileNotFoundError(f"There is no folder {os.path.dirname(place)!r} for {os.path.basename(place)}.")
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f"{os.fspath(path)!r} {_INSTALL}") from error
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def _read_safetensors(path: str) -> Tensors:
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(f"{path!r} {_INSTALL}") from error
    try:
        with open(path, "rb") as file:
            parts = dict(safetensors.deserialize(file.read()))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path!r} is not a .safetensors file, or is damaged: {error}") from error
    unknown = {part["dtype"] for part in parts.values()} - _SAFETENSORS.keys()
    if unknown:
        raise ValueError(f"{path!r} holds tensors of {', '.join(unknown)}; known are {', '.join(_SAFETENSORS)}.")
    return {
        name: np.frombuffer(part["data"], _SAFETENSORS[part["dtype"]]).reshape(part["shape"])
        for name, part in parts.items()
    }


def _read_keras2(path: str) -> Tensors:
    tensors: Tensors = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            parts = name.removeprefix("model_weights/").split("/")
            tensors[f"{parts[0]}/{parts[-1].partition(':')[0]}"] = item[()]

    try:
        with h5py.File(path, "r") as file:
            (file.get("model_weights", file)).visititems(visit)
    except OSError as error:
        raise ValueError(f"{path!r} is not an .h5 file, or is damaged: {error}") from error
    return tensors


def _read_torch(path: str) -> Tensors:
    try:
        with zipfile.ZipFile(path) as archive:
            index = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if index is None:
                raise ValueError(f"{path!r} is a zip archive, but none that torch.save wrote.")
            content = _TensorUnpickler(archive, index).load()
    except (zipfile.BadZipFile, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path!r} is no state dict of plain tensors as torch.save writes it, or is damaged: {error}"
        ) from error
    for prefix in _PREFIXES:
        if isinstance(content, dict) and isinstance(content.get(prefix), dict):
            content = content[prefix]
    if not isinstance(content, dict) or not all(isinstance(value, np.ndarray) for value in content.values()):
        raise ValueError(f"{path!r} holds no state dict: a dictionary of tensors by name was expected.")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


class _TensorUnpickler(pickle.Unpickler):
    """Builds tensors as NumPy arrays, and refuses every other object: a pickle may name any function to run."""

    def __init__(self, archive: zipfile.ZipFile, index: str) -> None:
        super().__init__(io.BytesIO(archive.read(index)))
        self._archive = archive
        self._folder = index.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of a tensor")

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, size = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"it refers to {kind!r}, which is no storage of a tensor")
        data = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype)
        if data.size < size:
            raise pickle.UnpicklingError(f"storage {key} has {data.size} of {size} elements")
        return data


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((*size, *stride, offset, 0)) < 0 or (0 not in size and last >= storage.size):
        raise pickle.UnpicklingError(f"a tensor {size} reaches beyond its storage")
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False).copy()
