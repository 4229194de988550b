"""Accuracy against MACs, parameters and core-days as one picture: the paper's Figures 2 and 3, and Table 5."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import coatnet_tf
from experiments import charts
from experiments.charts import plt
from tools.paper.tables import rows

_COLOURS = (charts.BLUE, charts.VERMILLION, charts.GREEN, charts.GREY)
PNG_KEY = "rows"  # of the text in the picture that `digest` gives


def digest() -> str:
    """What a picture of the rows carries, to tell whether it is stale."""
    return hashlib.sha256(json.dumps(rows()).encode()).hexdigest()


def draw_family(path: Path) -> None:
    """Draws accuracy against MACs, parameters and core-days: Figures 2 and 3 and Table 5 as one picture.

    Args:
        path: PNG file to write.
    """
    names = ("CoAtNet, ImageNet-1K", "CoAtNet, ImageNet-21K", "CoAtNet, JFT", "rivals, JFT")
    series: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for row in rows():
        if row["paper_top1"] is None:
            continue
        data = {"1K": "ImageNet-1K", "21K": "ImageNet-21K", "JFT": "JFT"}[row["trained_on"]]
        series[f"CoAtNet, {data}" if row["model"] in coatnet_tf.FAMILY else "rivals, JFT"].append(row)
    figure, panels = plt.subplots(1, 3, figsize=(15, 5), sharey=True)
    axes = (
        ("macs", 1e9, "multiply-accumulates per image, 1e9 (counted)"),
        ("params", 1e6, "parameters, 1e6 (counted)"),
        ("paper_core_days", 1, "TPUv3-core-days of pre-training (the paper's)"),
    )
    labels: list[tuple[list[tuple[float, float]], list[str]]] = []
    for panel, (field, unit, label) in zip(panels, axes, strict=True):
        points_of_panel: list[tuple[float, float]] = []
        texts: list[str] = []
        for color, marker, (name, points) in zip(_COLOURS, "ovsD", series.items(), strict=True):
            known = [row for row in points if row[field] is not None]
            places = [row[field] / unit for row in known]
            panel.plot(places, [row["paper_top1"] for row in known], marker, color=color, label=name, markersize=5)
            points_of_panel += [(place, row["paper_top1"]) for place, row in zip(places, known, strict=True)]
            texts += [row["model"].replace("coatnet", "") if name != "rivals, JFT" else row["model"] for row in known]
        panel.set_xscale("log")
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
        labels.append((points_of_panel, texts))
    panels[0].set_ylabel("ImageNet top-1, % (the paper's)")
    panels[0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    for panel, (points_of_panel, texts) in zip(panels, labels, strict=True):
        charts.label_points(panel, points_of_panel, texts)
    figure.savefig(path, dpi=90, metadata={PNG_KEY: digest()})
    plt.close(figure)
