"""The notebook is kept without what it printed, and runs from top to bottom: in one namespace, and in a kernel."""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from viewfold.lifting.presets import DRAFT
from viewfold.scene.meshfile import load_mesh

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"


def cells(kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_notebook_holds_no_output_and_nothing_of_the_machine_it_ran_on() -> None:
    told = json.loads(NOTEBOOK.read_text())
    assert told["nbformat"] == 4 and told["metadata"].keys() == {"kernelspec", "language_info"}
    assert told["metadata"]["language_info"] == {"name": "python"}
    for cell in told["cells"]:
        assert cell["metadata"] == {}
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
    assert len({cell["id"] for cell in told["cells"]}) == len(told["cells"])


def test_every_piece_of_the_notebook_ends_in_something_to_look_at_and_is_short() -> None:
    assert all(isinstance(ast.parse(cell).body[-1], ast.Expr) for cell in cells("code"))
    assert sum(len(cell.splitlines()) for cell in cells("code")) < 40 and len(cells("markdown")) >= 4


@dataclass
class HTML:
    """Stands for IPython's, where there is none."""

    data: str


def run_cell(source: str, namespace: dict[str, Any]) -> Any:
    """Run a cell; return the value of its last line, which a notebook shows."""
    *body, last = ast.parse(source).body
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(body, []), "notebook", "exec"), namespace)
    return eval(compile(ast.Expression(last.value), "notebook", "eval"), namespace)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = ModuleType("IPython")
    ipython.display = ModuleType("IPython.display")  # type: ignore[attr-defined]
    ipython.display.HTML = HTML  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)  # type: ignore[attr-defined]
    monkeypatch.setattr("viewfold.make.STANDARD", DRAFT)  # half the time; the kernel's run is as a reader's
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    doubts, views, figures, viewer, sides = (run_cell(cell, namespace) for cell in cells("code"))
    assert doubts == []
    assert isinstance(views, Image.Image) and views.size == (768, 192)
    assert figures["faces"] == len(load_mesh(tmp_path / "out" / "notebook" / "car.glb").faces) > 100
    assert "<iframe" in viewer.data and len(viewer.data) > 100_000, "the viewer and the file, in one piece"
    assert isinstance(sides, Image.Image) and len(set(sides.convert("RGB").tobytes())) > 50


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_the_notebook_runs_in_jupyter_s_kernel(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [cell.outputs[-1].data for cell in notebook.cells if cell.cell_type == "code"]
    assert [("image/png" in each, "text/html" in each) for each in shown] == [
        (False, False), (True, False), (False, False), (False, True), (True, False)
    ]  # fmt: skip
    assert (tmp_path / "out" / "notebook" / "car.glb").is_file()
