"""Exports the model of a finished run as TensorFlow Serving wants it: `OUTPUT/<version>/`.

    python -m tools.export_saved_model --workdir=runs/digits --output=runs/digits/serving

The signature `serving_default` takes float32 images in [0, 255], any number of them, and returns
probabilities. A version appears whole or not at all: it is written beside and renamed.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import keras
from absl import app, flags

import coatnet_tf  # noqa: F401  (registers the layers of model.keras)
from experiments import workdir


def export(folder: Path, output: Path) -> Path:
    """Exports a run's model as the next version.

    Args:
        folder: Folder of the run.
        output: Folder of the versions.

    Returns:
        The folder of the new version.

    Raises:
        FileNotFoundError: If the run has no model yet.
        NotADirectoryError: If the output is a file.
    """
    path = folder / workdir.MODEL
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {workdir.MODEL}, which training writes at its end; let the run finish first (the "
            "command that began it resumes it)."
        )
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"--output={output} is a file; give a folder.")
    model = keras.models.load_model(path, compile=False)
    output.mkdir(parents=True, exist_ok=True)
    versions = [int(entry.name) for entry in output.iterdir() if entry.name.isdigit()]
    version = output / str(max(versions, default=0) + 1)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=output))
    try:
        model.export(unfinished / "model", format="tf_saved_model", verbose=False)
        (unfinished / "model").rename(version)
    finally:
        shutil.rmtree(unfinished)
    return version


def main(argv: list[str]) -> None:
    del argv
    try:
        version = export(Path(flags.FLAGS.workdir), Path(flags.FLAGS.output))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(f"Exported {version}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run, with its model.keras.")
    flags.DEFINE_string("output", None, "Folder of the versions; made if it is missing.")
    flags.mark_flags_as_required(["workdir", "output"])
    app.run(main)
