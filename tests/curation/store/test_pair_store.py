import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pyarrow as pa
import pytest

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import GROUP_ROWS, SHARD_ROWS, PairStore, split_of, write_store
from babyvlm.errors import UserError
from babyvlm.io import artifacts


def rows(count, start=0):
    for number in range(start, start + count):
        key = f"k{number:06d}"
        yield {"key": key, "image": b"x", "utterance": "a ball", "source": "s", "group": key, "split": "train"}


def write(path, content, **extra):
    return write_store(path, content, arguments={"n": 1}, funnel=Funnel("test"), licensed=True, **extra)


def test_rows_come_back_in_order_over_shards(tmp_path):
    store = write(tmp_path / "store", rows(SHARD_ROWS + 300))
    assert len(store) == SHARD_ROWS + 300
    assert len(store.files) == 2
    keys = [row["key"] for row in store.rows(["key"])]
    assert keys == [f"k{number:06d}" for number in range(SHARD_ROWS + 300)]
    assert store.columns("key")["key"].to_pylist() == keys
    assert store.licensed


@pytest.mark.parametrize("size", [GROUP_ROWS, 2 * GROUP_ROWS])
def test_parts_are_the_rows_cut_evenly(tmp_path, size):
    store = write(tmp_path / "store", rows(SHARD_ROWS + 300))
    parts = [store.part(number, size) for number in range(-(-len(store) // size))]
    assert [row["key"] for part in parts for row in part] == store.columns("key")["key"].to_pylist()
    assert all(len(part) == size for part in parts[:-1])


def test_extra_fields_and_equal_bytes(tmp_path):
    content = [row | {"clip_similarity": 0.5} for row in rows(3)]
    stores = [write(tmp_path / name, content, extra_fields={"clip_similarity": pa.float32()}) for name in "ab"]
    assert stores[0].fingerprint == stores[1].fingerprint
    assert stores[0].extra_fields == {"clip_similarity": pa.float32()}
    assert [file.read_bytes() for file in stores[0].files] == [file.read_bytes() for file in stores[1].files]


@pytest.mark.parametrize(
    ("content", "say"), [([], "no pair is left"), ([*rows(2), *rows(1)], "more than once")], ids=["empty", "twice"]
)
def test_refused_and_absent(tmp_path, content, say):
    with pytest.raises(UserError, match=say):
        write(tmp_path / "store", content)
    assert list(tmp_path.iterdir()) == []


def test_an_error_on_the_way_leaves_nothing(tmp_path):
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
def test_killed_it_is_absent_and_made_anew(tmp_path, after):
    process = multiprocessing.get_context("fork").Process(target=_write_slowly, args=(tmp_path / "store",))
    process.start()
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "store").exists()
    write(tmp_path / "store", rows(5))
    assert len(PairStore(tmp_path / "store")) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_made_already_compares_the_arguments(tmp_path):
    assert not artifacts.is_complete(tmp_path / "store", "store", {"n": 1})
    write(tmp_path / "store", rows(2))
    assert artifacts.is_complete(tmp_path / "store", "store", {"n": 1})
    with pytest.raises(UserError, match="built with a different n"):
        artifacts.is_complete(tmp_path / "store", "store", {"n": 2})


@pytest.mark.parametrize(
    ("damage", "say"),
    [
        (lambda folder: (folder / "store.json").unlink(), "is not a store folder"),
        (lambda folder: (folder / "store.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "store.json").write_text("[]"), "is not a JSON object"),
        (lambda folder: (folder / "store.json").write_text(json.dumps({"schema_version": 99})), "store schema 99"),
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
def test_a_damaged_store_is_told_whoever_reads_it(tmp_path, damage, say, use):
    write(tmp_path / "store", rows(2))
    damage(tmp_path / "store")
    with pytest.raises(UserError, match=say):
        use(PairStore(tmp_path / "store"))


@pytest.mark.parametrize(("name", "value"), [("rows", 3), ("rows", None), ("shards", None), ("licensed", None)])
def test_a_manifest_that_was_changed_by_hand_is_told(tmp_path, name, value):
    write(tmp_path / "store", rows(2))
    path = tmp_path / "store" / "store.json"
    manifest = json.loads(path.read_text()) | {name: value}
    path.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))
    say = "the rows of its shards do not add up" if value else f"lacks {name}"
    with pytest.raises(UserError, match=rf"store\.json: {say}. Build the store again"):
        len(PairStore(tmp_path / "store"))


def test_split_is_ninety_five_five():
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
