"""The commands that choose generic pairs for a target store: by matching, or at random."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from babyvlm.curation.embeddings import Embeddings, check_same_clip, embedded_rows
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.matching.match import Array, Matching, Method, match, match_greedily, match_randomly
from babyvlm.curation.options import at_least
from babyvlm.curation.store.pair_store import PairStore, write_rows, write_store
from babyvlm.errors import UserError
from babyvlm.io import artifacts

if TYPE_CHECKING:
    from collections.abc import Iterator


# Scoring the other methods for comparison costs a pass over all pairs: seconds up to here, minutes beyond. Our choice.
COMPARED_PAIRS = 1 << 30


@artifacts.one_at_a_time
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
) -> None:
    r"""Choose for each target pair the candidate pair whose image is most like it, one to one (the paper's matching).

    In go two stores, the child's filtered pairs and the rewritten web pairs, with embeddings of both; out comes a store
    of as many web pairs as there are targets. The summed CLIP similarity of the images is the largest possible, and the
    result says by which bound that is known.

    For example:
        python -m babyvlm curate match --targets stores/filtered --target_embeddings embeddings/frames \
            --candidates stores/rewritten --candidate_embeddings embeddings/rewritten --out stores/aug

    Args:
        targets: pair store to imitate; may be a filtered part of the store that was embedded.
        target_embeddings: embeddings of (at least) these pairs.
        candidates: pair store to choose from; at least as many pairs as `targets`.
        candidate_embeddings: embeddings of (at least) these pairs, by the same CLIP model.
        out: pair store to make: the chosen candidates in the order of the targets, with `match_key` and
            `match_similarity`.
        method: `exact` (best sum), `greedy` (targets in random order take the best that is left) or `random`.
        top_k: candidates first listed for a target; more cost memory, fewer cost time.
        batch_size: targets that enter at a time.
        seed: of the order in which targets enter, and of `random`.
    """
    at_least(0, seed=seed)
    at_least(1, top_k=top_k, batch_size=batch_size)
    wanted, offered = PairStore(targets), PairStore(candidates)
    of_targets, of_candidates = Embeddings(target_embeddings), Embeddings(candidate_embeddings)
    check_same_clip(of_targets, of_candidates)
    arguments = {
        "command": "match",
        "targets": wanted.fingerprint,
        "candidates": offered.fingerprint,
        "target_embeddings": of_targets.fingerprint,
        "candidate_embeddings": of_candidates.fingerprint,
        "method": method,
        "top_k": top_k,
        "batch_size": batch_size,
        "seed": seed,
    }
    state = out.with_name(out.name + ".matching")  # goes on from here after an interruption
    if artifacts.is_complete(out, "store", arguments):
        shutil.rmtree(state, ignore_errors=True)
        print(f"{out}: whole already, nothing to do")
        return
    target_keys, images = embedded_rows(wanted, of_targets)
    _, offers = embedded_rows(offered, of_candidates)
    found = find(images, offers, method, top_k=top_k, batch_size=batch_size, seed=seed, checkpoint=state)
    funnel = Funnel("match", "candidates")
    write_store(
        out,
        matched_rows(offered, target_keys, found, funnel),
        arguments=arguments,
        funnel=funnel,
        licensed=offered.licensed,
        extra_fields=offered.extra_fields | {"match_key": pa.string(), "match_similarity": pa.float32()},
        ancestors=wanted.lineage | offered.lineage | of_targets.lineage | of_candidates.lineage,
    )
    shutil.rmtree(state, ignore_errors=True)
    print(funnel)
    report(found, images, offers, seed)


@artifacts.one_at_a_time
def match_arrays(
    targets: Path,
    candidates: Path,
    out: Path,
    method: Method = "exact",
    top_k: int = 512,
    batch_size: int = 2048,
    seed: int = 0,
) -> None:
    """Match the rows of two embedding files one to one; for embeddings that were made elsewhere.

    In go two `.npy` files, out come the chosen row of the second for each of the first, and the proof. The files are
    memory-mapped. A run that was interrupted goes on after its last batch.

    For example:
        python -m babyvlm curate match-arrays --targets targets.npy --candidates candidates.npy --out matching

    Args:
        targets: `.npy` of shape (N, D), L2-normalised floats.
        candidates: `.npy` of shape (M, D), M at least N.
        out: folder to make: `index.npy` (the candidate of each target), `similarity.npy`, and `prices.npy`, the proof.
        method: `exact` (best sum), `greedy` (targets in random order take the best that is left) or `random`.
        top_k: candidates first listed for a target; more cost memory, fewer cost time.
        batch_size: targets that enter at a time.
        seed: of the order in which targets enter, and of `random`.
    """
    at_least(0, seed=seed)
    at_least(1, top_k=top_k, batch_size=batch_size)
    rows, offers = opened(targets), opened(candidates)
    arguments = {
        "command": "match-arrays",
        "targets": artifacts.sha256_file(targets),
        "candidates": artifacts.sha256_file(candidates),
        "method": method,
        "top_k": top_k,
        "batch_size": batch_size,
        "seed": seed,
    }
    if artifacts.is_complete(out, "matching", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    manifest: artifacts.Manifest = {"arguments": arguments}
    with artifacts.create(out, "matching", manifest, keep_partial=True) as partial:
        state = partial / artifacts.SCRATCH / "checkpoint"
        found = find(rows, offers, method, top_k=top_k, batch_size=batch_size, seed=seed, checkpoint=state)
        for name in ("index", "similarity", "prices"):
            np.save(partial / f"{name}.npy", getattr(found, name))
            manifest[f"{name}_sha256"] = artifacts.sha256_file(partial / f"{name}.npy")
        manifest |= {"primal": found.primal, "dual": found.dual, "gap": found.gap}
    report(found, rows, offers, seed)


@artifacts.one_at_a_time
def sample_random(candidates: Path, like: Path, out: Path, seed: int = 0) -> None:
    """Choose as many random pairs as another store holds, without replacement (the paper's `filtered-random`).

    For example:
        python -m babyvlm curate sample-random --candidates stores/rewritten --like stores/filtered --out stores/random

    Args:
        candidates: pair store to choose from.
        like: pair store whose size is wanted.
        out: pair store to make, in the order of `candidates`.
        seed: of the choice.
    """
    at_least(0, seed=seed)
    offered, wanted = PairStore(candidates), len(PairStore(like))
    arguments = {"command": "sample-random", "candidates": offered.fingerprint, "rows": wanted, "seed": seed}
    if artifacts.is_complete(out, "store", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    if wanted > len(offered):
        raise UserError(f"{candidates}: has {len(offered):,} pairs, {like} asks for {wanted:,}; add candidates")
    rows = np.sort(np.random.default_rng(seed).choice(len(offered), wanted, replace=False))
    funnel = Funnel("sample-random", "candidates")
    funnel.drop("not drawn", len(offered) - wanted)
    funnel.keep(wanted)
    write_rows(out, offered, rows, arguments=arguments, funnel=funnel)
    print(funnel)


def find(
    targets: Array, candidates: Array, method: Method, *, top_k: int, batch_size: int, seed: int, checkpoint: Path
) -> Matching:
    """Match by the method of that name."""
    if method == "greedy":
        return match_greedily(targets, candidates, seed=seed)
    if method == "random":
        return match_randomly(targets, candidates, seed=seed)
    return match(targets, candidates, top_k=top_k, batch_size=batch_size, seed=seed, checkpoint=checkpoint)


def report(found: Matching, targets: Array, candidates: Array, seed: int) -> None:
    """Print the certificate, and what the other two methods would have scored where that is cheap to know."""
    print(found.certificate())
    others = [match_randomly(targets, candidates, seed=seed)]
    if len(targets) * len(candidates) <= COMPARED_PAIRS:
        others.append(match_greedily(targets, candidates, seed=seed, progress=False))
    else:
        print("greedy: not computed for comparison, it would cost another pass over all pairs; see --method greedy")
    for other in others:
        if other.method != found.method:
            change = (other.primal - found.primal) / abs(found.primal)
            print(f"{other.method} would have scored {other.primal:.4f} ({change:+.2%})")


def opened(path: Path) -> Array:
    """Memory-map an array file.

    Raises:
        UserError: it is missing or no ``.npy`` file.
    """
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not readable as a .npy array ({error}); write it with numpy.save") from None
    return array


def matched_rows(
    offered: PairStore, target_keys: list[str], found: Matching, funnel: Funnel
) -> Iterator[dict[str, Any]]:
    """The chosen candidates' rows in target order.

    Shards are read once, in their own order; the chosen images wait in a temporary file, as they may not fit in memory.
    """
    funnel.drop("no target's match", len(offered) - len(target_keys))
    with tempfile.TemporaryFile() as spool:
        waiting = {}
        for row, fields in offered.picked(np.sort(found.index)):
            image = fields.pop("image")
            waiting[row] = fields, spool.tell(), len(image)
            spool.write(image)
        for key, row, similarity in zip(target_keys, found.index.tolist(), found.similarity.tolist(), strict=True):
            fields, start, length = waiting[row]
            spool.seek(start)
            funnel.keep()
            yield {**fields, "image": spool.read(length), "match_key": key, "match_similarity": similarity}
