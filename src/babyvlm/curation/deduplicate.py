"""Remove near-duplicate frames within an utterance or a video."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from babyvlm.curation.embeddings import Embeddings, embedded_rows
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.near_duplicates import select_distinct
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import PairStore, copy_pairs
from babyvlm.errors import UserError


@stage
def deduplicate(
    store: Path,
    embeddings: Path,
    out: Path,
    within: Literal["utterance", "video"] = "utterance",
    threshold: float = 0.98,
) -> Stage:
    """Remove frames that are near-duplicates of an earlier frame of the same utterance or video.

    Reads a store and its embeddings; writes a smaller store. This stage is optional: BabyVLM keeps near-duplicates, and
    a training epoch samples one frame of each utterance anyway. The first frame of an utterance or video is always
    kept, and a frame is only compared with frames that were kept.

    For example:
        python -m babyvlm curate deduplicate --store stores/frames --embeddings embeddings/frames --out stores/distinct

    Args:
        store: pair store to deduplicate.
        embeddings: embeddings of this store, or of a store that it was built from.
        out: store to create.
        within: compare the frames of an utterance (`group`), or of a video (`group` up to its last `_`).
        threshold: frames whose embeddings have a higher cosine similarity are near-duplicates. It depends on the CLIP
            model.
    """
    if not -1 <= threshold < 1:
        raise UserError(f"--threshold {threshold}: must be at least -1 and below 1")
    source, vectors = PairStore(store), Embeddings(embeddings)
    funnel = Funnel("deduplicate", unit="frames")
    artifact = Artifact(
        "store",
        {
            "command": "deduplicate",
            "store": source,
            "embeddings": vectors,
            "clip": vectors.clip,
            "within": within,
            "threshold": threshold,
        },
        funnel,
    )
    folder = yield artifact
    _, vectors_ND = embedded_rows(source, vectors)
    utterances: list[str] = source.columns("group")["group"].to_pylist()
    groups = utterances if within == "utterance" else [name.rpartition("_")[0] or name for name in utterances]
    kept_N = select_distinct(vectors_ND, groups, threshold)
    funnel.keep(int(kept_N.sum()))
    funnel.drop(f"cosine > {threshold:g} with an earlier frame of the {within}", int((~kept_N).sum()))
    artifact.manifest |= copy_pairs(folder, source, np.flatnonzero(kept_N), funnel=funnel)
    return f"{funnel.kept:,} frames of {len(set(utterances)):,} utterances"
