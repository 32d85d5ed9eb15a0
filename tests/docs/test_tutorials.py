"""Execute the notebooks in docs/tutorials in one folder, in the order in which they build on each other."""

import os

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

from support.docs_pages import NOTEBOOKS, ROOT

ORDER = ["curate-a-store", "train-cvcl", "evaluate-your-model"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tutorials")


def test_notebooks_are_all_executed():
    assert sorted(ORDER) == sorted(path.stem for path in NOTEBOOKS)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ORDER)
def test_notebook_runs_without_error(name, folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(ROOT / f"docs/tutorials/{name}.ipynb", as_version=4)
    # Unix sockets: another process can take a TCP port between its choice and the start of the kernel.
    kernel = AsyncKernelManager(transport="ipc", ip=str(folder / f"{name}.socket"))
    place = {"metadata": {"path": folder}}
    NotebookClient(notebook, km=kernel, timeout=900, startup_timeout=300, resources=place).execute()
    printed = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [text for text in printed if "error:" in text]  # %run reports a nonzero exit status, but does not fail


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_no_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
