"""`model_card.md`: what a served model is, where it comes from, and what it was measured to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.data import views
from experiments.sizes import Size
from tools.serving.check import sha256

FILE = "model_card.md"
_CROP, _INTERPOLATION = "Crop", "Interpolation"  # the rows that say what the model sees of an encoded image


def facts_of_view(view: views.View) -> dict[str, str]:
    """The facts that `view_of` reads, in words for people behind a colon."""
    return {
        _CROP: f"{view.crop}: {view.describe()}, upright as its Exif header says",
        _INTERPOLATION: view.interpolation,
    }


def view_of(folder: Path, size: Size) -> views.View | None:
    """What an exported version sees of an image, as its card says it; `None` if there is no card, or it does not."""
    text = (folder / FILE).read_text() if (folder / FILE).is_file() else ""
    crop, interpolation = (re.search(rf"\n\| {name} \| ([\w.]+)", text) for name in (_CROP, _INTERPOLATION))
    return views.View(size, crop[1], interpolation[1]) if crop and interpolation else None


def write(
    folder: Path,
    title: str,
    weights: Path,
    facts: Mapping[str, Any],
    recipe: Mapping[str, Any] | None,
    metrics: Mapping[str, Any] | None,
) -> None:
    """Writes the card.

    Args:
        folder: Folder of the exported version.
        title: Name of the model.
        weights: The file that was exported, whose checksum the card holds.
        facts: What the exported model is, by name.
        recipe: Recipe of the run, if it comes from one.
        metrics: Row of the run's metrics for these weights, if it comes from one.
    """
    lines = [f"# {title}", "", *table({**facts, "Weights": f"`{weights.name}`, SHA-256 `{sha256(weights)}`"})]
    if metrics is not None:
        lines += ["", "## Measured by training, on the held-out split", ""]
        lines += table({name: f"{value:.6g}" for name, value in metrics.items()})
    if recipe is not None:
        lines += section_of_recipe(recipe)
    (folder / FILE).write_text("\n".join(lines) + "\n")


def table(facts: Mapping[str, Any]) -> list[str]:
    """Facts as the lines of a table of two columns."""
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items())]


def section_of_recipe(recipe: Mapping[str, Any]) -> list[str]:
    """The lines of a card's last section."""
    return ["", "## Recipe", "", "```json", json.dumps(recipe, indent=2), "```"]
