r"""Converts other people's trained weights into a Keras file, and a model of one of their networks back.

    python -m tools.convert_checkpoint --weights=timm/coatnet_0_rw_224.sw_in1k --output=coatnet_0_rw.keras
    python -m tools.convert_checkpoint --weights=timm/coatnet_0_rw_224 --path=FILE.safetensors --output=a.weights.h5
    python -m tools.convert_checkpoint --to=timm --weights=runs/mine --network=timm/coatnet_0_rw_224 \
        --output=mine.safetensors

The first downloads, the second takes a file. `.keras` holds the whole model, `.weights.h5` its weights. `--list` prints
the names that there are. The third takes the folder of a run or a `.keras` file, and writes a state dict that timm's
`coatnet_0_rw_224` loads strictly; preprocessing is no part of it.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

import coatnet_tf
from experiments import command_line, path_flags, sizes
from tools import model_files

_KERAS = (".keras", ".weights.h5")
_TIMM = (".safetensors",)


def convert(weights: str, path: Path | None, output: Path, image_size: int | sizes.Size | None = None) -> None:
    """Writes the Keras file.

    Args:
        weights: Name that `coatnet_tf.from_pretrained` takes.
        path: File to use in place of the download.
        output: `.keras` or `.weights.h5` file to write.
        image_size: Height and width, as one number if they are equal; those of the weights by default. Bias tables are
            resized for another.

    Raises:
        ValueError: If `output` has another suffix, or as `from_pretrained` raises it.
        FileExistsError: If `output` exists.
        FileNotFoundError: If the folder of `output`, or `path`, does not exist.
        OSError: As `from_pretrained` raises it.
    """
    _check_output(output, _KERAS)
    shape = None if image_size is None else (*sizes.parse(image_size), 3)
    with warnings.catch_warnings(record=True) as caught:
        model = coatnet_tf.from_pretrained(weights, path=path, input_shape=shape)
    for warning in caught:
        logging.info("%s", warning.message)
    save = model.save if output.suffix == ".keras" else model.save_weights
    save(output)
    logging.info("%s for images %s: %s parameters.", output, model.input_shape[1:], f"{model.count_params():,}")


def convert_to_timm(weights: Path, network: str, output: Path) -> None:
    """Writes a model as a state dict of timm's.

    Args:
        weights: `.keras` file, or folder of a finished run.
        network: Network of timm that the model is, such as `"timm/coatnet_0_rw_224"`.
        output: `.safetensors` file to write.

    Raises:
        ValueError: If `output` has another suffix, the file holds no model, or the model is another network.
        FileExistsError: If `output` exists.
        FileNotFoundError: If the folder of `output`, or the model, does not exist.
        ImportError: If safetensors is not installed.
    """
    _check_output(output, _TIMM)
    is_run = weights.is_dir()
    path, _ = model_files.find(weights if is_run else None, None if is_run else weights, None)
    coatnet_tf.save_timm(model_files.load(path), network, output)
    logging.info("%s: the weights of %s for %s.", output, path, network)


def _check_output(output: Path, suffixes: tuple[str, ...]) -> None:
    if not output.name.endswith(suffixes):
        raise ValueError(f"--output must end in {' or '.join(suffixes)}; got {output}.")
    if output.exists():
        raise FileExistsError(f"{output} exists; remove it, or give another --output.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent} for {output.name}; make it first.")


def main(argv: Sequence[str]) -> None:
    command_line.begin(argv)
    if FLAGS.list:
        for entry in coatnet_tf.list_weights():
            print(entry)
        return
    if not FLAGS.weights or not FLAGS.output:
        raise app.UsageError("Give --weights and --output, or --list.")
    output = Path(FLAGS.output)
    path = Path(FLAGS.path) if FLAGS.path else None
    if FLAGS.to == "timm" and (not FLAGS.network or path or FLAGS.image_size):
        raise app.UsageError("--to=timm needs --network beside --weights and --output, and takes nothing else.")
    if FLAGS.to == "keras" and FLAGS.network:
        raise app.UsageError("--network is for --to=timm; without it, --weights names the network.")
    try:
        if FLAGS.to == "timm":
            convert_to_timm(Path(FLAGS.weights), FLAGS.network, output)
        else:
            convert(FLAGS.weights, path, output, FLAGS.image_size)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    FLAGS = flags.FLAGS
    flags.DEFINE_boolean("list", False, "Print the names of trained weights, and stop.")
    flags.DEFINE_enum("to", "keras", ["keras", "timm"], "What to write: a Keras file, or a state dict of timm's.")
    path_flags.define("weights", None, "Name of trained weights. With --to=timm, a run's folder or a .keras file.")
    path_flags.define("path", None, "File to convert in place of the download.")
    flags.DEFINE_string("network", None, "With --to=timm, the network that the model is, as timm/coatnet_0_rw_224.")
    path_flags.define("output", None, ".keras or .weights.h5 file to write; with --to=timm, .safetensors.")
    sizes.define("image_size", "Size of the model's images")
    app.run(main)
