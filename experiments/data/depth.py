"""Notice of images whose values fill a small part of the range that their files declare."""

from __future__ import annotations

import threading

from absl import logging

_DECLARED = 65_535
_DARK = 2**14  # 12 and 14 bits of a camera, microscope or X-ray detector, written without scaling


class DarkImages:
    """Says once that 16-bit images are dark: 12-bit data read as 16 bits are almost black, and teach little."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said = False

    def add(self, name: str, peak: int) -> None:
        """Looks at an image; called by the pipeline's threads.

        Args:
            name: Its name.
            peak: Its largest value, of 65,535.
        """
        with self._lock:
            if self._said or peak >= _DARK:
                return
            self._said = True
        bits = max(8, peak.bit_length())
        logging.warning(
            "%s has 16 bits a value and none above %d: the darkest %.2g %% of the range is all there is, and it is "
            "read as declared, almost black. If its data have %d bits, write them times %d. Others like it are not "
            "named.",
            name,
            peak,
            100 * peak / _DECLARED,
            bits,
            2 ** (16 - bits),
        )
