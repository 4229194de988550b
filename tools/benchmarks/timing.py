"""Medians of interleaved measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import tqdm

ROUNDS = 5


def medians(measures: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Medians of measures taken in turn, after one of each that does not count.

    Args:
        measures: Name to function that returns a time or a rate.
        rounds: How often.

    Returns:
        Name to median.
    """
    results: dict[str, list[float]] = {name: [] for name in measures}
    for turn in tqdm.trange(rounds + 1, unit=" rounds"):
        for name, measure in measures.items():
            result = measure()
            if turn:
                results[name].append(result)
    return {name: float(np.median(values)) for name, values in results.items()}


def report(results: dict[str, float]) -> Iterator[str]:
    """Lines with the medians and their ratios to the first."""
    first = next(iter(results.values()))
    for name, value in results.items():
        yield f"{name}: {value:.2f} ({value / first:.3f} of the first)"
