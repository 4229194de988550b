"""How every program begins."""

from __future__ import annotations

from collections.abc import Sequence

from absl import app

from experiments import logs


def begin(argv: Sequence[str]) -> None:
    """Shows this project's lines (`logs.show_ours`), and refuses what is no flag: first in `main`.

    A value after a flag that is true or false is such a thing: absl would leave it out, and take `--fold false` for
    true.

    Args:
        argv: What absl has left of the command line, the program first.

    Raises:
        absl.app.UsageError: If anything is left.
    """
    logs.show_ours()
    if len(argv) > 1:
        raise app.UsageError(
            f"What does {argv[1]!r} mean? This program takes flags only; the value of a flag that is true or false "
            "stands behind a =, as --flag=false."
        )
