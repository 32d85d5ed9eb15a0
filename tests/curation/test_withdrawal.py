"""Test `store remove`: it finds what contains a video or a child, and rebuilds it consistently, even if interrupted."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from babyvlm.__main__ import main
from babyvlm.curation import withdrawal
from babyvlm.curation.clip_filter import filter_pairs
from babyvlm.curation.deduplicate import deduplicate
from babyvlm.curation.embeddings import Embeddings, embedded_rows
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.matching.commands import match_stores
from babyvlm.curation.store.check import check
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.curation.withdrawal import belongs, remove
from babyvlm.errors import UserError
from babyvlm.io import artifacts

VIDEOS = ("A_01", "A_02", "B_01")
NUM_FRAMES = 8


def store_of(folder, names, source, draw_jpeg):
    rows = [
        {
            "key": name,
            "image": draw_jpeg(number, 16),
            "utterance": f"look at {name}",
            "source": source,
            "group": name.rpartition("_")[0],
            "split": "train",
        }
        for number, name in enumerate(names)
    ]
    funnel = Funnel("frames", unit="pairs")
    funnel.keep(len(rows))
    files = [f"{video}.csv" for video in VIDEOS] if source == "saycam" else ["w.tar"]
    raw = {source: {"files": files, "key": "VIDEO_N_I"}}
    return write_store(folder, rows, arguments={"command": "frames"}, funnel=funnel, licensed=True, raw=raw)


def embed(folder, store):
    """Write random embeddings of a store, the same for the same keys."""
    keys = store.columns("key")["key"].to_pylist()
    vectors = []
    for key in keys:
        seed = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)
        vector = np.random.default_rng(seed).normal(size=16)
        vectors.append(vector / np.linalg.norm(vector))
    manifest = {
        "arguments": {"command": "embed", "store": store.fingerprint, "clip": "x", "clip_sha256": "y"},
        "ancestors": store.lineage,
        "rows": len(keys),
        "width": 16,
    }
    with artifacts.create(folder, "embeddings", manifest) as partial:
        for name in ("image", "text"):
            np.save(partial / f"{name}.npy", np.array(vectors, np.float16))
        (partial / "keys.json").write_text(json.dumps(keys))
    return Embeddings(folder)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, draw_jpeg):
    """Return a folder with everything that training on two children needs and leaves."""
    root = tmp_path_factory.mktemp("pipeline")
    data = root / "data"
    names = [f"{video}_{number:03}_00" for video in VIDEOS for number in range(NUM_FRAMES)]
    frames = store_of(data / "frames", names, "saycam", draw_jpeg)
    embed(data / "emb-frames", frames)
    deduplicate(data / "frames", data / "emb-frames", data / "distinct", threshold=0.99)
    embed(data / "emb-distinct", PairStore(data / "distinct"))
    filter_pairs(data / "distinct", data / "emb-distinct", data / "filtered", threshold=-1, num_review_pairs=4)
    web = store_of(data / "web", [f"w/{n}" for n in range(40)], "web", draw_jpeg)
    embed(data / "emb-web", web)
    match_stores(data / "filtered", data / "emb-frames", data / "web", data / "emb-web", data / "aug")
    filtered, aug = PairStore(data / "filtered").fingerprint, PairStore(data / "aug").fingerprint
    with artifacts.create(root / "cache" / "filtered-x", "features", {"arguments": {"store": filtered}, "rows": 24}):
        pass
    arguments = {"command": "vocabulary", "stores": [aug]}
    with artifacts.create(data / "vocabulary", "vocabulary", {"arguments": arguments}):
        pass
    for name, store in (("home", "filtered"), ("other", "web")):
        (root / "runs" / name).mkdir(parents=True)
        facts = {"stores": {store: {"fingerprint": PairStore(data / store).fingerprint}}}
        (root / "runs" / name / "provenance.json").write_text(json.dumps(facts))
    artifacts.create_marked(data / "frames.parts")
    (data / "frames.parts" / "x.parquet").write_bytes(b"A_01 image")
    return root


@pytest.fixture
def copy(pipeline, tmp_path):
    shutil.copytree(pipeline, tmp_path / "work")
    return tmp_path / "work"


def contents(root):
    """Return a hash of all files below a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def keys_of(path):
    return PairStore(path).columns("key")["key"].to_pylist()


def assert_consistent(root, gone, capsys):
    data = root / "data"
    for name in ("frames", "distinct", "filtered", "aug", "web"):
        check(data / name, num_workers=1)
        assert not [key for key in keys_of(data / name) if belongs(gone, key)]
        assert not [name for name in data.glob(f"{name}*") if name.name.endswith(("withdrawn", "withdrawal", "parts"))]
    assert not [
        key for key in PairStore(data / "aug").columns("match_key")["match_key"].to_pylist() if belongs(gone, key)
    ]
    lineage = PairStore(data / "aug").lineage
    stores = ("frames", "distinct", "filtered", "web", "aug")
    present = {PairStore(data / name).fingerprint for name in stores}
    present |= {Embeddings(data / f"emb-{name}").fingerprint for name in ("frames", "distinct", "web")}
    assert set(lineage) == present
    for manifest in lineage.values():
        assert gone not in json.dumps(manifest.get("raw", {}))
    frames = PairStore(data / "frames")
    keys, image = embedded_rows(frames, Embeddings(data / "emb-frames"))
    assert Embeddings(data / "emb-frames").store == frames.fingerprint
    assert len(image) == len(keys)
    capsys.readouterr()
    # The same commands find their results complete.
    deduplicate(data / "frames", data / "emb-frames", data / "distinct", threshold=0.99)
    filter_pairs(data / "distinct", data / "emb-distinct", data / "filtered", threshold=-1, num_review_pairs=4)
    match_stores(data / "filtered", data / "emb-frames", data / "web", data / "emb-web", data / "aug")
    assert capsys.readouterr().out.count("already complete, skipping") == 3


@pytest.mark.parametrize(("source", "num_left"), [("A_01", 16), ("A", 8), ("B_01", 16), ("A_02_003", 23)])
def test_remove_rebuilds_stores_and_embeddings(copy, source, num_left, capsys):
    before = contents(copy)
    folders = [copy / "data", copy / "cache", copy / "runs"]
    remove(source, folders)
    listed = capsys.readouterr().out
    assert contents(copy) == before  # only listed
    for name in ("frames", "emb-frames", "distinct", "filtered", "aug", "vocabulary", "filtered-x", "home"):
        assert f"/{name} (" in listed
    assert "/web (" not in listed
    assert "/other (" not in listed
    assert "Nothing was changed" in listed
    frames = dict(zip(keys_of(copy / "data" / "frames"), PairStore(copy / "data" / "frames").rows(), strict=True))
    remove(source, folders, apply=True)
    assert_consistent(copy, source, capsys)
    assert len(PairStore(copy / "data" / "frames")) == num_left
    assert Funnel.from_dict(PairStore(copy / "data" / "frames").manifest["funnel"]).wanted == num_left
    for row in PairStore(copy / "data" / "frames").rows():
        assert row == frames[row["key"]]
    counts = PairStore(copy / "data" / "frames").manifest["funnel"]
    assert (counts["kept"], counts["dropped"]["withdrawn"], counts["in"]) == (num_left, 24 - num_left, 24)
    assert not (copy / "cache" / "filtered-x").exists()
    assert not (copy / "data" / "frames.parts").exists()
    assert (copy / "data" / "vocabulary").exists()
    assert not list((copy / "data").rglob("review.html"))
    capsys.readouterr()
    remove(source, folders)  # what is left for the user is listed again
    listed = capsys.readouterr().out
    assert "trained on it" in listed
    assert "run 'vocabulary' again" in listed
    assert "/frames (" not in listed


def test_remove_can_be_interrupted_at_any_point(copy, capsys, monkeypatch):
    folders = [copy / "data", copy / "cache", copy / "runs"]
    other = copy.with_name("other")
    shutil.copytree(copy, other)
    monkeypatch.chdir(copy)
    relative = [Path("data"), Path("cache"), Path("runs")]
    monkeypatch.chdir(other)
    remove("A_01", relative, apply=True)
    expected = contents(other)
    real_rename, real_rmtree, calls = Path.rename, shutil.rmtree, []

    def interrupt(real, limit, after):
        def act(*args, **options):
            calls.append(0)
            if len(calls) == limit and not after:
                raise KeyboardInterrupt
            result = real(*args, **options)
            if len(calls) == limit:
                raise KeyboardInterrupt
            return result

        return act

    monkeypatch.chdir(copy)
    for limit in range(1, 60):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", interrupt(real_rename, limit, after=limit % 2))
            patch.setattr(withdrawal.shutil, "rmtree", interrupt(real_rmtree, limit, after=limit % 2))
            try:
                remove("A_01", relative, apply=True)
            except KeyboardInterrupt:
                continue
        break
    assert limit > 5
    remove("A_01", relative, apply=True)
    assert contents(copy) == expected
    assert_consistent(copy, "A_01", capsys)
    assert folders[0].is_dir()


def test_remove_withdraws_one_after_the_other(copy, capsys):
    remove("A_01", [copy], apply=True)
    remove("B_01", [copy], apply=True)
    assert_consistent(copy, "B_01", capsys)
    assert {key[:4] for key in keys_of(copy / "data" / "filtered")} == {"A_02"}
    assert PairStore(copy / "data" / "frames").manifest["withdrawn"] == ["A_01", "B_01"]


def test_remove_deletes_store_that_would_be_empty(copy):
    for source in ("A", "B"):
        remove(source, [copy], apply=True)
    assert not (copy / "data" / "frames").exists()
    assert not (copy / "data" / "aug").exists()
    assert (copy / "data" / "web").exists()


def test_remove_rejects_unknown_source(copy, capsys):
    for source in ("A_0", "C_01", "A_01.mp4"):
        with pytest.raises(UserError, match=f"--source {source}: nothing in .* contains this video or child"):
            remove(source, [copy])
    with pytest.raises(UserError, match="no such folder"):
        remove("A_01", [copy / "gone"])
    with pytest.raises(SystemExit, match="2"):
        main(["store", "remove", "--source", "", "--folders", f"[{copy}]"])
    assert "--source: pass the name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "key", "file", "expected"),
    [
        ("S", "S_20140420_1803_01_082_00", "", True),
        ("S_20140420_1803_01", "day1/S_20140420_1803_01_082_00", "", True),
        ("S_20140420_1803_0", "S_20140420_1803_01_082_00", "", False),
        ("00240001", "video_7_001_00", "00240001/video_7.mp4", True),
        ("video_7", "video_7_001_00", "00240001/video_7.mp4", True),
        ("video", "video7_001_00", "00240001/video7.mp4", False),
        ("Zoë", "day1_001_00", "Zoe\u0308/day1.mp4", True),
        ("Zoe\u0308", "Zoë_day1_001_00", "", True),
        ("cc3m", "cc3m/00000/1", "", True),
        ("cc3m/00000", "cc3m/00000/1", "", True),
        ("cc3m/0", "cc3m/00000/1", "", False),
    ],
)
def test_belongs_matches_complete_names(source, key, file, expected):
    assert belongs(source, key, file) == expected
