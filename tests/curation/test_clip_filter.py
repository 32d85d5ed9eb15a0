import json
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyvlm.curation import clip_filter
from babyvlm.curation.clip_filter import cosine_similarities, filter_pairs, top_share
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.errors import UserError
from babyvlm.io import artifacts

COUNT = 600


def make_store(path, count=COUNT, **options):
    rows = (
        {
            "key": f"k{i:04}",
            "image": bytes([i % 256]),
            "utterance": f"u {i}",
            "source": "s",
            "group": f"g{i // 3}",
            "split": "train",
            "n": i,
        }
        for i in range(count)
    )
    options = {"licensed": True, "extra_fields": {"n": pa.int32()}, **options}
    return write_store(path, rows, arguments={}, funnel=Funnel("x"), **options)


def make_embeddings(path, store, image, text, keys=None):
    manifest = {"arguments": {"store": store.fingerprint, "clip": "ViT-Test/none"}}
    with artifacts.create(path, "embeddings", manifest) as partial:
        np.save(partial / "image.npy", image.astype(np.float16))
        np.save(partial / "text.npy", text.astype(np.float16))
        (partial / "keys.json").write_text(json.dumps(keys or store.columns("key")["key"].to_pylist()))


def at_angles(cosine):
    """Return unit image vectors along x and unit text vectors at the given cosines."""
    cosine = np.asarray(cosine, float)
    image = np.zeros((len(cosine), 4))
    image[:, 0] = 1
    text = np.zeros_like(image)
    text[:, 0], text[:, 2] = cosine, np.sqrt(1 - cosine**2)
    return image, text


def test_filter_keeps_pairs_above_threshold(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clip_filter, "CHUNK_ROWS", 97)
    store = make_store(tmp_path / "in")
    wanted = np.linspace(-1, 1, COUNT)
    make_embeddings(tmp_path / "e", store, *at_angles(wanted))
    filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / "out")
    out = PairStore(tmp_path / "out")
    rows = list(out.rows())
    assert [row["n"] for row in rows] == [i for i in range(COUNT) if wanted[i] > 0.2]
    assert [row["clip_similarity"] for row in rows] == pytest.approx([c for c in wanted if c > 0.2], abs=1e-3)
    assert [row["image"] for row in rows] == [bytes([row["n"] % 256]) for row in rows]
    assert out.extra_fields == {"n": pa.int32(), "clip_similarity": pa.float32()}
    assert out.licensed
    assert out.manifest["arguments"]["clip"] == "ViT-Test/none"
    assert out.manifest["funnel"]["dropped"] == {"similarity <= 0.2": COUNT - len(rows)}
    filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / "out")
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="different arguments: threshold"):
        filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / "out", threshold=0.3)
    with pytest.raises(UserError, match="already has the column clip_similarity"):
        filter_pairs(tmp_path / "out", tmp_path / "e", tmp_path / "again")


def test_filter_drops_pairs_at_threshold(tmp_path):
    store = make_store(tmp_path / "in", 3, licensed=False)
    make_embeddings(tmp_path / "e", store, np.eye(3)[[0, 0, 0]], np.eye(3)[[0, 1, 0]])
    filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / "out", threshold=0)
    assert [row["n"] for row in PairStore(tmp_path / "out").rows()] == [0, 2]
    assert not PairStore(tmp_path / "out").licensed
    with pytest.raises(UserError, match="no pair is left"):
        filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / "none", threshold=1)


def test_filter_rejects_embeddings_of_other_store(tmp_path):
    store, other = make_store(tmp_path / "in", 3), make_store(tmp_path / "other", 4)
    make_embeddings(tmp_path / "e", other, *at_angles([0.5] * 4))
    make_embeddings(tmp_path / "f", store, *at_angles([0.5] * 3), keys=["k0000", "k0002", "k0001"])
    make_embeddings(tmp_path / "g", store, np.eye(3), np.diag([1, 0, 1]))
    for name, message in (
        ("e", "from another store"),
        ("f", "not those of"),
        ("g", r"row 1 \(k0001\) has no similarity"),
    ):
        with pytest.raises(UserError, match=message):
            filter_pairs(tmp_path / "in", tmp_path / name, tmp_path / "out")
    with pytest.raises(UserError, match="--threshold 20"):
        filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / "out", threshold=20)
    assert not (tmp_path / "out").exists()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 64))
def test_cosine_similarities_match_float64(seed, rows, width):
    rng = np.random.default_rng(seed)
    image, text = rng.normal(size=(2, rows, width)).astype(np.float16)
    exact = [
        float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))
        for a, b in zip(image.astype(float), text.astype(float), strict=True)
    ]
    np.testing.assert_allclose(cosine_similarities(image, text), exact, atol=1e-6)


@given(st.lists(st.integers(-8, 8).map(lambda n: n / 8), min_size=1, max_size=60), st.floats(0, 1, exclude_min=True))
def test_top_share_keeps_most_similar_and_ties(values, share):
    similarity_N = np.array(values, np.float32)
    kept = top_share(similarity_N, share).keeps(similarity_N)
    count = max(1, round(share * len(values)))
    wanted = sorted(values, reverse=True)[count - 1]
    assert kept.tolist() == [value >= wanted for value in values]
    assert kept.sum() >= count


def test_filter_by_quantile(tmp_path, tiny_store):
    store = make_store(tmp_path / "in", 40)
    wanted = np.linspace(0.3, -0.1, 40)
    make_embeddings(tmp_path / "e", store, *at_angles(wanted))
    filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / "out", quantile=0.25, num_review_pairs=0)
    assert [row["n"] for row in PairStore(tmp_path / "out").rows()] == list(range(10))
    (reason,) = PairStore(tmp_path / "out").manifest["funnel"]["dropped"]
    assert reason == f"similarity not in the top 0.25, below {wanted[9]:.4f}"
    numbers = json.loads((tmp_path / "out" / "similarity.json").read_text())
    assert numbers["threshold"] == pytest.approx(wanted[9], abs=1e-3)
    with pytest.raises(UserError, match="pass only one of them"):
        filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / "x", threshold=0.2, quantile=0.5)
    for quantile in (0, 1.5):
        with pytest.raises(UserError, match="must be above 0"):
            filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / "x", quantile=quantile)


def test_filter_writes_histogram_and_review_page(tmp_path, draw_jpeg):
    cosine = np.linspace(-0.3, 0.7, 200)
    rows = [
        {
            "key": f"k{i:03}",
            "image": draw_jpeg(i),
            "utterance": f"<b>say {i}</b>",
            "source": "s",
            "group": str(i),
            "split": "train",
        }
        for i in range(200)
    ]
    store = write_store(tmp_path / "in", rows, arguments={}, funnel=Funnel("x"), licensed=True)
    make_embeddings(tmp_path / "e", store, *at_angles(cosine))
    for name, seed in (("out", 0), ("same", 0), ("other", 1)):
        filter_pairs(tmp_path / "in", tmp_path / "e", tmp_path / name, num_review_pairs=6, seed=seed)
    out = PairStore(tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / "similarity.json").read_text())
    histogram = numbers["histogram"]
    measured = cosine_similarities(*(np.load(tmp_path / "e" / f"{side}.npy") for side in ("image", "text")))
    assert sum(histogram["kept"]) == numbers["kept"] == len(out)
    in_all = np.add(histogram["kept"], histogram["dropped"])
    assert in_all.tolist() == np.histogram(measured, histogram["edges"])[0].tolist()
    assert (numbers["clip"], numbers["pairs"]) == ("ViT-Test/none", 200)
    assert numbers["mean"] == pytest.approx(cosine.mean(), abs=1e-3)
    assert (tmp_path / "out" / "similarity.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "review.html").read_text()
    assert page == (tmp_path / "same" / "review.html").read_text() != (tmp_path / "other" / "review.html").read_text()
    kept, dropped = page.split("<h2>")[1:]
    shown = [[int(n) for n in re.findall(r"· k(\d+)", side)] for side in (kept, dropped)]
    assert [len(side) for side in shown] == [6, 6]
    # Of 100 kept and 100 dropped pairs the ten nearest to 0.2 on either side are candidates.
    assert all(100 <= n < 110 for n in shown[0])
    assert all(90 <= n < 100 for n in shown[1])
    assert "<b>" not in page
    assert "&lt;b&gt;say 1" in page
    assert page.count("data:image/jpeg;base64,") == 12
    assert "must not leave this machine" in page
