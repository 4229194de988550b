r"""Tables of compiled steps, from files that `tools.compile_for_tpu` wrote: a row a file; Table 5's core-days; memory.

python -m tools.compile_for_tpu --config=experiments/recipes/paper.py:imagenet1k_pretrain,coatnet0 \
        --topology=v5e:2x2 --config.batch_size=512 --format=json --output=docs/compiled/coatnet0_v5e.json
python -m tools.paper.compiled_steps --results=docs/compiled
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

import coatnet_tf
from experiments import path_flags
from experiments.recipes.paper import TRAINING_IMAGES
from tools.paper import published
from tools.paper.training_cost import GIB, count_memory

_DAGGER = "depthwise_conv"
# As Table 5 has them; of the rivals those that have any.
CORE_DAYS = {**published.CORE_DAYS, **{rival.model: rival.core_days for rival in published.RIVALS if rival.core_days}}


def tables(folder: Path) -> list[str]:
    """The tables of all files of a folder.

    Args:
        folder: Of files that `tools.compile_for_tpu --format=json` wrote.

    Returns:
        Lines of Markdown.
    """
    rows = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    rows.sort(key=lambda row: (row["model"], row["topology"], row["image_size"]))
    lines = [
        "| network | size | chips | images per chip | GiB per chip | cycles | step | images/s and chip | peak |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [_row(row) for row in rows]
    days = [row for row in rows if row["topology"].startswith("v3") and row["images"] == TRAINING_IMAGES["jft"]]
    if days:
        lines += ["", "| TPUv3-core-days on JFT-300M | epochs | estimated | Table 5 | ratio |"]
        lines.append("| --- | ---: | ---: | ---: | ---: |")
        lines += [_of_table_5(row) for row in days]
    counted = [row for row in rows if row["model"] in coatnet_tf.FAMILY and row["strategy"] == "sharded"]
    if counted:
        lines += ["", "| temporaries, GiB | images per chip | compiler | tools.plan_training | ratio |"]
        lines.append("| --- | ---: | ---: | ---: | ---: |")
        lines += [_of_memory(row) for row in counted]
    return lines


def counted_temporaries(row: dict[str, Any]) -> float:
    """What `tools.plan_training` counts for the temporaries of a row's step, in GiB.

    Activations, the cast weights, and the gradients before they are cut.

    Args:
        row: Of a member of the family.
    """
    config = coatnet_tf.get_config(row["model"], **{"downsampling": row["downsampling"] or "expand_conv"})
    memory = count_memory(config, row["image_size"])
    image = memory.image_rematerialised if row.get("rematerialise") else memory.image
    return (row["images_per_chip"] * image + 2 * 2 * row["params"]) / GIB


def _row(row: dict[str, Any]) -> str:
    cells = [
        _name(row),
        str(row["image_size"]),
        f"{row['chips']} of {row['topology']}",
        str(row["images_per_chip"]),
        f"{row['argument_gib']:.2f} + {row['temporary_gib']:.2f} of {row['hbm_gib']:g}",
        f"{row['estimated_cycles'] / 1e6:,.1f} M",
        f"{1000 * row['estimated_seconds']:,.0f} ms",
        f"{row['images_per_second_per_chip']:,.0f}",
        f"{row['peak_share']:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def _name(row: dict[str, Any]) -> str:
    name = row["model"].replace("coatnet", "CoAtNet")
    if row["strategy"] == "tpu":
        name += ", TPUStrategy"
    return f"{name} †" if row["downsampling"] == _DAGGER else name


def _of_table_5(row: dict[str, Any]) -> str:
    days = CORE_DAYS[row["model"]]
    return f"| {_name(row)} | {row['epochs']} | {row['chip_days']:,.0f} | {days:,} | {row['chip_days'] / days:.2f} |"


def _of_memory(row: dict[str, Any]) -> str:
    ours, theirs = counted_temporaries(row), row["temporary_gib"]
    name = f"{_name(row)} at {row['image_size']} on {row['topology']}"
    name += ", rematerialised" if row.get("rematerialise") else ""
    return f"| {name} | {row['images_per_chip']} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} |"


def main(argv: Sequence[str]) -> None:
    del argv
    print("\n".join(tables(Path(flags.FLAGS.results))))


if __name__ == "__main__":
    path_flags.define("results", "docs/compiled", "Folder of files that tools.compile_for_tpu wrote.")
    app.run(main)
