"""The commands that choose candidate pairs for a target store: by matching, or at random."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from babyvlm.curation.embeddings import Embeddings, check_same_clip, embedded_rows
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.matching.match import Device, Matching, Method, Vectors, match, match_greedily, match_randomly
from babyvlm.curation.stage import Artifact, Stage, UsualYield, stage
from babyvlm.curation.store.pair_store import PairStore, write_pairs
from babyvlm.errors import UserError, require_at_least
from babyvlm.io import artifacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


# The other methods are scored for comparison up to this many pairs (seconds; beyond, minutes). Our choice.
MAX_COMPARED_PAIRS = 1 << 30
# BabyVLM matched about 67,000 pairs to LLaVA's 558,000 captions, 12%, before some were discarded. Our choice.
USUAL_YIELD = UsualYield(0, 0.9, "Matching hardly selects if it uses nearly all candidates: use a larger web corpus")


@stage
def match_stores(
    targets: Path,
    target_embeddings: Path,
    candidates: Path,
    candidate_embeddings: Path,
    out: Path,
    method: Method = "exact",
    top_k: int = 512,
    batch_size: int = 2048,
    seed: int = 0,
    device: Device = "auto",
) -> Stage:
    r"""Assign a different candidate pair to each target pair by image similarity (the paper's matching).

    Input: two stores, usually the filtered home pairs and the rewritten web pairs, with embeddings of both.
    Output: a store with as many candidate pairs as there are targets. The summed CLIP similarity of the images is
    maximal, and the printed summary states the duality gap that proves it.

    For example:
        python -m babyvlm curate match --targets stores/filtered --target_embeddings embeddings/frames \
            --candidates stores/rewritten --candidate_embeddings embeddings/rewritten --out stores/aug

    Args:
        targets: pair store whose pairs are matched. It may be a filtered subset of the store that was embedded.
        target_embeddings: embeddings of these pairs (and possibly others).
        candidates: pair store to choose from, with at least as many pairs as `targets`.
        candidate_embeddings: embeddings of these pairs (and possibly others), by the same CLIP model.
        out: pair store to create: the matched candidates in the order of the targets, with the fields `match_key` and
            `match_similarity`. A candidate is in the split of its target, so that matches of validation and test
            frames stay out of training.
        method: `exact` (maximal sum), `greedy` (each target, in random order, takes the best candidate left) or
            `random`.
        top_k: number of candidates initially kept per target. Higher values need more memory, lower values more time.
        batch_size: number of targets added to the matching at a time.
        seed: random seed for the order in which targets are added, and for `random`.
        device: what finds the candidates: all cores (`cpu`), a `gpu`, or a GPU if there is one (`auto`). The result is
            optimal in any case, and the proof the same.
    """
    require_at_least(0, seed=seed)
    require_at_least(1, top_k=top_k, batch_size=batch_size)
    target_store, candidate_store = PairStore(targets), PairStore(candidates)
    target_vectors, candidate_vectors = Embeddings(target_embeddings), Embeddings(candidate_embeddings)
    check_same_clip(target_vectors, candidate_vectors)
    funnel = Funnel("match", "candidates")
    checkpoint = out.with_name(out.name + ".matching")  # an interrupted run resumes from here
    artifact = Artifact(
        "store",
        {
            "command": "match",
            "targets": target_store,
            "candidates": candidate_store,
            "target_embeddings": target_vectors,
            "candidate_embeddings": candidate_vectors,
            "method": method,
            "top_k": top_k,
            "batch_size": batch_size,
            "seed": seed,
            "splits": "of the targets",
        },
        funnel,
        state=checkpoint,
        usual_yield=USUAL_YIELD,
    )
    folder = yield artifact
    artifacts.create_marked(checkpoint)
    target_keys, target_images = embedded_rows(target_store, target_vectors)
    _, candidate_images = embedded_rows(candidate_store, candidate_vectors)
    matching = _match_by(
        method,
        target_images,
        candidate_images,
        top_k=top_k,
        batch_size=batch_size,
        seed=seed,
        checkpoint=checkpoint,
        device=device,
    )
    artifact.manifest |= write_pairs(
        folder,
        _matched_rows(candidate_store, target_keys, _splits(target_store), matching, funnel),
        funnel=funnel,
        licensed=candidate_store.licensed or target_store.licensed,  # rows name the target's frame
        extra_fields=candidate_store.extra_fields | {"match_key": pa.string(), "match_similarity": pa.float32()},
    )
    return _describe(matching, target_images, candidate_images, seed)


@stage
def match_arrays(
    targets: Path,
    candidates: Path,
    out: Path,
    method: Method = "exact",
    top_k: int = 512,
    batch_size: int = 2048,
    seed: int = 0,
    device: Device = "auto",
) -> Stage:
    """Match the rows of two embedding files one to one, for embeddings that were computed elsewhere.

    Input: two `.npy` files, which are memory-mapped. Output: the row of the second file chosen for each row of the
    first, and the proof of optimality. If it is interrupted, run the same command again and it resumes after its last
    batch.

    For example:
        python -m babyvlm curate match-arrays --targets targets.npy --candidates candidates.npy --out matching

    Args:
        targets: `.npy` file of shape (N, D), L2-normalized floats.
        candidates: `.npy` file of shape (M, D), M >= N.
        out: folder to create: `index.npy` (the candidate of each target), `similarity.npy`, and `prices.npy`, the
            proof.
        method: `exact` (maximal sum), `greedy` (each target, in random order, takes the best candidate left) or
            `random`.
        top_k: number of candidates initially kept per target. Higher values need more memory, lower values more time.
        batch_size: number of targets added to the matching at a time.
        seed: random seed for the order in which targets are added, and for `random`.
        device: what finds the candidates: all cores (`cpu`), a `gpu`, or a GPU if there is one (`auto`). The result is
            optimal in any case, and the proof the same.
    """
    require_at_least(0, seed=seed)
    require_at_least(1, top_k=top_k, batch_size=batch_size)
    target_rows, candidate_rows = _open_array(targets), _open_array(candidates)
    artifact = Artifact(
        "matching",
        {
            "command": "match-arrays",
            "targets": artifacts.sha256_file(targets),
            "candidates": artifacts.sha256_file(candidates),
            "method": method,
            "top_k": top_k,
            "batch_size": batch_size,
            "seed": seed,
        },
        resumable=True,
    )
    folder = yield artifact
    checkpoint = folder / artifacts.SCRATCH / "checkpoint"
    matching = _match_by(
        method,
        target_rows,
        candidate_rows,
        top_k=top_k,
        batch_size=batch_size,
        seed=seed,
        checkpoint=checkpoint,
        device=device,
    )
    for name in ("index", "similarity", "prices"):
        np.save(folder / f"{name}.npy", getattr(matching, name))
        artifact.manifest[f"{name}_sha256"] = artifacts.sha256_file(folder / f"{name}.npy")
    artifact.manifest |= {"primal": matching.primal, "dual": matching.dual, "gap": matching.gap}
    return _describe(matching, target_rows, candidate_rows, seed)


@stage
def sample_random(candidates: Path, like: Path, out: Path, seed: int = 0) -> Stage:
    """Sample as many random pairs as another store has, without replacement (for the paper's mix `filtered-random`).

    Each split also has as many pairs as in the other store.

    For example:
        python -m babyvlm curate sample-random --candidates stores/web --like stores/aug --out stores/random

    Args:
        candidates: pair store to sample from.
        like: pair store that has the required number of pairs.
        out: pair store to create, in the order of `candidates`.
        seed: random seed.
    """
    require_at_least(0, seed=seed)
    candidate_store, splits = PairStore(candidates), Counter(_splits(PairStore(like)).values())
    size = splits.total()
    if size > len(candidate_store):
        raise UserError(f"{candidates}: has {len(candidate_store):,} pairs, fewer than the {size:,} of {like}")
    rewritten = any(one.get("arguments", {}).get("command") == "rewrite" for one in candidate_store.lineage.values())
    funnel = Funnel("sample-random", "rewritten captions" if rewritten else "raw captions")  # as the report shows
    artifact = Artifact(
        "store", {"command": "sample-random", "candidates": candidate_store, "splits": splits, "seed": seed}, funnel
    )
    folder = yield artifact
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(len(candidate_store), size, replace=False))
    split_of = random.permutation([split for split in sorted(splits) for _ in range(splits[split])]).tolist()
    funnel.drop("not sampled", len(candidate_store) - size)
    funnel.keep(size)
    sampled = (
        {**row, "split": split, "group": row["key"]}
        for (_, row), split in zip(candidate_store.take(rows), split_of, strict=True)
    )
    artifact.manifest |= write_pairs(
        folder,
        sampled,
        funnel=funnel,
        licensed=candidate_store.licensed,
        extra_fields=candidate_store.extra_fields,
    )
    return f"{size:,} pairs"


def _splits(store: PairStore) -> dict[str, str]:
    """Return the split of each key."""
    table = store.columns("key", "split")
    return dict(zip(table["key"].to_pylist(), table["split"].to_pylist(), strict=True))


def _match_by(
    method: Method,
    targets: Vectors,
    candidates: Vectors,
    *,
    top_k: int,
    batch_size: int,
    seed: int,
    checkpoint: Path,
    device: Device,
) -> Matching:
    if method == "greedy":
        return match_greedily(targets, candidates, seed=seed)
    if method == "random":
        return match_randomly(targets, candidates, seed=seed)
    return match(
        targets, candidates, top_k=top_k, batch_size=batch_size, seed=seed, checkpoint=checkpoint, device=device
    )


def _describe(matching: Matching, targets: Vectors, candidates: Vectors, seed: int) -> str:
    """Return the certificate, and the scores of the other methods where they are cheap to compute."""
    lines = [matching.certificate()]
    others = [] if matching.method == "random" else [match_randomly(targets, candidates, seed=seed)]
    if matching.method != "greedy":
        if len(targets) * len(candidates) <= MAX_COMPARED_PAIRS:
            others.append(match_greedily(targets, candidates, seed=seed, progress=False))
        else:
            lines.append("greedy: not compared, it would need another pass over all pairs (see --method greedy)")
    for other in others:
        change = (other.primal - matching.primal) / abs(matching.primal)
        lines.append(f"for comparison, {other.method} matching: total similarity {other.primal:.4f} ({change:+.2%})")
    return "\n".join(lines)


def _open_array(path: Path) -> Vectors:
    """Memory-map an array file.

    Raises:
        UserError: it is missing or not a ``.npy`` file.
    """
    try:
        array: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not readable as a .npy array ({error}). Write it with numpy.save") from None
    return array


def _matched_rows(
    candidates: PairStore, target_keys: list[str], splits: Mapping[str, str], matching: Matching, funnel: Funnel
) -> Iterator[dict[str, Any]]:
    """Yield the matched candidates' rows in target order, each a group of its own in the split of its target.

    Shards are read once, in their own order; the images wait in a temporary file because they may not fit in memory.
    """
    funnel.drop("not matched to a target", len(candidates) - len(target_keys))
    with tempfile.TemporaryFile() as images:
        rows = {}
        for row, fields in candidates.take(np.sort(matching.index)):
            image = fields.pop("image")
            rows[row] = fields, images.tell(), len(image)
            images.write(image)
        for key, row, similarity in zip(
            target_keys, matching.index.tolist(), matching.similarity.tolist(), strict=True
        ):
            fields, start, length = rows[row]
            images.seek(start)
            funnel.keep()
            matched = {"match_key": key, "match_similarity": similarity, "split": splits[key], "group": fields["key"]}
            yield {**fields, "image": images.read(length), **matched}
