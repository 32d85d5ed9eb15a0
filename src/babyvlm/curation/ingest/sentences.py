"""Text and time rules: split a turn of a transcript into timed utterances.

The rules are those of the CVCL authors' public preprocessing (github.com/wkvong/multimodal-baby), which BabyVLM uses,
with these intended differences:

- ``1:02:33`` is 1 h 2 min 33 s. Theirs reads the first two numbers as minutes and seconds.
- ``[a] word [b]`` keeps ``word``: an annotation ends at its own closing mark. Theirs extends to the last closing mark.
- A sentence without a word, as between the dots of ``. . .``, is discarded. Theirs can count it as an empty utterance,
  so our utterance numbers can be lower than those in the names of their released frames (``frame_numbering`` counts as
  they did).
- A row in which every cell is empty is skipped.
- Frame counts are computed in integer milliseconds; ``int(seconds / 0.2)`` in floating point loses a frame at some
  durations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

ANNOTATION = re.compile(r"\*[^*]*\*|\[[^\]]*\]|\([^)]*\)")  # added by the transcriber: actions, doubts, noises
# "dont", "uhoh": the authors' 2,350 words contain no punctuation. Quotes, colons and stray brackets are our addition.
PUNCTUATION = str.maketrans("", "", "-'’‘*_,…\"“”;:[]()")
SENTENCE_END = re.compile(r"[.?!]+")
INAUDIBLE = re.compile(r"\binaudible\b")
TIME_RANGE = re.compile(r"[-–—]")
TIME_SEPARATOR = re.compile(r"[:.,;]")
TIMESTAMP = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,4}):)?(\d{1,9}(?:\.\d*)?)", re.ASCII)


@dataclass(frozen=True)
class Utterance:
    """One sentence and its time.

    Attributes:
        text: lower-case words.
        start_ms: start in the video, in milliseconds.
        duration_ms: share of the turn's duration; 0 if the end of the turn is unknown.
    """

    text: str
    start_ms: int
    duration_ms: int


def parse_typed_time(text: str) -> int | None:
    """Return the milliseconds of a time that a transcriber typed, or None if ``text`` is blank or not a time.

    Accepts ``m:ss``, ``h:mm:ss``, ``:ss`` and plain minutes, with ``.``, ``,`` or ``;`` instead of the colon, and takes
    the start of a range. A single digit from 1 to 5 after the minutes counts as tens of seconds (``0:3`` is 30 s), as
    in the authors' preprocessing.
    """
    parts = [part.strip() for part in TIME_SEPARATOR.split(TIME_RANGE.split(text)[0].strip())]
    if len(parts) > 1 and not parts[0]:
        parts[0] = "0"
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return None
    if any(len(part) > 2 for part in parts[1:]):
        return None  # a fraction of a day, written by a spreadsheet
    numbers = [int(part) for part in parts]
    if len(parts) == 3:
        return (numbers[0] * 3600 + numbers[1] * 60 + numbers[2]) * 1000
    minutes, seconds = (*numbers, 0)[:2]
    if len(parts) == 2 and parts[1] in {"1", "2", "3", "4", "5"}:
        seconds *= 10
    return (minutes * 60 + seconds) * 1000


def parse_timestamp(text: str) -> int | None:
    """Return the milliseconds of ``h:mm:ss``, ``m:ss`` or seconds, with or without fractions; None for other text."""
    match = TIMESTAMP.fullmatch(text.strip())
    if not match:
        return None
    hours, minutes, seconds = match.groups(default="0")
    return round((int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) * 1000)


def split_sentences(text: str) -> list[str]:
    """Split a turn into cleaned sentences: no annotations, ``<unk>`` for ``inaudible``, lower case, words only."""
    cleaned = ANNOTATION.sub(" ", text).replace("--", " ").translate(PUNCTUATION).lower()
    sentences = (" ".join(sentence.split()) for sentence in SENTENCE_END.split(cleaned))
    return [INAUDIBLE.sub("<unk>", sentence) for sentence in sentences if any(map(str.isalnum, sentence))]


def divide_turn(sentences: list[str], start_ms: int, end_ms: int, boundary_ms: int) -> list[Utterance]:
    """Divide the time of a turn evenly among its sentences, with boundaries rounded down to ``boundary_ms``."""
    count = len(sentences)
    edges = [(start_ms + (end_ms - start_ms) * i // count) // boundary_ms * boundary_ms for i in range(count + 1)]
    return [
        Utterance(text, start, end - start) for text, start, end in zip(sentences, edges[:-1], edges[1:], strict=True)
    ]


def frame_times(utterance: Utterance, interval_ms: int, max_frames: int) -> list[int]:
    """Return the times of an utterance's frames: one every ``interval_ms`` from its start, 1 to ``max_frames``."""
    count = max(1, min(max_frames, utterance.duration_ms // interval_ms))
    return [utterance.start_ms + interval_ms * i for i in range(count)]
