"""Tables 3, 4, 5, 9, 11 and 12 of the paper, counted here: parameters and multiply-accumulates beside the paper's.

    python -m tools.model_table                      # Markdown
    python -m tools.model_table --format=json        # one object per line
    python -m tools.model_table --format=png --output=docs/family.png
    python -m tools.model_table --write=README.md    # the table of the family between the markers of a file

`tools/paper/tables.py` counts, `tools/paper/family_picture.py` draws.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments import command_line, path_flags
from tools.paper import family_picture, tables


def _write(values: flags.FlagValues) -> None:
    if values.write:
        path = Path(values.write)
        path.write_text(tables.replace_table(path.read_text()))
        return
    if values.format == "png":
        if not values.output:
            raise app.UsageError("A picture needs --output=FILE.png.")
        family_picture.draw_family(Path(values.output))
        return
    text = tables.all_markdown() if values.format == "markdown" else "\n".join(map(json.dumps, tables.rows()))
    if values.output:
        Path(values.output).write_text(text + "\n")
    else:
        print(text)


def main(argv: Sequence[str]) -> None:
    command_line.begin(argv)
    try:
        _write(flags.FLAGS)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    flags.DEFINE_enum("format", "markdown", ["markdown", "json", "png"], "What to write.")
    path_flags.define("output", None, "File to write; standard output by default.")
    path_flags.define("write", None, "Markdown file whose table of the family to replace.")
    app.run(main)
