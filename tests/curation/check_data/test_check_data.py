"""Test `check-data`: facts, missing inputs with their fixes, and requirements of the stages."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from babyvlm.__main__ import main
from babyvlm.curation.check_data.corpus import check_videos
from babyvlm.curation.check_data.device import find_device, images_per_second
from babyvlm.curation.check_data.requirements import EMBED_RATE, Device, training_requirements, web_requirements
from babyvlm.curation.check_data.trials import TRIALS, check_trials
from babyvlm.curation.ingest.frame_numbering import numbered_utterances
from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.ingest.profiles import SAYCAM
from babyvlm.curation.store.pair_store import PairStore
from support.filming import write_corpus, write_transcript, write_video

ROWS = [("0:00", "M", "a ball. A dog"), ("0:06", "C", "ba"), ("0:09", "Mom", "yes"), ("0:11", "M", "no")]


@pytest.fixture(scope="module")
def world(tmp_path_factory, copy_world):
    """Return the folder of the tiny Playroom."""
    out = tmp_path_factory.mktemp("world") / "world"
    copy_world(out)
    return out


def check(capsys, *arguments):
    """Run the command; return its exit code and what it printed to standard output and standard error."""
    capsys.readouterr()
    try:
        main(["check-data", *map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    return code, output.out, output.err


def test_check_data_reports_complete_inputs(world, capsys, tmp_path):
    web = world / "web"
    sources = f"[{web}/tars,{web}/llava/list.json,{web}/parquet]"
    code, out, _ = check(
        capsys,
        "--videos",
        world / "home",
        "--profile",
        "playroom",
        "--sources",
        sources,
        "--trials",
        world / "trials",
        "--out",
        tmp_path / "not" / "yet",
    )
    assert code == 0
    assert "missing" not in out
    assert out.splitlines()[-1] == "All inputs are complete."
    frames(world / "home/videos", world / "home/transcripts", tmp_path / "store", profile="playroom", num_workers=1)
    store = PairStore(tmp_path / "store")
    assert f"{len(store):,} frames (at most 32 per utterance)" in out
    assert f"{store.manifest['funnel']['kept']:,}" in next(line for line in out.splitlines() if "within their" in line)
    for stage in ("frames", "decontaminate", "embed", "filter", "web", "rewrite", "match"):
        assert f"curate {stage}" in out
    assert "fit CVCL" in out
    assert "fit BabyLLaVA" in out
    assert re.search(r"with 2 processes; \d+ CPU cores, no GPU|with 2 processes; .* GiB", out)
    assert re.search(r"^Bottleneck: (curate|fit) \w+ on the (device|CPU), .* of ", out, re.MULTILINE)
    assert "frames/s per process, measured on these videos" in out
    assert f"free in {tmp_path}" in out


def test_check_data_lists_everything_that_is_missing(tmp_path, capsys):
    for name in ("good", "gone", "cut", "uneven"):
        write_corpus(tmp_path, ROWS, name, count=150, options={"movflags": "faststart"})
    videos, transcripts = tmp_path / "videos", tmp_path / "transcripts"
    (videos / "gone.mp4").unlink()
    content = (videos / "cut.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    write_video(videos / "uneven.mp4", starts_ms=[0, 40, 300, 9000, 9040, 15_000])
    for name in ("stray", "bad"):
        shutil.copy(videos / "good.mp4", videos / f"{name}.mp4")
    write_transcript(transcripts / "bad.csv", [["0:01", "M", "bad", "a"], ["0:00", "M", "bad", "b"]])
    write_transcript(transcripts / "twice.csv", [["0:01", "M", "good", "a"]])
    write_transcript(transcripts / "few.csv", [["0:01", "M"]], ["Time", "Speaker"])
    code, out, err = check(capsys, "--videos", tmp_path, "--trials", tmp_path / "trials", "--sources", tmp_path / "web")
    assert code == 2
    for line in (
        f"missing {transcripts}/bad.csv, row 3: start time 0 s",
        f"missing {transcripts}/few.csv, row 1: no column",
        f"missing {transcripts}/twice.csv: video 'good' already has a transcript",
        f"missing {transcripts}/gone.csv: gone: video missing; 4 utterances lost",
        f"missing {videos}/cut.mp4: cut: video is truncated; 4 utterances lost",
        f"note    {videos}/stray.mp4: no transcript",
        f"note    {videos}/uneven.mp4: variable frame rate",
        f"missing {tmp_path}/web: no such file",
        f"missing {tmp_path}/trials/vtwt.csv: No such",
    ):
        assert line in out
    assert "bad.mp4: no transcript" not in out
    assert (
        err.splitlines()[-1] == f"error: {out.count('  missing ')} problems found. See the lines marked 'missing' above"
    )
    for name in ("bad", "twice", "few"):
        (transcripts / f"{name}.csv").unlink()
    code, out, _ = check(capsys, "--videos", tmp_path)
    assert code == 2
    assert "fix     Copy the missing and damaged videos again, or accept the loss: --min_fraction 0.5\n" in out
    code, out, _ = check(capsys, "--videos", tmp_path, "--min_fraction", "0.5")
    assert code == 2
    assert f"missing {tmp_path}: only 7 of 16 caregiver utterances are within a readable video (0 turns" in out
    code, out, _ = check(capsys, "--videos", tmp_path, "--min_fraction", "0.4")
    assert code == 0
    assert "note    " + str(transcripts / "gone.csv") in out


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_check_data_reports_missing_folders(tmp_path, capsys, folder):
    (tmp_path / "empty").mkdir()
    code, out, _ = check(
        capsys,
        "--videos",
        tmp_path / folder,
        "--frames",
        tmp_path / folder,
        "--sources",
        f"[{tmp_path / folder}]",
        "--trials",
        tmp_path / folder,
    )
    assert code == 2
    assert out.count("missing ") == 3 + len(TRIALS)


def test_check_data_rejects_wrong_options(capsys):
    for arguments, message in (
        ((), "nothing to check"),
        (("--sources", "x", "--num_workers", "0"), "--num_workers"),
        (("--videos", "x", "--profile", "ego4d"), "no such profile"),
    ):
        code, _, err = check(capsys, *arguments)
        assert code == 2
        assert message in err
        assert len(err.strip().splitlines()) == 1


def test_check_data_reports_too_little_disk_space(world, capsys, monkeypatch):
    usage = shutil.disk_usage(world)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    code, out, _ = check(capsys, "--videos", world / "home")
    assert code == 2
    assert "0.0 MB free" in out


def test_check_data_checks_released_frames(tmp_path, capsys, draw_jpeg):
    rows = [["0:00", "M", "S_1", "one. two"], ["0:04", "M", "S_1", "three"], ["0:05", "M", "S_1", "end"]]
    write_transcript(tmp_path / "transcripts" / "S_1.csv", rows)
    names = [
        f"S_1_{one.number:03}_{frame:02}.jpg"
        for one in numbered_utterances(tmp_path / "transcripts/S_1.csv", "current")[1]
        for frame in range(one.frames)
    ]
    (tmp_path / "frames").mkdir()
    for seed, name in enumerate(names):
        (tmp_path / "frames" / name).write_bytes(draw_jpeg(seed, 64))
    code, out, _ = check(capsys, "--frames", tmp_path / "frames", "--transcripts", tmp_path / "transcripts")
    assert code == 0
    assert f"{len(names)} images" in out
    assert "curate released" in out
    entries = [
        {"utterance": "a", "frame_filenames": names[:3]},
        {"utterance": "b", "frame_filenames": ["S_1_999_00.jpg"]},
    ]
    (tmp_path / "train.json").write_text(json.dumps({"data": entries}))
    (tmp_path / "frames" / names[1]).write_bytes(b"")
    code, out, _ = check(capsys, "--frames", tmp_path / "frames", "--captions", tmp_path / "train.json")
    assert code == 2
    assert f"2 of the listed images are missing or empty; the first is {names[1]}" in out
    code, out, _ = check(capsys, "--frames", tmp_path / "frames")
    assert code == 2
    assert "no utterances for the images. Pass --captions" in out


def test_check_trials_reports_damaged_lists(world, tmp_path):
    shutil.copytree(world / "trials", tmp_path / "trials")
    gone = sorted((tmp_path / "trials" / "vtwt").iterdir())[:3]
    gone[0].unlink()
    gone[1].unlink()
    gone[2].write_bytes(b"")
    (tmp_path / "trials" / "labeled_s.csv").write_text("trial_id,image\n1,a.jpg\n")
    (tmp_path / "trials" / "caption.csv").write_text("image,text\n")
    (tmp_path / "trials" / "baby_winoground.csv").write_bytes(b"\xff\xfe\xff")
    missing = check_trials(tmp_path / "trials").missing
    parts = (
        "labeled_s.csv, row 1: no column 'target_category', 'real_category'",
        "vtwt.csv: 3 of",
        "baby_winoground.csv: not readable",
        "caption.csv: contains no rows",
    )
    assert len(missing) == len(parts)
    assert all(part in line for part, line in zip(parts, missing, strict=True))
    assert missing[1].endswith(": " + ", ".join(f"vtwt/{image.name}" for image in gone))


def test_check_data_finds_benchmark_images_below_image_root(world, tmp_path, capsys):
    lists = tmp_path / "lists"
    lists.mkdir()
    for path in (world / "trials").glob("*.csv"):
        shutil.copy(path, lists)
    code, out, _ = check(capsys, "--trials", lists)
    assert code == 2
    assert out.count("Set their folder with --image_root FOLDER") == len(TRIALS)
    assert check(capsys, "--trials", lists, "--image_root", world / "trials")[0] == 0


def test_trial_columns_match_benchmarks():
    from babyvlm.benchmarks import object_trials, saycam_caption, vtwt, winoground

    modules = (object_trials, vtwt, winoground, saycam_caption)
    assert [columns for columns, _, _ in TRIALS.values()] == [module.COLUMNS for module in modules]


def test_check_data_handles_many_files_without_torch(tmp_path):
    write_corpus(tmp_path, ROWS, "V_0", count=150)
    for number in range(1, 300):
        os.link(tmp_path / "videos" / "V_0.mp4", tmp_path / "videos" / f"V_{number}.mp4")
        text = (tmp_path / "transcripts" / "V_0.csv").read_text().replace("V_0", f"V_{number}")
        (tmp_path / "transcripts" / f"V_{number}.csv").write_text(text)
    code = (
        "import sys; from babyvlm.__main__ import main; main(sys.argv[1:])\n"
        "print([name for name in ('torch', 'lightning', 'transformers', 'open_clip') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "check-data", "--videos", str(tmp_path), "--profile", "playroom"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "reading video headers" in done.stderr
    findings = check_videos(tmp_path / "videos", tmp_path / "transcripts", SAYCAM, 16, 1.0, find_device())
    assert dict(findings.facts)["transcripts with a readable video"] == "300"
    assert findings.pairs == 300 * (15 + 15 + 10 + 1)
    assert Path(tmp_path / "data").exists() is False


def test_requirements_grow_with_the_data_and_name_all_files_of_training():
    core, ten = Device("core", (1, 1), "one core"), Device("ten", (10, 10), "ten cores")
    cvcl, babyllava = training_requirements(1000, 15_000, core)
    twice = training_requirements(2000, 15_000, core)
    assert [two.seconds / one.seconds for one, two in zip((cvcl, babyllava), twice, strict=True)] == [2, 2]
    assert twice[0].disk_bytes - cvcl.disk_bytes == 1000 * 15_000  # the Arrow copy
    assert twice[1].disk_bytes - babyllava.disk_bytes == 1000 * 49 * 2048 * 2  # the features
    assert cvcl.disk_bytes > 1e9  # checkpoints
    assert training_requirements(1000, 15_000, ten)[0].seconds == pytest.approx(cvcl.seconds / 10)
    embedding = next(one for one in web_requirements(1000, 1e7, ten, 100) if one.stage == "curate embed")
    assert embedding.seconds == pytest.approx(1000 / EMBED_RATE / 10)


def test_device_is_asked_for_its_rates(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert find_device() == Device(f"{cores} CPU cores, no GPU", (cores, cores), f"{cores} cores")
    assert find_device(2 * EMBED_RATE).speedup == (2, cores)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")  # but torch finds no GPU
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not find_device().is_gpu
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8, 8), torch.nn.Flatten(), torch.nn.Linear(2, 2))
    for train in (False, True):
        assert images_per_second(model, torch.device("cpu"), train=train, side=8, seconds=0.01) > 0
    assert model[0].weight.grad is not None
