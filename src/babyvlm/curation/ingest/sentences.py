"""Divide the turns of a transcript into timed utterances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

MISSING = "nan"  # what the authors read from an empty cell: an utterance that has a number, but is never used


@dataclass(frozen=True)
class Utterance:
    """One sentence and its time.

    Attributes:
        text: lower-case tokens joined by blanks.
        start_ms: start in the video, in milliseconds.
        duration_ms: share of the turn's duration; 0 if the end of the turn is unknown.
        number: position among the utterances of the transcript, from 1, as in the names of the authors' frames.
    """

    text: str
    start_ms: int
    duration_ms: int
    number: int = 1


def divide_turn(
    sentences: Sequence[str], start_ms: int, end_ms: int, boundary_ms: int, first: int = 1
) -> list[Utterance]:
    """Divide the time of a turn evenly among its sentences.

    Args:
        sentences: the sentences of the turn.
        start_ms: start of the turn in milliseconds.
        end_ms: its end.
        boundary_ms: boundaries between sentences are rounded down to multiples of this.
        first: number of the first sentence.
    """
    if not sentences:
        return []
    # In floating point, as in the authors' code: exact arithmetic can differ by one boundary from 49 sentences on.
    edges = np.linspace(start_ms / boundary_ms, end_ms / boundary_ms, len(sentences) + 1).astype(int) * boundary_ms
    return [
        Utterance(text, int(start), int(end - start), number)
        for number, (text, start, end) in enumerate(zip(sentences, edges[:-1], edges[1:], strict=True), start=first)
    ]


def has_words(utterance: Utterance) -> bool:
    """Return whether an utterance has any token. Some of the authors' utterances only take up a number."""
    return bool(utterance.text.strip()) and utterance.text != MISSING


def frame_times(utterance: Utterance, interval_ms: int, max_frames: int) -> list[int]:
    """Return the times of an utterance's frames: one every ``interval_ms`` from its start, 1 to ``max_frames``."""
    count = max(1, min(max_frames, utterance.duration_ms // interval_ms))
    return [utterance.start_ms + interval_ms * i for i in range(count)]
