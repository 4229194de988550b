"""For mkdocs: pages that are no Markdown of docs/: the README, the changelog, notebooks, code that pages link to."""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changes.md"}
_UP = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")
_NOTEBOOK = ".ipynb"
_TO_NOTEBOOK = re.compile(rf"(?<=\]\()(notebooks/\w+){_NOTEBOOK}")


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
    for file in [file for file in files if file.src_uri.endswith(_NOTEBOOK)]:
        for path, content in _parts_of_notebook(file):
            files.append(File.generated(config, path, content=content))
    return files


def _parts_of_notebook(file: File) -> Iterator[tuple[str, str | bytes]]:
    """Paths and contents of the page of a notebook and of its pictures."""
    name = file.src_uri.removesuffix(_NOTEBOOK)
    base, pictures, lines = posixpath.basename(name), 0, []
    for cell in json.loads(file.content_string)["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [re.sub(rf"(?<=\]\()(\w+){_NOTEBOOK}", r"\1.md", text)]
            if len(lines) == 1:
                lines += [f"[The notebook itself]({base}{_NOTEBOOK})"]
            continue
        lines += [f"```python\n{text}\n```"]
        said = ""  # a program's lines come in one piece or in several
        for output in [*cell["outputs"], {}]:
            if "text" in output:
                said += "".join(output["text"])
                continue
            if said:
                lines += ["```text\n" + said.strip("\n") + "\n```"]
                said = ""
            if picture := output.get("data", {}).get("image/png"):
                pictures += 1
                yield f"{name}_{pictures}.png", base64.b64decode("".join(picture))
                lines += [f"![What the code above draws]({base}_{pictures}.png)"]
            elif "data" in output:
                lines += [f"```text\n{''.join(output['data']['text/plain'])}\n```"]
    yield f"{name}.md", "\n\n".join(lines) + "\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links to files outside docs/ to their pages, and those to notebooks."""
    here = posixpath.dirname(page.file.src_uri)

    def to_page(match: re.Match[str]) -> str:
        outside = (ROOT / match[1]).is_file()
        return posixpath.relpath(_page_of(match[1]), here or ".") if outside else match[0]

    return _TO_NOTEBOOK.sub(r"\1.md", _UP.sub(to_page, markdown))
