"""Writes a page that needs no server: a model as ONNX, onnxruntime-web, and the files beside this module.

The browser decodes an image, and `files/pixels.js` brings it to the model's size as Keras' own way does, so that the
scores are Keras' too. The page makes sure of that: it has a known image and the scores that the program gives it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments import charts
from experiments.data import other_formats, views
from tools import predict
from tools.export_saved_model import ExportOptions, export
from tools.serving import exported
from tools.serving.signatures import MAX_PIXELS

FILES = Path(__file__).parent / "files"
RUNTIME = "onnxruntime-web@1.30.0"
MODEL, CHECK = "model.onnx", "check.png"
# Files of the runtime, and what they are called here: not every web host knows what .mjs is.
_RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
_OF_BROWSERS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")  # as Pillow calls them


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a page is of.

    Args:
        path: The model: folder of a run, a `.keras` file, or an export for ONNX.
        classifier: What `predict.load_classifier` makes of it.
        about: What the page says of the model.
        top: Number of classes that are named.
        examples: Images to choose from.
        labels: File with one class name per line.
        preprocessing: As of `predict.load_classifier`.
    """

    path: Path
    classifier: predict.Classifier
    about: str
    top: int
    examples: Sequence[Path] = ()
    labels: Path | None = None
    preprocessing: str = ""


def check(folder: Path, path: Path) -> None:
    """Refuses, before anything is loaded, what cannot be written or shown.

    Args:
        folder: Where the page goes.
        path: The model.

    Raises:
        FileExistsError: If the folder is a file, or holds something.
        ValueError: If the model is an export for another runtime.
        ImportError: If the package that writes ONNX is needed and not installed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"--static={folder} exists; give another folder, or remove it.")
    version = predict.version_of_export(path)
    if version is not None and exported.format_of(version) != "onnx":
        raise ValueError(
            f"{version} is an export for {exported.format_of(version)}, which browsers do not run: give the run, the "
            ".keras file, or an export with --format=onnx."
        )
    if version is None and importlib.util.find_spec("tf2onnx") is None:
        raise ImportError("A page without a server needs the package tf2onnx: pip install 'coatnet_tf[runtimes]'.")


def write(folder: Path, shown: Shown, runtime: Path | None = None) -> dict[str, int]:
    """Writes the page, whole or not at all.

    Args:
        folder: Where to; made if it is missing.
        shown: What it is of.
        runtime: Folder of the package onnxruntime-web; by default npm fetches it.

    Returns:
        Bytes of the runtime, of the model and of the rest.

    Raises:
        FileExistsError, ImportError, ValueError: As `check` raises them; or if the model's images are no pictures.
        FileNotFoundError: If there is no runtime.
        OSError: If npm cannot fetch it, or the folder cannot be written.
    """
    check(folder, shown.path)
    channels = shown.classifier.channels
    if channels not in other_formats.OF_PICTURES:
        raise ValueError(f"{shown.path} takes images of {channels} channels; pictures in a browser have 1 or 3.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent) as unfinished:
        page = Path(unfinished) / "page"
        page.mkdir()
        runtime_bytes = _copy_runtime(page, runtime, Path(unfinished))
        shutil.copy(_onnx(shown, Path(unfinished) / "export"), page / MODEL)
        for file in FILES.iterdir():
            shutil.copy(file, page)
        about = {**_describe(shown), "check": _write_check(page / CHECK, shown.classifier)}
        about["examples"] = _write_examples(page, shown.examples)
        (page / "model.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
        model_bytes = (page / MODEL).stat().st_size
        total = sum(file.stat().st_size for file in page.rglob("*") if file.is_file())
        page.rename(folder)
    return {"runtime": runtime_bytes, "model": model_bytes, "rest": total - runtime_bytes - model_bytes}


def _copy_runtime(page: Path, package: Path | None, temporary: Path) -> int:
    """Copies the two files of onnxruntime-web that are needed, and returns their bytes."""
    if package is None:
        package = _fetch_runtime(temporary)
    for source, name in _RUNTIME_FILES.items():
        found = [file for file in (package / source, package / "dist" / source) if file.is_file()]
        if not found:
            raise FileNotFoundError(
                f"{package} holds no {source}: give --onnxruntime_web the folder of the package {RUNTIME}, as npm "
                "install puts it in node_modules/onnxruntime-web."
            )
        shutil.copyfile(found[0], page / name)
    return sum((page / name).stat().st_size for name in _RUNTIME_FILES.values())


def _fetch_runtime(temporary: Path) -> Path:
    """The package from npm, whose cache keeps it; a folder with the files that are needed."""
    npm = shutil.which("npm")
    instead = "or give --onnxruntime_web=FOLDER, the package from elsewhere"
    if npm is None:
        raise FileNotFoundError(f"There is no npm here, which fetches {RUNTIME}: install Node.js, {instead}.")
    command = [npm, "pack", RUNTIME, "--prefer-offline", "--pack-destination", str(temporary)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=temporary)
    packed = next(temporary.glob("*.tgz"), None)
    if done.returncode or packed is None:
        said = [line for line in done.stderr.splitlines() if line.startswith("npm error")] or ["npm says nothing"]
        raise OSError(f"npm cannot fetch {RUNTIME} ({said[0].removeprefix('npm error ')}): mend that, {instead}.")
    with tarfile.open(packed) as archive:
        for member in archive:
            if Path(member.name).name in _RUNTIME_FILES and (file := archive.extractfile(member)):
                (temporary / Path(member.name).name).write_bytes(file.read())
    return temporary


def _onnx(shown: Shown, folder: Path) -> Path:
    """The model's ONNX file: folded, unless it is an export already."""
    version = predict.version_of_export(shown.path)
    if version is None:
        view = shown.classifier.view
        options: dict[str, Any] = {"workdir" if shown.path.is_dir() else "weights": shown.path}
        options |= {"labels": shown.labels, "preprocessing": shown.preprocessing}
        options |= {"crop": view.crop, "interpolation": view.interpolation}
        version = export(ExportOptions(output=folder, format="onnx", fold=True, **options))
    return version / exported.FORMATS["onnx"]


def _describe(shown: Shown) -> dict[str, Any]:
    """What the page's programs need to know."""
    return {
        "text": shown.about,
        "classes": shown.classifier.class_names,
        "top": shown.top,
        "colour": charts.BLUE,
        "channels": shown.classifier.channels,
        "max_pixels": MAX_PIXELS,
        "view": describe_view(shown.classifier.view),
    }


def describe_view(view: views.View) -> dict[str, Any]:
    """What the model sees of an image, as `see` of `files/pixels.js` takes it."""
    return {
        "size": view.size,
        "interpolation": view.interpolation,
        "center": view.share if view.crop == views.CENTER else None,
        "resized": view.resized,
    }


def _write_check(path: Path, classifier: predict.Classifier) -> list[float]:
    """Writes the known image, larger than what the model sees, and returns its scores."""
    height, width = classifier.view.size
    numbers = np.random.default_rng(0)
    coarse = Image.fromarray(numbers.integers(0, 256, (6, 5, 3), dtype="uint8"))
    smooth = np.asarray(coarse.resize((width * 3 // 2, height * 5 // 3), Image.Resampling.BICUBIC), "int32")
    rough = numbers.integers(-20, 21, smooth.shape)
    Image.fromarray(np.clip(smooth + rough, 0, 255).astype("uint8")).save(path)
    (found,) = predict.predict(classifier, [predict.Prediction(str(path))])
    if found.probabilities is None:
        raise ValueError(f"The model's own way of reading images fails: {found.error}")
    return [float(score) for score in found.probabilities]


def _write_examples(page: Path, examples: Sequence[Path]) -> list[dict[str, str]]:
    """Copies the examples that browsers can show."""
    written: list[dict[str, str]] = []
    for path in examples:
        try:
            with Image.open(path) as image:
                kind = image.format
        except (OSError, UnidentifiedImageError):
            continue
        if kind in _OF_BROWSERS:
            file = f"examples/{len(written)}.{kind.lower()}"
            (page / "examples").mkdir(exist_ok=True)
            shutil.copy(path, page / file)
            written.append({"file": file, "name": path.stem})
    return written
