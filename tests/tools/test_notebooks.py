"""The notebooks of docs/ run as they stand there, and the outputs they were committed with are those of a reader."""

import itertools
import os
import re
import shutil
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def shown(cell):
    """Kinds of the outputs of a cell: what it prints, pictures."""
    kinds = [output.get("name") or sorted(output["data"]) for output in cell.get("outputs", [])]
    return [kind for kind, _ in itertools.groupby(kinds)]  # a program's lines come in one piece or in several


def text_of(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output["data"].get("text/plain", "") for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]  # run once, in order
    assert sum("image/png" in kind for cell in code for kind in shown(cell)) >= 2
    text = text_of(notebook)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|usr|opt|Users)/|[Ww]arning|Traceback", text), text
    assert not any("stderr" in shown(cell) for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    """In a copy of the folders they are in, with this repository's code."""
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "experiments" / "recipes", tmp_path / "experiments" / "recipes")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    notebook = nbformat.read(path, as_version=4)
    run = nbformat.from_dict(notebook)
    client = nbclient.NotebookClient(run, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute()
    for cell, before in zip(run.cells, notebook.cells, strict=True):
        assert shown(cell) == shown(before), cell.source
    assert "Traceback" not in text_of(run)
