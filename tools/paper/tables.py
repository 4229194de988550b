"""Tables 3, 4, 5, 9, 11 and 12 of the paper, counted here beside the paper's numbers; `tools.model_table` prints them.

Everything is counted without building a model, the rivals of Table 5 (`coatnet_tf.rivals`) too. Accuracies and
core-days are the paper's.
"""

from __future__ import annotations

import functools
from typing import Any

import coatnet_tf
from tools.paper.published import CORE_DAYS, RESULTS, RIVALS, Result

BEGIN, END = "<!-- model_table -->", "<!-- /model_table -->"
_HEADER = """\
| model | size | stride-2 in | parameters | paper | MACs | with index | paper | top-1 1K (paper's) | 21K | JFT |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""
_SHAPES = {"coatnet-5": 11, "coatnet-6": 12, "coatnet-7": 12}  # the others' shapes are in Table 3
_COLUMNS = (
    *("table", "model", "size", "stride-2 in", "trained on", "parameters", "paper", "deviation"),
    *("MACs", "with index", "paper", "deviation", "activations, training / inference"),
    *("top-1 (paper's)", "core-days (paper's)"),
)


@functools.cache
def _profile(model: str, size: int, downsampling: str | None) -> coatnet_tf.CostReport:
    overrides: dict[str, Any] = {} if downsampling is None else {"downsampling": downsampling}
    return coatnet_tf.profile(model, (size, size, 3), **overrides)


def family_markdown() -> str:
    """All published points of the family, as a Markdown table."""
    return "\n".join([_HEADER, *map(_row, RESULTS)])


def _row(result: Result) -> str:
    report = _profile(result.model, result.size, result.downsampling)
    place = "expand" if result.downsampling == "expand_conv" else "depthwise †"
    accuracies = [_percent(result.top1.get(data)) for data in ("1K", "21K", "JFT")]
    cells = [
        f"CoAtNet-{result.model[-1]}",
        str(result.size),
        place,
        f"{report.params / 1e6:.2f} M",
        f"{result.params:g} M",
        f"{report.macs / 1e9:.2f} B",
        f"{(report.macs + report.index_macs) / 1e9:.2f} B",
        f"{result.macs:g} B",
        *accuracies,
    ]
    return f"| {' | '.join(cells)} |"


def _percent(top1: float | None) -> str:
    """With the digits of the paper: one, or two where it prints two."""
    return "" if top1 is None else f"{top1:.2f}".removesuffix("0")


@functools.cache
def rows() -> tuple[dict[str, Any], ...]:
    """Every row of the tables.

    Returns:
        Dictionaries with `table` (its number in the paper), `model`, `eval_size`, `downsampling` (`None` for rivals),
        `trained_on`, `params`, `macs`, `macs_with_index`, `train_activation_mib` (all outputs of layers and
        activation functions for one image, in float32) and `inference_activation_mib` (the largest of them), and the
        paper's `paper_params`, `paper_macs` (in units, not millions), `paper_top1` and `paper_core_days`, `None`
        where it has none. Tables 3, 11 and 12 have shapes only, counted at 224.
    """
    found = []
    for name in coatnet_tf.FAMILY:
        params = next(result.params for result in RESULTS if result.model == name)
        found.append(_count(_SHAPES.get(name, 3), name, 224, "expand_conv", None, params, None, None, None))
    for result in RESULTS:
        for data, top1 in result.top1.items():
            depthwise = result.downsampling == "depthwise_conv"
            number = 5 if data == "JFT" else 9 if depthwise else 4
            days = CORE_DAYS[result.model] if number == 5 else None
            sizes = (result.size, result.downsampling, data)
            found.append(_count(number, result.model, *sizes, result.params, result.macs, top1, days))
    for rival in RIVALS:
        published = (rival.params, rival.macs, rival.top1, rival.core_days)
        found.append(_count(5, rival.model, rival.size, None, "JFT", *published))
    return tuple(sorted(found, key=lambda row: row["table"]))


def _count(
    number: int,
    model: str,
    size: int,
    downsampling: str | None,
    data: str | None,
    params: float,
    macs: float | None,
    top1: float | None,
    core_days: float | None,
) -> dict[str, Any]:
    report = _profile(model, size, downsampling)
    return {
        "table": number,
        "model": model,
        "eval_size": size,
        "downsampling": downsampling,
        "trained_on": data,
        "params": report.params,
        "macs": report.macs,
        "macs_with_index": report.macs + report.index_macs,
        "train_activation_mib": round(4 * report.total_activations / 2**20, 1),
        "inference_activation_mib": round(4 * report.largest_activation / 2**20, 1),
        "paper_params": round(params * 1e6),
        "paper_macs": None if macs is None else round(macs * 1e9),
        "paper_top1": top1,
        "paper_core_days": core_days,
    }


def all_markdown() -> str:
    """All rows, as a Markdown table."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + " --- |" * len(_COLUMNS)]
    for row in rows():
        macs, paper_macs = row["macs"], row["paper_macs"]
        cells = [
            str(row["table"]),
            row["model"],
            str(row["eval_size"]),
            {"expand_conv": "expand", "depthwise_conv": "depthwise †", None: ""}[row["downsampling"]],
            row["trained_on"] or "",
            f"{row['params'] / 1e6:,.2f} M",
            f"{row['paper_params'] / 1e6:,.0f} M",
            f"{row['params'] / row['paper_params'] - 1:+.1%}",
            f"{macs / 1e9:,.2f} B",
            f"{row['macs_with_index'] / 1e9:,.2f} B",
            "" if paper_macs is None else f"{paper_macs / 1e9:,g} B",
            "" if paper_macs is None else f"{macs / paper_macs - 1:+.1%}",
            f"{row['train_activation_mib']:,.0f} / {row['inference_activation_mib']:,.1f} MiB",
            _percent(row["paper_top1"]),
            "" if row["paper_core_days"] is None else f"{row['paper_core_days']:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def replace_table(text: str) -> str:
    """Replaces what stands between the markers by the table of the family.

    Args:
        text: Markdown with both markers.

    Returns:
        The text with a fresh table.

    Raises:
        ValueError: If a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The text needs the markers {BEGIN} and {END} around the table.")
    return f"{before}{BEGIN}\n{family_markdown()}\n{END}{after}"
