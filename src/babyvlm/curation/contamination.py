"""Make sure that no training pair is a near-duplicate of a benchmark image."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import track

from babyvlm.curation.benchmark_images import benchmark_images
from babyvlm.curation.embeddings import Embeddings, check_same_clip, embedded_rows
from babyvlm.curation.near_duplicates import HASH_BITS, SAME_BITS, Looks, near_duplicates, perceptual_hashes
from babyvlm.curation.options import at_least
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import fingerprint_files, write_csv
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.io.processes import run_in_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image

BATCH = 256  # benchmark images embedded at once
LIST = "near_duplicates.csv"
HEADING = ("store", "key", "benchmark_image", "cosine", "different_bits")


@artifacts.one_at_a_time
def contamination(
    stores: list[Path],
    out: Path,
    trials: list[Path] | None = None,
    images: list[Path] | None = None,
    embeddings: list[Path] | None = None,
    cosine: float = 0.95,
    distance: int = SAME_BITS,
    root: Path | None = None,
    allow_missing: bool = False,
    workers: int = 2,
) -> None:
    """Check that no training pair is a near-duplicate of a benchmark image; list those that are, and exit with 2.

    In go the stores that models train on and the tests' lists, out comes the list of what was found. Images count as
    nearly the same by their perceptual hash, or, if `embeddings` are given, by their embedding. A check that was
    interrupted goes on where it was.

    For example:
        python -m babyvlm curate contamination --stores '[filtered,aug]' --trials '[trials/vtwt.csv]' --out check

    Args:
        stores: pair stores that models are trained on; their rows of the split `train` are checked.
        out: folder to make, with `near_duplicates.csv`.
        trials: benchmark lists: CSVs with a column `image`.
        images: folders of benchmark images; all in them count.
        embeddings: embeddings of the stores, in their order, all by one CLIP.
        cosine: embeddings above it count as nearly the same. 0.95 suits large CLIPs; it belongs to the model.
        distance: hashes of 256 bits that differ in at most so many count as nearly the same.
        root: folder that the lists' image paths start from; each list's own by default.
        allow_missing: leave out what the lists name and is not there.
        workers: processes that hash images.
    """
    sources, vectors = [PairStore(path) for path in stores], [Embeddings(path) for path in embeddings or ()]
    files = benchmark_images(trials or (), images or (), root, allow_missing=allow_missing)
    refuse_near_duplicates(sources, files, out, vectors, cosine=cosine, distance=distance, workers=workers)
    pairs = sum(len(store) for store in sources)
    print(f"{out}: none of {pairs:,} pairs is nearly the same as one of {len(files):,} benchmark images")


def refuse_near_duplicates(
    sources: Sequence[PairStore],
    files: Mapping[Path, str],
    out: Path,
    vectors: Sequence[Embeddings],
    *,
    cosine: float,
    distance: int,
    workers: int,
) -> None:
    """Make the folder of a check, as ``find_near_duplicates``.

    Raises:
        UserError: a training pair is nearly the same as a benchmark image; or the call is wrong.
    """
    manifest = find_near_duplicates(sources, files, out, vectors, cosine=cosine, distance=distance, workers=workers)
    if not manifest["found"]:
        return
    with (out / LIST).open(newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    raise UserError(
        f"{out / LIST}: {manifest['found']:,} training pairs are nearly the same as benchmark images; the first is "
        f"{first['key']} of {first['store']}, like {first['benchmark_image']}; drop them by `python -m babyvlm curate "
        f"decontaminate`{', with --embeddings and --cosine' if vectors else ''}, or look at them and lower "
        "distance or raise cosine if they are not"
    )


def find_near_duplicates(
    sources: Sequence[PairStore],
    files: Mapping[Path, str],
    out: Path,
    vectors: Sequence[Embeddings] = (),
    *,
    cosine: float = 1.0,
    distance: int,
    workers: int,
) -> artifacts.Manifest:
    """Make the folder of a check, of stores and their embeddings against benchmark images, which have a name each.

    Returns:
        Its manifest, with the numbers ``found`` and ``images``.

    Raises:
        UserError: no store, not as many embeddings as stores, or a number that cannot be.
    """
    _check_options(sources, vectors)
    at_least(1, workers=workers)
    if not (0 <= distance <= HASH_BITS and cosine >= -1):  # above 1 no cosine counts
        raise UserError(f"--distance {distance}: must lie within 0 and {HASH_BITS}; --cosine {cosine}: within -1 and 1")
    arguments = {
        "command": "contamination",
        "stores": [store.fingerprint for store in sources],
        "embeddings": [one.fingerprint for one in vectors],
        "images": fingerprint_files(files),
        "cosine": cosine,
        "distance": distance,
    }
    if not artifacts.is_complete(out, "contamination", arguments):
        manifest: artifacts.Manifest = {"arguments": arguments, "images": len(files)}
        with artifacts.create(out, "contamination", manifest, keep_partial=True) as folder:
            scratch = folder / artifacts.SCRATCH
            rows: list[list[str]] = []
            theirs = _looks_of_files(list(files), vectors[0] if vectors else None)
            for number, store in enumerate(sources):
                vectors_ND = embedded_rows(store, vectors[number])[1] if vectors else None
                ours = Looks(_hashes(store, scratch, workers), vectors_ND)
                rows += _found(store, list(files.values()), ours, theirs, cosine, distance)
            write_csv(folder / LIST, [HEADING, *rows])
            manifest["found"] = len(rows)
    return artifacts.read_manifest(out, "contamination")


def _check_options(sources: Sequence[PairStore], vectors: Sequence[Embeddings]) -> None:
    if not sources:
        raise UserError("--stores: name at least one store")
    if vectors and len(vectors) != len(sources):
        raise UserError(f"--embeddings: {len(vectors)} given for {len(sources)} stores; one each, in their order")
    if vectors:
        check_same_clip(*vectors)


def _looks_of_files(files: Sequence[Path], like: Embeddings | None) -> Looks:
    """Hashes of the benchmark images, and embeddings by the model that made ``like``; a batch in memory at a time."""
    embed = _embedder(like) if like else None
    hashes, vectors = [], []
    starts = range(0, len(files), BATCH)
    for start in track(starts, "reading benchmarks", console=Console(stderr=True)):
        pictures = [_open(path) for path in files[start : start + BATCH]]
        hashes.append(perceptual_hashes(pictures))
        if embed:
            vectors.append(embed(pictures))
    return Looks(np.concatenate(hashes), np.concatenate(vectors) if vectors else None)


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
        raise UserError(f"{like.path}: was made by other weights of CLIP {like.clip}; embed the store again")

    def embed(pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(clip.images(torch.stack([clip.preprocess(picture) for picture in pictures])))

    return embed


def _hashes(store: PairStore, scratch: Path, workers: int) -> NDArray[np.uint64]:
    """(N, W) perceptual hashes, committed shard by shard."""
    paths = [scratch / f"{store.fingerprint}-{number:05d}.npy" for number in range(len(store.files))]
    missing = [(store, number, path) for number, path in enumerate(paths) if not path.exists()]
    hashed = run_in_processes(missing, _hash_shard, workers, [__name__])
    for (_, number, _), crash in track(hashed, "hashing", len(missing), console=Console(stderr=True)):
        if crash:
            raise UserError(
                f"{store.files[number]}: an image in it crashes its decoder ({crash}); make the store again"
            )
    return np.concatenate([np.load(path) for path in paths])


def _hash_shard(task: tuple[PairStore, int, Path]) -> None:
    store, number, out = task
    rows = store.shard_rows(number, ["image"])
    hashes_NW = perceptual_hashes(open_rgb(row["image"]) for row in rows)
    beside = out.with_suffix(".partial")
    with beside.open("wb") as file:
        np.save(file, hashes_NW)
    beside.rename(out)


def _found(
    store: PairStore, names: Sequence[str], ours: Looks, theirs: Looks, cosine: float, distance: int
) -> Iterator[list[str]]:
    table = store.columns("key", "split")
    keys, splits = table["key"].to_pylist(), table["split"].to_pylist()
    for near in near_duplicates(ours, theirs, cosine=cosine, distance=distance):
        if splits[near.first] == "train":
            alike = "" if np.isnan(near.cosine) else f"{near.cosine:.4f}"
            yield [store.path.name, keys[near.first], names[near.second], alike, str(near.distance)]
