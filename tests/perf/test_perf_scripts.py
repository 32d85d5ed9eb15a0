"""The benchmark scripts still fit the package."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

PERF = Path(__file__).parents[2] / "perf"
OTHERS = (
    "caption_references",
    "common",
    "interval_coverage",
    "power",
    "prompt_injection",
    "scripted_review",
)  # not of speed
SCRIPTS = sorted(path.stem for path in PERF.glob("*.py") if path.stem not in OTHERS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_perf_script_prints_help(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(PERF)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as error:
        import_module(name).main()
    assert error.value.code == 0
    assert "--num_threads" in capsys.readouterr().out
    for module in (*SCRIPTS, "common"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("solver", ["ours", "scipy"])
def test_matching_benchmark_measures_solver(tmp_path, solver):
    rows = np.random.default_rng(0).normal(size=(2100, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    np.save(tmp_path / "targets.npy", rows[:2050])  # more pairs than the dense solvers take
    np.save(tmp_path / "candidates.npy", rows)
    command = [sys.executable, PERF / "matching.py", "--run", solver, "--folder", tmp_path]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert figures["seconds"] > 0
    assert figures["primal"] == pytest.approx(2050, abs=1e-2)
