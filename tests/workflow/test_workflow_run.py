"""The chain of made data in SAYCam's layout, run by Snakemake: from raw videos to both tables with one command."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from support import fake_slurm_queue
from support.docs_pages import ROOT

LISTS = {"caption.csv": "SAYCam_caption.csv"}  # Playroom's name -> the authors'
SHARED = ("frames", "web", "decontaminate_web", "rewrite", "embed_web")
SMALL = {
    "trainer.accelerator": "cpu",
    "trainer.precision": "32",
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 1,
    "trainer.check_val_every_n_epoch": None,
    "data.batch_size": 4,
}
SMALL_IMAGES = SMALL | {"data.image_size": 64, "data.num_workers": 0, "model.vision.weights": None}
SMALL_SHAPE = {"width": 32, "layers": 2, "heads": 4, "inner": 64}


@pytest.fixture
def place(tmp_path, monkeypatch, copy_world):
    """Change into a folder with SAYCam's raw data, as made by Playroom, and the shipped configs made small.

    Playroom's videos have SAYCam's names and are upside down, as its transcripts have SAYCam's columns.
    """
    copy_world(tmp_path / "made")
    saycam, web = tmp_path / "data/saycam", tmp_path / "data/web"
    (saycam / "raw").mkdir(parents=True)
    web.mkdir()
    for name in ("videos", "transcripts"):
        shutil.move(tmp_path / "made/home" / name, saycam / "raw" / name)
    for file in (saycam / "raw/transcripts").iterdir():  # SAYCam's times are minutes and seconds
        file.write_text(re.sub(r"\b0:0?(\d{1,2}:\d{2})\b", r"\1", file.read_text()))
    shutil.move(tmp_path / "made/trials", saycam / "trials")
    for name, authors in LISTS.items():
        (saycam / "trials" / name).rename(saycam / "trials" / authors)
    shutil.move(tmp_path / "made/web/llava/list.json", web / "blip_laion_cc_sbu_558k.json")
    shutil.move(tmp_path / "made/web/llava/images", web / "images")
    shutil.rmtree(tmp_path / "made")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    _make_small(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _make_small(folder):
    matrix = yaml.safe_load((folder / "configs/saycam/ablations.yaml").read_text())
    steps = {name: matrix["steps"][name] for name in ("cvcl", "gpt2-language", "gpt2-phase-1", "gpt2-phase-2")}
    for name, step in steps.items():
        part = "model.shape" if name == "gpt2-language" else "model.language"
        shape = {f"{part}.{size}": value for size, value in SMALL_SHAPE.items()}
        step["options"] = SMALL | {"data.max_tokens": 32} | shape if name == "gpt2-language" else dict(SMALL_IMAGES)
        if name.startswith("gpt2-phase"):
            step["options"] |= {"data.features": None} | shape
    models = {
        "CVCL": {"step": "cvcl", "mixes": ["filtered", "filtered-random"]},
        "BabyLLaVA-GPT2": {"step": "gpt2-phase-2", "mixes": ["filtered"]},
    }
    bounds = {"Playroom-CLIP": ["configs/eval/playroom-clip.yaml", "configs/benchmarks/saycam.yaml"]}
    matrix |= {"seeds": [0], "steps": steps, "models": models, "upper_bounds": bounds}
    del matrix["quick"]
    (folder / "matrix.yaml").write_text(yaml.safe_dump(matrix))
    corpus = yaml.safe_load((folder / "configs/saycam/workflow.yaml").read_text())
    corpus |= {
        "matrix": "matrix.yaml",
        "embed": {"clip": "playroom"},
        "filter": {"quantile": 0.4},
        "vocabulary": {"min_count": 1},
        "random_captions": "rewritten",
        "resources": {name: {"shares": 2} for name in SHARED},
    }
    corpus["frames"] |= {"num_workers": 1, "image_size": 64, "max_frames": 1}
    for stage in ("web", "decontaminate"):
        corpus[stage] |= {"num_workers": 1}
    (folder / "workflow.yaml").write_text(yaml.safe_dump(corpus))


def start(*options, **environment):
    command = [sys.executable, "-m", "babyvlm", "workflow", "run", "--corpus", "workflow.yaml", *options]
    with Path("output.txt").open("a") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | environment, start_new_session=True
        )


def assert_has_both_tables():
    page = Path("report/report.html").read_text()
    assert all(row in page for row in ("CVCL-filtered-random", "BabyLLaVA-GPT2-filtered", "Playroom-CLIP"))
    tables = {path.name for path in Path("report/tables").glob("*.csv")}
    assert {"main-table.csv", "ablation.csv"} <= tables
    assert "rewritten captions" in Path("report/tables/data-funnels.csv").read_text()


def test_engine_orders_all_jobs(place):
    """Snakemake accepts the rules, and plans each job once."""
    process = start("--cores", "1", "--engine_options=-n")
    assert process.wait(250) == 0, Path("output.txt").read_text()
    printed = Path("output.txt").read_text()
    counts = dict(re.findall(r"^(\w+) +(\d+)$", printed, re.MULTILINE))
    assert counts["frames_share"] == counts["web_share"] == counts["embed_web_share"] == "2"
    assert counts["step_cvcl"] == "2"
    assert counts["report"] == counts["vocabulary"] == counts["step_gpt2_language"] == "1"
    assert not Path("data/saycam/stores").exists()


@pytest.mark.soak
def test_killed_engine_resumes_and_writes_both_tables(place):
    first = start("--cores", "2")
    parts = Path("data/saycam/stores/raw/frames.parts")
    while not list(parts.glob("[!.]*.parquet")):
        assert first.poll() is None, Path("output.txt").read_text()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("[!.]*.parquet")}
    assert kept
    second = start("--cores", "2")
    while parts.exists() and len([*parts.glob("[!.]*.parquet")]) == len(kept):
        assert second.poll() is None, Path("output.txt").read_text()
        time.sleep(0.05)
    found = {path.name: path.stat().st_mtime_ns for path in parts.glob("[!.]*.parquet") if path.name in kept}
    assert found.items() <= kept.items()  # the engine has neither deleted nor rebuilt them
    assert second.wait(3000) == 0, Path("output.txt").read_text()
    assert_has_both_tables()
    runs = {path: path.stat().st_mtime_ns for path in Path("lightning_logs").rglob("*.ckpt")}
    assert start("--cores", "2").wait(3000) == 0
    assert "already complete, skipping" in Path("output.txt").read_text()
    assert {path: path.stat().st_mtime_ns for path in Path("lightning_logs").rglob("*.ckpt")} == runs


@pytest.mark.soak
def test_slurm_runs_the_chain_to_both_tables(place):
    slurm = fake_slurm_queue.install(place / "slurm")
    options = "--default-resources slurm_account=lab slurm_partition=main"
    options += " --slurm-init-seconds-before-status-checks 1"
    process = start("--executor", "slurm", "--jobs", "2", f"--engine_options={options}", **slurm)
    assert process.wait(3000) == 0, Path("output.txt").read_text()
    calls = (place / "slurm/calls.txt").read_text().splitlines()
    assert len(calls) == len(re.findall(r"--wrap", "\n".join(calls))) > 20
    assert all("--mem" in call and "-t 1440" in call for call in calls)
    assert sum("_share_" in call for call in calls) == 2 * len(SHARED)
    assert_has_both_tables()
