"""Build complete benchmarks on the tiny world, by the commands of `make benchmark-demo`."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from babyvlm.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
def test_builder_builds_reviewed_benchmark_that_scores_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*command, **arguments):
        main([*command, *(part for name, value in arguments.items() for part in (f"--{name}", str(value)))])

    def build(step, **arguments):
        run("benchmark", "build", step, **arguments)

    run("playroom", out="world", size="tiny", seed=1, num_workers=1)
    run(
        "curate",
        "frames",
        videos="world/home/videos",
        transcripts="world/home/transcripts",
        profile="playroom",
        out="frames",
        image_size=112,
        max_frames=2,
        licensed="false",
        num_workers=1,
    )
    run("curate", "embed", store="frames", out="embeddings", accelerator="cpu")
    run("curate", "filter", store="frames", embeddings="embeddings", out="filtered")
    run("curate", "vocabulary", stores="[filtered]", out="words", min_count=1)
    build("labeled-s", category_folders="world/trials/labeled_s", out="labeled-s", per_category=2, licensed="false")
    build("phrase-pairs", store="filtered", split="all", vocabulary="words", out="pairs")
    subprocess.run([sys.executable, ROOT / "perf/scripted_review.py", "pairs"], check=True)
    build("negatives", pairs="pairs", out="negatives")
    build("assemble", labeled_s="labeled-s", pairs="pairs", negatives="negatives", out="benchmark")
    main(["test", "--config", str(ROOT / "configs/eval/playroom-clip.yaml"), "--config", "benchmark/eval.yaml"])
    assert "scripted-clip" in Path("benchmark/card.md").read_text()
    for name in ("labeled_s", "vtwt", "baby_winoground"):
        (results,) = Path("lightning_logs").rglob(f"{name}-test.parquet")
        table = pq.read_table(results)
        assert table.num_rows > 0
        assert table.schema.metadata[b"world"] == b"playroom"
