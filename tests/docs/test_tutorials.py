"""Execute the notebooks in docs/tutorials in one folder, in the order in which they build on each other."""

import os

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

from support.docs_pages import NOTEBOOKS, ROOT

ORDER = ["curate-a-store", "train-cvcl", "evaluate-your-model"]


def test_notebooks_are_all_executed():
    assert sorted(ORDER) == sorted(path.stem for path in NOTEBOOKS)


@pytest.mark.timeout(1200)
def test_notebooks_run_without_error(tmp_path_factory, copy_world, monkeypatch):
    """Run all in one kernel, which imports everything once, and forgets all variables between two notebooks."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MPLBACKEND", "agg")
    whole = nbformat.v4.new_notebook()
    for name in ORDER:
        whole.cells += nbformat.read(ROOT / f"docs/tutorials/{name}.ipynb", as_version=4).cells
        whole.cells.append(nbformat.v4.new_code_cell("%reset -f"))
    folder = tmp_path_factory.mktemp("tutorials")
    (folder / "tutorial").mkdir()
    copy_world(folder / "tutorial" / "world")  # as an earlier execution leaves it
    # Unix sockets: another process can take a TCP port between its choice and the start of the kernel.
    kernel = AsyncKernelManager(transport="ipc", ip=str(folder / "kernel"))
    place = {"metadata": {"path": folder}}
    NotebookClient(whole, km=kernel, timeout=900, startup_timeout=300, resources=place).execute()
    printed = [output.get("text", "") for cell in whole.cells for output in cell.get("outputs", [])]
    assert printed
    assert not [text for text in printed if "error:" in text]  # %run reports a nonzero exit status, but does not fail


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_no_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
