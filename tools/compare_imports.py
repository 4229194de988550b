"""Compares networks of timm and keras-cv-attention-models, with random weights in environments of their own, with ours.

    python -m tools.compare_imports --timm_python=ENV/bin/python --kecam_python=ENV/bin/python [--only=coatnet_0_rw_224]

For each network at its own size: the largest difference of the logits, relative to the largest logit. Every tensor of
the file is used exactly once, or loading fails. A difference above 1e-4 ends in an error. A network of timm then goes
back: timm's own model loads the file that is written from ours, strictly, and must give the same logits, bit for bit.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import rich.console
from absl import app, flags

import coatnet_tf
from experiments import command_line, path_flags

TOLERANCE = 1e-4
NETWORKS = (
    *(f"timm/{name}_224" for name in coatnet_tf.RELATIVES if not name.startswith("kecam")),
    "timm/coatnet_rmlp_2_rw_384",
    "keras_cv_attention_models/coatnet0_224_imagenet",
)
_PROGRAMS = Path(__file__).parent / "imports"
_HEAD = ("| network | parameters, M | largest difference |", "| --- | ---: | ---: |")


def compare(network: str, python: str, folder: Path) -> tuple[float, float]:
    """Runs the peer, and compares.

    Args:
        network: Name that `from_pretrained` takes.
        python: Interpreter of the peer's environment.
        folder: Where to keep its files meanwhile.

    Returns:
        Trainable parameters in millions, and the largest difference of the logits over the largest logit.

    Raises:
        RuntimeError: If the peer fails, or a network of timm's does not come back as it was.
    """
    base = folder / "reference"
    of_timm = network.startswith("timm/")
    program, *name = ["timm_reference.py", network.partition("/")[2]] if of_timm else ["kecam_reference.py"]
    command = [python, str(_PROGRAMS / program), *name, str(base)]
    _run(command)
    path = base.with_suffix(".safetensors" if of_timm else ".h5")
    with np.load(base.with_suffix(".npz")) as answers:
        images, logits = answers["images"], answers["logits"]
    model = coatnet_tf.from_pretrained(network, path=path, classifier_activation=None)
    difference = np.abs(keras.ops.convert_to_numpy(model(images.astype("float32"))) - logits).max()
    params = sum(int(np.prod(variable.shape)) for variable in model.trainable_weights) / 1e6
    if of_timm:
        coatnet_tf.save_timm(model, network, path)
        _run([*command, "--check"])
    for file in (path, base.with_suffix(".npz")):
        file.unlink()
    return params, float(difference / np.abs(logits).max())


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-1000:]}")


def main(argv: Sequence[str]) -> None:
    command_line.begin(argv)
    console = rich.console.Console()
    networks = [name for name in NETWORKS if FLAGS.only is None or name.endswith(FLAGS.only)]
    lines, worst = [*_HEAD], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number, network in enumerate(networks, start=1):
            python = FLAGS.timm_python if network.startswith("timm/") else FLAGS.kecam_python
            if python is None:
                console.print(f"{network}: no interpreter of its environment was given, left out")
                continue
            params, difference = compare(network, python, Path(folder))
            worst = max(worst, difference)
            lines.append(f"| `{network}` | {params:.2f} | {difference:.1e} |")
            console.print(f"{number}/{len(networks)} {network}: {difference:.1e}")
            keras.backend.clear_session()
    print("\n".join(lines))
    if worst > TOLERANCE:
        raise SystemExit(f"The largest difference, {worst:.1e}, is above {TOLERANCE:.0e}.")


if __name__ == "__main__":
    FLAGS = flags.FLAGS
    path_flags.define("timm_python", None, "Interpreter of an environment with torch, timm and safetensors.")
    path_flags.define("kecam_python", None, "Interpreter of an environment with keras-cv-attention-models, tf_keras.")
    flags.DEFINE_string("only", None, "One network, by the end of its name; all by default.")
    app.run(main)
