r"""Compiles the programs of the tables of docs/tpu.md, one by one, and keeps what `tools.compile_for_tpu` says of each.

    python -m tools.paper.compile_family                                  # those without a file in docs/compiled
    python -m tools.paper.compile_family --program=coatnet0_v5e --output=/tmp/compiled

The family is on the smallest slice of each kind of chip on which it fits: half as many chips would need about twice the
temporaries. A program takes minutes, all of them a day on two cores; stopped, the same command goes on with the next.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from experiments import command_line, path_flags

_JFT, _1K = "jft_pretrain", "imagenet1k_pretrain"
_PRETRAINING = (_1K,) * 4 + ("imagenet21k_pretrain",) + (_JFT,) * 3  # by the number of the network
_FLAT = {8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16"}
_CUBE = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}
_AXES = {"v4": _CUBE, "v5e": _FLAT, "v5p": _CUBE, "v6e": _FLAT}
# Chips of each kind for CoAtNet-0 to -7, at 224.
_SMALLEST = {
    "v4": (8, 16, 16, 32, 64, 64, 64, 64),
    "v5e": (16, 32, 32, 64, 128, 128, 128, 128),
    "v5p": (4, 4, 8, 8, 16, 16, 16, 16),
    "v6e": (8, 16, 16, 32, 64, 64, 64, 64),
}
_DEEP = 4  # the first whose longest stage is extended from shallower ones


@dataclasses.dataclass(frozen=True)
class Program:
    """What `tools.compile_for_tpu` is asked for.

    Args:
        recipe: Variant of `experiments/recipes/paper.py`.
        topology: The chips.
        batch_size: Of all of them.
        flags: Further flags.
    """

    recipe: str
    topology: str
    batch_size: int
    flags: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """Module and flags."""
        return [
            "tools.compile_for_tpu",
            f"--config=experiments/recipes/paper.py:{self.recipe}",
            f"--topology={self.topology}",
            f"--config.batch_size={self.batch_size}",
            *self.flags,
        ]


def _of_family(number: int, kind: str, chips: int) -> Program:
    """A member of the family; up to -4 each chip holds the whole state, from -5 on all hold it together."""
    flags = ("--shards=1",) * (number <= 4) + ("--extend_depth",) * (number >= _DEEP)
    return Program(f"{_PRETRAINING[number]},coatnet{number}", f"{kind}:{_AXES[kind][chips]}", 4096, flags)


_ONCE = "--config.rematerialise=False"  # no activations computed again
# By the name of the file.
FAMILY = {
    f"coatnet{number}_{kind}_224": _of_family(number, kind, chips)
    for kind, of_kind in _SMALLEST.items()
    for number, chips in enumerate(of_kind)
}
PROGRAMS = {
    "coatnet0_v5e": Program(f"{_1K},coatnet0", "v5e:2x2", 512),
    "convnext_tiny_v5e": Program(f"{_1K},coatnet0", "v5e:2x2", 512, ("--peer=ConvNeXtTiny",)),
    "efficientnet_v2s_v5e": Program(f"{_1K},coatnet0", "v5e:2x2", 512, ("--peer=EfficientNetV2S",)),
    "coatnet0_v5e_tensorflow": Program(f"{_1K},coatnet0", "v5e:2x2", 512, ("--strategy=tpu",)),
    "coatnet3_v3": Program(f"{_JFT},coatnet3", "v3:2x2", 128),
    "coatnet4_v3": Program(f"{_JFT},coatnet4", "v3:2x2", 128),
    "coatnet5_v3": Program(f"{_JFT},coatnet5", "v3:2x2", 128, (_ONCE,)),
    "coatnet6_v3": Program(f"{_JFT},coatnet6", "v3:4x4", 512, ("--extend_depth", _ONCE)),
    "coatnet7_v3": Program(f"{_JFT},coatnet7", "v3:4x4", 256, ("--extend_depth", _ONCE)),
    "vit_l_16_v3": Program(f"{_JFT},coatnet4", "v3:2x2", 128, ("--peer=vit-l-16",)),
    "vit_h_14_v3": Program(f"{_JFT},coatnet4", "v3:2x2", 64, ("--peer=vit-h-14",)),
    "nfnet_f4_plus_v3": Program(f"{_JFT},coatnet4", "v3:2x2", 64, ("--peer=nfnet-f4-plus",)),
    "coatnet7_v5p": Program(f"{_JFT},coatnet7", "v5p:4x4x4", 4096, ("--extend_depth",)),
    **FAMILY,
}


def compile_programs(names: Sequence[str], folder: Path) -> list[str]:
    """Compiles programs that have no file yet, each in a process of its own.

    Args:
        names: Of `PROGRAMS`.
        folder: Gets a file for each; made if it is missing.

    Returns:
        Those that have no file now, as they were refused or do not fit; the log says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not (folder / f"{name}.json").exists()]
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    failed = []
    for place, name in enumerate(missing, 1):
        logging.info("%s (%d of %d): python -m %s", name, place, len(missing), " ".join(PROGRAMS[name].command()))
        file = folder / f"{name}.json"
        written = [*PROGRAMS[name].command(), "--format=json", f"--output={file}"]
        if subprocess.run([sys.executable, "-m", *written], env=environment).returncode:
            failed.append(name)
        elif not json.loads(file.read_text())["fits"]:
            logging.error("%s does not fit, and has no row in the tables: it wants more chips.", name)
            file.unlink()
            failed.append(name)
    return failed


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    failed = compile_programs(flags.FLAGS.program, Path(flags.FLAGS.output))
    if failed:
        raise SystemExit(f"Not compiled, as said above: {', '.join(failed)}.")


if __name__ == "__main__":
    path_flags.define("output", "docs/compiled", "Folder that gets a file for each program; what it holds is kept.")
    flags.DEFINE_multi_enum("program", list(PROGRAMS), list(PROGRAMS), "Which; all of them by default.")
    app.run(main)
