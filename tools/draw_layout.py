"""Draws the layout of the code from its imports: rooms as boxes, imports as arrows.

    python -m tools.draw_layout --output=docs/layout.png

A room is a folder, or the files that stand directly in a package. An arrow from a room to another says that a file of
the one imports a file of the other. The picture keeps what it was drawn from, so that a test finds it out of date.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments import charts, command_line, path_flags
from experiments.charts import plt

ROOT = Path(__file__).parents[1]
PACKAGES = ("tools", "experiments", "coatnet_tf")  # arrows run from left to right
PNG_KEY = "layout"
_COLOURS = {
    "tools": charts.PALE[charts.VERMILLION],
    "experiments": charts.PALE[charts.GREEN],
    "coatnet_tf": charts.PALE[charts.BLUE],
}


def rooms(root: Path = ROOT) -> dict[str, list[str]]:
    """Names of the modules of each room.

    Args:
        root: Folder of the packages.

    Returns:
        Modules by room, such as `"coatnet_tf/layers"`; a package's own files are in the room of its name.
    """
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if path.name != "__init__.py":
                found.setdefault(path.parent.relative_to(root).as_posix(), []).append(path.stem)
    return found


def arrows(root: Path = ROOT) -> set[tuple[str, str]]:
    """The pairs of rooms of which the first imports the second."""
    found = set()
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            if path.name == "__init__.py":  # gathers names for people
                continue
            here = path.parent.relative_to(root).as_posix()
            for module in _imports(ast.parse(path.read_text())):
                there = _room(module, root)
                if there and there != here:
                    found.add((here, there))
    return found


def _imports(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _room(module: str, root: Path) -> str | None:
    """The room of a module, or of the module that a name is imported from."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return None
    while parts:
        path = root.joinpath(*parts)
        if path.with_suffix(".py").is_file():
            return path.parent.relative_to(root).as_posix()
        if path.is_dir():
            return path.relative_to(root).as_posix()
        parts.pop()
    return None


def fingerprint(root: Path = ROOT) -> str:
    """What a picture is drawn from, as text."""
    return json.dumps([rooms(root), sorted(arrows(root))])


def draw(output: Path, root: Path = ROOT) -> None:
    """Writes the picture, a PNG."""
    figure, axes = plt.subplots(figsize=(15, 10))
    places: dict[str, tuple[float, float, float, float]] = {}  # left, bottom, width, height
    for column, package in enumerate(PACKAGES):
        of_package = [(room, modules) for room, modules in rooms(root).items() if room.split("/")[0] == package]
        left, top, width = 5.2 * column, 10.0, 3.6
        lines = [-(-len(modules) // 2) for _, modules in of_package]
        gap = (10.0 - sum(0.55 + 0.16 * count for count in lines)) / max(1, len(of_package) - 1)
        for (room, modules), count in zip(of_package, lines, strict=True):
            height = 0.55 + 0.16 * count
            places[room] = left, top - height, width, height
            axes.add_patch(plt.Rectangle((left, top - height), width, height, facecolor=_COLOURS[package], ec="0.4"))
            axes.text(left + 0.08, top - 0.08, f"{room}/", va="top", weight="bold", fontsize=10)
            for half in (0, 1):
                text = "\n".join(modules[half * count : (half + 1) * count])
                axes.text(left + 0.08 + half * width / 2, top - 0.36, text, va="top", fontsize=8)
            top -= height + gap
    for start, end in sorted(arrows(root)):
        (left, bottom, width, height), (to_left, to_bottom, to_width, to_height) = places[start], places[end]
        same = start.split("/")[0] == end.split("/")[0]
        there = to_left + to_width if same else to_left
        axes.annotate(
            "",
            xy=(there, to_bottom + to_height / 2),
            xytext=(left + width, bottom + height / 2),
            arrowprops={
                "arrowstyle": "-|>",
                "color": charts.GREY if same else charts.VERMILLION,
                "alpha": 0.6,
                "connectionstyle": f"arc3,rad={-0.35 if (bottom > to_bottom) else 0.35}" if same else "arc3,rad=0",
            },
        )
    axes.set_xlim(-0.2, 5.2 * len(PACKAGES) - 0.6)
    axes.set_ylim(-0.2, 10.2)
    axes.axis("off")
    figure.tight_layout()
    figure.savefig(output, dpi=90, metadata={PNG_KEY: fingerprint(root)})
    plt.close(figure)


def main(argv: Sequence[str]) -> None:
    command_line.begin(argv)
    draw(Path(flags.FLAGS.output))


if __name__ == "__main__":
    path_flags.define("output", "docs/layout.png", "PNG file to write.")
    app.run(main)
