"""Stages shared by four processes that cannot see each other's locks, as on nodes of a file system without locks."""

import fcntl
import json
import multiprocessing
import sys
from collections import Counter
from pathlib import Path

import pytest

from babyvlm.__main__ import main
from support.killing import tree

ROWS, SHARES = 150, 4


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    """Read, write and embed a few rows at a time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GROUP_ROWS", "SHARD_ROWS"):
            patch.setattr(f"babyvlm.curation.store.pair_store.{name}", 16)
        for name in ("clip", "embed"):
            patch.setattr(f"babyvlm.curation.{name}.PART_ROWS", 16)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, copy_world, tiny_store):
    import babyvlm.curation.clip  # noqa: F401 - once, before the forks

    folder = tmp_path_factory.mktemp("inputs")
    copy_world(folder / "world")
    tiny_store([f"a ball on table {number}" for number in range(ROWS)], path=folder / "pairs")
    return folder


def stages(folder):
    home, web = folder / "world/home", folder / "world/web"
    frames = ["--videos", home / "videos", "--transcripts", home / "transcripts", "--profile", "playroom"]
    lists = f"[{web}/tars,{web}/llava/list.json,{web}/parquet]"
    store = ["--store", folder / "pairs"]
    return {
        "frames": ["frames", *frames, "--image_size", "48", "--max_frames", "1", "--licensed", "false"],
        "web": ["web", "--sources", lists],
        "rewrite": ["rewrite", *store],
        "embed": ["embed", *store, "--accelerator", "cpu"],
        "decontaminate": ["decontaminate", *store, "--benchmark_images", f"[{folder}/world/trials]"],
    }


def run(name, words, out, *more):
    workers = [] if name == "embed" else ["--num_workers", "1"]
    main([str(word) for word in ["curate", *words, *workers, "--out", out / name, *more]])


def run_share(number, folder, out):
    """Run one share of every stage without working locks; record the parts that were completed."""
    fcntl.flock = fcntl.lockf = lambda *_: None
    completed = []

    def record(event, args):
        if event == "os.rename" and ".parts" in str(args[1]):
            completed.append(str(args[1]))

    sys.addaudithook(record)
    for name, words in stages(folder).items():
        run(name, words, out, "--share", f"{number}/{SHARES}")
    Path(out, f"{number}.json").write_text(json.dumps(completed))


def test_stages_shared_by_four_processes_give_the_same_bytes(inputs, tmp_path, monkeypatch):
    alone, out = tmp_path / "alone", tmp_path / "shared"
    out.mkdir()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run_share, args=(number, inputs, out)) for number in range(1, SHARES + 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(280)
    assert [process.exitcode for process in processes] == [0] * SHARES
    lists = [json.loads(path.read_text()) for path in out.glob("*.json")]
    built = Counter(Path(part).relative_to(out).parts[0] for parts in lists for part in parts)
    assert set(Counter(part for parts in lists for part in parts).values()) == {1}
    assert built["rewrite.parts"] == built["embed.parts"] == built["decontaminate.contamination.parts"] == 10
    assert all(len(parts) > 3 for parts in lists)  # each did something
    for path in out.glob("*.json"):
        path.unlink()
    for module, work in (
        ("store.chunked_writer", "_build_part"),
        ("decontaminate", "_hash_shard"),
        ("clip", "_Embedder.predict_step"),
    ):
        monkeypatch.setattr(f"babyvlm.curation.{module}.{work}", lambda *_: 1 / 0)  # nothing is done again
    for name, words in stages(inputs).items():
        run(name, words, out)
    monkeypatch.undo()
    for name, words in stages(inputs).items():
        run(name, words, alone)
    assert tree(out) == tree(alone)
