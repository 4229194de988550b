"""Tables of compiled steps, from the files of `tools.paper.compile_family`: a row a file.

    python -m tools.paper.compile_family --output=docs/compiled
    python -m tools.paper.compiled_steps --results=docs/compiled --picture=docs/core_days.png

The family on the smallest slices, single programs, Table 5's core-days, and the memory that `tools.plan_training`
counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

import coatnet_tf
from experiments import charts, command_line, path_flags
from experiments.charts import plt
from experiments.recipes.paper import TRAINING_IMAGES
from tools.paper import compile_family, published
from tools.paper.training_cost import GIB, JFT_3B, count_memory

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
    every = _read(folder)
    rows = [row for row in every if row["file"] not in compile_family.FAMILY]
    lines = _family_tables([row for row in every if row["file"] in compile_family.FAMILY])
    lines += [""] * bool(lines)
    lines += [
        "| network | size | chips | images per chip | GiB per chip | cycles | step | images/s and chip | peak |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [_row(row) for row in rows]
    if any(row.get("compiled_depths") for row in rows):
        lines += ["", "\\* two networks with fewer equal blocks were compiled, and extended (`--extend_depth`)."]
    days = _with_core_days(rows)
    if days:
        lines += ["", "| TPUv3-core-days on JFT-300M | epochs | estimated | Table 5 | ratio |"]
        lines.append("| --- | ---: | ---: | ---: | ---: |")
        lines += [_of_table_5(row) for row in days]
    largest = [row for row in _of_jft_on_v3(rows) if row["model"] in published.ON_JFT_3B]
    if days and largest:
        lines += [
            "",
            "| on JFT-3B | images/s and core | Table 5's core-days | epochs that makes | at the others' ratio |",
        ]
        lines.append("| --- | ---: | ---: | ---: | ---: |")
        ours = [row for row in days if row["model"] in published.CORE_DAYS]
        ratio = sum(row["chip_days"] / CORE_DAYS[row["model"]] for row in ours) / len(ours)
        lines += [_of_jft_3b(row, ratio) for row in largest]
    counted = [row for row in every if row["model"] in coatnet_tf.FAMILY and row["strategy"] == "sharded"]
    if counted:
        lines += ["", "| temporaries, GiB | images per chip | compiler | tools.plan_training | ratio |"]
        lines.append("| --- | ---: | ---: | ---: | ---: |")
        lines += [_of_memory(row) for row in counted]
    return lines


def _family_tables(rows: list[dict[str, Any]]) -> list[str]:
    """The family on the smallest slices, a table for each size of the images."""
    lines: list[str] = []
    for size in sorted({row["image_size"] for row in rows}):
        lines += [""] * bool(lines)
        lines += [
            f"| at {size} | smallest slice | images per chip | GiB per chip | on half | step | images/s and chip "
            "| peak | days |",
            "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        lines += [_row_of_family(row) for row in rows if row["image_size"] == size]
    return lines


def _row_of_family(row: dict[str, Any]) -> str:
    half = 2 * row["temporary_gib"] + row["argument_gib"] * (2 if row["shards"] > 1 else 1)
    cells = [
        _name(row),
        f"{row['chips']} of {row['topology']}",
        str(row["images_per_chip"]),
        f"{row['argument_gib']:.1f} + {row['temporary_gib']:.1f} of {row['hbm_gib']:g}",
        f"{half:.0f} GiB" if half > row["hbm_gib"] else "one host",
        f"{1000 * row['estimated_seconds']:,.0f} ms",
        f"{row['images_per_second_per_chip']:,.0f}",
        f"{row['peak_share']:.0%}",
        f"{row['chip_days'] / row['chips']:,.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _read(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(file.read_text()) | {"file": file.stem} for file in sorted(folder.glob("*.json"))]
    return sorted(rows, key=lambda row: (row["model"], row["topology"], row["image_size"]))


def _of_jft_on_v3(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["topology"].startswith("v3") and row["images"] == TRAINING_IMAGES["jft"]]


def _with_core_days(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose number of images in Table 5 is known: of JFT-300M."""
    return [row for row in _of_jft_on_v3(rows) if row["model"] not in published.ON_JFT_3B]


def draw(folder: Path, path: Path) -> None:
    """Draws Table 5's core-days beside those by the compiler's cycles.

    Args:
        folder: As of `tables`.
        path: PNG file to write.
    """
    rows = _with_core_days(_read(folder))
    names = [_name(row).replace("\\*", "").strip() for row in rows]
    texts = [f"{row['chip_days'] / CORE_DAYS[row['model']]:.2f}" for row in rows]
    with charts.names_in_any_script(["\N{DAGGER}"]):
        figure, axes = plt.subplots(figsize=(7, 0.8 + 0.6 * len(rows)))
        places = range(len(rows))
        axes.barh(
            [y - 0.2 for y in places], [CORE_DAYS[row["model"]] for row in rows], 0.38, label="Table 5 (the paper's)"
        )
        bars = axes.barh(
            [y + 0.2 for y in places],
            [row["chip_days"] for row in rows],
            0.38,
            label="compiled here, not run; and its share of Table 5's",
        )
        axes.bar_label(bars, texts, padding=3)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel("TPUv3-core-days of pre-training on JFT-300M")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=8)
        figure.tight_layout()
        figure.savefig(path, dpi=90)
        plt.close(figure)


def counted_temporaries(row: dict[str, Any]) -> float:
    """What `tools.plan_training` counts for the temporaries of a row's step, in GiB.

    Activations, and the gradients in 16 bits before they are cut; cast weights are there block by block.

    Args:
        row: Of a member of the family.
    """
    config = coatnet_tf.get_config(row["model"], **{"downsampling": row["downsampling"] or "expand_conv"})
    memory = count_memory(config, row["image_size"])
    image = memory.image_rematerialised if row.get("rematerialise") else memory.image
    return (row["images_per_chip"] * image + 2 * row["params"]) / GIB


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
    name = f"{name} †" if row["downsampling"] == _DAGGER else name
    return f"{name} \\*" if row.get("compiled_depths") else name


def _of_table_5(row: dict[str, Any]) -> str:
    days = CORE_DAYS[row["model"]]
    return f"| {_name(row)} | {row['epochs']} | {row['chip_days']:,.0f} | {days:,} | {row['chip_days'] / days:.2f} |"


def _of_jft_3b(row: dict[str, Any], ratio: float) -> str:
    """Epochs that Table 5's core-days make at the compiler's rate, and if that is off as it is for smaller networks."""
    days, rate = CORE_DAYS[row["model"]], row["images_per_second_per_chip"]
    epochs = days * 86_400 * rate / JFT_3B
    return f"| {_name(row)} | {rate:.1f} | {days:,} | {epochs:.1f} | {ratio * epochs:.1f} |"


def _of_memory(row: dict[str, Any]) -> str:
    ours, theirs = counted_temporaries(row), row["temporary_gib"]
    name = f"{_name(row)} at {row['image_size']} on {row['topology']}"
    name += ", rematerialised" if row.get("rematerialise") else ""
    return f"| {name} | {row['images_per_chip']} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} |"


def main(argv: Sequence[str]) -> None:
    command_line.begin(argv)
    results = Path(flags.FLAGS.results)
    print("\n".join(tables(results)))
    if flags.FLAGS.picture:
        draw(results, Path(flags.FLAGS.picture))


if __name__ == "__main__":
    path_flags.define("results", "docs/compiled", "Folder of files that tools.compile_for_tpu wrote.")
    path_flags.define("picture", None, "PNG file for the core-days; none by default.")
    app.run(main)
