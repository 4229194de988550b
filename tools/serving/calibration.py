"""Images that an export is calibrated on: of a run, its own; else files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from experiments import workdir
from experiments.data import readers, sources, views
from tools.explain import decode
from tools.predict import find_files

CALIBRATION, COMPARED = 300, 1000
_FEWEST = 8


def of_run(folder: Path, view: views.View, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images of a run to calibrate on, and held-out ones to compare answers on.

    Args:
        folder: Of the finished run.
        view: What the model sees of an image.
        channels: Of its images.

    Returns:
        At most `CALIBRATION` and `COMPARED` images, uint8 `[n, height, width, channels]`, spread over their splits.

    Raises:
        ValueError: If none can be read, or they have other channels.
    """
    source = sources.prepare(workdir.read_recipe(folder).dataset)
    if source.channels != channels:
        raise ValueError(f"The images of {folder} have {source.channels} channels, and the model takes {channels}.")
    train, held_out = (
        _decoded(
            ((example["name"].numpy().decode(), example["image"].numpy()) for example in readers.spread(reader, most)),
            view,
            channels,
        )
        for reader, most in ((source.train, CALIBRATION), (source.eval, COMPARED))
    )
    if not len(train) or not len(held_out):
        raise ValueError(f"No image of {source.name} can be read, on which int8 is calibrated.")
    return train, held_out


def of_files(patterns: Sequence[str], view: views.View, channels: int) -> np.ndarray:
    """Images of files, to calibrate on and to compare answers on.

    Args:
        patterns: Files, folders and patterns as of the shell.
        view: What the model sees of an image.
        channels: Of its images.

    Returns:
        At most `COMPARED` images, uint8 `[n, height, width, channels]`.

    Raises:
        ValueError: If fewer than eight can be read.
    """
    entries = find_files(patterns)
    for entry in entries:
        if entry.error:
            logging.warning("Not calibrated on %s: %s", entry.file, entry.error)
    files = [entry.file for entry in entries if not entry.error]
    files = [files[place] for place in readers.spread_places(len(files), COMPARED)]
    found = _decoded(((file, Path(file).read_bytes()) for file in files), view, channels)
    if len(found) < _FEWEST:
        raise ValueError(
            f"--calibration_images={','.join(patterns)}: {len(found)} images can be read, and int8 wants {_FEWEST} at "
            "least, better some hundreds, such as the model will see."
        )
    return found


def _decoded(files: Iterable[tuple[str, bytes]], view: views.View, channels: int) -> np.ndarray:
    """Those of the files that can be read, as the model sees them; a line of the log for each other."""
    found = [np.empty((0, *view.size, channels), "uint8")]
    for name, encoded in files:
        try:
            found.append(decode(encoded, name, channels, view)[None])
        except ValueError as error:
            logging.warning("Not calibrated on an image: %s", error)
    return np.concatenate(found)
