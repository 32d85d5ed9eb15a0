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


def test_gpu_benchmark_runs_at_tiny_size(tmp_path, monkeypatch, capsys):
    """All of its measurements, on the CPU. Its figures mean nothing here."""
    monkeypatch.syspath_prepend(PERF)
    out = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["bench_gpu", "--smoke", "true", "--out", str(out)])
    with pytest.raises(SystemExit) as end:
        import_module("bench_gpu").main()
    report = json.loads(out.read_text())
    assert report["left out"] == {}
    assert end.value.code == 0
    assert set(report["measured"]) == set(import_module("bench_gpu").MEASUREMENTS)
    models = report["measured"]["models"]
    assert {"CVCL, float32", "BabyLLaVA-GPT2 phase 2, cached features"} <= set(models)
    assert all(figures["images/s"] > 0 for figures in models.values())
    difference = report["measured"]["resumption"]["greatest difference of a weight"]
    assert difference["whole run - resumed run"] == 0
    (ranks,) = report["measured"]["all-gather"].values()
    assert ranks["greatest relative deviation of a loss"] < 1e-5
    (top_k,) = report["measured"]["top-k matching"].values()
    assert top_k["greatest deviation from NumPy"] < 1e-5
    assert "date" in report["machine"]


def test_gpu_benchmark_without_gpu_is_one_line(monkeypatch, capsys):
    monkeypatch.syspath_prepend(PERF)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_gpu"])
    with pytest.raises(SystemExit) as end:
        import_module("bench_gpu").main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: bench-gpu needs a GPU, and this machine has none that PyTorch can use\n"


@pytest.mark.parametrize("solver", ["ours", "scipy"])
def test_matching_benchmark_measures_solver(tmp_path, solver):
    rows = np.random.default_rng(0).normal(size=(10_000, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    np.save(tmp_path / "targets.npy", rows[:450])  # more pairs than the dense solvers take
    np.save(tmp_path / "candidates.npy", rows)
    command = [sys.executable, PERF / "matching.py", "--run", solver, "--folder", tmp_path]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert figures["seconds"] > 0
    assert figures["primal"] == pytest.approx(450, abs=1e-2)
