"""The folder of a run: which run it belongs to, where its checkpoints are, and its history of metrics."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from experiments.data import folder_files

if TYPE_CHECKING:  # export and serving do without
    import ml_collections

    from experiments.data.sources import Source

CONFIG = "config.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
MODEL = "model.keras"
CLASSES = "classes.txt"  # their names
VALUES = "values.txt"  # in the place of CLASSES, where a model gives numbers: the names of their columns
DATA = "data.json"
PROBES = "probes.npz"  # the first held-out images as the model sees them, for the certificates of exports
CERTIFIED = 4  # of them
BACKBONE = "backbone.sha256"  # of the weights whose features a head is trained on
DAMAGED = "damaged.txt"  # training images that could not be decoded
DAMAGED_IN_EVALUATION = "damaged_in_evaluation.txt"
LEFT_OUT = "left_out.txt"  # files of a folder of images that are not read, with the reason
REPORT = "report.md"
TRIES = "tries.md"  # beside the runs that `tries.run` chooses from


# Fields that may differ when a run goes on: they change where data lies and how often the run looks up, not its result.
FREE_FIELDS = (
    "config.dataset.data_dir",
    "config.dataset.manual_dir",
    "config.dataset.max_damaged_share",
    "config.steps_per_call",
    "config.checkpoint_steps",
    "config.max_skipped_steps",
)


def find_checkpoints(workdir: epath.Path) -> list[tuple[int, epath.Path]]:
    """Steps and places of the whole checkpoints, newest first: of TensorFlow (`ckpt-STEP`) and of JAX (`step_STEP`)."""
    of_tensorflow = (path.with_suffix("") for path in (workdir / CHECKPOINTS).glob("ckpt-*.index"))
    of_jax = (path.parent for path in (workdir / CHECKPOINTS).glob("step_*/commit_success.txt"))
    of_jax = (path for path in of_jax if path.name.removeprefix("step_").isdigit())
    return sorted(((int(re.findall(r"\d+", path.name)[-1]), path) for path in (*of_tensorflow, *of_jax)), reverse=True)


def has_checkpoints(workdir: epath.Path) -> bool:
    """Whether the folder holds a checkpoint to resume from."""
    return bool(find_checkpoints(workdir))


def check(workdir: epath.Path, config: ml_collections.ConfigDict) -> None:
    """Refuses a folder that holds another run's checkpoints or metrics.

    Args:
        workdir: Folder of the run; it need not exist.
        config: The recipe with all overrides.

    Raises:
        ValueError: If the folder holds another run, or is none.
    """
    if found := re.search(r"[][*?]", str(workdir)):
        raise ValueError(
            f"--workdir={workdir} has a {found[0]}, which TensorFlow takes for a pattern where it looks for "
            "checkpoints; choose another."
        )
    _refuse_files(workdir)
    if not any((has_checkpoints(workdir), (workdir / METRICS).exists(), (workdir / MODEL).exists())):
        return  # a run that failed before its first checkpoint has no claim
    if not (workdir / CONFIG).is_file():
        raise ValueError(f"{workdir} holds checkpoints, metrics or a model but no {CONFIG}: choose another --workdir.")
    # One row comes before the first checkpoint.
    if not has_checkpoints(workdir) and ((workdir / MODEL).exists() or len(read_metrics(workdir)) > 1):
        raise ValueError(
            f"{workdir} holds results of a run but none of its checkpoints, so that it cannot go on and would begin "
            "anew over them: choose another --workdir."
        )
    different = sorted(_different_fields(json.loads(config.to_json()), _read_json(workdir / CONFIG)))
    if different:
        raise ValueError(
            f"{workdir} holds another run, whose config differs in {', '.join(different)}: choose another "
            "--workdir, or repeat that run's command to resume it."
        )


def _refuse_files(workdir: epath.Path) -> None:
    """Refuses a folder that cannot be made, as there is a file."""
    for place in (workdir, *workdir.parents):
        if place.exists():
            if not place.is_dir():
                raise ValueError(f"--workdir={workdir}: {place} is a file; give a folder.")
            return


def _describe(source: Source) -> dict[str, Any]:
    return {
        "train": source.train.count,
        "eval": source.eval.count,
        "classes": list(source.class_names),
        "files": {split: _digest(getattr(source, split).contents()) for split in ("train", "eval")},
        **_describe_values(source),
    }


def _describe_values(source: Source) -> dict[str, Any]:
    if source.values is None:
        return {}
    return {"values": {"mean": list(source.values.means), "deviation": list(source.values.deviations)}}


def outputs_file(folder: epath.Path) -> str:
    """Name of the file with the names of what the model of a run gives: `VALUES` if it is there, else `CLASSES`."""
    return VALUES if (folder / VALUES).exists() else CLASSES


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_lines(path: Any) -> list[str]:
    """The lines of a file that was written here; other marks that Unicode has for an end of line are part of a name."""
    return path.read_text().removesuffix("\n").split("\n")


def check_data(workdir: epath.Path, source: Source, remedy: str = "begin anew in another --workdir") -> None:
    """Refuses to go on with other data than a run began with.

    Args:
        workdir: Folder of the run.
        source: The dataset.
        remedy: What can be done in place of putting the data back.

    Raises:
        ValueError: If the numbers of images, the classes or the files have changed.
    """
    before, now = json.loads((workdir / DATA).read_text()), _describe(source)
    if before != now:
        only_files = before | {"files": now["files"]} == now
        raise ValueError(
            f"{source.name} has changed since the run in {workdir} began: then {before['train']} training and "
            f"{before['eval']} held-out images of {len(before['classes'])} classes, now {now['train']}, {now['eval']} "
            f"and {len(now['classes'])}{', in other files' if only_files else ''}. Put it back, or {remedy}."
        )


def check_backbone(workdir: epath.Path, digest: str) -> None:
    """Refuses to go on with a head on other features than the run began with.

    Args:
        workdir: Folder of the run.
        digest: Of the weights that give the features.

    Raises:
        ValueError: If the weights have changed.
    """
    if (workdir / BACKBONE).read_text().strip() != digest:
        raise ValueError(
            f"The weights of --init_from have changed since the run in {workdir} began, and its head was trained on "
            "features of the former: put them back, or begin anew in another --workdir."
        )


def claim(workdir: epath.Path, config: ml_collections.ConfigDict, source: Source) -> None:
    """Writes the config of the run and what its data is into its folder, which is made if it is missing."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / DATA, json.dumps(_describe(source)) + "\n")
    if source.left_out:
        write_whole(workdir / LEFT_OUT, folder_files.describe(source.left_out))
    write_whole(workdir / CONFIG, json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + "\n")


def write_whole(path: epath.Path, text: str) -> None:
    """Writes a file that readers see whole or not at all."""
    unfinished = path.parent / f".unfinished-{path.name}"
    unfinished.write_text(text)
    unfinished.replace(path)


def _different_fields(mine: Any, theirs: Any, prefix: str = "config") -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return [
            field
            for key in mine.keys() | theirs.keys()
            for field in _different_fields(mine.get(key), theirs.get(key), f"{prefix}.{key}")
        ]
    return [] if mine == theirs or prefix in FREE_FIELDS else [f"{prefix} ({theirs!r} there, {mine!r} here)"]


def read_recipe(folder: epath.Path, *names: str) -> ml_collections.ConfigDict:
    """The recipe of a finished run.

    Args:
        folder: Folder of the run.
        *names: Other files that are needed of it.

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: If there is no recipe, or another file is missing.
        ValueError: If the recipe is damaged.
    """
    import ml_collections

    for name in (CONFIG, *names):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder} holds no {name}; let the run finish first, or copy its folder with all files."
            )
    return ml_collections.ConfigDict(_read_json(folder / CONFIG))


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); copy the folder of the run again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no recipe of a run; give the folder of a run, or another one for a new run.")
    return found


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, oldest first; none if there is no such file.

    A last line without an end was cut off when the run was killed, and is left out.
    """
    path = workdir / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def result_of(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of the weights that a run leaves: the last, or with early stopping the best.

    Raises:
        ValueError: If there is none.
    """
    if not rows:
        raise ValueError(f"There is no line in the run's {METRICS}; let the run finish, or copy its folder again.")
    step = rows[-1].get("best_step", rows[-1]["step"])
    return next(row for row in rows if row["step"] == step)


def drop_metrics_after(workdir: epath.Path, step: int) -> None:
    """Removes rows that a resumed run will write again."""
    if (workdir / METRICS).exists():
        rows = [row for row in read_metrics(workdir) if row["step"] <= step]
        write_whole(workdir / METRICS, "".join(json.dumps(row) + "\n" for row in rows))


def append_metrics(workdir: epath.Path, row: dict[str, Any]) -> None:
    """Adds a row to `metrics.jsonl`."""
    with (workdir / METRICS).open("a") as file:
        file.write(json.dumps(row) + "\n")


def model_in(path: str) -> epath.Path:
    """The model of a run whose folder is given; any other path as it is."""
    found = epath.Path(path)
    return found / MODEL if found.is_dir() else found


def refuse_damaged_model(path: os.PathLike[str]) -> None:
    """Refuses a file on this machine that is no `.keras` file, as one of which a part is missing.

    Raises:
        ValueError: If it is none.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is damaged, or not all of it was copied: it is no .keras file.")


@contextlib.contextmanager
def on_this_machine(path: epath.Path) -> Iterator[epath.Path]:
    """The file itself, or a copy of one in a bucket: Keras and h5py read local files only."""
    if "://" not in str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield path.copy(epath.Path(folder) / path.name)
