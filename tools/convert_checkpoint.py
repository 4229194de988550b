"""Converts other people's trained weights into a Keras file.

    python -m tools.convert_checkpoint --weights=timm/coatnet_0_rw_224.sw_in1k --output=coatnet_0_rw.keras
    python -m tools.convert_checkpoint --weights=timm/coatnet_0_rw_224 --path=FILE.safetensors --output=a.weights.h5

The first downloads, the second takes a file. `.keras` holds the whole model, `.weights.h5` its weights. `--list` prints
the names that there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

import coatnet_tf

_SUFFIXES = (".keras", ".weights.h5")


def convert(weights: str, path: Path | None, output: Path, image_size: int | None = None) -> None:
    """Writes the Keras file.

    Args:
        weights: Name that `coatnet_tf.from_pretrained` takes.
        path: File to use in place of the download.
        output: `.keras` or `.weights.h5` file to write.
        image_size: Height and width; those of the weights by default. Bias tables are resized for another.

    Raises:
        ValueError: If `output` has another suffix, or as `from_pretrained` raises it.
        FileExistsError: If `output` exists.
        FileNotFoundError: If the folder of `output`, or `path`, does not exist.
        OSError: As `from_pretrained` raises it.
    """
    if not output.name.endswith(_SUFFIXES):
        raise ValueError(f"--output must end in {' or '.join(_SUFFIXES)}; got {output}.")
    if output.exists():
        raise FileExistsError(f"{output} exists; remove it, or give another --output.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent} for {output.name}; make it first.")
    shape = None if image_size is None else (image_size, image_size, 3)
    with warnings.catch_warnings(record=True) as caught:
        model = coatnet_tf.from_pretrained(weights, path=path, input_shape=shape)
    for warning in caught:
        logging.info("%s", warning.message)
    save = model.save if output.suffix == ".keras" else model.save_weights
    save(output)
    logging.info("%s for images %s: %s parameters.", output, model.input_shape[1:], f"{model.count_params():,}")


def main(argv: Sequence[str]) -> None:
    del argv
    if FLAGS.list:
        for entry in coatnet_tf.list_weights():
            print(entry)
        return
    if not FLAGS.weights or not FLAGS.output:
        raise app.UsageError("Give --weights and --output, or --list.")
    path = Path(FLAGS.path) if FLAGS.path else None
    try:
        convert(FLAGS.weights, path, Path(FLAGS.output), FLAGS.image_size)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    FLAGS = flags.FLAGS
    flags.DEFINE_boolean("list", False, "Print the names of trained weights, and stop.")
    flags.DEFINE_string("weights", None, "Name of trained weights.")
    flags.DEFINE_string("path", None, "File to convert in place of the download.")
    flags.DEFINE_string("output", None, ".keras or .weights.h5 file to write.")
    flags.DEFINE_integer("image_size", None, "Height and width of the model's images.", lower_bound=1)
    app.run(main)
