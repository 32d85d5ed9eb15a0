"""Thin out frames that are nearly the same as an earlier one of their utterance or video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from babyvlm.curation.embeddings import Embeddings, embedded_rows
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.near_duplicates import distinct
from babyvlm.curation.store.pair_store import PairStore, write_rows
from babyvlm.errors import UserError
from babyvlm.io import artifacts

if TYPE_CHECKING:
    from pathlib import Path


@artifacts.one_at_a_time
def thin(
    store: Path, embeddings: Path, out: Path, within: Literal["utterance", "video"] = "utterance", cosine: float = 0.98
) -> None:
    """Drop frames that are nearly the same as an earlier frame of their utterance, or of their video.

    In go a store and its embeddings, out comes a smaller store; the funnel says how many frames were dropped. Optional:
    the paper keeps them, and a training epoch draws one frame of each utterance anyway. The first frame of an utterance
    or video always stays, and what is dropped is compared only with what is kept.

    For example:
        python -m babyvlm curate thin --store stores/frames --embeddings embeddings/frames --out stores/thinned

    Args:
        store: pair store to thin.
        embeddings: embeddings of (at least) its pairs.
        out: store to make.
        within: compare the frames of an utterance (`group`), or of a video (`group` up to its last `_`).
        cosine: frames are nearly the same if their embeddings are above it; it belongs to the CLIP model.
    """
    if not -1 <= cosine < 1:
        raise UserError(f"--cosine {cosine}: must lie within -1 and 1, and below 1")
    source, vectors = PairStore(store), Embeddings(embeddings)
    arguments = {
        "command": "thin",
        "store": source.fingerprint,
        "embeddings": vectors.fingerprint,
        "clip": vectors.clip,
        "within": within,
        "cosine": cosine,
    }
    if artifacts.is_complete(out, "store", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    _, vectors_ND = embedded_rows(source, vectors)
    groups: list[str] = source.columns("group")["group"].to_pylist()
    parts = groups if within == "utterance" else [group.rpartition("_")[0] or group for group in groups]
    kept_N = distinct(vectors_ND, parts, cosine)
    funnel = Funnel("thin", unit="frames")
    funnel.keep(int(kept_N.sum()))
    funnel.drop(f"cosine > {cosine:g} with an earlier frame of the {within}", int((~kept_N).sum()))
    write_rows(out, source, np.flatnonzero(kept_N), arguments=arguments, funnel=funnel, ancestors=vectors.lineage)
    print(f"{funnel}\n{out}: {funnel.kept:,} frames of {len(set(groups)):,} utterances")
