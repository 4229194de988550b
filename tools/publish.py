r"""Shares the model of a finished run on Hugging Face's Hub, with a model card.

    python -m experiments.evaluate --workdir=runs/mine
    python -m tools.publish --run=runs/mine --to=hf://USER/NAME --licence=apache-2.0
    python -m tools.publish --run=runs/mine --to=hf://USER/NAME --licence=apache-2.0 --nodry_run

The second writes `RUN/published` and says what would be uploaded; the third uploads it too, with the token that
`hf auth login` stored. `coatnet_tf.from_pretrained("hf://USER/NAME")` builds the model again; before the upload,
`from_pretrained("hf://USER/NAME", path="RUN/published")` does. The folder holds `model.safetensors`, `config.json`,
`model.keras` and `README.md`, the card: what was measured with its intervals, what it was trained on, and the recipe,
in which folders of this machine are named without where they lie. `check.py` says whether what was downloaded answers
as the trained model does, by images that are nobody's.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
from absl import app, flags
from etils import epath

import coatnet_tf
from coatnet_tf.pretrained import CATALOG, published
from coatnet_tf.pretrained.differences import find_differences
from coatnet_tf.weights.keras_file import enumerate_names
from experiments import command_line, path_flags, sizes, workdir
from experiments.data import views
from experiments.model_config import make_model_config
from experiments.report import cell
from tools import model_files
from tools.serving import certificate, model_card

README = "README.md"
FILES = (README, published.CONFIG, published.WEIGHTS, workdir.MODEL, *certificate.FILES)
EVALUATIONS = {"evaluation": "held-out images", "test_evaluation": "test images"}  # folders that programs here leave


_OF_SEVERAL = "mean_average_precision"


@dataclasses.dataclass(frozen=True)
class PublishOptions:
    """What to share, and how.

    Args:
        run: Folder of a finished and evaluated run.
        to: Where to, `hf://USER/NAME`.
        licence: Of the weights, as the Hub names licences: `apache-2.0`, `cc-by-4.0`, ..., `other`.
        output: Folder to write; `RUN/published` by default.
    """

    run: Path
    to: str
    licence: str
    output: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder to write."""
        return self.output or self.run / "published"


def write(options: PublishOptions) -> Path:
    """Writes what the Hub is to hold; the folder appears whole or not at all.

    Args:
        options: What to share, and how.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If the run is not finished, or not evaluated.
        FileExistsError: If the folder holds something else.
        ValueError: If an option is none, or the model is not that of the recipe.
        ImportError: If safetensors or huggingface_hub is not installed.
    """
    published.repository_of(options.to)
    if not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", options.licence):
        raise ValueError(f"--licence is a name of the Hub's, such as apache-2.0 or other; got {options.licence!r}.")
    run, folder = options.run, options.folder
    model_files.refuse_run_on_values(run)
    recipe = workdir.read_recipe(epath.Path(run), workdir.MODEL, workdir.CLASSES, workdir.DATA)
    measured = _read_evaluations(run, recipe.dataset.eval_split)
    if folder.exists() and not (folder.is_dir() and {entry.name for entry in folder.iterdir()} <= set(FILES)):
        raise FileExistsError(f"{folder} holds other files than {', '.join(FILES)}; give another --output.")

    model = model_files.load(run / workdir.MODEL)
    config = coatnet_tf.get_config(make_model_config(recipe.model), drop_path_rate=0.0, dropout=0.0)
    if differences := find_differences(model, config):
        raise ValueError(
            f"{run / workdir.MODEL} is not the model of the recipe in {run}: {enumerate_names(differences, '; ')}."
        )
    class_names = model_files.name_classes(model, run, workdir.read_lines(run / workdir.CLASSES))
    view = model_files.view_of(model, run / workdir.MODEL)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        seen = {"crop": view.crop, "interpolation": view.interpolation}
        published.write(unfinished, model, config, class_names, seen, {"written_by": _versions()})
        shutil.copyfile(run / workdir.MODEL, unfinished / workdir.MODEL)
        card = _describe(options, model, config, class_names, view, recipe.to_dict(), measured)
        (unfinished / README).write_text(card, encoding="utf-8")
        path = run / workdir.MODEL
        reference = certificate.refer(model, path, gives_probabilities=False, of_run=False)
        certificate.write(unfinished, "safetensors", reference, path, leave_out=[README])
        unfinished.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _read_evaluations(run: Path, held_out: str) -> dict[str, Mapping[str, Any]]:
    """What was measured of a run, whose held-out split has this name."""
    files = {name: run / name / "evaluation.json" for name in EVALUATIONS}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    again = f"python -m experiments.evaluate --workdir={run}"
    if not found:
        raise FileNotFoundError(f"{run} was not evaluated, and the card says what was measured: {again}")
    model = model_card.sha256(run / workdir.MODEL)
    for name, measured in found.items():
        if measured.get("model") != model:
            raise ValueError(f"{run / name} is of another {workdir.MODEL} than the one that is there: {again}")
        if measured["trained_on"] or (name == "evaluation" and measured["split"] != held_out):
            raise ValueError(
                f"{run / name} is of the split {measured['split']} of {measured['data']}, and not of images that were "
                f"held out: {again}"
            )
    return found


def _versions() -> str:
    return f"coatnet_tf {coatnet_tf.__version__}, keras {keras.__version__}"


def _describe(
    options: PublishOptions,
    model: keras.Model,
    config: coatnet_tf.CoAtNetConfig,
    class_names: list[str],
    view: views.View,
    recipe: dict[str, Any],
    measured: Mapping[str, Mapping[str, Any]],
) -> str:
    """The text of the card."""
    from huggingface_hub import EvalResult, ModelCardData

    recipe = _without_places(recipe)
    start, dataset = recipe["init_from"], recipe["dataset"]["name"].removeprefix("folder:").removeprefix("tfds:")
    name = options.to.rpartition("/")[2]
    metric, value = ("accuracy", "top1") if "top1" in next(iter(measured.values())) else (_OF_SEVERAL,) * 2
    results = [
        EvalResult("image-classification", dataset, f"{dataset}, {EVALUATIONS[where]}", metric, found[value])
        for where, found in measured.items()
    ]
    data = ModelCardData(
        library_name="coatnet_tf",
        license=options.licence,
        pipeline_tag="image-classification",
        tags=["coatnet", "keras", "image-classification"],
        base_model=start if start in CATALOG and start.startswith("timm/") else None,
        model_name=name,
        eval_results=results,
    )
    facts = {
        "Network": f"{config.name}, {model.count_params():,} weights",
        "Images": f"{sizes.describe(view.size)}, {model.input_shape[-1]} channels, in [0, 255]",
        **model_card.facts_of_view(view),
        "Classes": f"{len(class_names)}: {enumerate_names([cell(name) for name in class_names])}",
        "Weights began from": start or "random numbers",
        "Licence": options.licence,
        f"`{workdir.MODEL}`": f"SHA-256 `{model_card.sha256(options.run / workdir.MODEL)}`",
        "Written by": _versions(),
    }
    lines = ["---", data.to_yaml(), "---", f"# {name}", ""]
    lines += ["A CoAtNet ([arXiv:2106.04803](https://arxiv.org/abs/2106.04803)) in Keras, by coatnet_tf.", ""]
    lines += model_card.table(facts)
    lines += ["", "## Measured", "", *_table_of(measured)]
    split = json.loads((options.run / workdir.DATA).read_text())
    lines += ["", "## Trained on", "", *model_card.table(_facts_of_data(recipe["dataset"]["name"], split))]
    lines += ["", "## Use", "", "```python", *_example(options.to, model, view), "```"]
    lines += model_card.section_of_recipe(recipe)
    return "\n".join(lines) + "\n"


def _table_of(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was measured, as Markdown."""
    lines = []
    for where, found in measured.items():
        chose = " (they chose the weights: optimistic)" if found["chose_the_weights"] else ""
        cells = [f"{EVALUATIONS[where]}{chose}", f"{found['images']:,}"]
        if "top1" in found:
            low, high = found["top1_interval"]
            cells += [f"{found['top1']:.2%}", f"{low:.2%} to {high:.2%}", f"{found['top5']:.2%}"]
            cells += [f"{found['loss']:.4f}", f"{found['calibration_error']:.4f}"]
            head = "| | images | top-1 | 95 % interval | top-5 | loss | calibration error |"
        else:  # of several classes an image
            cells += [f"{found[_OF_SEVERAL]:.2%}", f"{found['loss']:.4f}"]
            head = "| | images | mean average precision | loss |"
        lines.append(f"| {' | '.join(cells)} |")
    return [head, "| --- |" + " ---: |" * (head.count("|") - 2), *lines]


def _facts_of_data(name: str, split: Mapping[str, Any]) -> dict[str, str]:
    facts = {"Dataset": cell(name), "Images to train on": f"{split['train']:,}", "Held out": f"{split['eval']:,}"}
    for part, digest in split["files"].items():
        facts[f"Files, {part}"] = f"SHA-256 of their list `{digest}`"
    return facts


def _example(to: str, model: keras.Model, view: views.View) -> list[str]:
    height, width = view.size
    modes = {1: "grayscale", 3: "rgb", 4: "rgba"}
    loaded = [f"image = np.zeros(({height}, {width}, {model.input_shape[-1]}))  # in [0, 255]"]
    if (channels := model.input_shape[-1]) in modes:
        arguments = f'"{modes[channels]}", ({height}, {width}), "{view.interpolation}"'
        cut = "" if view.crop == views.WHOLE else f"  # the model was evaluated on {view.describe()}"
        loaded = [
            f'image = keras.utils.load_img("photo.jpg", {arguments}){cut}',
            "image = keras.utils.img_to_array(image)",
        ]
    return [
        "import json",
        "",
        "import keras",
        *(() if channels in modes else ("import numpy as np",)),
        "from huggingface_hub import hf_hub_download",
        "",
        "import coatnet_tf",
        "",
        f'model = coatnet_tf.from_pretrained("{to}")',
        f'config = json.load(open(hf_hub_download("{published.repository_of(to)}", "config.json")))',
        *loaded,
        'for name, score in zip(config["class_names"], model.predict(image[None])[0]):',
        '    print(f"{name}: {score:.2%}")',
    ]


def _without_places(value: Any) -> Any:
    """A recipe whose paths are names alone: where they lie on this machine is nobody's business."""
    if isinstance(value, dict):
        return {key: _without_places(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(part) for part in value]
    if isinstance(value, str) and value not in CATALOG and "/" in value and not value.startswith("tfds:"):
        prefix = "folder:" if value.startswith("folder:") else ""
        return prefix + value.rstrip("/").rpartition("/")[2]
    return value


def upload(folder: Path, to: str, private: bool = False) -> str:
    """Uploads a folder as a new commit of a repository, which is made if it is missing.

    Args:
        folder: As `write` leaves it.
        to: `hf://USER/NAME`.
        private: Whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        OSError: If it cannot be uploaded, such as without a token.
    """
    import huggingface_hub

    repository = published.repository_of(to)
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        files = [huggingface_hub.CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())]
        commit = api.create_commit(repository, files, commit_message=f"coatnet_tf {coatnet_tf.__version__}")
    except Exception as error:  # of several libraries, by the version of huggingface_hub
        raise OSError(
            f"{folder} could not be uploaded to {to} ({type(error).__name__}: {str(error).splitlines()[0]}). "
            "Is the name yours, and the token of `hf auth login` one that may write?"
        ) from error
    return commit.commit_url


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    values = flags.FLAGS
    output = Path(values.output) if values.output else None
    try:
        folder = write(PublishOptions(Path(values.run), values.to, values.licence, output))
        for file in sorted(folder.iterdir()):
            print(f"{file.stat().st_size:>14,} bytes  {file}")
        if values.dry_run:
            print(f"Nothing was uploaded. --nodry_run uploads these files to {values.to}.")
        else:
            print(f"Uploaded: {upload(folder, values.to, values.private)}")
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    path_flags.define("run", None, "Folder of a finished run, which experiments.evaluate has evaluated.")
    flags.DEFINE_string("to", None, "Where to: hf://USER/NAME.")
    flags.DEFINE_string("licence", None, "Of the weights, as the Hub names it: apache-2.0, cc-by-4.0, ..., other.")
    path_flags.define("output", None, "Folder to write; RUN/published by default.")
    flags.DEFINE_bool("dry_run", True, "Write the folder and upload nothing.")
    flags.DEFINE_bool("private", False, "Whether a new repository on the Hub is private.")
    flags.mark_flags_as_required(["run", "to", "licence"])
    app.run(main)
