"""Who proposes phrase pairs without a network: rules over what was said, each contrast taken from another frame."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from babyvlm.benchmarks.phrases import Contrast, difference, phrase_said

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RULES = 1  # raise it with any change of what is proposed


def propose_by_rules(frames: Mapping[str, Mapping[str, Any]], per_frame: int, seed: int) -> dict[str, list[Contrast]]:
    """For each frame whose utterance says a two-word phrase, contrasts with phrases of other frames.

    Word classes come in turn, the rarer ones first, so that a frame with few contrasts gives the ones that are rare.

    Args:
        frames: rows of a store, by key.
        per_frame: contrasts a frame, at most.
        seed: which of several contrasts are taken.
    """
    said = {frame: found for frame, row in frames.items() if (found := phrase_said(row["utterance"]))}
    others = sorted(set(said.values()))
    rng = random.Random(seed)
    proposed = {}
    for frame, (phrase, first_class) in said.items():
        by_class: dict[str, list[str]] = defaultdict(list)
        for other, other_class in others:
            word_class = difference(phrase, other, first_class) if other_class == first_class else None
            if word_class:
                by_class[word_class].append(other)
        proposed[frame] = list(_in_turn(phrase, by_class, per_frame, rng))
    return proposed


def _in_turn(phrase: str, by_class: Mapping[str, list[str]], count: int, rng: random.Random) -> Iterable[Contrast]:
    queues = [(word_class, rng.sample(found, len(found))) for word_class, found in by_class.items()]
    queues.sort(key=lambda queue: len(queue[1]))
    while queues and count:
        for word_class, found in queues[:count]:
            yield Contrast(phrase, found.pop(), word_class)
        count -= len(queues[:count])
        queues = [queue for queue in queues if queue[1]]


def mirror(proposed: Mapping[str, list[Contrast]]) -> dict[str, list[Contrast]]:
    """Proposals with those that follow from them: a frame that a phrase fits can stand for the contrast the other way.

    Without them hardly any phrase would be a negative as often as a positive.
    """
    frames: dict[str, list[str]] = defaultdict(list)
    for frame, contrasts in proposed.items():
        for phrase in dict.fromkeys(contrast.positive for contrast in contrasts):
            frames[phrase].append(frame)
    mirrored = {frame: dict.fromkeys(contrasts) for frame, contrasts in proposed.items()}
    for contrasts in proposed.values():
        for contrast in contrasts:
            for frame in frames[contrast.negative]:
                mirrored[frame].setdefault(contrast.mirrored)
    return {frame: list(contrasts) for frame, contrasts in mirrored.items()}
