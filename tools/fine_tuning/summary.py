"""What is said at the end of fine-tuning: one screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from experiments import evaluate, tuning, workdir

FOLDS = 5  # to advise
_WIDE_INTERVAL = 0.1  # of an accuracy


def describe(
    output: epath.Path,
    measured: Mapping[str, dict[str, Any]],
    saved_model: Path,
    tune: str,
    epochs: int = 0,
    can_fold: bool = True,
) -> str:
    """How good a run is, what it confuses, where things are, and what to do next: one screen.

    Args:
        output: Folder of the run.
        measured: What `evaluate.evaluate` returned, by what the images are called; the most trustworthy are the last.
        saved_model: The export.
        tune: What was trained.
        epochs: For how many, if the best were the last ones; else 0.
        can_fold: Whether `--folds` takes the images.
    """
    lines = ["", "How good it is"]
    for name, of_images in measured.items():
        lines.append(f"  {of_images['images']} {name} images: {evaluate.describe_result(of_images)}")
        if "balanced_accuracy" in of_images:
            lines.append(f"  balanced over the classes {of_images['balanced_accuracy']:.2%}")
    *_, name = measured
    if "confused" in measured[name]:
        lines += ["", f"What it confuses, of the {name} images"]
        for pair in measured[name]["confused"][:3]:
            lines.append(f"  {pair['true']} taken for {pair['predicted']}: {pair['images']} of {pair['of']}")
        if not measured[name]["confused"]:
            lines.append("  nothing")
    about = "each number" if "by_value" in measured[name] else "each class"
    about += ", and who is taken for whom" if "confused" in measured[name] else ""
    evaluation = output / ("test_evaluation" if name == "test" else "evaluation")
    lines += [
        "",
        "Where things are",
        f"  {output / workdir.REPORT}: curves, and held-out images with what is said of them",
        f"  {evaluation / 'evaluation.md'}: {about}",
        f"  {output / workdir.MODEL}: the model, for Keras",
        f"  {saved_model}: the same for TensorFlow Serving (SavedModel)",
        "",
        "What to do next",
        f"  python -m tools.predict --model={output} --images=FOLDER --output=predictions.csv",
    ]
    low, high = measured[name].get("top1_interval", (0, 0))
    if name != "test" and can_fold:
        lines.append(
            f"  --folds={FOLDS}, in another --output, holds each image out once: a better guess at how good it is"
        )
    elif name == "test" and high - low > _WIDE_INTERVAL:
        lines.append("  more test images: they narrow the interval")
    if epochs:
        lines.append(f"  --config.epochs={2 * epochs}, in another --output: the last were the best; more may help")
    if tune in (tuning.HEAD, tuning.LAST_BLOCKS):
        lines.append("  --config.tune=all, in another --output, trains all of the network: longer, and often better")
    return "\n".join(lines)
