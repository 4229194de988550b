"""For mkdocs: pages that are no files of docs/: the README, the changelog, and files of the code that pages link to."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changes.md"}
_UP = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")


def _page_of(path: str) -> str:
    return PAGES.get(path, f"source/{path}.md")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are no files of docs/."""
    linked = {path for file in files.documentation_pages() for path in _UP.findall(file.content_string)}
    for path in sorted({*linked, *PAGES}):
        if not (ROOT / path).is_file():
            continue  # mkdocs says of the link that it leads nowhere
        text = (ROOT / path).read_text(encoding="utf-8")
        if path in PAGES:  # which stand a folder above the others
            text = text.replace("](docs/", "](").replace("](CHANGELOG.md)", "](changes.md)")
        else:
            language = Path(path).suffix.removeprefix(".")
            text = f"# `{path}`\n\n````{language}\n{text}\n````\n"
        files.append(File.generated(config, _page_of(path), content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links to files outside docs/ to their pages."""
    here = posixpath.dirname(page.file.src_uri)
    return _UP.sub(lambda match: posixpath.relpath(_page_of(match[1]), here or "."), markdown)
