"""The step that proposes phrase pairs for frames and checks them: what people review afterwards."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from babyvlm.benchmark_builder.items import Item, write_items
from babyvlm.benchmark_builder.rule_proposals import RULES, mirror, propose_by_rules
from babyvlm.benchmarks.phrases import balanced, flaw
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.extras import require_extra
from babyvlm.io.images import BrokenImageError, open_rgb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from babyvlm.benchmarks.phrases import Contrast

Row = dict[str, Any]  # of a store
Propose = Callable[[dict[str, Row]], dict[str, list["Contrast"]]]


@artifacts.one_at_a_time
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
) -> None:
    """Propose pairs of two-word phrases for frames, and check them; what is left is for `review`.

    A pair holds a phrase that fits a frame and a minimal contrast. By rules over what was said, without a network, or
    by a language model behind any OpenAI-compatible server (licensed data goes to this machine's own only). Then the
    same checks: two words, in the vocabulary, of their word class, different as labelled, no pair twice for a frame;
    and every phrase as often the negative as the positive.

    For example:
        python -m babyvlm benchmark build phrase-pairs --store stores/filtered --vocabulary vocabulary --out build/pairs

    Args:
        store: pair store of frames and utterances, held out from training; of each utterance one frame is used.
        vocabulary: of the models to be tested.
        out: folder to make.
        split: which part of the store; `all` for a store of held-out recordings.
        method: `rules` works offline; `llm` asks a server. What follows `seed` belongs to `llm`.
        limit: at most so many frames, drawn by chance.
        per_frame: pairs that the rules propose for a frame.
        seed: all chance comes from it.
        model: as the server names it.
        base_url: of the server, up to and with `/v1`. The key is read from $OPENAI_API_KEY; a local server needs none.
        key_file: file with the key instead, readable by its owner only.
        show: what the model gets: what was said, the frame itself, or both.
        concurrent_requests: calls under way at a time.
        timeout: seconds to wait for a reply.
        prices: price list (TOML) for `max_cost`.
        max_cost: stop before all runs on the ledger together cost more than this.
        ledger: where answers are kept; `phrase_pairs.sqlite` beside `out` if not given.

    Raises:
        UserError: an input cannot be read, or no pair is left.
    """
    source, words = PairStore(store), Vocabulary(vocabulary)
    arguments: artifacts.Manifest = {
        "command": "phrase-pairs",
        "store": source.fingerprint,
        "vocabulary": words.hash,
        "split": split,
        "limit": limit,
        "seed": seed,
    }
    propose: Propose = partial(propose_by_rules, per_frame=per_frame, seed=seed)
    if method == "rules":
        arguments |= {"proposer": f"rules {RULES}", "per_frame": per_frame}
    else:
        llm_proposals = _llm_proposals()
        options = llm_proposals.Options(model, base_url, key_file, show, concurrent_requests, timeout, prices, max_cost)
        arguments |= {"proposer": f"llm {model}", "prompt": llm_proposals.prompt_id(show)}
        answers = ledger or out.with_name("phrase_pairs.sqlite")
        propose = partial(
            llm_proposals.propose_by_llm,
            ledger_path=answers,
            options=options,
            licensed=source.path if source.licensed else None,
        )
    if artifacts.is_complete(out, "items", arguments):
        print(f"{out}: already complete, skipping")
        return
    frames = _frames(source, split, limit, seed)
    proposed = propose(frames)
    funnel = Funnel("phrase-pairs", unit="pairs")
    kept = _checked(mirror(proposed), frames, words, funnel)
    if not kept:
        raise UserError(f"{out}: no pair is left. {funnel}".replace("\n", ";"))
    manifest: artifacts.Manifest = {
        "arguments": arguments,
        "licensed": source.licensed,
        "funnel": funnel.as_dict(),
        "frames": len(frames),
        "proposed": sum(map(len, proposed.values())),
        "ancestors": source.lineage,
    }
    with artifacts.create(out, "items", manifest) as folder:
        manifest["sha256"] = _write(folder, kept, frames)
    classes = Counter(contrast.word_class for _, contrast in kept)
    told = ", ".join(f"{count} {name}" for name, count in classes.most_common())
    print(f"{funnel}\n{out}: {len(kept):,} pairs for {len({key for key, _ in kept}):,} frames; {told}")


def _llm_proposals() -> ModuleType:
    with require_extra("llm", "--method llm"):
        from babyvlm.benchmark_builder import llm_proposals
    return llm_proposals


def _frames(source: PairStore, split: str, limit: int | None, seed: int) -> dict[str, Row]:
    """One frame that can be opened of each utterance, by its key: the one that fits it best, where that is known."""
    best: dict[str, Row] = {}
    for row in source.rows():
        if split not in (row["split"], "all"):
            continue
        before = best.get(row["group"])
        if before is None or row.get("clip_similarity", 0) > before.get("clip_similarity", 0):
            best[row["group"]] = row
    frames = {row["key"]: row for row in best.values() if _opens(row["image"])}
    if not frames:
        raise UserError(f"{source.path}: has no frame in split {split}; choose another --split")
    if limit is not None and limit < len(frames):
        chosen = set(random.Random(seed).sample(sorted(frames), limit))
        frames = {key: row for key, row in frames.items() if key in chosen}
    return frames


def _opens(image: bytes) -> bool:
    try:
        open_rgb(image)
    except BrokenImageError:
        return False
    return True


def _checked(
    proposed: Mapping[str, list[Contrast]], frames: Mapping[str, Row], vocabulary: Vocabulary, funnel: Funnel
) -> list[tuple[str, Contrast]]:
    """Frames with contrasts that pass every check, balanced."""
    sound = []
    for frame, contrasts in proposed.items():
        for contrast in contrasts:
            reason = flaw(contrast, frames[frame]["utterance"], vocabulary)
            if reason:
                funnel.drop(reason)
            else:
                sound.append((frame, contrast))
    keep = balanced([(contrast.positive, contrast.negative) for _, contrast in sound])
    for wanted in keep:
        if wanted:
            funnel.keep()
        else:
            funnel.drop("a phrase would be negative more or less often than positive")
    return [pair for pair, kept in zip(sound, keep, strict=True) if kept]


def _write(folder: Path, kept: list[tuple[str, Contrast]], frames: Mapping[str, Row]) -> dict[str, str]:
    (folder / "images").mkdir()
    names = {}
    for number, key in enumerate(dict.fromkeys(key for key, _ in kept)):
        image = frames[key]["image"]
        kind = {b"\xff\xd8": "jpg", b"\x89P": "png"}.get(image[:2], "webp")
        names[key] = f"images/{number:05d}.{kind}"
        (folder / names[key]).write_bytes(image)
    return write_items(
        folder,
        (
            Item(
                f"p{number:05d}",
                names[key],
                contrast.positive,
                contrast.negative,
                contrast.word_class,
                {"key": key, "utterance": frames[key]["utterance"]},
            )
            for number, (key, contrast) in enumerate(kept)
        ),
    )
