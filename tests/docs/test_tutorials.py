"""Execute the notebooks in docs/tutorials in one folder, in the order in which they build on each other."""

import multiprocessing
import os
import sys

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

from support.docs_pages import NOTEBOOKS, ROOT
from support.warm import become_main

ORDER = ["curate-a-store", "train-cvcl", "evaluate-your-model"]


def test_notebooks_are_all_executed():
    assert sorted(ORDER) == sorted(path.stem for path in NOTEBOOKS)


@pytest.mark.timeout(1200)
def test_notebooks_run_without_error(tmp_path, copy_world):
    """Run all in IPython, in one process that is forked from one that has imported everything (see `conftest`)."""
    (tmp_path / "tutorial").mkdir()
    copy_world(tmp_path / "tutorial" / "world")  # as an earlier execution leaves it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([])  # and what `conftest` adds
    process = context.Process(target=run_notebooks, args=(tmp_path, dict(os.environ)))
    process.start()
    process.join()
    printed = (tmp_path / "printed.txt").read_text()
    assert process.exitcode == 0, printed
    assert printed.count("%%") == len(ORDER)
    assert "error:" not in printed  # %run reports a nonzero exit status, but does not fail


def run_notebooks(folder, environment):
    """Run the notebooks in a folder. Exit with 1 at the first cell that fails; variables are forgotten in between."""
    with (folder / "printed.txt").open("w") as printed:
        for number in (1, 2):
            os.dup2(printed.fileno(), number)
    become_main(environment | {"MPLBACKEND": "agg"})
    os.chdir(folder)
    shell = InteractiveShell.instance()
    for name in ORDER:
        for cell in nbformat.read(ROOT / f"docs/tutorials/{name}.ipynb", as_version=4).cells:
            if cell.cell_type == "code" and not shell.run_cell(cell.source).success:
                sys.exit(1)
        print("%%", name, flush=True)
        shell.run_line_magic("reset", "-f")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_no_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
