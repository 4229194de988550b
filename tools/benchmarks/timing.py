"""Medians of interleaved measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import tqdm

ROUNDS = 5
K = TypeVar("K")


def medians(measures: Mapping[K, Callable[[], float]], rounds: int = ROUNDS, warm_up: int = 1) -> dict[K, float]:
    """Medians of measures taken in turn, after rounds that do not count.

    Args:
        measures: Name to function that returns a time or a rate.
        rounds: How often.
        warm_up: Rounds before, that do not count.

    Returns:
        Name to median.
    """
    results: dict[K, list[float]] = {name: [] for name in measures}
    for turn in tqdm.trange(rounds + warm_up, unit=" rounds"):
        for name, measure in measures.items():
            result = measure()
            if turn >= warm_up:
                results[name].append(result)
    return {name: float(np.median(values)) for name, values in results.items()}


def describe_medians(results: dict[str, float]) -> Iterator[str]:
    """Lines with the medians and their ratios to the first."""
    first = next(iter(results.values()))
    for name, value in results.items():
        yield f"{name}: {value:.2f} ({value / first:.3f} of the first)"
