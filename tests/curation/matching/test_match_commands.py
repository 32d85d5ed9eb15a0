import json

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import linear_sum_assignment

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.matching.commands import match_arrays, match_stores, sample_random
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.errors import UserError
from babyvlm.io import artifacts


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def make_store(path, keys, licensed=False, splits=None):
    rows = [
        {
            "key": key,
            "image": f"image of {key}".encode(),
            "utterance": f"see {key}",
            "source": "test",
            "group": key,
            "split": (splits or {}).get(key, "train"),
            "caption": f"adult {key}",
        }
        for key in keys
    ]
    write_store(
        path,
        rows,
        arguments={"keys": keys},
        funnel=Funnel("test"),
        licensed=licensed,
        extra_fields={"caption": pa.string()},
    )
    return path


def make_embeddings(path, keys, rows, clip="playroom"):
    manifest = {"arguments": {"store": "x", "clip": clip}}
    with artifacts.create(path, "embeddings", manifest) as partial:
        (partial / "keys.json").write_text(json.dumps(keys))
        np.save(partial / "image.npy", rows)
        np.save(partial / "text.npy", rows)
    return path


@pytest.fixture
def world(tmp_path):
    """Six filtered targets of nine embedded ones, and 700 candidates: three row groups of a shard."""
    random = np.random.default_rng(5)
    kept = [f"t{i}" for i in (7, 1, 2, 8, 4, 0)]
    all_targets, offered = [f"t{i}" for i in range(9)], [f"c{i}" for i in range(700)]
    targets, candidates = unit(random.normal(size=(9, 16))), unit(random.normal(size=(700, 16)))
    return (
        {
            "targets": make_store(tmp_path / "home", kept, licensed=True, splits={"t8": "val", "t1": "test"}),
            "target_embeddings": make_embeddings(tmp_path / "home-clip", all_targets, targets),
            "candidates": make_store(tmp_path / "web", offered),
            "candidate_embeddings": make_embeddings(tmp_path / "web-clip", offered, candidates),
        },
        targets[[7, 1, 2, 8, 4, 0]],
        candidates,
    )


def test_match_stores_writes_optimal_candidates_in_target_order(world, tmp_path, capsys):
    paths, targets, candidates = world
    match_stores(**paths, out=tmp_path / "aug")
    scores = targets.astype(float) @ candidates.astype(float).T
    best = linear_sum_assignment(scores, maximize=True)[1]
    rows = list(PairStore(tmp_path / "aug").rows())
    assert [row["match_key"] for row in rows] == ["t7", "t1", "t2", "t8", "t4", "t0"]
    assert [row["key"] for row in rows] == [f"c{j}" for j in best]
    assert [row["image"] for row in rows] == [f"image of c{j}".encode() for j in best]
    assert rows[3]["caption"] == f"adult c{best[3]}"
    assert [row["split"] for row in rows] == ["train", "test", "train", "val", "train", "train"]  # of the targets
    assert all(row["group"] == row["key"] for row in rows)
    assert [row["match_similarity"] for row in rows] == pytest.approx(scores[range(6), best], abs=1e-6)
    assert PairStore(tmp_path / "aug").licensed  # inherited from the targets, whose keys it contains
    printed = capsys.readouterr().out
    for words in ("700 candidates in, 6 kept", "optimal up to rounding", "greedy matching:", "random matching:"):
        assert words in printed
    match_stores(**paths, out=tmp_path / "aug")
    assert "already complete, skipping" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["exact", "greedy", "random"])
def test_match_stores_is_deterministic(world, tmp_path, method):
    paths, _, _ = world
    for name in "ab":
        match_stores(**paths, out=tmp_path / name, method=method)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 3
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("a.", "b."))]


def test_match_stores_rejects_incompatible_inputs(world, tmp_path):
    paths, targets, _ = world
    other = make_embeddings(tmp_path / "other", ["t0"], targets[:1])
    with pytest.raises(UserError, match="lacks 5 of the 6 pairs"):
        match_stores(**paths | {"target_embeddings": other}, out=tmp_path / "x")
    other = make_embeddings(tmp_path / "vit", ["t0"], targets[:1], clip="ViT-L-14/openai")
    with pytest.raises(UserError, match="Embed both with the same model"):
        match_stores(**paths | {"target_embeddings": other}, out=tmp_path / "x")
    swapped = {
        "targets": paths["candidates"],
        "target_embeddings": paths["candidate_embeddings"],
        "candidates": paths["targets"],
        "candidate_embeddings": paths["target_embeddings"],
    }
    with pytest.raises(UserError, match="700 targets but only 6 candidates"):
        match_stores(**swapped, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_sample_random_has_size_of_other_store_without_duplicates(world, tmp_path):
    paths, _, _ = world
    chosen = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sample_random(paths["candidates"], paths["targets"], tmp_path / name, seed)
        chosen[name] = [(row["key"], row["image"], row["caption"]) for row in PairStore(tmp_path / name).rows()]
    assert chosen["a"] == chosen["b"] != chosen["c"]
    assert len(set(chosen["a"])) == 6
    splits = [row["split"] for row in PairStore(tmp_path / "a").rows()]
    assert sorted(splits) == ["test", "train", "train", "train", "train", "val"]  # as many as in the other store
    assert all(image == f"image of {key}".encode() for key, image, _ in chosen["a"])
    with pytest.raises(UserError, match="has 6 pairs, fewer than the 700 of"):
        sample_random(paths["targets"], paths["candidates"], tmp_path / "x")


def test_match_arrays_writes_index_and_proof(world, tmp_path, capsys):
    _, targets, candidates = world
    np.save(tmp_path / "t.npy", targets)
    np.save(tmp_path / "c.npy", candidates)
    match_arrays(tmp_path / "t.npy", tmp_path / "c.npy", tmp_path / "out")
    scores = targets.astype(float) @ candidates.astype(float).T
    best = linear_sum_assignment(scores, maximize=True)[1]
    assert np.load(tmp_path / "out" / "index.npy").tolist() == best.tolist()
    prices = np.load(tmp_path / "out" / "prices.npy")
    dual = (scores - prices).max(axis=1).sum() + prices.sum()
    assert dual == pytest.approx(scores[range(6), best].sum(), abs=1e-6)
    assert "optimal up to rounding" in capsys.readouterr().out
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"bad\.npy: not readable"):
        match_arrays(tmp_path / "bad.npy", tmp_path / "c.npy", tmp_path / "x")
