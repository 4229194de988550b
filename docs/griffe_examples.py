"""For mkdocstrings: the examples of docstrings, which stand at their end, are code."""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^(Example\b.*):\n\s*\n?", re.MULTILINE)


class Examples(griffe.Extension):
    """Fences what comes behind `Example:`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None or not (found := _EXAMPLE.search(obj.docstring.value)):
            return
        value = obj.docstring.value
        code = inspect.cleandoc("\n" + value[found.end() :])
        language = "pycon" if code.startswith(">>>") else "python"
        obj.docstring.value = f"{value[: found.start()]}**{found[1]}**\n\n```{language}\n{code}\n```"
