"""Killed at any moment, cutting frames and reading released ones go on, do nothing twice and end in the same bytes."""

import hashlib
import json
import multiprocessing
import random
import signal
import time
from functools import partial

import pytest

from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.ingest.released import released
from support.filming import corpus

VIDEOS = 6
ROWS = [("0:00", "M", "one. two"), ("0:06", "Mom", "three"), ("0:09", "C", "ba"), ("0:11", "papa", "end")]


@pytest.fixture(scope="module")
def processes():
    """Real processes, forked from one that has imported everything: only starting up is saved."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["babyvlm.curation.ingest.frames", "babyvlm.curation.ingest.released", "filming", "pytest"]
    )
    return context


@pytest.fixture(scope="module")
def raw(tmp_path_factory, draw_jpeg):
    """Videos with transcripts, one video missing, and released frames with their lists."""
    folder = tmp_path_factory.mktemp("raw")
    for index in range(VIDEOS):
        corpus(folder, ROWS, f"V_{index}", count=120)
    (folder / "videos" / "V_3.mp4").unlink()
    (folder / "images").mkdir()
    for number in range(VIDEOS * 12):
        (folder / "images" / f"V_{number:03}_00.jpg").write_bytes(draw_jpeg(number, 64))
    entries = [{"utterance": f"word {number}", "frame_filenames": [f"V_{number:03}_00.jpg"]} for number in range(80)]
    (folder / "train.json").write_text(json.dumps({"data": entries}))
    return folder


def stages(raw):
    return {
        "frames": partial(frames, raw / "videos", raw / "transcripts", max_frames=4),
        "released": partial(released, raw / "images", captions=[raw / "train.json"]),
    }


def work(stage, out, workers):
    """What a process does."""
    import babyvlm.curation.ingest.released as module

    module.CHUNK_IMAGES = 12
    stage(out=out, num_workers=workers)


def contents(out):
    files = [*out.iterdir(), *out.parent.glob(f"{out.name}.*.csv")]
    return {path.name.replace(out.name, "OUT"): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kill_and_finish(processes, folder, stage, moments):
    """Kill a stage at the moments; then let it end. Parts that were there must never be written again."""
    out = folder / "store"
    parts = folder / "store.parts"
    seen = {}
    for number, moment in enumerate(moments):
        process = processes.Process(target=work, args=(stage, out, 1 if number % 3 else 2))
        process.start()
        time.sleep(moment)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert out.exists() or not list(folder.glob("store/store.json"))
        there = {path.name: path.stat().st_mtime_ns for path in parts.glob("[!.]*")} if parts.exists() else {}
        assert {name: there[name] for name in seen if name in there} == {n: t for n, t in seen.items() if n in there}
        assert seen.keys() <= there.keys() or out.exists()
        seen |= there
    process = processes.Process(target=work, args=(stage, out, 1))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert not parts.exists()
    return contents(out)


@pytest.fixture(scope="module")
def uninterrupted(raw, tmp_path_factory, processes):
    """Seconds that each stage takes, and the bytes it makes."""
    known = {}
    for name, stage in stages(raw).items():
        folder = tmp_path_factory.mktemp(name)
        process = processes.Process(target=work, args=(stage, folder / "store", 1))
        process.start()
        started = time.monotonic()
        process.join(120)
        known[name] = time.monotonic() - started, contents(folder / "store")
    return known


def moments(seed, count, longest):
    generator = random.Random(seed)
    return [generator.uniform(0, longest) for _ in range(count)]


@pytest.mark.parametrize("name", ["frames", "released"])
def test_killed(tmp_path, processes, raw, uninterrupted, name):
    longest, bytes_of = uninterrupted[name]
    assert kill_and_finish(processes, tmp_path, stages(raw)[name], moments(time.time_ns(), 3, longest)) == bytes_of


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["frames", "released"])
def test_killed_at_twenty_moments(tmp_path, processes, raw, uninterrupted, name, seed):
    longest, bytes_of = uninterrupted[name]
    assert kill_and_finish(processes, tmp_path, stages(raw)[name], moments(seed, 20, longest)) == bytes_of
