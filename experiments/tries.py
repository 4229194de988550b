"""Tries what of a network to train, the quickest first, and keeps what has the lowest held-out loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
from absl import logging
from etils import epath

from experiments import history, train, tuning, workdir

AUTO = "auto"  # in the place of one of `tuning.WAYS`
TRIED = (tuning.HEAD, tuning.LAST_BLOCKS, tuning.ALL)


def run(configure: Callable[[str], ml_collections.ConfigDict], output: epath.Path, minutes: float) -> epath.Path:
    """Trains in each way, or goes on where that stopped, and says in `tries.md` which is kept and why.

    Args:
        configure: Makes the recipe of a way.
        output: Folder for the report and for the runs, each called by its way.
        minutes: After so many none is begun any more; the first is tried whatever it takes.

    Returns:
        Folder of the run that is kept; the others stay too.
    """
    begun = time.monotonic()
    rows: dict[str, Mapping[str, Any]] = {}
    for way in TRIED:
        if rows and time.monotonic() - begun > 60 * minutes:
            logging.info("--auto_minutes=%g have passed: %s is not tried.", minutes, way)
            continue
        logging.info("Trying --config.tune=%s.", way)
        train.run(configure(way), output / way)
        rows[way] = workdir.result_of(workdir.read_metrics(output / way))
    best = min(rows, key=lambda way: rows[way]["eval_loss"])
    lines = [
        f"# {best} is kept, of {len(rows)} ways",
        "",
        "| trained | held-out loss | held out | kept epoch |",
    ]
    lines.append("| --- | ---: | ---: | ---: |")
    for way in TRIED:
        cells = ["not tried: no time was left", "", ""]
        if way in rows:
            row = rows[way]
            cells = [f"{row['eval_loss']:.4f}", history.score(row, "eval"), f"{row['epoch']:g}"]
        lines.append(f"| {' | '.join([way, *cells])} |")
    lines += [
        "",
        f"The run is `{output / best}`. The held-out images chose it, so that its accuracy is optimistic.",
        "",
    ]
    workdir.write_whole(output / workdir.TRIES, "\n".join(lines))
    return output / best
