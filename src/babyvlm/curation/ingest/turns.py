"""Turns: what one speaker says without a break, as every reader of transcripts returns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Word(NamedTuple):
    """One word of a turn. Times are in milliseconds; None and "" stand for what the transcript does not say."""

    text: str
    start_ms: int | None
    end_ms: int | None
    speaker: str = ""


class Turn(NamedTuple):
    """What one speaker says without a break.

    Attributes:
        row: number of the first row, cue or segment, for messages.
        speaker: speaker label; "" if the transcript has none.
        text: what the transcript says.
        start_text: the start time as written.
        start_ms: start in milliseconds; None if it is missing or cannot be parsed.
        end_ms: end in milliseconds; None if it is missing or cannot be parsed.
        video: name of the video as written; "" if the transcript has none.
        words: the words, if the transcript has their times or speakers.
    """

    row: int
    speaker: str
    text: str
    start_text: str
    start_ms: int | None
    end_ms: int | None
    video: str = ""
    words: tuple[Word, ...] = ()


class SpeakerSegment(NamedTuple):
    """A time, in milliseconds, at which a speaker speaks."""

    start_ms: int
    end_ms: int
    speaker: str


def split_by_speaker(turn: Turn) -> list[Turn]:
    """Divide a turn where the speaker of its words changes.

    A word without a speaker belongs to the speaker before it, or after it at the start of the turn. Each part lasts
    from its first to its last word with a time.
    """
    speakers = _fill([word.speaker for word in turn.words])
    if len(set(speakers)) < 2:
        return [turn._replace(speaker=speakers[0] if speakers and speakers[0] else turn.speaker)]
    parts: list[list[Word]] = []
    for index, word in enumerate(turn.words):
        if not index or speakers[index] != speakers[index - 1]:
            parts.append([])
        parts[-1].append(word._replace(speaker=speakers[index]))
    spans = [(known_start(words), known_end(words)) for words in parts]
    spans[0] = (turn.start_ms if spans[0][0] is None else spans[0][0], spans[0][1])
    spans[-1] = (spans[-1][0], turn.end_ms if spans[-1][1] is None else spans[-1][1])
    return [
        turn._replace(
            speaker=words[0].speaker,
            text=" ".join(word.text for word in words),
            start_text="" if start is None else f"{start / 1000:g}",
            start_ms=start,
            end_ms=end,
            words=tuple(words),
        )
        for words, (start, end) in zip(parts, spans, strict=True)
    ]


def assign_speakers(turns: Iterable[Turn], segments: Sequence[SpeakerSegment]) -> Iterator[Turn]:
    """Replace the speakers of turns by those who speak at the same time, and divide turns where they change.

    Each word with a time gets the speaker with whom it overlaps most, each turn without such words likewise.
    """
    for turn in turns:
        words = tuple(word._replace(speaker=_speaker_at(word.start_ms, word.end_ms, segments)) for word in turn.words)
        speaker = _speaker_at(turn.start_ms, turn.end_ms, segments)
        yield from split_by_speaker(turn._replace(speaker=speaker, words=words))


def known_start(words: Iterable[Word]) -> int | None:
    """Return the start of the first word that has one: programs give numbers such as ``2`` no time."""
    return next((word.start_ms for word in words if word.start_ms is not None), None)


def known_end(words: Sequence[Word]) -> int | None:
    """Return the end of the last word that has one."""
    return next((word.end_ms for word in reversed(words) if word.end_ms is not None), None)


def _fill(speakers: Sequence[str]) -> list[str]:
    """Return speakers, each missing one as the one before it, or after it at the start."""
    filled: list[str] = []
    for speaker in speakers:
        filled.append(speaker or (filled[-1] if filled else ""))
    first = next(filter(None, filled), "")
    return [speaker or first for speaker in filled]


def _speaker_at(start_ms: int | None, end_ms: int | None, segments: Sequence[SpeakerSegment]) -> str:
    """Return who speaks longest between two times, the first of several; "" if nobody does."""
    if start_ms is None:
        return ""
    end = max(start_ms + 1, end_ms if end_ms is not None else 0)
    overlap: dict[str, int] = {}
    for segment in segments:
        common = min(end, segment.end_ms) - max(start_ms, segment.start_ms)
        if common > 0:
            overlap[segment.speaker] = overlap.get(segment.speaker, 0) + common
    return max(overlap, key=lambda speaker: overlap[speaker]) if overlap else ""
