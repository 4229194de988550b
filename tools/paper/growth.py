"""How the cost of the family grows with resolution, width and depth: counted, and measured on this machine.

    python -m tools.paper.growth --measure --output=docs    # docs/growth.json: times of CoAtNet-0, some minutes
    python -m tools.paper.growth --output=docs              # docs/growth.png and the tables, with these times if there
                                                            # are any, and of the steps compiled for TPUs

A count is a + b u + c u^2 in the number u of pixels, exactly: convolutions, dense layers and norms have the term in u,
attention's scores alone that in u^2. So three sizes tell all, and where the squared term overtakes the rest.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import dataclasses
import functools
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from matplotlib.axes import Axes

import coatnet_tf
from coatnet_tf.config import CoAtNetConfig
from experiments import charts, command_line, path_flags
from experiments.charts import plt
from tools.benchmarks import timing

SIZES = (224, 384, 512, 640, 768, 1024)
TIMED = {"inference": (224, 384, 512, 768), "training": (224, 384, 512)}  # larger ones want more memory than a desk has
MEASURED = "coatnet-0"
TIMES = "growth.json"
FACTORS = (0.5, 1, 1.5, 2)  # of widths, and of depths
STRIDE = 32
CLASSES = 1000
_DRAWN = range(224, 1025, STRIDE)


@dataclasses.dataclass(frozen=True)
class Growth:
    """A count as a function of the resolution.

    Args:
        constant: What no pixel adds.
        linear: What 32 x 32 pixels add.
        squared: What each pair of such squares adds: attention's scores.
    """

    constant: float
    linear: float
    squared: float

    def at(self, size: float) -> float:
        """The count at a size."""
        pixels = (size / STRIDE) ** 2
        return self.constant + self.linear * pixels + self.squared * pixels**2

    def share(self, size: float) -> float:
        """Of the count at a size, what the squared term has."""
        return self.squared * (size / STRIDE) ** 4 / self.at(size)

    def takes_over(self) -> float:
        """The size at which the squared term is as large as the rest."""
        pixels = (self.linear + math.sqrt(self.linear**2 + 4 * self.squared * self.constant)) / (2 * self.squared)
        return STRIDE * math.sqrt(pixels)


@functools.cache
def growth_of(config: CoAtNetConfig, field: str) -> Growth:
    """How a count of a network grows.

    Args:
        config: The network.
        field: `"macs"`, or `"kept"` for the values that the backward pass needs.

    >>> growth = growth_of(coatnet_tf.FAMILY["coatnet-0"], "macs")
    >>> growth.at(512) == coatnet_tf.profile("coatnet-0", (512, 512, 3)).macs
    True
    """
    grids = (1, 2, 3)
    counts = [getattr(_counted(config, STRIDE * grid), field) for grid in grids]
    terms = np.linalg.solve([[1, grid**2, grid**4] for grid in grids], counts)
    return Growth(*(float(round(term)) for term in terms))


@functools.cache
def _counted(config: CoAtNetConfig, size: int) -> coatnet_tf.CostReport:
    return coatnet_tf.profile(config, (size, size, 3))


def scaled(config: CoAtNetConfig, width: float = 1, depth: float = 1) -> CoAtNetConfig:
    """A network of which every width and every depth is multiplied; heads keep their size."""
    stages = tuple(
        dataclasses.replace(stage, width=round(stage.width * width), depth=max(1, round(stage.depth * depth)))
        for stage in config.stages
    )
    stem_width = config.stem.stem_width
    assert isinstance(stem_width, int)  # of the family
    stem = dataclasses.replace(config.stem, stem_width=round(stem_width * width))
    return dataclasses.replace(config, stages=stages, stem=stem)


def measure() -> dict[str, Any]:
    """Times of CoAtNet-0 on this machine: of one image, and of a training step on one, in float32."""
    measures: dict[tuple[str, int], Callable[[], float]] = {}
    for size in TIMED["inference"]:
        model = coatnet_tf.CoAtNet0(input_shape=(size, size, 3), classes=CLASSES)
        model.compile("adamw", "sparse_categorical_crossentropy")
        image = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype("float32")
        measures["inference", size] = functools.partial(_seconds, model.predict_on_batch, image)
        if size in TIMED["training"]:
            measures["training", size] = functools.partial(_seconds, model.train_on_batch, image, np.zeros(1, "int32"))
    found = timing.medians(measures, rounds=3)
    return {
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, {keras.backend.backend()}",
        **{
            what: {str(size): found[what, size] for of, size in found if of == what}
            for what in ("inference", "training")
        },
    }


def _seconds(call: Callable[..., Any], *args: Any) -> float:
    started = time.perf_counter()
    call(*args)
    return time.perf_counter() - started


def tables(measured: dict[str, Any], compiled: Path) -> str:
    """The tables of the page, as Markdown.

    Args:
        measured: What `measure` returned.
        compiled: Folder of compiled steps, as `tools.compile_for_tpu` writes them.
    """
    timed = [_times(measured)] if measured["inference"] else []
    blocks = (_resolution(), *timed, _family(), _width_and_depth(), _compiled(compiled))
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _header(cells: Sequence[str]) -> list[str]:
    return [_row(cells), _row(["---", *["---:"] * (len(cells) - 1)])]


def _resolution() -> Iterator[str]:
    macs, kept = (growth_of(coatnet_tf.FAMILY[MEASURED], field) for field in ("macs", "kept"))
    yield from _header(["CoAtNet-0 at", "MACs", "of 224", "scores' share", "MiB kept", "of 224", "scores' share"])
    for size in SIZES:
        cells = [str(size), f"{macs.at(size) / 1e9:.1f} B"]
        cells += [f"{macs.at(size) / macs.at(224):.1f}", f"{macs.share(size):.0%}"]
        cells += [f"{2 * kept.at(size) / 2**20:,.0f}", f"{kept.at(size) / kept.at(224):.1f}", f"{kept.share(size):.0%}"]
        yield _row(cells)


def _times(measured: dict[str, Any]) -> Iterator[str]:
    macs = growth_of(coatnet_tf.FAMILY[MEASURED], "macs")
    yield from _header(["CoAtNet-0 at", "MACs of 224", *(cell for what in TIMED for cell in (f"ms, {what}", "of 224"))])
    for size in TIMED["inference"]:
        cells = [str(size), f"{macs.at(size) / macs.at(224):.1f}"]
        for what in TIMED:
            seconds, first = measured[what].get(str(size)), measured[what]["224"]
            cells += ["", ""] if seconds is None else [f"{1000 * seconds:,.0f}", f"{seconds / first:.1f}"]
        yield _row(cells)


def _family() -> Iterator[str]:
    sizes = (224, 384, 512, 1024)
    yield from _header(["", *(f"MACs at {size}" for size in sizes), "scores take over MACs at", "memory at"])
    for name, config in coatnet_tf.FAMILY.items():
        macs, kept = (growth_of(config, field) for field in ("macs", "kept"))
        counted = [f"{macs.at(size) / 1e9:,.1f} B" for size in sizes]
        yield _row(
            [name.replace("coatnet", "CoAtNet"), *counted, f"{macs.takes_over():,.0f}", f"{kept.takes_over():,.0f}"]
        )


def _width_and_depth() -> Iterator[str]:
    yield from _header(
        ["CoAtNet-0 with", "parameters", "MACs at 224", "at 512", "scores take over MACs at", "memory at"]
    )
    base = coatnet_tf.FAMILY[MEASURED]
    for what in ("width", "depth"):
        for factor in FACTORS:
            if factor == 1 and what == "depth":
                continue
            config = scaled(base, **{what: factor})
            macs, kept = (growth_of(config, field) for field in ("macs", "kept"))
            params = _counted(config, STRIDE).params
            name = "its own sizes" if factor == 1 else f"{factor:g} times the {what}"
            counted = [f"{macs.at(size) / 1e9:,.1f} B" for size in (224, 512)]
            yield _row(
                [name, f"{params / 1e6:,.1f} M", *counted, f"{macs.takes_over():,.0f}", f"{kept.takes_over():,.0f}"]
            )


def _compiled(folder: Path) -> Iterator[str]:
    yield from _header(
        ["a compiled step of", "at", "MACs per image", "scores' share", "ms per image, estimated", "attention's share"]
    )
    for file in sorted(folder.glob("*.json")):
        step = json.loads(file.read_text())
        config = coatnet_tf.FAMILY.get(step["model"])
        if config is None or step["strategy"] != "sharded":  # a rival, or another engine, for comparison
            continue
        macs, size, cycles = growth_of(config, "macs"), step["image_size"], step["cycles_by_part"]
        chip = step["topology"].split(":")[0]
        name = f"{step['model'].replace('coatnet', 'CoAtNet')}, {chip}, {step['images_per_chip']} images a chip"
        cells = [name, str(size), f"{macs.at(size) / 1e9:.1f} B", f"{macs.share(size):.0%}"]
        milliseconds = 1000 * step["estimated_seconds"] / step["images_per_chip"]
        yield _row([*cells, f"{milliseconds:.1f}", f"{cycles['attention'] / sum(cycles.values()):.0%}"])


def draw(path: Path, measured: dict[str, Any]) -> None:
    """Draws the growth with resolution, of the family and of what was measured, and with width and depth."""
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.8))
    _draw_family(panels[0])
    _draw_one(panels[1], measured)
    _draw_width_and_depth(panels[2])
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, ncols=2 if panel is panels[0] else 1)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _draw_family(panel: Axes) -> None:
    for index, (name, config) in enumerate(coatnet_tf.FAMILY.items()):
        macs, colour = growth_of(config, "macs"), charts.COLOURS[index % 4]
        label = name.replace("coatnet", "CoAtNet")
        counted = [macs.at(size) / 1e9 for size in _DRAWN]
        panel.plot(_DRAWN, counted, "-" if index < 4 else "--", color=colour, label=label)
        turning = growth_of(config, "kept").takes_over()
        panel.plot([turning], [macs.at(turning) / 1e9], "o", color=colour, markersize=5)
    panel.set(yscale="log", xlabel="height and width", ylabel="multiply-accumulates per image, 1e9 (counted)")
    panel.set_title("dots: there scores take half of the memory kept for training", fontsize=9)


def _draw_one(panel: Axes, measured: dict[str, Any]) -> None:
    pixels = [(size / 224) ** 2 for size in _DRAWN]
    panel.plot(pixels, pixels, ":", color=charts.GREY, label="pixels")
    fields = {"macs": "MACs", "kept": "memory kept for training"}
    for colour, (field, name) in zip(charts.COLOURS, fields.items(), strict=False):
        growth = growth_of(coatnet_tf.FAMILY[MEASURED], field)
        ratios = [growth.at(size) / growth.at(224) for size in _DRAWN]
        panel.plot(pixels, ratios, color=colour, label=f"{name} (counted)")
    for colour, marker, what in ((charts.GREEN, "o", "inference"), (charts.ORANGE, "s", "training")):
        times = {int(size): seconds for size, seconds in measured[what].items()}
        if times:
            places = [(size / 224) ** 2 for size in times]
            ratios = [seconds / times[224] for seconds in times.values()]
            panel.plot(places, ratios, marker, color=colour, label=f"time, {what} (measured)")
    panel.set(xscale="log", yscale="log", xlabel="pixels, of 224 x 224", ylabel="of 224 x 224", title="CoAtNet-0")


def _draw_width_and_depth(panel: Axes) -> None:
    base = coatnet_tf.FAMILY[MEASURED]
    for colour, what in ((charts.BLUE, "width"), (charts.VERMILLION, "depth")):
        for size, line in ((224, "-"), (1024, "--")):
            counted = [growth_of(scaled(base, **{what: factor}), "macs").at(size) for factor in FACTORS]
            ratios = [count / growth_of(base, "macs").at(size) for count in counted]
            panel.plot(FACTORS, ratios, f"o{line}", color=colour, markersize=4, label=f"{what}, at {size}")
    panel.set(xlabel="times the width, or the depth", ylabel="times the MACs (counted)", title="CoAtNet-0")


def read_times(folder: Path) -> dict[str, Any]:
    """The times in a folder; none of nothing if they were not measured."""
    file = folder / TIMES
    return json.loads(file.read_text()) if file.is_file() else {what: {} for what in TIMED}


def main(argv: Sequence[str]) -> None:
    command_line.begin(argv)
    folder = Path(flags.FLAGS.output)
    if flags.FLAGS.measure:
        (folder / TIMES).write_text(json.dumps(measure(), indent=2) + "\n")
    measured = read_times(folder)
    draw(folder / "growth.png", measured)
    print(tables(measured, folder / "compiled"))


if __name__ == "__main__":
    path_flags.define("output", "docs", "Folder of growth.json and growth.png.")
    flags.DEFINE_bool("measure", False, "Measure on this machine, and write growth.json.")
    app.run(main)
