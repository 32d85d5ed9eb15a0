"""Propose phrase pairs for frames, and check them before people review them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from babyvlm.benchmark_builder.items import Item, write_items
from babyvlm.benchmarks.phrases import PhrasePair, balance, difference, extract_phrase, rejection_reason
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError
from babyvlm.io.extras import require_extra
from babyvlm.io.images import BrokenImageError, image_suffix, open_rgb

Row = dict[str, Any]  # of a store
Propose = Callable[[dict[str, Row]], dict[str, list[PhrasePair]]]
RULES = 1  # increase it with any change of what the rules propose


@stage
def phrase_pairs(  # noqa: PLR0913, PLR0917 - each is an option of the command, with a default
    store: Path,
    vocabulary: Path,
    out: Path,
    split: Literal["train", "val", "test", "all"] = "test",
    method: Literal["rules", "llm"] = "rules",
    limit: int | None = None,
    per_frame: int = 4,
    seed: int = 0,
    model: str = "",
    base_url: str = "https://api.openai.com/v1",
    key_file: Path | None = None,
    show: Literal["utterance", "frame", "both"] = "utterance",
    concurrent_requests: int = 8,
    timeout: float = 120.0,
    prices: Path | None = None,
    max_cost: float | None = None,
    ledger: Path | None = None,
) -> Stage:
    """Propose pairs of two-word phrases for frames and check them; `review` judges the result.

    A pair is a phrase that matches a frame and a minimally different phrase that does not. Pairs are proposed by rules
    over the utterance, without a network, or by a language model behind any OpenAI-compatible server (licensed data
    only to a server on this machine). Then all are checked: two words, in the vocabulary, of the labeled word class,
    different as labeled; and every phrase is the negative as often as the positive.

    For example:
        python -m babyvlm benchmark build phrase-pairs --store stores/filtered --vocabulary vocabulary --out build/pairs

    Args:
        store: pair store of frames and utterances that are not used for training; one frame per utterance is used.
        vocabulary: vocabulary of the models that will be evaluated.
        out: folder to create.
        split: split of the store; `all` for a store of held-out recordings.
        method: `rules` works offline; `llm` asks a server. The options after `seed` belong to `llm`.
        limit: maximum number of frames; a random sample is drawn.
        per_frame: maximum number of pairs that the rules propose per frame.
        seed: random seed.
        model: name of the model on the server.
        base_url: URL of the server, ending in `/v1`. The API key is read from $OPENAI_API_KEY; local servers need none.
        key_file: file with the API key, readable by its owner only, instead of the environment variable.
        show: input of the model: the utterance, the frame, or both.
        concurrent_requests: number of requests in flight.
        timeout: seconds to wait for a reply.
        prices: price list (TOML) for `max_cost`.
        max_cost: cost limit for all runs with this ledger, in the currency of the price list.
        ledger: file in which answers are stored; by default `phrase_pairs.sqlite` next to `out`.

    Raises:
        UserError: an input cannot be read, or no pair is left.
    """
    source, words = PairStore(store), Vocabulary(vocabulary)
    arguments: dict[str, Any] = {
        "command": "phrase-pairs",
        "store": source,
        "vocabulary": words.hash,
        "split": split,
        "limit": limit,
        "seed": seed,
    }
    propose: Propose = partial(propose_by_rules, per_frame=per_frame, seed=seed)
    if method == "rules":
        arguments |= {"proposer": f"rules {RULES}", "per_frame": per_frame}
    else:
        with require_extra("llm", "--method llm"):
            from babyvlm.benchmark_builder import llm_proposals
        options = llm_proposals.Options(model, base_url, key_file, show, concurrent_requests, timeout, prices, max_cost)
        arguments |= {"proposer": f"llm {model}", "prompt": llm_proposals.prompt_id(show)}
        propose = partial(
            llm_proposals.propose_by_llm,
            ledger_path=ledger or out.with_name("phrase_pairs.sqlite"),
            options=options,
            licensed=source.path if source.licensed else None,
        )
    funnel = Funnel("phrase-pairs", unit="pairs")
    artifact = Artifact("items", arguments, funnel)
    folder = yield artifact
    frames = _frames(source, split, limit, seed)
    proposed = propose(frames)
    kept = _checked(add_mirrored(proposed), frames, words, funnel)
    if not kept:
        raise UserError(f"{out}: no pair is left. {funnel}".replace("\n", ";"))
    artifact.manifest |= {
        "licensed": source.licensed,
        "frames": len(frames),
        "proposed": sum(map(len, proposed.values())),
        "sha256": _write(folder, kept, frames),
    }
    classes = Counter(pair.word_class for _, pair in kept).most_common()
    counts = ", ".join(f"{count} {name}" for name, count in classes)
    return f"{len(kept):,} pairs for {len({key for key, _ in kept}):,} frames; {counts}"


def propose_by_rules(frames: Mapping[str, Mapping[str, Any]], per_frame: int, seed: int) -> dict[str, list[PhrasePair]]:
    """Pair the two-word phrase of each frame's utterance with phrases of other frames.

    Word classes take turns, the rarest first, so that a frame with few pairs contributes rare ones.

    Args:
        frames: Rows of a store, by key.
        per_frame: Maximum number of pairs per frame.
        seed: Random seed of the choice among several pairs.
    """
    phrase_of = {frame: found for frame, row in frames.items() if (found := extract_phrase(row["utterance"]))}
    others = sorted(set(phrase_of.values()))
    rng = random.Random(seed)
    proposed = {}
    for frame, (phrase, first_class) in phrase_of.items():
        by_class: dict[str, list[str]] = defaultdict(list)
        for other, other_class in others:
            word_class = difference(phrase, other, first_class) if other_class == first_class else None
            if word_class:
                by_class[word_class].append(other)
        proposed[frame] = list(_take_turns(phrase, by_class, per_frame, rng))
    return proposed


def _take_turns(phrase: str, by_class: Mapping[str, list[str]], count: int, rng: random.Random) -> Iterable[PhrasePair]:
    queues = [(word_class, rng.sample(found, len(found))) for word_class, found in by_class.items()]
    queues.sort(key=lambda queue: len(queue[1]))
    while queues and count:
        for word_class, found in queues[:count]:
            yield PhrasePair(phrase, found.pop(), word_class)
        count -= len(queues[:count])
        queues = [queue for queue in queues if queue[1]]


def add_mirrored(proposed: Mapping[str, list[PhrasePair]]) -> dict[str, list[PhrasePair]]:
    """Add the reverse of each pair for all frames that its negative phrase matches.

    Without them hardly any phrase would be the negative as often as the positive.
    """
    frames: dict[str, list[str]] = defaultdict(list)
    for frame, pairs in proposed.items():
        for phrase in dict.fromkeys(pair.positive for pair in pairs):
            frames[phrase].append(frame)
    mirrored = {frame: dict.fromkeys(pairs) for frame, pairs in proposed.items()}
    for pairs in proposed.values():
        for pair in pairs:
            for frame in frames[pair.negative]:
                mirrored[frame].setdefault(pair.mirrored)
    return {frame: list(pairs) for frame, pairs in mirrored.items()}


def _frames(source: PairStore, split: str, limit: int | None, seed: int) -> dict[str, Row]:
    """Return one readable frame per utterance, by its key: the one with the highest CLIP similarity, if known."""
    best: dict[str, Row] = {}
    for row in source.rows():
        if split not in (row["split"], "all"):
            continue
        before = best.get(row["group"])
        if before is None or row.get("clip_similarity", 0) > before.get("clip_similarity", 0):
            best[row["group"]] = row
    frames = {row["key"]: row for row in best.values() if _is_readable(row["image"])}
    if not frames:
        raise UserError(f"{source.path}: no frame in split {split}. Pass a different --split")
    if limit is not None and limit < len(frames):
        chosen = set(random.Random(seed).sample(sorted(frames), limit))
        frames = {key: row for key, row in frames.items() if key in chosen}
    return frames


def _is_readable(image: bytes) -> bool:
    try:
        open_rgb(image)
    except BrokenImageError:
        return False
    return True


def _checked(
    proposed: Mapping[str, list[PhrasePair]], frames: Mapping[str, Row], vocabulary: Vocabulary, funnel: Funnel
) -> list[tuple[str, PhrasePair]]:
    """Return the pairs that pass every check, balanced, each with the key of its frame."""
    valid = []
    for frame, pairs in proposed.items():
        for pair in pairs:
            reason = rejection_reason(pair, frames[frame]["utterance"], vocabulary)
            if reason:
                funnel.drop(reason)
            else:
                valid.append((frame, pair))
    keep = balance([(pair.positive, pair.negative) for _, pair in valid])
    for kept in keep:
        if kept:
            funnel.keep()
        else:
            funnel.drop("phrase is not the negative as often as the positive")
    return [pair for pair, kept in zip(valid, keep, strict=True) if kept]


def _write(folder: Path, kept: list[tuple[str, PhrasePair]], frames: Mapping[str, Row]) -> dict[str, str]:
    (folder / "images").mkdir()
    names = {}
    for number, key in enumerate(dict.fromkeys(key for key, _ in kept)):
        image = frames[key]["image"]
        names[key] = f"images/{number:05d}.{image_suffix(image)}"
        (folder / names[key]).write_bytes(image)
    return write_items(
        folder,
        (
            Item(
                f"p{number:05d}",
                names[key],
                pair.positive,
                pair.negative,
                pair.word_class,
                {"key": key, "utterance": frames[key]["utterance"]},
            )
            for number, (key, pair) in enumerate(kept)
        ),
    )
