"""Exports a model for serving: `OUTPUT/<version>/`, as TensorFlow Serving wants it, or for another runtime.

    python -m tools.export_saved_model --workdir=runs/digits --output=runs/digits/serving --fold
    python -m tools.export_saved_model --weights=model.keras --labels=classes.txt --output=serving --format=onnx

A SavedModel has the signatures of `tools/serving/signatures.py` (no `classify` if the model gives numbers), its class
names as an asset, warm-up requests for the server and a `model_card.md`. Every export has a certificate
(`tools/serving/certificate.py`): `check.py` in it says whether it answers as the trained model does. A version appears
whole or not at all: it is written beside and renamed.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import app, flags

import coatnet_tf
from experiments import command_line, path_flags, sizes, workdir
from experiments.data import images, views
from experiments.data.values import gives_values
from tools import model_files
from tools.serving import certificate, model_card, preset, quantisation, runtimes, served_model, signatures, warmup
from tools.serving.exported import FORMATS, import_openvino

DTYPES = ("float32", "bfloat16")
QUANTIZE = ("", "int8")
EXPORTS = (*FORMATS, preset.FORMAT)
QUANTIZED_FORMATS = ("tf_saved_model", *quantisation.NEEDS)


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to export, and how; the flags of the program.

    Args:
        output: Folder of the versions; made if it is missing.
        workdir: Folder of a finished run. Either this or `weights` is given.
        weights: A `.keras` file with a whole model.
        labels: File with one class name per line; a run brings its own.
        format: One of `EXPORTS`.
        fold: Whether to export what `coatnet_tf.fold_for_inference` makes of the model.
        image_size: Height and width of the images, as one number if they are equal; `None` for the model's. Bias tables
            are resized.
        dtype: Of the arithmetic, one of `DTYPES`; the classifier's stays float32.
        quantize: `"int8"` to compute the whole network in 8 bits in ONNX Runtime and OpenVINO, or of a SavedModel to
            round the weights of its dense layers.
        calibration_images: Files, folders and patterns of images that the ranges of a network in 8 bits are taken from;
            a run has its own.
        input_dtype: Of the images of `serving_default`, one of `signatures.INPUT_DTYPES`.
        crop: What the model sees of an encoded image, as `View.crop` has it; empty for what its run's recipe or the
            published weights of its network say.
        interpolation: How that is resized; likewise.
        preprocessing: How a model built with `include_preprocessing=False` has its images, one of
            `model_files.PREPROCESSING`.
        top_k: Number of classes of the signature `classify`; 0 is five, or all if there are fewer.
        version: Number of the version, or 0 for the next.
        overwrite: Whether to replace a version that is there.
        name: Name under which the model will be served, for the warm-up requests.
    """

    output: Path
    workdir: Path | None = None
    weights: Path | None = None
    labels: Path | None = None
    format: str = "tf_saved_model"
    fold: bool = False
    image_size: int | sizes.Size | None = None
    dtype: str = "float32"
    quantize: str = ""
    calibration_images: tuple[str, ...] = ()
    input_dtype: str = "float32"
    crop: str = ""
    interpolation: str = ""
    preprocessing: str = ""
    top_k: int = 0
    version: int = 0
    overwrite: bool = False
    name: str = "coatnet"


def export(options: ExportOptions) -> Path:
    """Exports a model as a new version.

    Args:
        options: What to export, and how.

    Returns:
        The folder of the version.

    Raises:
        FileNotFoundError: If the model or the labels are missing.
        FileExistsError: If the version is there already.
        NotADirectoryError: If the output is a file.
        PermissionError: If it cannot be written.
        ValueError: If the file holds no image classifier, options or labels do not fit it, or the export would not
            answer as the model does.
        ImportError: If KerasHub is needed and not installed.
    """
    _check(options)
    path, labels = model_files.find(options.workdir, options.weights, options.labels)
    recipe, metrics = _history(options.workdir) if options.workdir else (None, None)
    with _new_version(options) as (unfinished, version):
        model = _load(path)
        class_names = model_files.name_classes(model, path, labels)
        if options.top_k and gives_values(model):
            raise ValueError(
                f"--top_k={options.top_k} is of the signature classify, which {path} has not: it gives "
                "numbers. Leave it out."
            )
        if options.top_k > len(class_names):
            raise ValueError(f"--top_k={options.top_k} is more than the {len(class_names)} classes of {path}.")
        view = model_files.view_of(model, path, options.crop, options.interpolation)
        model, added, reference = _prepare(model, path, options)
        view = dataclasses.replace(view, size=model.input_shape[1:3])
        _write(model, unfinished, class_names, view, options, recipe)
        quantised = _quantise(unfinished, options, view, model) if options.quantize else "no"
        facts = _facts(model, options, class_names, view, version.name, added) | {"Quantised": quantised}
        model_card.write(unfinished, model.name, path, facts, recipe, metrics)
        exact = options.dtype == "float32" and not options.quantize
        certificate.write(unfinished, options.format, reference, path, exact)
    return version


def _check(options: ExportOptions) -> None:
    """Refuses what no model could make right."""
    for flag, known in (
        ("format", EXPORTS),
        ("dtype", DTYPES),
        ("quantize", QUANTIZE),
        ("input_dtype", signatures.INPUT_DTYPES),
        ("interpolation", ("", *images.INTERPOLATIONS)),
    ):
        if getattr(options, flag) not in known:
            raise ValueError(
                f"--{flag} must be one of {', '.join(filter(None, known))}; got {getattr(options, flag)!r}."
            )
    if options.dtype != "float32" and options.format != "tf_saved_model":
        raise ValueError(
            f"--dtype={options.dtype} is for --format=tf_saved_model: exported for {options.format}, such a model does "
            "not load. Export float32; OpenVINO computes it in bfloat16 itself (INFERENCE_PRECISION_HINT)."
        )
    if options.quantize and options.format not in QUANTIZED_FORMATS:
        raise ValueError(
            f"--quantize={options.quantize} is for --format={' and '.join(QUANTIZED_FORMATS)}: exported for "
            f"{options.format}, such a model fails, gives other answers or is hardly faster. Leave it out."
        )
    calibrated = bool(options.quantize) and options.format in quantisation.NEEDS
    if calibrated:
        quantisation.check_installed(options.format)
    if calibrated and not options.workdir and not options.calibration_images:
        raise ValueError(
            f"--quantize={options.quantize} for {options.format} looks at images to see which range each tensor has: "
            "give the run's --workdir, or --calibration_images=FILES, such as the model will see."
        )
    if options.calibration_images and not calibrated:
        raise ValueError(
            f"--calibration_images is for --quantize=int8 and --format={' or '.join(quantisation.NEEDS)}; leave it out."
        )
    if options.fold and options.format == preset.FORMAT:
        raise ValueError(f"--fold makes layers that KerasHub has not; leave it out with --format={preset.FORMAT}.")
    if options.format != "tf_saved_model":
        defaults = {field.name: field.default for field in dataclasses.fields(ExportOptions)}
        for flag in ("input_dtype", "top_k", "name"):
            if getattr(options, flag) != defaults[flag]:
                raise ValueError(
                    f"--{flag}={getattr(options, flag)} is of the signatures of a SavedModel, and {options.format} has "
                    "none. Leave it out."
                )
    if options.image_size is not None:
        try:
            sizes.parse(options.image_size)
        except ValueError as error:
            raise ValueError(f"--image_size: {error}") from error
    for flag in ("version", "top_k"):
        if getattr(options, flag) < 0:
            raise ValueError(f"--{flag} must be at least 0; got {getattr(options, flag)}.")


def _history(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Recipe and last metrics of a finished run."""
    return json.loads((folder / workdir.CONFIG).read_text()), workdir.result_of(workdir.read_metrics(folder))


@contextlib.contextmanager
def _new_version(options: ExportOptions) -> Iterator[tuple[Path, Path]]:
    """A folder to write in, which becomes the version if nothing fails."""
    output = options.output
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"--output={output} is a file; give a folder.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=output))
    except PermissionError as error:
        raise PermissionError(f"--output={output} cannot be written; give another folder.") from error
    versions = [int(entry.name) for entry in output.iterdir() if entry.name.isdigit()]
    version = output / str(options.version or max(versions, default=0) + 1)
    try:
        if version.exists() and not options.overwrite:
            raise FileExistsError(f"{version} exists; give another --version, or --overwrite to replace it.")
        written = unfinished / "version"
        yield written, version
        if version.exists():
            version.rename(unfinished / "replaced")
        written.rename(version)
    finally:
        shutil.rmtree(unfinished)


def _load(path: Path) -> keras.Model:
    model = model_files.load(path)
    shape, output_shape = model.input_shape, model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ValueError(f"{path} does not take images of one size, but {shape}; such are served here.")
    if not isinstance(output_shape, tuple) or len(output_shape) != 2:
        raise ValueError(f"{path} gives {output_shape}, not one score per class; export a model with its classifier.")
    return model


def _prepare(model: keras.Model, path: Path, options: ExportOptions) -> tuple[keras.Model, str, certificate.Reference]:
    """The model as the options say, what was added to make its scores probabilities, and what it must answer."""
    size = sizes.parse(options.image_size or model.input_shape[1:3])
    if size != model.input_shape[1:3]:
        model = served_model.at_size(model, path, size)
    model = model_files.with_preprocessing(model, path, options.preprocessing)
    gives_probabilities = options.format != preset.FORMAT and not gives_values(model)
    reference = certificate.refer(model, path, gives_probabilities)
    if options.format == preset.FORMAT:
        return model, "", reference
    if options.fold:
        model = coatnet_tf.fold_for_inference(model)
    if options.dtype == "bfloat16":
        # Statistics of norms would suffer; a folded model has none, and is spared the conversion of its weights.
        model = served_model.in_bfloat16(model, "bfloat16" if options.fold else "mixed_bfloat16")
    if options.quantize and options.format not in quantisation.NEEDS:
        model.quantize(options.quantize)
    if options.fold:
        model = runtimes.for_runtime(model, options.format)
    return *served_model.with_probabilities(model, path), reference


def _write(
    model: keras.Model,
    folder: Path,
    class_names: Sequence[str],
    view: views.View,
    options: ExportOptions,
    recipe: Mapping[str, Any] | None,
) -> None:
    if options.format == "tf_saved_model":
        top_k = options.top_k or min(5, len(class_names))
        signatures.write(model, folder, class_names, view, options.input_dtype, top_k)
        warmup.write(folder, options.name, model.input_shape[1:], options.input_dtype, signatures.of_files(model))
        return
    folder.mkdir()
    if options.format == preset.FORMAT:
        preset.write(model, folder, recipe)
    else:
        model(keras.Input(model.input_shape[1:]))  # ONNX's exporter wants a model that was called
        if options.format == "onnx":
            import tools.serving.onnx_operations  # noqa: F401  (here, as it needs tf2onnx)
        if options.format == "openvino":
            import_openvino()  # before Keras does, which keeps nobody's log
        model.export(str(folder / FORMATS[options.format]), format=options.format, verbose=False)
    (folder / signatures.names_file(model)).write_text("".join(f"{name}\n" for name in class_names))


def _quantise(folder: Path, options: ExportOptions, view: views.View, model: keras.Model) -> str:
    """Has the export compute in 8 bits, where Keras has not done that before; says how."""
    if options.format not in quantisation.NEEDS:
        return f"{options.quantize}, weights of dense layers"
    from tools.serving import calibration  # here, as it draws on a program that draws

    channels = model.input_shape[-1]
    if options.calibration_images:
        seen = compared = calibration.of_files(options.calibration_images, view, channels)
    else:
        assert options.workdir is not None  # as _check has seen to
        seen, compared = calibration.of_run(options.workdir, view, channels)
    answer: quantisation.Answer = "values" if gives_values(model) else "class"
    if model_files.final_activation(model) is keras.activations.sigmoid:
        answer = "classes"
    said = quantisation.quantise(folder, options.format, seen, compared, answer)
    return f"{options.quantize}; {said}"


def _facts(
    model: keras.Model, options: ExportOptions, class_names: Sequence[str], view: views.View, version: str, added: str
) -> dict[str, Any]:
    channels = model.input_shape[-1]
    served = {}
    if options.format == "tf_saved_model":
        alone = f"serving_default alone, which takes arrays: no JPEG or PNG file has {channels} channels"
        names = ", ".join(("serving_default", *signatures.of_files(model)))
        names += "; no classify, as there are no classes" if gives_values(model) else ""
        served["Signatures"] = names if signatures.takes_files(channels) else alone
    if gives_values(model):
        answers = {"Numbers": f"{', '.join(class_names)}, in the units of the table that they were learned from"}
    else:
        answers = {"Classes": model.output_shape[-1], "Probabilities": added or "as the model gives them"}
    return {
        "Version": version,
        "Format": options.format,
        "Images": f"{sizes.describe(view.size)}, {channels} channels, in [0, 255]",
        **served,
        **model_card.facts_of_view(view),
        **answers,
        "Weights, numbers": f"{model.count_params():,}",
        "Folded": "yes" if options.fold else "no",
        "Arithmetic": options.dtype,
        "Written by": f"coatnet_tf {coatnet_tf.__version__}, keras {keras.__version__}",
    }


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    values = {field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(ExportOptions)}
    for name in ("output", "workdir", "weights", "labels"):
        values[name] = Path(values[name]) if values[name] else None
    values["calibration_images"] = tuple(values["calibration_images"] or ())
    try:
        version = export(ExportOptions(**values))
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"Exported {version}")


if __name__ == "__main__":
    path_flags.define("output", None, "Folder of the versions; made if it is missing.")
    path_flags.define("workdir", None, "Folder of a finished run.")
    path_flags.define("weights", None, "A .keras file with a whole model, in place of --workdir.")
    path_flags.define("labels", None, "File with one class name per line; a run brings its own.")
    flags.DEFINE_enum("format", "tf_saved_model", EXPORTS, "For which runtime, or keras_hub for a preset.")
    flags.DEFINE_bool("fold", False, "Export the model that coatnet_tf.fold_for_inference makes.")
    sizes.define("image_size", "Size of the images, in place of the model's")
    flags.DEFINE_enum("dtype", "float32", DTYPES, "Of the arithmetic.")
    flags.DEFINE_enum("quantize", "", QUANTIZE, "int8: the whole network; of a SavedModel weights of dense layers.")
    path_flags.define_several("calibration_images", "Images, folder or pattern for --quantize=int8; a run has its own.")
    flags.DEFINE_enum("input_dtype", "float32", signatures.INPUT_DTYPES, "Of the images of serving_default.")
    flags.DEFINE_string("crop", "", f"{views.ABOUT_CROP} {views.BY_DEFAULT}")
    flags.DEFINE_enum("interpolation", "", ("", *images.INTERPOLATIONS), views.BY_DEFAULT)
    flags.DEFINE_enum("preprocessing", "", model_files.PREPROCESSING, model_files.ABOUT_PREPROCESSING)
    flags.DEFINE_integer("top_k", 0, "Number of classes of the signature classify; 0 is five, or all.")
    flags.DEFINE_integer("version", 0, "Number of the version; 0 is the next.")
    flags.DEFINE_bool("overwrite", False, "Replace a version that is there.")
    flags.DEFINE_string("name", "coatnet", "Name under which the model will be served.")
    flags.mark_flag_as_required("output")
    app.run(main)
