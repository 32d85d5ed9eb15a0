"""Kill `curate frames` and `curate released` at random times: they resume and end with the same bytes."""

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
from support.filming import write_corpus

VIDEOS = 6
ROWS = [("0:00", "M", "one. two"), ("0:06", "Mom", "three"), ("0:09", "C", "ba"), ("0:11", "papa", "end")]


@pytest.fixture(scope="module")
def processes():
    """Return a context whose processes are forked from one that has imported everything, to save start-up time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["babyvlm.curation.ingest.frames", "babyvlm.curation.ingest.released", "pytest"])
    return context


@pytest.fixture(scope="module")
def raw(tmp_path_factory, draw_jpeg):
    """Write videos with transcripts (one video is missing), and released frames with their list."""
    folder = tmp_path_factory.mktemp("raw")
    for index in range(VIDEOS):
        write_corpus(folder, ROWS, f"V_{index}", count=120)
    (folder / "videos" / "V_3.mp4").unlink()
    (folder / "images").mkdir()
    for number in range(VIDEOS * 12):
        (folder / "images" / f"V_{number:03}_00.jpg").write_bytes(draw_jpeg(number, 64))
    entries = [{"utterance": f"word {number}", "frame_filenames": [f"V_{number:03}_00.jpg"]} for number in range(80)]
    (folder / "train.json").write_text(json.dumps({"data": entries}))
    return folder


def stages(raw):
    return {
        "frames": partial(frames, raw / "videos", raw / "transcripts", profile="playroom", max_frames=4),
        "released": partial(released, raw / "images", captions=[raw / "train.json"]),
    }


def run_stage(stage, out, workers):
    """Run a stage, in a process of its own."""
    import babyvlm.curation.ingest.released as module

    module.CHUNK_IMAGES = 12
    stage(out=out, num_workers=workers)


def output_hashes(out):
    files = [*out.iterdir(), *out.parent.glob(f"{out.name}.*.csv")]
    return {path.name.replace(out.name, "OUT"): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kill_and_finish(processes, folder, stage, kill_times):
    """Kill a stage after each of ``kill_times`` seconds, then let it finish. No complete part may be written again."""
    out = folder / "store"
    parts = folder / "store.parts"
    seen = {}
    for number, seconds in enumerate(kill_times):
        process = processes.Process(target=run_stage, args=(stage, out, 1 if number % 3 else 2))
        process.start()
        time.sleep(seconds)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert out.exists() or not list(folder.glob("store/store.json"))
        there = {path.name: path.stat().st_mtime_ns for path in parts.glob("[!.]*")} if parts.exists() else {}
        assert {name: there[name] for name in seen if name in there} == {n: t for n, t in seen.items() if n in there}
        assert seen.keys() <= there.keys() or out.exists()
        seen |= there
    process = processes.Process(target=run_stage, args=(stage, out, 1))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert not parts.exists()
    return output_hashes(out)


@pytest.fixture(scope="module")
def uninterrupted(raw, tmp_path_factory, processes):
    """Return the duration of each stage in seconds, and the hashes of its output."""
    known = {}
    for name, stage in stages(raw).items():
        folder = tmp_path_factory.mktemp(name)
        process = processes.Process(target=run_stage, args=(stage, folder / "store", 1))
        process.start()
        started = time.monotonic()
        process.join(120)
        known[name] = time.monotonic() - started, output_hashes(folder / "store")
    return known


def random_times(seed, count, longest):
    generator = random.Random(seed)
    return [generator.uniform(0, longest) for _ in range(count)]


@pytest.mark.parametrize("name", ["frames", "released"])
def test_ingest_resumes_after_kill(tmp_path, processes, raw, uninterrupted, name):
    longest, expected = uninterrupted[name]
    assert kill_and_finish(processes, tmp_path, stages(raw)[name], random_times(time.time_ns(), 3, longest)) == expected


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["frames", "released"])
def test_ingest_resumes_after_twenty_kills(tmp_path, processes, raw, uninterrupted, name, seed):
    longest, expected = uninterrupted[name]
    assert kill_and_finish(processes, tmp_path, stages(raw)[name], random_times(seed, 20, longest)) == expected
