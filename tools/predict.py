"""Classifies images with a run, a `.keras` file or an exported model, into a table; or predicts their numbers.

    python -m tools.predict --model=runs/mine --images=photos --output=predictions.csv
    python -m tools.predict --model=model.keras --labels=classes.txt --images='photos/*.jpg' --output=predictions.csv
    python -m tools.predict --model=runs/mine/serving --images=a.jpg --images=more_photos --output=predictions.csv \
        --contact_sheet=predictions.png

Columns: `file, class_1, score_1, ..., error`, best class first, or of a model that gives numbers a column for
each, in its units; a file that cannot be read has nothing but its error.
Folders are read with all folders in them. Images come to the model's size as in evaluation and serving: by the recipe
of the run, or as the export's model card says. Exit status: 0, or 1 if no image could be read.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import csv
import dataclasses
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tqdm
from absl import app, flags, logging
from etils import epath

from experiments import logs, path_flags, report, workdir
from experiments.data import folder_files, images, views
from experiments.data.values import gives_values
from tools import model_files
from tools.check_saved_model import newest_version
from tools.explain import decode
from tools.serving import exported, model_card, served_model, signatures

DEFAULT_TOP_K = 5
# What is left out of a folder without a row of its own.
_NO_IMAGES = (
    folder_files.NO_IMAGE,
    folder_files.HIDDEN,
    folder_files.OTHER_ARRAY,
    folder_files.BESIDE_PICTURES,
)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model that is ready to classify.

    Args:
        channels: Of its images.
        view: What it sees of an image.
        class_names: Names of the classes.
        classify: uint8 images `[n, height, width, channels]` to probabilities `[n, classes]`.
        model: The Keras model, for images in [0, 255]; `None` of an export.
        gives_values: Whether `class_names` are columns of numbers, which `classify` gives in place of probabilities.
    """

    channels: int
    view: views.View
    class_names: tuple[str, ...]
    classify: Callable[[np.ndarray], np.ndarray]
    model: keras.Model | None = None
    gives_values: bool = False


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is known of one file.

    Args:
        file: Its path.
        image: uint8, as the model saw it; `None` if it could not be read.
        probabilities: `[classes]`, or numbers; `None` if it could not be read.
        error: Why not; empty if it could.
    """

    file: str
    image: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    error: str = ""


def load_classifier(
    path: Path, labels: Path | None = None, preprocessing: str = "", crop: str = "", interpolation: str = ""
) -> Classifier:
    """Loads a model of any kind.

    Args:
        path: Folder of a finished run, a `.keras` file, or the folder of an export (of one version, or of all, the
            newest of which is taken).
        labels: File with one class name per line; by default the `classes.txt` of the run, beside the file or in the
            export.
        preprocessing: How a `.keras` model that was built with `include_preprocessing=False` has its images, one of
            `model_files.PREPROCESSING`.
        crop: What it sees of an image, as `View.crop` has it; by default as the run, the export or the published
            weights of its network have it.
        interpolation: How that is resized; likewise.

    Returns:
        The classifier.

    Raises:
        FileNotFoundError: If there is no such model, or no file of labels.
        ValueError: If it is none that classifies images, or has another number of classes than there are labels.
    """
    version = version_of_export(path)
    if version is not None:
        return _load_export(version, labels, crop, interpolation)
    folder, file = (path, None) if path.is_dir() else (None, path)
    if folder is not None and not (folder / workdir.MODEL).exists():
        raise FileNotFoundError(
            f"{folder} is neither a finished run, with its {workdir.MODEL}, nor an export, with its "
            f"{' or '.join(exported.FORMATS.values())}."
        )
    beside = path if folder is not None else path.parent
    names_file = beside / workdir.outputs_file(epath.Path(beside))
    if labels is None and file is not None and names_file.is_file():
        labels = names_file
    file, names = model_files.find(folder, file, labels)
    model = model_files.load(file)
    if not isinstance(model.input_shape, tuple) or len(model.input_shape) != 4 or None in model.input_shape[1:]:
        raise ValueError(f"{file} takes {model.input_shape}, not images of one size.")
    if not isinstance(model.output_shape, tuple) or len(model.output_shape) != 2:
        raise ValueError(f"{file} gives {model.output_shape}, not one score per class.")
    class_names = model_files.name_classes(model, file, names)
    view = model_files.view_of(model, file, crop, interpolation)
    model = model_files.with_preprocessing(model, file, preprocessing)
    classifier, _ = served_model.with_probabilities(model, file)
    return Classifier(
        model.input_shape[-1],
        view,
        tuple(class_names),
        lambda images: classifier.predict_on_batch(images.astype("float32")),
        model,
        gives_values(model),
    )


def version_of_export(path: Path) -> Path | None:
    """The folder of an export; `None` if it is something else."""
    if not path.is_dir() or (path / workdir.MODEL).exists():
        return None
    if any(entry.name.isdigit() and entry.is_dir() for entry in path.iterdir()):
        path = newest_version(path)
    return path if any((path / file).is_file() for file in exported.FORMATS.values()) else None


def _load_export(version: Path, labels: Path | None, crop: str, interpolation: str) -> Classifier:
    model = exported.load_export(version)
    classes = model.classify(np.zeros((1, *model.image_shape), model.dtype)).shape[-1]
    own = signatures.names_file_of(version)
    if labels is None:
        labels = own
    elif not labels.is_file():
        raise FileNotFoundError(f"There is no file {labels}.")
    names = [str(index) for index in range(classes)] if labels is None else model_files.read_labels(labels)
    if len(names) != classes:
        raise ValueError(f"{version} has {classes} classes and there are {len(names)} labels; give one for each.")
    size = model.image_shape[:2]
    view = model_card.view_of(version, size) or model_files.usual_view(version, size, crop)
    view = model_files.changed_view(view, crop, interpolation)
    return Classifier(
        model.image_shape[-1],
        view,
        tuple(names),
        lambda images: model.classify(images.astype(model.dtype)),
        gives_values=own is not None and own.name == signatures.VALUES_FILE,
    )


def find_files(images: Sequence[str]) -> list[Prediction]:
    """Lists files to classify, each once; those that cannot be read with their error.

    Args:
        images: Files, folders and patterns as of the shell.

    Returns:
        One entry for each file, without probabilities.
    """
    found: dict[str, Prediction] = {}  # by where a file is, however that is written
    for name in images:
        paths = [name]
        if not Path(name).exists() and glob.has_magic(name):
            paths = sorted(glob.glob(name, recursive=True)) or [name]
        for path in paths:
            for entry in _files_of(path):
                found.setdefault(os.path.abspath(entry.file), entry)
    return list(found.values())


def _files_of(path: str) -> list[Prediction]:
    if not Path(path).is_dir():
        missing = f"left out: {folder_files.NOWHERE}" if Path(path).is_symlink() else "there is no such file"
        return [Prediction(path, error="" if Path(path).is_file() else missing)]
    inside = folder_files.find_images(path)
    found, arrays = (
        [image for image in inside.images if folder_files.is_array(image) == of_arrays] for of_arrays in (False, True)
    )
    left_out = [entry for entry in inside.left_out if entry.reason in _NO_IMAGES]
    if found:  # of which the arrays may be masks or features, as in training
        left_out += [folder_files.LeftOut(f"{path}/{image}", folder_files.BESIDE_PICTURES) for image in arrays]
    if left_out:
        logging.info("%s: left out without a row: %s.", path, folder_files.count_by_reason(left_out))
    rows = [Prediction(f"{path}/{image}") for image in found or arrays]
    rows += [Prediction(e.path, error=f"left out: {e.reason}") for e in inside.left_out if e.reason not in _NO_IMAGES]
    return sorted(rows, key=lambda row: row.file)


def predict(classifier: Classifier, files: Sequence[Prediction], batch_size: int = 32) -> Iterator[Prediction]:
    """Classifies files in their order, a batch in memory at a time.

    Args:
        classifier: From `load_classifier`.
        files: From `find_files`.
        batch_size: Images at once.

    Yields:
        One entry for each file.
    """
    for first in range(0, len(files), batch_size):
        batch = [_read(file, classifier) for file in files[first : first + batch_size]]
        images = [entry.image for entry in batch if entry.image is not None]
        answers = iter(classifier.classify(np.stack(images)) if images else ())
        for entry in batch:
            yield entry if entry.image is None else dataclasses.replace(entry, probabilities=next(answers))


def _read(file: Prediction, classifier: Classifier) -> Prediction:
    if file.error:
        return file
    try:
        encoded = Path(file.file).read_bytes()
        return dataclasses.replace(file, image=decode(encoded, "it", classifier.channels, classifier.view))
    except (OSError, ValueError, tf.errors.OpError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return dataclasses.replace(file, error=reason.splitlines()[0])


def write(
    predictions: Iterator[Prediction],
    class_names: Sequence[str],
    top_k: int | None,
    output: Path,
    contact_sheet: Path | None,
) -> tuple[int, int]:
    """Writes the table, which appears whole or not at all, and the picture.

    Args:
        predictions: From `predict`.
        class_names: Names of the classes, or of numbers.
        top_k: Number of classes of each row; `None` for numbers.
        output: The table; its folder is made if it is missing.
        contact_sheet: PNG with the first images; `None` for no picture.

    Returns:
        Numbers of files that could be read, and that could not.
    """
    shown: list[Prediction] = []
    count = errors = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.parent / f".unfinished-{output.name}"
    try:
        with unfinished.open("w", newline="", encoding="utf-8", errors="replace") as file:
            table = csv.writer(file)
            columns = list(class_names)
            if top_k is not None:
                columns = [f"{what}_{rank}" for rank in range(1, top_k + 1) for what in ("class", "score")]
            table.writerow(["file", *columns, "error"])
            for entry in predictions:
                if entry.probabilities is None:
                    errors += 1
                    table.writerow([entry.file, *[""] * len(columns), entry.error])
                    continue
                count += 1
                table.writerow([entry.file, *_cells(entry.probabilities, class_names, top_k), ""])
                if len(shown) < report.CONTACT_SHEET:
                    shown.append(entry)
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    if contact_sheet is not None and shown:
        contact_sheet.parent.mkdir(parents=True, exist_ok=True)
        images, scores = (np.stack([getattr(e, field) for e in shown]) for field in ("image", "probabilities"))
        draw = report.plot_values if top_k is None else report.plot_predictions
        draw(images, None, scores, class_names, epath.Path(contact_sheet))
    return count, errors


def _cells(outputs: np.ndarray, class_names: Sequence[str], top_k: int | None) -> list[str]:
    """The middle of a row: the best classes with their scores, or numbers."""
    if top_k is None:
        return [f"{number:.9g}" for number in outputs]  # all of float32
    best = np.argsort(-outputs, kind="stable")[:top_k]
    return [cell for i in best for cell in (class_names[i], f"{outputs[i]:.7g}")]


def main(argv: list[str]) -> None:
    logs.show_ours()
    values = flags.FLAGS
    output, sheet, labels = (Path(p) if p else None for p in (values.output, values.contact_sheet, values.labels))
    try:
        # Behind a pattern without quotes the shell puts further files there.
        names = [*values.images, *map(path_flags.expand, argv[1:])]
        for path in filter(None, (output, sheet)):
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder; give the name of a file to write.")
        files = find_files(names)
        if not any(not file.error for file in files):
            reasons = {file.error for file in files} or {"no image in it"}
            raise FileNotFoundError(f"No image to read in {', '.join(names[:5])}: {', '.join(sorted(reasons)[:5])}.")
        read = [Path(values.model), labels, *(Path(file.file) for file in files)]
        path_flags.refuse_overwriting({"output": output, "contact_sheet": sheet}, read)
        classifier = load_classifier(
            Path(values.model), labels, values.preprocessing, values.crop, values.interpolation
        )
        top_k = values.top_k or min(DEFAULT_TOP_K, len(classifier.class_names))
        if classifier.gives_values and values.top_k:
            raise ValueError(f"--top_k={top_k} is of classes, and {values.model} gives numbers. Leave it out.")
        if top_k > len(classifier.class_names):
            raise ValueError(f"--top_k={top_k} is more than the {len(classifier.class_names)} classes of the model.")
        predictions = tqdm.tqdm(predict(classifier, files, values.batch_size), total=len(files), unit=" images")
        assert output is not None
        top = None if classifier.gives_values else top_k
        count, errors = write(iter(predictions), classifier.class_names, top, output, sheet)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    done = "predicted" if classifier.gives_values else "classified"
    print(f"{count} images {done}{f', {errors} could not be read (column error)' if errors else ''}: {output}")
    if not count:
        raise SystemExit(1)


if __name__ == "__main__":
    path_flags.define("model", None, "Folder of a finished run, .keras file, or folder of an export.")
    path_flags.define_several("images", "File, folder, or pattern in quotes; can be given several times.")
    path_flags.define("output", None, "CSV file to write.")
    path_flags.define("labels", None, "File with one class name per line; runs and exports bring their own.")
    path_flags.define("contact_sheet", None, "PNG file to write, with the first images and their classes.")
    flags.DEFINE_integer("top_k", None, f"Number of classes; {DEFAULT_TOP_K} by default, or all.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "Images at once.", lower_bound=1)
    flags.DEFINE_string("crop", "", f"{views.ABOUT_CROP} {views.BY_DEFAULT}")
    flags.DEFINE_enum("interpolation", "", ("", *images.INTERPOLATIONS), views.BY_DEFAULT)
    flags.DEFINE_enum("preprocessing", "", model_files.PREPROCESSING, model_files.ABOUT_PREPROCESSING)
    flags.mark_flags_as_required(["model", "images", "output"])
    app.run(main)
