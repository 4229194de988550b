"""Prints the family as a Markdown table: parameters and multiply-accumulates here beside the paper's.

    python -m tools.model_table
    python -m tools.model_table --write=README.md

With `--write`, replaces the table between the markers of that file.
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags

import coatnet_tf
from tools.published import RESULTS, Result

BEGIN, END = "<!-- model_table -->", "<!-- /model_table -->"
_HEADER = """\
| model | size | stride-2 in | parameters | paper | MACs | with index | paper | top-1 1K (paper's) | 21K | JFT |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def table() -> str:
    """The table of all published points, in Markdown."""
    return "\n".join([_HEADER, *map(_row, RESULTS)])


def _row(result: Result) -> str:
    report = coatnet_tf.profile(result.model, (result.size, result.size, 3), downsampling=result.downsampling)
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


def replace_table(text: str) -> str:
    """Replaces what stands between the markers by the table.

    Args:
        text: Markdown with both markers.

    Returns:
        The text with a fresh table.

    Raises:
        ValueError: If a marker is missing.
    """
    if BEGIN not in text or END not in text.split(BEGIN, 1)[1]:
        raise ValueError(f"The file needs the markers {BEGIN} and {END} around its table.")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END, 1)[1]}"


def main(argv: list[str]) -> None:
    del argv
    if flags.FLAGS.write is None:
        print(table())
        return
    path = Path(flags.FLAGS.write)
    path.write_text(replace_table(path.read_text()))


if __name__ == "__main__":
    flags.DEFINE_string("write", None, "File whose table to replace; printed if there is none.")
    app.run(main)
