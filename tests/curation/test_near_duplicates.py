"""Near-duplicates: independent derivations, real images, and the commands that use them."""

import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.curation import near_duplicates as near_duplicates_module
from babyvlm.curation.benchmark_images import find_benchmark_images
from babyvlm.curation.clip import load_clip
from babyvlm.curation.decontaminate import check_contamination
from babyvlm.curation.deduplicate import deduplicate
from babyvlm.curation.embed import embed
from babyvlm.curation.embeddings import Embeddings
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.near_duplicates import (
    MAX_HASH_DISTANCE,
    WORDS,
    Signatures,
    near_duplicates,
    perceptual_hashes,
    select_distinct,
)
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.errors import UserError
from babyvlm.io import artifacts


def scene(seed, size=96):
    """Return an image with structure at several scales, like a photo."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((size, size), 3) for n in (4, 12, 32)]
    return Image.blend(Image.blend(layers[0], layers[1], 0.5), layers[2], 0.4)


def jpeg(image, quality=90, size=None):
    buffer = io.BytesIO()
    (image.resize((size, size), Image.Resampling.BICUBIC) if size else image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def recoded(image, quality=60, size=128):
    return Image.open(io.BytesIO(jpeg(image, quality, size)))


def test_perceptual_hashes_match_direct_cosine_transform():
    image = scene(0)
    grey = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.LANCZOS), float)
    basis = np.array([[math.cos(math.pi * k * (2 * x + 1) / 128) for x in range(64)] for k in range(16)])
    low = basis @ grey @ basis.T
    bits = (low > np.median(low)).ravel()
    found = np.unpackbits(perceptual_hashes([image]).view(np.uint8))
    assert found.tolist() == bits.astype(int).tolist()
    assert perceptual_hashes([]).shape == (0, WORDS)


def test_near_duplicates_finds_recompressed_copies_only():
    scenes = [scene(seed) for seed in range(40)]
    first = Signatures(perceptual_hashes(scenes))
    for quality, size in ((95, 96), (50, 96), (75, 64), (75, 224)):
        second = Signatures(perceptual_hashes(recoded(image, quality, size) for image in scenes))
        assert [(near.first, near.second) for near in near_duplicates(first, second)] == [(n, n) for n in range(40)]
    between = [
        near.hash_distance for near in near_duplicates(first, first, max_hash_distance=256) if near.first != near.second
    ]
    assert min(between) > 2 * MAX_HASH_DISTANCE


def test_perceptual_hashes_of_plain_images_are_equal():
    flat = [Image.new("RGB", (50, 40), (shade, shade // 2, 7)) for shade in (0, 90, 255)]
    assert len({row.tobytes() for row in perceptual_hashes(flat[1:])}) == 1


def unit(rng, rows, width=8):
    vectors = rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 9), st.integers(1, 7), st.booleans())
def test_near_duplicates_match_pairwise_comparison(seed, n, m, chunk, with_vectors):
    rng = np.random.default_rng(seed)
    hashes = [rng.integers(0, 4, (rows, WORDS), np.uint64) for rows in (n, m)]
    vectors = [unit(rng, rows) if with_vectors else None for rows in (n, m)]
    wanted = []
    for i in range(n):
        for j in range(m):
            bits = sum((int(a) ^ int(b)).bit_count() for a, b in zip(hashes[0][i], hashes[1][j], strict=True))
            alike = float(vectors[0][i].astype(float) @ vectors[1][j].astype(float)) if with_vectors else math.nan
            if bits <= 2 or alike > 0.6:
                wanted.append((i, j, pytest.approx(alike, abs=1e-5, nan_ok=True), bits))
    before, near_duplicates_module.CHUNK_ROWS = near_duplicates_module.CHUNK_ROWS, chunk
    try:
        found = near_duplicates(*map(Signatures, hashes, vectors), threshold=0.6, max_hash_distance=2)
        assert [tuple(near) for near in found] == wanted
    finally:
        near_duplicates_module.CHUNK_ROWS = before


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 5), st.integers(1, 9))
def test_select_distinct_is_greedy_within_groups(seed, rows, parts, chunk):
    rng = np.random.default_rng(seed)
    vectors = unit(rng, rows, 3)
    part_of = [str(n) for n in rng.integers(0, parts, rows)]
    kept = []
    for row in range(rows):
        exact = vectors.astype(np.float32)
        if not any(part_of[other] == part_of[row] and exact[row] @ exact[other] > 0.7 for other in kept):
            kept.append(row)
    before, near_duplicates_module.CHUNK_ROWS = near_duplicates_module.CHUNK_ROWS, chunk
    try:
        assert np.flatnonzero(select_distinct(vectors, part_of, 0.7)).tolist() == kept
    finally:
        near_duplicates_module.CHUNK_ROWS = before


def write_images(path, pictures, splits=None, groups=None):
    rows = [
        {
            "key": f"k{n:02}",
            "image": jpeg(picture),
            "utterance": "look",
            "source": "s",
            "group": groups[n] if groups else f"g{n}",
            "split": splits[n] if splits else "train",
        }
        for n, picture in enumerate(pictures)
    ]
    return write_store(path, rows, arguments={"at": path.name}, funnel=Funnel("x"), licensed=True)


@pytest.fixture
def planted(tmp_path):
    """A store of twelve images and a benchmark with copies of k03 (train) and k07 (test)."""
    splits = ["train"] * 7 + ["test"] + ["train"] * 4
    store = write_images(tmp_path / "store", [scene(n) for n in range(12)], splits)
    bench = tmp_path / "bench"
    (bench / "sub").mkdir(parents=True)
    for name, picture in {
        "a": scene(50),
        "sub/b": recoded(scene(3)),
        "c": scene(51),
        "d": recoded(scene(7)),
        "e": scene(52),
    }.items():
        (bench / f"{name}.jpg").write_bytes(jpeg(picture))
    (bench / "list.csv").write_text("image,phrase\na.jpg,x\nsub/b.jpg,y\nd.jpg,z\nsub/b.jpg,w\n")
    return store, bench


def listed(out):
    with (out / "near_duplicates.csv").open() as file:
        return list(csv.reader(file))


def test_check_contamination_names_copy_and_exits_with_2(planted, tmp_path, capsys):
    store, bench = planted
    args = [
        "curate",
        "check-contamination",
        "--stores",
        f"[{store.path}]",
        "--trials",
        f"[{bench}/list.csv]",
        "--out",
        str(tmp_path / "out"),
        "--num_workers",
        "1",
    ]
    for _ in range(2):  # the second time the artifact is complete
        with pytest.raises(SystemExit) as exit_info:
            main(args)
        assert exit_info.value.code == 2
        assert "near_duplicates.csv: 1 training pairs" in capsys.readouterr().err.splitlines()[-1]
    heading, row = listed(tmp_path / "out")
    assert heading == ["store", "key", "benchmark_image", "cosine", "different_bits"]
    assert row[:4] == ["store", "k03", "list/sub/b.jpg", ""]
    assert int(row[4]) <= MAX_HASH_DISTANCE
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "contamination.json",
        "contamination.json.sha256",
        "near_duplicates.csv",
    ]


def test_decontaminate_removes_copies_of_benchmark_images(planted, tmp_path, capsys):
    store, bench = planted
    args = [
        "curate",
        "decontaminate",
        "--store",
        str(store.path),
        "--benchmark_images",
        f"[{bench}]",
        "--out",
        str(tmp_path / "clean"),
        "--num_workers",
        "1",
    ]
    main(args)
    clean = PairStore(tmp_path / "clean")
    assert clean.columns("key")["key"].to_pylist() == [f"k{n:02}" for n in range(12) if n != 3]  # k07 is a test row
    assert clean.manifest["funnel"]["dropped"] == {"near-duplicate of a benchmark image": 1}
    assert clean.licensed
    assert store.fingerprint in clean.lineage
    assert [row[1] for row in listed(tmp_path / "clean.contamination")[1:]] == ["k03"]
    check_contamination(
        [clean.path], tmp_path / "check", benchmark_images=[bench], num_workers=1
    )  # does not exit with 2
    capsys.readouterr()
    main(args)
    assert "already complete" in capsys.readouterr().out


def test_check_contamination_accepts_clean_store(planted, tmp_path, capsys):
    store, bench = planted
    (bench / "sub" / "b.jpg").unlink()
    check_contamination([store.path], tmp_path / "out", benchmark_images=[bench])
    assert "none of 12 pairs is a near-duplicate of one of 4" in capsys.readouterr().out
    assert len(listed(tmp_path / "out")) == 1


def test_check_contamination_by_embeddings_finds_more(planted, tmp_path):
    store, bench = planted
    (bench / "mirrored.jpg").write_bytes(jpeg(scene(5).transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    embed(store.path, tmp_path / "e", accelerator="cpu")
    clip = load_clip("playroom")
    files = sorted(bench.rglob("*.jpg"))
    with torch.no_grad():
        theirs = clip.images(torch.stack([clip.preprocess(Image.open(file)) for file in files])).numpy()
    cosines = Embeddings(tmp_path / "e").image.astype(np.float32) @ theirs.T
    threshold = float(np.sort(cosines, axis=None)[-9])
    with pytest.raises(UserError, match="near_duplicates"):
        check_contamination(
            [store.path], tmp_path / "out", None, [bench], [tmp_path / "e"], threshold=threshold, num_workers=1
        )
    wanted = {
        (f"k{n:02}", f"bench/{files[m].relative_to(bench)}") for n, m in np.argwhere(cosines > threshold) if n != 7
    }
    rows = {(row[1], row[2]): float(row[3]) for row in listed(tmp_path / "out")[1:]}
    assert rows.keys() == wanted | {("k03", "bench/sub/b.jpg")}
    assert len(rows) > 3
    assert all(
        cosine == pytest.approx(cosines[int(key[1:]), files.index(tmp_path / name)], abs=1e-4)
        for (key, name), cosine in rows.items()
    )


def test_decontaminate_removes_what_check_contamination_finds(planted, tmp_path, capsys):
    """The benchmark image is a shifted crop, like a neighboring frame."""
    store, bench = planted
    shifted = scene(5, 120).crop((4, 8, 116, 120))
    (bench / "shifted.jpg").write_bytes(jpeg(shifted, size=96))
    embed(store.path, tmp_path / "e", accelerator="cpu")
    clip = load_clip("playroom")
    with torch.no_grad():
        theirs = clip.images(clip.preprocess(Image.open(bench / "shifted.jpg"))[None]).numpy()[0]
    cosine = str(Embeddings(tmp_path / "e").image[5].astype(np.float32) @ theirs - 1e-3)
    check = ["--trials", f"[{tmp_path}/lists/one.csv]", "--image_root", str(bench), "--num_workers", "1"]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/one.csv").write_text("image\nshifted.jpg\n")
    drop = ["curate", "decontaminate", "--store", str(store.path), *check]
    vectors = ["--embeddings", str(tmp_path / "e"), "--threshold", cosine]
    main([*drop, "--out", str(tmp_path / "by-hash")])
    assert len(PairStore(tmp_path / "by-hash")) == 12
    main([*drop, *vectors, "--out", str(tmp_path / "clean")])
    kept = PairStore(tmp_path / "clean").columns("key")["key"].to_pylist()
    assert "k05" not in kept
    assert Embeddings(tmp_path / "e").fingerprint in PairStore(tmp_path / "clean").lineage
    for name, code in (("by-hash", 2), ("clean", 0)):
        args = [
            "curate",
            "check-contamination",
            "--stores",
            f"[{tmp_path / name}]",
            "--embeddings",
            f"[{tmp_path / 'e'}]",
            "--threshold",
            cosine,
            *check,
            "--out",
            str(tmp_path / f"check-{name}"),
        ]
        if code:
            with pytest.raises(SystemExit):
                main(args)
            assert "decontaminate`, with --embeddings and --threshold" in capsys.readouterr().err
        else:
            main(args)


def test_check_contamination_resumes_with_missing_shards(planted, tmp_path, monkeypatch):
    store, bench = planted
    out = tmp_path / "out"
    monkeypatch.setattr("babyvlm.curation.decontaminate.near_duplicates", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check_contamination([store.path], out, benchmark_images=[bench], num_workers=1)
    monkeypatch.undo()
    monkeypatch.setattr("babyvlm.curation.decontaminate._hash_shard", lambda *_: 1 / 0)  # no shard is hashed again
    with pytest.raises(UserError, match="1 training pairs"):
        check_contamination([store.path], out, benchmark_images=[bench], num_workers=1)


def test_check_contamination_rejects_invalid_inputs(planted, tmp_path):
    store, bench = planted
    (bench / "bad.csv").write_text("image\n../x.jpg\n")
    (bench / "blank.csv").write_text("image,n\na.jpg,1\n,2\n")
    (bench / "none.csv").write_text("picture\na.jpg\n")
    cases = [
        ([], [], "no benchmark image"),
        (["bad.csv"], [], r"image \.\./x\.jpg leaves"),
        (["blank.csv"], [], "row 3: image is empty"),
        (["blank.csv", "no.csv"], [], r"row 3.*; .*no\.csv: No such file"),
        (["none.csv"], [], r"none\.csv, row 1: no column 'image'"),
        (["no.csv"], [], "No such file"),
        ([], [bench / "no"], "no such folder"),
    ]
    for trials, images, say in cases:
        with pytest.raises(UserError, match=say):
            find_benchmark_images([bench / name for name in trials], images)
    with pytest.raises(UserError, match="Pass one for each"):
        check_contamination([store.path] * 2, tmp_path / "x", benchmark_images=[bench], embeddings=[tmp_path / "e"])
    (bench / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.jpg: cannot be read"):
        check_contamination([store.path], tmp_path / "x", benchmark_images=[bench])
    assert not (tmp_path / "x").exists()


def test_deduplicate_keeps_first_frame_and_counts_others(tmp_path, capsys):
    groups = ["v_1", "v_1", "v_1", "v_2", "v_2", "w_1"]
    store = write_images(tmp_path / "store", [scene(n) for n in range(6)], groups=groups)
    x, y = [1, 0], [0.6, 0.8]
    manifest = {"arguments": {"store": store.fingerprint, "clip": "c"}}
    with artifacts.create(tmp_path / "e", "embeddings", manifest) as partial:
        np.save(partial / "image.npy", np.array([x, x, y, x, y, x], np.float16))
        (partial / "keys.json").write_text(json.dumps([f"k{n:02}" for n in range(6)]))
    for within, kept in (("utterance", ["k00", "k02", "k03", "k04", "k05"]), ("video", ["k00", "k02", "k05"])):
        deduplicate(store.path, tmp_path / "e", tmp_path / within, within, threshold=0.9)
        out = PairStore(tmp_path / within)
        assert out.columns("key")["key"].to_pylist() == kept
        assert out.manifest["funnel"]["dropped"] == {
            f"cosine > 0.9 with an earlier frame of the {within}": 6 - len(kept)
        }
        assert out.licensed
        assert store.fingerprint in out.lineage
        deduplicate(store.path, tmp_path / "e", tmp_path / within, within, threshold=0.9)
        assert "already complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="--threshold 1"):
        deduplicate(store.path, tmp_path / "e", tmp_path / "x", threshold=1)


def test_find_benchmark_images_distinguishes_equal_names(planted, tmp_path):
    _, bench = planted
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes(jpeg(scene(60)))
    (other / "list.csv").write_text("image\na.jpg\n")
    found = find_benchmark_images([bench / "list.csv", other / "list.csv"])
    assert found.keys() >= {bench / "a.jpg", other / "a.jpg"}
    assert len(found) == 4


def test_find_benchmark_images_reports_or_ignores_missing_images(planted, tmp_path):
    _, bench = planted
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "one.csv").write_text("image\na.jpg\nx.jpg\ny.jpg\n")
    (lists / "two.csv").write_text("image\nz.jpg\nc.jpg\nc.jpg\n")
    with pytest.raises(
        UserError, match=r"one\.csv: none of its 3 images is in .* with --image_root FOLDER; .*two\.csv"
    ):
        find_benchmark_images([lists / "one.csv", lists / "two.csv"])
    with pytest.raises(UserError) as error:
        find_benchmark_images([lists / "one.csv", lists / "two.csv"], root=bench)
    lacking = f"images are missing or empty in {bench} (allow_missing ignores them)"
    first, second = f"{lists}/one.csv: 2 of 3 {lacking}: x.jpg, y.jpg", f"{lists}/two.csv: 1 of 2 {lacking}: z.jpg"
    assert str(error.value) == f"{first}; {second}"
    found = find_benchmark_images([lists / "one.csv", lists / "two.csv"], root=bench, allow_missing=True)
    assert found == {bench / "a.jpg": "one/a.jpg", bench / "c.jpg": "two/c.jpg"}
