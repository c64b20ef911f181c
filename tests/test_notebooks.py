"""Each library notebook's cells hold twice: in the notebook itself, and against the module that was exported from it."""

import importlib
import re

import matplotlib
import nbformat
import pytest
from test_architecture import EXPORTS

matplotlib.use("Agg")
LIBRARY = {notebook.stem: (notebook, module) for notebook, module in EXPORTS.items() if notebook.parent.name != "pipeline"}
EXPORTED = re.compile(r"^#\|\s*(export|exporti|exports|default_exp)\b", re.M)
SKIPPED = re.compile(r"^#\|\s*(eval:\s*false|notest)\b", re.M)


def run_cells(name: str, module: str | None, folder) -> int:
    "Execute the cells of a notebook one after the other; with a module, its exported cells come from there instead."
    notebook, _ = LIBRARY[name]
    space = {"__name__": "__main__"} if module is None else dict(vars(importlib.import_module(f"recsys.{module}")))
    n = 0
    for number, cell in enumerate(nbformat.read(notebook, as_version=4).cells):
        if cell.cell_type != "code" or SKIPPED.search(cell.source) or (module and EXPORTED.search(cell.source)):
            continue
        exec(compile(cell.source, f"{name}[{number}]", "exec"), space)
        n += 1
    return n


@pytest.fixture(autouse=True)
def in_nbs(monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(next(iter(LIBRARY.values()))[0].parent)
    monkeypatch.setattr(plt, "show", lambda *a, **k: None)
    yield
    plt.close("all")


@pytest.mark.parametrize("name", LIBRARY)
def test_cells_hold_in_the_notebook(name, tmp_path):
    assert run_cells(name, None, tmp_path) > 0


@pytest.mark.parametrize("name", LIBRARY)
def test_cells_hold_against_the_module(name, tmp_path):
    assert run_cells(name, LIBRARY[name][1], tmp_path) > 0


def test_all_notebooks_were_found():
    assert len(LIBRARY) >= 30
