"""Leave out of a store what is nearly the same as a benchmark image."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from babyvlm.curation.benchmark_images import benchmark_images
from babyvlm.curation.contamination import LIST, find_near_duplicates
from babyvlm.curation.embeddings import Embeddings
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.near_duplicates import SAME_BITS
from babyvlm.curation.store.pair_store import PairStore, write_rows
from babyvlm.io import artifacts
from babyvlm.io.files import fingerprint_files

if TYPE_CHECKING:
    from pathlib import Path


@artifacts.one_at_a_time
def decontaminate(
    store: Path,
    out: Path,
    trials: list[Path] | None = None,
    images: list[Path] | None = None,
    embeddings: Path | None = None,
    cosine: float = 0.95,
    distance: int = SAME_BITS,
    root: Path | None = None,
    allow_missing: bool = False,
    workers: int = 2,
) -> None:
    """Drop the training pairs whose image is nearly the same as a benchmark image.

    In go a store and the tests' lists, out comes a store without those pairs. Do it before matching, so that the next
    best candidate takes the place. What was dropped, and which image it is like, is listed beside the store in
    `OUT.contamination/near_duplicates.csv`.

    For example:
        python -m babyvlm curate decontaminate --store stores/raw --trials '[trials/vtwt.csv]' --out stores/filtered

    Args:
        store: pair store; the rows of its splits `val` and `test` stay.
        out: store to make.
        trials: benchmark lists: CSVs with a column `image`.
        images: folders of benchmark images; all in them count.
        embeddings: embeddings of the store, or of one that it was made from: what they find alike is dropped too.
        cosine: embeddings above it count as nearly the same. 0.95 suits large CLIPs; it belongs to the model.
        distance: perceptual hashes of 256 bits that differ in at most so many count as nearly the same.
        root: folder that the lists' image paths start from; each list's own by default.
        allow_missing: leave out what the lists name and is not there.
        workers: processes that hash images.
    """
    source = PairStore(store)
    files = benchmark_images(trials or (), images or (), root, allow_missing=allow_missing)
    vectors = Embeddings(embeddings) if embeddings else None
    arguments: dict[str, Any] = {
        "command": "decontaminate",
        "store": source.fingerprint,
        "distance": distance,
        "images": fingerprint_files(files),
    }
    if vectors:
        arguments |= {"embeddings": vectors.fingerprint, "cosine": cosine}
    if artifacts.is_complete(out, "store", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    check = out.with_name(f"{out.name}.contamination")
    of_store, alike = ([vectors], cosine) if vectors else ([], 1.0)
    find_near_duplicates([source], files, check, of_store, cosine=alike, distance=distance, workers=workers)
    with (check / LIST).open(newline="", encoding="utf-8") as file:
        near = {row["key"] for row in csv.DictReader(file)}
    kept_N = np.array([key not in near for key in source.columns("key")["key"].to_pylist()])
    funnel = Funnel("decontaminate")
    funnel.keep(int(kept_N.sum()))
    funnel.drop("nearly the same as a benchmark image", int((~kept_N).sum()))
    ancestors = vectors.lineage if vectors else None
    write_rows(out, source, np.flatnonzero(kept_N), arguments=arguments, funnel=funnel, ancestors=ancestors)
    print(f"{funnel}\n{out}: {funnel.kept:,} pairs")
