"""Counting of images that cannot be decoded."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from absl import logging


class DamagedImages:
    """Names of the images that could not be decoded, each once.

    Args:
        num_images: Number of images in the split.
        max_share: Share of them that may be damaged.
    """

    def __init__(self, num_images: int, max_share: float) -> None:
        self._num_images = num_images
        self._max_share = max_share
        self._limit = max(1, max_share * num_images)
        self._names: set[str] = set()
        self._why: dict[str, str] = {}  # where it is known
        self._shared = 0  # of them are known to all processes of a cluster
        self._lock = threading.Lock()

    def add(self, name: str, why: str = "") -> None:
        """Counts and reports an image, unless it has been before; called by the pipeline's threads."""
        with self._lock:
            if name not in self._names:
                self._names.add(name)
                self._why[name] = why
                logging.warning("%s cannot be decoded and is left out%s.", name, f": {why}" if why else "")

    def restore(self, names: Iterable[str]) -> None:
        """Takes over what was counted before a run was stopped, unless it was stopped for that: they may be mended."""
        known = set(names)
        if len(known) <= self._limit:
            with self._lock:
                self._names.update(known)

    @property
    def has_news(self) -> bool:
        """Whether there are names that the other processes of a cluster have not been told."""
        return len(self.names) > self._shared

    def merge(self, names: set[str]) -> None:
        """Takes over the names that all processes of a cluster have, as the allowed share is of all images."""
        with self._lock:
            self._names |= names
        self._shared = len(names)

    @property
    def names(self) -> list[str]:
        """The names so far, sorted."""
        with self._lock:
            return sorted(self._names)

    def problem(self) -> str:
        """Why the run cannot go on, if too many (and more than one) or all images are damaged; else empty."""
        names = self.names
        if len(names) <= self._limit and len(names) < self._num_images:
            return ""
        named = [f"{name} ({self._why[name]})" if self._why.get(name) else name for name in names[:5]]
        shown = ", ".join(named) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        if len(names) == self._num_images:
            return f"None of {len(names)} images can be decoded: {shown}. Mend them."
        return (
            f"{len(names)} of {self._num_images} images cannot be decoded, more than "
            f"config.dataset.max_damaged_share {self._max_share:g} allows: {shown}. Mend them or raise "
            "that share; without them a run has to begin anew."
        )
