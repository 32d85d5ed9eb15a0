import json
import multiprocessing
import os
import signal
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import GROUP_ROWS, SHARD_ROWS, PairStore, split_of, split_units, write_store
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.types import Pair


def rows(count, start=0):
    for number in range(start, start + count):
        key = f"k{number:06d}"
        yield {"key": key, "image": b"x", "utterance": "a ball", "source": "s", "group": key, "split": "train"}


def write(path, content, **extra):
    return write_store(path, content, arguments={"n": 1}, funnel=Funnel("test"), licensed=True, **extra)


def test_pair_store_reads_rows_in_order_across_shards(tmp_path):
    store = write(tmp_path / "store", rows(SHARD_ROWS + 300))
    assert len(store) == SHARD_ROWS + 300
    assert len(store.files) == 2
    keys = [row["key"] for row in store.rows(["key"])]
    assert keys == [f"k{number:06d}" for number in range(SHARD_ROWS + 300)]
    assert store.columns("key")["key"].to_pylist() == keys
    assert store.licensed


def test_pair_store_behaves_like_a_sequence_of_pairs(tmp_path):
    write(tmp_path / "store", rows(SHARD_ROWS + 300))
    store = PairStore(str(tmp_path / "store"))
    wanted = Pair("k004100", b"x", "a ball", "s", "k004100", "train")
    assert store[4100] == store[4100 - len(store)] == wanted
    assert [store[index].key for index in (0, 255, 256, -1)] == ["k000000", "k000255", "k000256", "k004395"]
    for index in (len(store), -len(store) - 1):
        with pytest.raises(IndexError, match="out of range for 4396 pairs"):
            store[index]
    pairs = list(store)
    assert len(pairs) == len(store)
    assert pairs[4100] == wanted


def test_pair_store_repr_describes_store(tmp_path):
    store = write(tmp_path / "store", rows(3))
    columns = "key, image, utterance, source, group, split"
    assert repr(store) == f"PairStore('{tmp_path}/store', 3 pairs, licensed, columns: {columns})"
    assert repr(PairStore(tmp_path)) == f"PairStore('{tmp_path}', not a readable store)"


@pytest.mark.parametrize("size", [GROUP_ROWS, 2 * GROUP_ROWS])
def test_pair_store_part_returns_consecutive_rows(tmp_path, size):
    store = write(tmp_path / "store", rows(SHARD_ROWS + 300))
    parts = [store.part(number, size) for number in range(-(-len(store) // size))]
    assert [row["key"] for part in parts for row in part] == store.columns("key")["key"].to_pylist()
    assert all(len(part) == size for part in parts[:-1])


def test_write_store_is_deterministic_with_extra_fields(tmp_path):
    content = [row | {"clip_similarity": 0.5} for row in rows(3)]
    stores = [write(tmp_path / name, content, extra_fields={"clip_similarity": pa.float32()}) for name in "ab"]
    assert stores[0].fingerprint == stores[1].fingerprint
    assert stores[0].extra_fields == {"clip_similarity": pa.float32()}
    assert [file.read_bytes() for file in stores[0].files] == [file.read_bytes() for file in stores[1].files]


@pytest.mark.parametrize(
    ("content", "say"), [([], "no pair is left"), ([*rows(2), *rows(1)], "more than once")], ids=["empty", "twice"]
)
def test_write_store_rejects_empty_and_duplicate_rows(tmp_path, content, say):
    with pytest.raises(UserError, match=say):
        write(tmp_path / "store", content)
    assert list(tmp_path.iterdir()) == []


def test_write_store_leaves_nothing_after_error(tmp_path):
    def broken():
        yield from rows(SHARD_ROWS + 1)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="fire"):
        write(tmp_path / "store", broken())
    assert list(tmp_path.iterdir()) == []


def _write_slowly(path):
    def slow():
        for row in rows(40 * SHARD_ROWS):
            yield row
            time.sleep(0.00002)

    write(path, slow())


@pytest.mark.parametrize("after", [0.3, 0.6])
def test_write_store_after_kill_starts_again(tmp_path, after):
    process = multiprocessing.get_context("fork").Process(target=_write_slowly, args=(tmp_path / "store",))
    process.start()
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "store").exists()
    write(tmp_path / "store", rows(5))
    assert len(PairStore(tmp_path / "store")) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_is_complete_compares_arguments(tmp_path):
    assert not artifacts.is_complete(tmp_path / "store", "store", {"n": 1})
    write(tmp_path / "store", rows(2))
    assert artifacts.is_complete(tmp_path / "store", "store", {"n": 1})
    with pytest.raises(UserError, match="built with different arguments: n"):
        artifacts.is_complete(tmp_path / "store", "store", {"n": 2})


def replace_manifest(folder, manifest):
    (folder / "store.json").write_text(json.dumps(manifest))
    (folder / "store.json.sha256").unlink()


@pytest.mark.parametrize(
    ("damage", "say"),
    [
        (lambda folder: (folder / "store.json").unlink(), "is not a store folder"),
        (lambda folder: (folder / "store.json").write_text("{"), "not valid JSON"),
        (lambda folder: replace_manifest(folder, []), "is not a JSON object"),
        (lambda folder: replace_manifest(folder, {"schema_version": 99}), "store schema 99"),
        (lambda folder: (folder / "part-00000.parquet").write_bytes(b"PAR1"), "cannot be read"),
        (lambda folder: (folder / "part-00000.parquet").unlink(), "cannot be read"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.columns("key"),
        lambda store: list(store.rows()),
        lambda store: list(store.take(np.arange(2))),
        lambda store: store.part(0, 256),
        lambda store: (store.extra_fields, store.lineage),
    ],
)
def test_pair_store_reports_damage(tmp_path, damage, say, use):
    write(tmp_path / "store", rows(2))
    damage(tmp_path / "store")
    with pytest.raises(UserError, match=say):
        use(PairStore(tmp_path / "store"))


@pytest.mark.parametrize(("name", "value"), [("rows", 3), ("rows", None), ("shards", None), ("licensed", None)])
def test_pair_store_reports_inconsistent_manifest(tmp_path, name, value):
    write(tmp_path / "store", rows(2))
    path = tmp_path / "store" / "store.json"
    manifest = json.loads(path.read_text()) | {name: value}
    replace_manifest(path.parent, {name: value for name, value in manifest.items() if value is not None})
    say = "the rows of its shards do not add up" if value else f"lacks {name}"
    with pytest.raises(UserError, match=rf"store\.json: {say}. Build the store again"):
        len(PairStore(tmp_path / "store"))


def test_split_of_gives_90_5_5_percent():
    splits = [split_of(f"video_{number}") for number in range(20000)]
    shares = [splits.count(name) / 20000 for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.01)
    assert split_of("video_1") == split_of("video_1")


def test_funnel_counts_add_up():
    funnel = Funnel("stage")
    funnel.keep(3)
    funnel.drop("too long", 2)
    assert funnel.seen == 5
    assert funnel.as_dict() == {"stage": "stage", "unit": "rows", "in": 5, "kept": 3, "dropped": {"too long": 2}}
    assert str(funnel).splitlines() == ["stage: 5 rows in, 3 kept (60.0%)", "  dropped         2  too long"]


@pytest.mark.parametrize(("split_by", "num_units"), [("video", 40), ("child", 4), ("video", 3), ("child", 3)])
def test_split_units_keeps_video_or_child_in_one_split(split_by, num_units):
    if split_by == "child":
        groups = [f"C{child}_{video}_{n:03}" for child in range(num_units) for video in range(9) for n in range(5)]
    else:
        groups = [f"C1_{video:02}_{n:03}" for video in range(num_units) for n in range(5)]
    splits = split_units(groups, split_by)
    unit = {group: "_".join(group.split("_")[: 1 if split_by == "child" else 2]) for group in groups}
    found = {}
    for group, split in splits.items():
        assert found.setdefault(unit[group], split) == split
    held_out = max(1, num_units // 20)
    assert Counter(found.values()) == {"train": num_units - 2 * held_out, "val": held_out, "test": held_out}
    assert split_units(reversed(groups), split_by) == splits


def test_split_units_by_utterance_is_that_of_authors():
    groups = [f"A_{n:03}" for n in range(200)]
    assert split_units(groups, "utterance") == {group: split_of(group) for group in groups}
    with pytest.raises(UserError, match=r"--split_by child: train, val and test need one .* there are only 1 \(A\)"):
        split_units(groups, "child")
