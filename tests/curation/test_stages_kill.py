"""Every stage of curation, killed at random moments and run again, gives the bytes of an undisturbed run."""

import csv
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from babyvlm.curation.embeddings import PART_ROWS
from support.killing import OUTPUT, differences, finish, kill_a_worker, tree, undisturbed
from support.warm import WarmParent

CLIP = "babyvlm.curation.clip"  # ten seconds of imports


@pytest.fixture(scope="module")
def parent():
    warm = WarmParent(CLIP, "babyvlm.curation.matching.match", "matplotlib.figure", "scipy.fft")
    yield warm
    warm.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, parent, tiny_store, copy_world):
    """The inputs of all stages: a tiny Playroom, and the artifacts of the stages before."""
    folder = tmp_path_factory.mktemp("inputs")

    def run(*args):
        finish(parent, args, folder)

    copy_world(folder / "world")
    commands = stages(folder)
    commands["few"] = [*commands["frames"], "--max_frames", "1"]
    commands["home-vectors"] = ["curate", "embed", "--store", folder / "frames", "--accelerator", "cpu", "--out", "out"]
    commands["web-vectors"] = ["curate", "embed", "--store", folder / "rewrite", "--accelerator", "cpu", "--out", "out"]
    for name in ("frames", "few", "web", "rewrite", "home-vectors", "web-vectors", "filter", "match"):
        run(*[name if arg == "out" else arg for arg in commands[name]])
    tiny_store([f"a ball {number}" for number in range(PART_ROWS + 20)], path=folder / "pairs")
    for name in ("home-vectors", "web-vectors"):
        np.save(folder / f"{name}.npy", np.load(folder / name / "image.npy")[: 40 if name == "home-vectors" else None])
    with (folder / "clean.csv").open("w", newline="") as file:
        pictures = sorted((folder / "world" / "trials").rglob("*.jpg"))[:40]
        csv.writer(file).writerows([["image"], *([picture.relative_to(folder)] for picture in pictures)])
    return folder


def stages(folder):
    """Return the command of each stage; its output is ``out``."""
    world = folder / "world"
    sources = f"[{world}/web/tars,{world}/web/llava/list.json,{world}/web/parquet]"
    store, vectors = ["--store", folder / "frames"], ["--embeddings", folder / "home-vectors"]
    to = ["--out", "out"]
    return {
        "frames": [
            "curate",
            "frames",
            "--videos",
            world / "home/videos",
            "--transcripts",
            world / "home/transcripts",
            "--profile",
            "playroom",
            "--image_size",
            "96",
            "--licensed",
            "false",
            *to,
        ],
        "web": ["curate", "web", "--sources", sources, *to],
        "rewrite": ["curate", "rewrite", "--store", folder / "web", *to],
        "embed": ["curate", "embed", "--store", folder / "pairs", "--accelerator", "cpu", *to],
        "filter": ["curate", "filter", *store, *vectors, "--num_review_pairs", "4", *to],
        "match": [
            "curate",
            "match",
            "--targets",
            folder / "few",
            "--target_embeddings",
            folder / "home-vectors",
            "--candidates",
            folder / "rewrite",
            "--candidate_embeddings",
            folder / "web-vectors",
            "--batch_size",
            "16",
            *to,
        ],
        "match-arrays": [
            "curate",
            "match-arrays",
            "--targets",
            folder / "home-vectors.npy",
            "--candidates",
            folder / "web-vectors.npy",
            "--batch_size",
            "8",
            *to,
        ],
        "sample-random": ["curate", "sample-random", "--candidates", folder / "web", "--like", folder / "few", *to],
        "vocabulary": ["curate", "vocabulary", "--stores", f"[{folder}/filter,{folder}/match]", *to],
        "deduplicate": ["curate", "deduplicate", *store, *vectors, *to],
        "check-contamination": [
            "curate",
            "check-contamination",
            "--stores",
            f"[{folder}/filter,{folder}/match]",
            "--trials",
            f"[{folder}/clean.csv]",
            "--max_hash_distance",
            "0",
            *to,
        ],
        "decontaminate": ["curate", "decontaminate", *store, "--trials", f"[{folder}/clean.csv]", *to],
        "summarize": ["curate", "summarize", "--stores", f"[{folder}/match]", *to],
        "webdataset": ["store", "export", *store, *to],
        "folder": ["store", "export", *store, "--format", "folder", *to],
    }


STAGES = sorted(stages(Path()))


@pytest.fixture(scope="module")
def undisturbed_run(tmp_path_factory, parent, inputs):
    """``undisturbed_run(stage)``: seconds and files of an undisturbed run."""
    known = {}

    def run(stage):
        if stage not in known:
            known[stage] = undisturbed(parent, stages(inputs)[stage], tmp_path_factory.mktemp(stage) / "undisturbed")
        return known[stage]

    return run


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "frames"])  # see test_frames_kill.py
def test_stage_killed_at_random_gives_same_bytes(tmp_path, parent, inputs, undisturbed_run, stage):
    seed = time.time_ns()
    _, different = differences(
        parent, stages(inputs)[stage], tmp_path / "killed", *undisturbed_run(stage), seed, kills=1
    )
    assert not different, f"seed {seed}"


# In the short form of the tests, one stage for each way to start workers: a process for each file, a pool, a loader.
WITH_WORKERS = ["frames", "check-contamination", "embed", "playroom", "check"]
WITH_WORKERS += [pytest.param(stage, marks=pytest.mark.soak) for stage in ("web", "decontaminate")]


@pytest.mark.parametrize("stage", WITH_WORKERS)
def test_stage_reports_killed_worker_in_one_line(tmp_path, parent, inputs, undisturbed_run, stage):
    others = {
        "playroom": ["playroom", "--size", "tiny", "--out", "out"],
        "check": ["store", "check", "--store", inputs / "frames"],
    }
    command = others.get(stage) or stages(inputs)[stage]
    options = ["--num_workers", "1"] if stage == "embed" else []
    kill_a_worker(parent, [*command, *options], tmp_path, workers=2 if stage == "playroom" else 1)
    assert parent.wait() == 2
    output = (tmp_path / OUTPUT).read_text()
    assert "Traceback" not in output
    # The forked command ends without Python's handlers, so the tracker of its semaphores may report them.
    lines = [line for line in output.splitlines() if "resource_tracker" not in line]
    assert lines[-1].startswith("error: a worker process was killed from outside")
    finish(parent, command, tmp_path)
    assert stage in others or tree(tmp_path) == undisturbed_run(stage)[1]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_waits_for_other_process(tmp_path, parent, inputs, stage):
    (tmp_path / OUTPUT).touch()
    with FileLock(tmp_path / "out.lock"):
        process = parent.start(stages(inputs)[stage], tmp_path)
        until = time.monotonic() + 200
        while "out: another process is building it; waiting\n" not in (tmp_path / OUTPUT).read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)
        assert parent.wait() == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {OUTPUT, "out.lock"}  # nothing was started


@pytest.mark.soak
@pytest.mark.parametrize("stage", STAGES)
def test_stage_killed_at_twenty_moments(tmp_path, parent, inputs, undisturbed_run, stage, capsys):
    survived = mismatches = 0
    for seed in range(20):
        landed, different = differences(
            parent, stages(inputs)[stage], tmp_path / f"{seed}", *undisturbed_run(stage), seed, kills=1
        )
        survived += landed
        mismatches += bool(different)
    with capsys.disabled():
        print(f"\n{stage}: {survived} kills survived, {mismatches} mismatches")
    assert mismatches == 0
    assert survived > 0
