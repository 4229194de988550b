r"""Asks an exported SavedModel from many clients at once, in the runtime that TensorFlow Serving is made of.

    python -m tools.load_test --saved_model=runs/digits/serving
    python -m tools.load_test --saved_model=runs/digits/serving --images='photos/*.jpg' --signatures=classify \
        --clients=1,8,32 --requests=2000 --swap

prints a table: requests per second, latency, memory; requests without an answer; and wrong answers, such as another
client's: each is compared with the one that its request gets alone. Clients are threads of the program of
`tools/serving/native/`, which is built with g++ the first time and runs without Python; each asks for one image at a
time. Half of the rows have requests share batches, as `batching_parameters.txt` says; the network and the server's gRPC
are not in them. Exit status: 0, or 1 after errors or wrong answers.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import glob
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags
from tensorflow_serving.apis import predict_pb2

from experiments import command_line, path_flags
from tools import model_files
from tools.check_saved_model import newest_version
from tools.explain import decode, whole_numbers
from tools.serving import batching, exported, model_card, native_program, signatures, warmup

_NOISE_IMAGES, _NOISE_SIZE = 16, (375, 500)  # as ImageNet's photographs are


def versions(folder: Path, swap: bool) -> tuple[Path, Path | None]:
    """The version to ask, and the one that takes its place.

    Args:
        folder: Folder of the versions.
        swap: Whether the newest one takes the place of the one before.

    Raises:
        FileNotFoundError: If there are not so many.
        ValueError: If one is no SavedModel.
    """
    newest = newest_version(folder)
    numbers = sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdigit())
    if swap and len(numbers) < 2:
        raise FileNotFoundError(f"--swap needs two versions, and {folder} holds {newest.name} alone; export again.")
    first, second = (folder / str(numbers[-2]), newest) if swap else (newest, None)
    for version in filter(None, (first, second)):
        if exported.format_of(version) != "tf_saved_model":
            raise ValueError(f"{version} is an export for {exported.format_of(version)}, not a SavedModel.")
    return first, second


def requests_of(
    version: Path, images: Sequence[Path], names: Sequence[str] = ()
) -> Iterator[predict_pb2.PredictRequest]:
    """One request for each signature and image.

    Args:
        version: Folder of a SavedModel.
        images: Files; none for noise.
        names: Signatures; all that the version has if there are none.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the version has no such signature, or a file is no image.
    """
    model = exported.load_saved_model(version)
    channels = model.image_shape[-1]
    of_files = signatures.takes_files(channels)
    gives_values = (version / "assets" / signatures.VALUES_FILE).is_file()
    there = ("serving_default", *(signatures.OF_FILES[: 1 if gives_values else None] if of_files else ()))
    if missing := [name for name in names if name not in there]:
        raise ValueError(f"{version} has no signature {', '.join(missing)}; it has {', '.join(there)}.")
    if images and not of_files:
        raise ValueError(f"{version} takes images of {channels} channels, as no file has; leave --images out.")
    size = model.image_shape[:2]
    view = model_card.view_of(version, size) or model_files.usual_view(version, size, "")
    files = [(str(path), path.read_bytes()) for path in images]
    for index in range(0 if images else _NOISE_IMAGES):
        if of_files:
            files.append((f"noise {index}", warmup.encode(_noise((*_NOISE_SIZE, channels), index))))
        else:
            yield warmup.request("", "serving_default", _noise(model.image_shape, index)[None].astype(model.dtype))
    for file, encoded in files:
        for name in names or there:
            if name in signatures.OF_FILES:
                yield warmup.request("", name, [encoded])
            else:
                pixels = decode(encoded, file, channels, view)
                yield warmup.request("", name, pixels[None].astype(model.dtype))


def _noise(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Smooth noise, uint8."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (9, 12, shape[-1]))
    return np.clip(tf.image.resize(coarse, shape[:2], "bicubic"), 0, 255).astype("uint8")


def table(loads: Sequence[native_program.Load], swap: Path | None = None) -> list[str]:
    """Lines of Markdown, a row for each measurement.

    >>> alone = native_program.Load(8, False, 1000, 0, 4.0, 30.25, 61.5, 0, "", 0, 1.0, 1.0, (570.0, 580.0, 580.0))
    >>> table([alone])[2]
    '| 8 | each alone | 1,000 | 250.0 | 30.2 | 61.5 | 1 | 0 | 0 | 570, 580, 580 |'
    """
    columns = ["requests", "requests/s", "p50, ms", "p99, ms", "images per batch (filled up to)", "errors", "wrong"]
    columns.append("MB before, half way, after")
    if swap:
        columns.append(f"answered by version {swap.name}")
    lines = [f"| clients | | {' | '.join(columns)} |", f"| ---: | --- |{' ---: |' * len(columns)}"]
    for load in loads:
        cells = [
            str(load.clients),
            "batches" if load.batching else "each alone",
            f"{load.requests:,}",
            f"{load.requests / load.seconds:,.1f}",
            f"{load.p50:.1f}",
            f"{load.p99:.1f}",
            f"{load.images_per_batch:.1f} ({load.padded_images_per_batch:.1f})" if load.batching else "1",
            f"{load.errors:,}",
            f"{load.wrong:,}",
            ", ".join(f"{value:.0f}" for value in load.megabytes),
        ]
        if swap:
            cells.append(f"{load.by_the_second:,}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    values = flags.FLAGS
    try:
        clients = whole_numbers("clients", values.clients)
        if not clients or min(clients) < 1:
            raise ValueError(f"--clients={','.join(values.clients)}: one client at least is expected.")
        parameters = batching.read(Path(values.batching_parameters))
        version, swap = versions(Path(values.saved_model), values.swap)
        images = [Path(path) for path in sorted(glob.glob(path_flags.expand(values.images)))] if values.images else []
        if values.images and not images:
            raise FileNotFoundError(f"No file matches --images={values.images!r}.")
        program = native_program.build()
        loads = []
        with tempfile.TemporaryDirectory() as folder:
            requests = Path(folder) / "requests"
            warmup.write_requests(requests, requests_of(version, images, values.signatures))
            for count in clients:
                for shared in (None, parameters):
                    loads.append(
                        native_program.measure(program, version, requests, count, values.requests, shared, swap)
                    )
    except (OSError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print("\n".join(table(loads, swap)))
    if said := sorted({load.first_error for load in loads if load.errors}):
        print("\n".join(f"Error: {error}" for error in said))
    if any(load.errors or load.wrong for load in loads):
        raise SystemExit(1)


if __name__ == "__main__":
    path_flags.define("saved_model", None, "Folder of the versions, the newest of which is taken.")
    flags.DEFINE_string("images", "", "Files to ask about; a pattern as of the shell, in quotes. Noise by default.")
    flags.DEFINE_list("signatures", [], "Signatures to ask in turn; all by default.")
    flags.DEFINE_list("clients", ["1", "8", "32"], "How many clients ask at once, for one row after another.")
    flags.DEFINE_integer("requests", 1000, "Requests for each row.", lower_bound=2)
    flags.DEFINE_bool("swap", False, "Half way, put the newest version in the place of the one before.")
    path_flags.define("batching_parameters", str(batching.FILE), "tensorflow.serving.BatchingParameters, as text.")
    flags.mark_flag_as_required("saved_model")
    app.run(main)
