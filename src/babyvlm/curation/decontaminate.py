"""Find and remove training pairs that are near-duplicates of benchmark images."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from rich.progress import track

from babyvlm.curation.benchmark_images import find_benchmark_images
from babyvlm.curation.embeddings import Embeddings, check_same_clip, embedded_rows
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.near_duplicates import (
    HASH_BITS,
    MAX_HASH_DISTANCE,
    Signatures,
    near_duplicates,
    perceptual_hashes,
)
from babyvlm.curation.stage import Artifact, Stage, parts_folder, slice_of_share, stage
from babyvlm.curation.store.pair_store import PairStore, copy_pairs
from babyvlm.errors import UserError, require_at_least
from babyvlm.io import artifacts
from babyvlm.io.files import fingerprint_files, write_list
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.io.printing import Console, echo
from babyvlm.io.processes import run_in_processes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

BATCH_SIZE = 256  # benchmark images embedded at once
LIST = "near_duplicates.csv"
HEADING = ("store", "key", "benchmark_image", "cosine", "different_bits")


def check_contamination(
    stores: list[Path],
    out: Path,
    trials: list[Path] | None = None,
    benchmark_images: list[Path] | None = None,
    embeddings: list[Path] | None = None,
    threshold: float = 0.95,
    max_hash_distance: int = MAX_HASH_DISTANCE,
    image_root: Path | None = None,
    allow_missing: bool = False,
    num_workers: int = 2,
) -> None:
    """Check that no training pair is a near-duplicate of a benchmark image; list those that are and exit with status 2.

    Reads the stores that models are trained on and the lists of the benchmarks. Images are near-duplicates by their
    perceptual hash or, if `embeddings` are given, by their embedding. If the check is interrupted, run the same command
    again and it resumes.

    For example:
        python -m babyvlm curate check-contamination --stores '[filtered,aug]' --trials '[trials/vtwt.csv]' --out check

    Args:
        stores: pair stores that models are trained on; their rows of the `train` split are checked.
        out: folder to create, with `near_duplicates.csv`.
        trials: benchmark lists: CSV files with a column `image`.
        benchmark_images: folders of benchmark images; all images in them are checked.
        embeddings: embeddings of the stores, in the same order, computed by the same CLIP model.
        threshold: images whose embeddings have a higher cosine similarity are near-duplicates. 0.95 suits large CLIP
            models; it depends on the model.
        max_hash_distance: images whose 256-bit hashes differ in at most this many bits are near-duplicates.
        image_root: folder that the image paths of the lists start from; by default the folder of each list.
        allow_missing: ignore images in the lists that do not exist.
        num_workers: number of processes that hash images.
    """
    sources, vectors = [PairStore(path) for path in stores], [Embeddings(path) for path in embeddings or ()]
    images = find_benchmark_images(trials or (), benchmark_images or (), image_root, allow_missing=allow_missing)
    refuse_near_duplicates(
        out, sources, images, vectors, threshold=threshold, max_hash_distance=max_hash_distance, num_workers=num_workers
    )
    pairs = sum(len(store) for store in sources)
    echo(f"{out}: none of {pairs:,} pairs is a near-duplicate of one of {len(images):,} benchmark images")


@stage
def decontaminate(
    store: Path,
    out: Path,
    trials: list[Path] | None = None,
    benchmark_images: list[Path] | None = None,
    embeddings: Path | None = None,
    threshold: float = 0.95,
    max_hash_distance: int = MAX_HASH_DISTANCE,
    image_root: Path | None = None,
    allow_missing: bool = False,
    num_workers: int = 2,
    share: str = "",
) -> Stage:
    """Remove the training pairs whose image is a near-duplicate of a benchmark image.

    Reads a store and the lists of the benchmarks; writes a store without those pairs. Run it before matching, so that
    the next best candidate is matched instead. `OUT.contamination/near_duplicates.csv` lists what was removed, and the
    benchmark image that it resembles.

    For example:
        python -m babyvlm curate decontaminate --store stores/raw --trials '[trials/vtwt.csv]' --out stores/filtered

    Args:
        store: pair store; the rows of its splits `val` and `test` are kept.
        out: store to create.
        trials: benchmark lists: CSV files with a column `image`.
        benchmark_images: folders of benchmark images; all images in them are checked.
        embeddings: embeddings of the store, or of one that it was built from. If given, near-duplicates are also found
            by cosine similarity.
        threshold: images whose embeddings have a higher cosine similarity are near-duplicates. 0.95 suits large CLIP
            models; it depends on the model.
        max_hash_distance: images whose 256-bit hashes differ in at most this many bits are near-duplicates.
        image_root: folder that the image paths of the lists start from; by default the folder of each list.
        allow_missing: ignore images in the lists that do not exist.
        num_workers: number of processes that hash images.
        share: hash only this share of the images, such as 2/16 for the second of 16 jobs that run at the same time.
            When all shares are complete, run the command without it to remove the near-duplicates.
    """
    source = PairStore(store)
    found, own = out.with_name(f"{out.name}.contamination"), slice_of_share(share)
    if share:
        if out.exists() or found.exists():
            return "already complete, skipping"
        count = _hash_shards(source, parts_folder(found), num_workers, own)
        return f"share {share}: {count:,} of {len(source.files):,} shards are hashed"
    images = find_benchmark_images(trials or (), benchmark_images or (), image_root, allow_missing=allow_missing)
    vectors = [Embeddings(embeddings)] if embeddings else []
    arguments: dict[str, Any] = {
        "command": "decontaminate",
        "store": source,
        "images": fingerprint_files(images),
        "max_hash_distance": max_hash_distance,
    }
    if vectors:
        arguments |= {"embeddings": vectors[0], "threshold": threshold}
    funnel = Funnel("decontaminate")
    artifact = Artifact("store", arguments, funnel)
    folder = yield artifact
    list_near_duplicates(
        found,
        [source],
        images,
        vectors,
        threshold=threshold,
        max_hash_distance=max_hash_distance,
        num_workers=num_workers,
    )
    with (found / LIST).open(newline="", encoding="utf-8") as file:
        removed = {row["key"] for row in csv.DictReader(file)}
    kept_N = np.array([key not in removed for key in source.columns("key")["key"].to_pylist()])
    funnel.keep(int(kept_N.sum()))
    funnel.drop("near-duplicate of a benchmark image", int((~kept_N).sum()))
    artifact.manifest |= copy_pairs(folder, source, np.flatnonzero(kept_N), funnel=funnel)
    return f"{funnel.kept:,} pairs"


def refuse_near_duplicates(
    out: Path,
    stores: Sequence[PairStore],
    images: Mapping[Path, str],
    embeddings: Sequence[Embeddings],
    *,
    threshold: float,
    max_hash_distance: int,
    num_workers: int,
) -> None:
    """Run ``list_near_duplicates``.

    Raises:
        UserError: a training pair is a near-duplicate of a benchmark image, or an argument is invalid.
    """
    list_near_duplicates(
        out,
        stores,
        images,
        embeddings,
        threshold=threshold,
        max_hash_distance=max_hash_distance,
        num_workers=num_workers,
    )
    found = artifacts.read_manifest(out, "contamination")["found"]
    if not found:
        return
    with (out / LIST).open(newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    raise UserError(
        f"{out / LIST}: {found:,} training pairs are near-duplicates of benchmark images; the first is {first['key']} "
        f"of {first['store']}, similar to {first['benchmark_image']}. Remove them with `python -m babyvlm curate "
        f"decontaminate`{', with --embeddings and --threshold' if embeddings else ''}. If the images differ, lower "
        "--max_hash_distance or raise --threshold"
    )


@stage
def list_near_duplicates(
    out: Path,
    stores: Sequence[PairStore],
    images: Mapping[Path, str],
    embeddings: Sequence[Embeddings] = (),
    *,
    threshold: float,
    max_hash_distance: int,
    num_workers: int,
) -> Stage:
    """List the training pairs of stores that are near-duplicates of benchmark images.

    Args:
        out: folder to create, with ``near_duplicates.csv``; its manifest has their number, ``found``.
        stores: pair stores; rows of the ``train`` split are checked.
        images: benchmark images and their names.
        embeddings: embeddings of each store, or none.
        threshold: cosine similarity above which images are near-duplicates.
        max_hash_distance: number of bits up to which images are near-duplicates.
        num_workers: number of processes that hash images.

    Raises:
        UserError: there is no store, or the number of embeddings or an argument is invalid.
    """
    if not stores:
        raise UserError("--stores: name at least one store")
    if embeddings and len(embeddings) != len(stores):
        raise UserError(f"--embeddings: {len(embeddings)} given for {len(stores)} stores. Pass one for each, in order")
    require_at_least(1, num_workers=num_workers)
    if not 0 <= max_hash_distance <= HASH_BITS:
        raise UserError(f"--max_hash_distance {max_hash_distance}: must be between 0 and {HASH_BITS}")
    if not threshold >= -1:  # above 1 no cosine counts
        raise UserError(f"--threshold {threshold}: must be at least -1; with a value above 1, embeddings find nothing")
    if embeddings:
        check_same_clip(*embeddings)
    arguments: dict[str, Any] = {
        "command": "check-contamination",
        "stores": list(stores),
        "images": fingerprint_files(images),
        "max_hash_distance": max_hash_distance,
    }
    if embeddings:
        arguments |= {"embeddings": list(embeddings), "threshold": threshold}
    state = parts_folder(out)
    artifact = Artifact("contamination", arguments, manifest={"images": len(images)}, state=state)
    folder = yield artifact
    rows: list[list[str]] = []
    cache = out.parent / f".benchmark-vectors-{artifact.arguments['images'][:16]}.npz"
    of_images = _signatures_of_files(list(images), embeddings[0] if embeddings else None, cache)
    for number, store in enumerate(stores):
        vectors_ND = embedded_rows(store, embeddings[number])[1] if embeddings else None
        _hash_shards(store, state, num_workers)
        of_store = Signatures(np.concatenate([np.load(path) for path in _hash_files(store, state)]), vectors_ND)
        table = store.columns("key", "split")
        keys, splits, names = table["key"].to_pylist(), table["split"].to_pylist(), list(images.values())
        for near in near_duplicates(of_store, of_images, threshold=threshold, max_hash_distance=max_hash_distance):
            if splits[near.first] == "train":
                cosine = "" if np.isnan(near.cosine) else f"{near.cosine:.4f}"
                rows.append([store.path.name, keys[near.first], names[near.second], cosine, str(near.hash_distance)])
    write_list(folder / LIST, [HEADING, *rows])
    artifact.manifest["found"] = len(rows)
    return f"{len(rows):,} near-duplicates of {len(images):,} benchmark images, in {LIST}"


def _signatures_of_files(files: Sequence[Path], like: Embeddings | None, cache: Path) -> Signatures:
    """Hash the benchmark images, and embed them by the model of ``like``; one batch is in memory at a time.

    Args:
        files: the images.
        like: embeddings to compare with; None to compare hashes only.
        cache: file that keeps the embeddings, for the next store that is compared with the same images.
    """
    known = _read_vectors(cache, like, len(files)) if like else None
    embed = _embedder(like) if like and known is None else None
    hashes, vectors = [], []
    starts = range(0, len(files), BATCH_SIZE)
    for start in track(starts, "reading benchmark images", console=Console(stderr=True)):
        images = [_open(path) for path in files[start : start + BATCH_SIZE]]
        hashes.append(perceptual_hashes(images))
        if embed:
            vectors.append(embed(images))
    if like and vectors:
        known = np.concatenate(vectors)
        temporary = cache.with_suffix(f".{os.getpid()}.partial.npz")
        np.savez(temporary, clip_sha256=np.array(like.clip_sha256), vectors=known)
        temporary.replace(cache)
    return Signatures(np.concatenate(hashes), known)


def _read_vectors(cache: Path, like: Embeddings, count: int) -> NDArray[np.float32] | None:
    """Return the embeddings in a cache; None if there are none of this model."""
    try:
        with np.load(cache) as content:
            vectors: NDArray[np.float32] = content["vectors"]
            matches = str(content["clip_sha256"]) == like.clip_sha256 and vectors.shape == (count, like.image.shape[1])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return vectors if matches and np.isfinite(vectors).all() else None


def _open(path: Path) -> Image.Image:
    try:
        return open_rgb(path)
    except BrokenImageError as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None


def _embedder(like: Embeddings) -> Callable[[Sequence[Image.Image]], NDArray[np.float32]]:
    import torch

    from babyvlm.curation.clip import load_clip

    clip = load_clip(like.clip)
    if like.clip_sha256 != clip.sha256:
        raise UserError(f"{like.path}: was computed with different weights of CLIP {like.clip}. Embed the store again")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clip.model.to(device)

    def embed(images: Sequence[Image.Image]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return clip.images(torch.stack([clip.preprocess(image) for image in images]).to(device)).cpu().numpy()

    return embed


def _hash_files(store: PairStore, folder: Path) -> list[Path]:
    """Return the files of the (N, W) perceptual hashes of each shard."""
    fingerprint = store.fingerprint  # read once, not for each shard
    return [folder / f"{fingerprint}-{number:05d}.npy" for number in range(len(store.files))]


def _hash_shards(store: PairStore, folder: Path, num_workers: int, share: slice = slice(None)) -> int:
    """Hash those of the shards in ``share`` whose file is missing; return the number of shards in ``share``."""
    artifacts.create_marked(folder)
    own = list(enumerate(_hash_files(store, folder)))[share]
    missing = [(store, number, path) for number, path in own if not path.exists()]
    hashed = run_in_processes(missing, _hash_shard, num_workers, [__name__])
    for (_, number, _), crash in track(hashed, "hashing", len(missing), console=Console(stderr=True)):
        if crash:
            raise UserError(
                f"{store.files[number]}: an image in it crashes the decoder ({crash}). Build the store again"
            )
    return len(own)


def _hash_shard(task: tuple[PairStore, int, Path]) -> None:
    store, number, out = task
    rows: Iterator[dict[str, Any]] = store.shard_rows(number, ["image"])
    hashes_NW = perceptual_hashes(open_rgb(row["image"]) for row in rows)
    temporary = out.with_name(f".{uuid4().hex}.npy")  # machines that share the folder reuse process numbers
    np.save(temporary, hashes_NW)
    temporary.replace(out)
