"""Rules on text and time: what a turn of talk becomes.

They are those of the CVCL authors' public preprocessing (github.com/wkvong/multimodal-baby), which BabyVLM uses. Where
ours differ on purpose:

- ``1:02:33`` is 1 h 2 min 33 s; theirs read the first two numbers as minutes and seconds.
- ``[a] word [b]`` keeps ``word``: each mark ends at its own partner; theirs ran on to the last one.
- A sentence without a word in it (the gaps of ``. . .``) is none; theirs could count it as an empty utterance. So our
  utterance numbers can be lower than those in their released frames' names (``cvcl_numbers`` counts as they did).
- A row with every cell empty is no row.
- Frame counts are taken in integer milliseconds; ``int(seconds / 0.2)`` in floats loses a frame at some durations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MARKED = re.compile(r"\*[^*]*\*|\[[^\]]*\]|\([^)]*\)")  # what the transcriber added: actions, doubts, noises
# "dont", "uhoh": the authors' 2,350 words hold no signs. Quotes, colons and stray brackets are our addition to theirs.
SIGNS = str.maketrans("", "", "-'’‘*_,…\"“”;:[]()")
SENTENCE_END = re.compile(r"[.?!]+")
INAUDIBLE = re.compile(r"\binaudible\b")
RANGE = re.compile(r"[-–—]")
CLOCK = re.compile(r"[:.,;]")
MACHINE_TIME = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,4}):)?(\d{1,9}(?:\.\d*)?)", re.ASCII)


@dataclass(frozen=True)
class Utterance:
    """One sentence and when it is said.

    Attributes:
        text: lower-case words.
        start_ms: when it begins in the video.
        duration_ms: how long its share of the row is; 0 if nothing says when it ends.
    """

    text: str
    start_ms: int
    duration_ms: int


def parse_clock(text: str) -> int | None:
    """Milliseconds of a time that a transcriber typed, or None if ``text`` is blank or no time.

    Takes ``m:ss``, ``h:mm:ss``, ``:ss``, plain minutes, ``.`` ``,`` ``;`` for the colon, and of a range the start.
    A single digit 1..5 after minutes stands for tens of seconds (``0:3`` is 30 s): the authors' reading of their
    transcribers' habit.
    """
    parts = [part.strip() for part in CLOCK.split(RANGE.split(text)[0].strip())]
    if len(parts) > 1 and not parts[0]:
        parts[0] = "0"
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return None
    if any(len(part) > 2 for part in parts[1:]):
        return None  # a spreadsheet's fraction, not a clock time
    numbers = [int(part) for part in parts]
    if len(parts) == 3:
        return (numbers[0] * 3600 + numbers[1] * 60 + numbers[2]) * 1000
    minutes, seconds = (*numbers, 0)[:2]
    if len(parts) == 2 and parts[1] in {"1", "2", "3", "4", "5"}:
        seconds *= 10
    return (minutes * 60 + seconds) * 1000


def parse_seconds(text: str) -> int | None:
    """Milliseconds of a time that a machine wrote, or None: ``h:mm:ss``, ``m:ss`` or seconds, fractions too."""
    found = MACHINE_TIME.fullmatch(text.strip())
    if not found:
        return None
    hours, minutes, seconds = found.groups(default="0")
    return round((int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) * 1000)


def split_sentences(text: str) -> list[str]:
    """The sentences of a turn, cleaned: marked passages gone, ``inaudible`` as ``<unk>``, lower case, words only."""
    clean = MARKED.sub(" ", text).replace("--", " ").translate(SIGNS).lower()
    sentences = (" ".join(part.split()) for part in SENTENCE_END.split(clean))
    return [INAUDIBLE.sub("<unk>", sentence) for sentence in sentences if any(map(str.isalnum, sentence))]


def divide_turn(sentences: list[str], start: int, end: int, share_ms: int) -> list[Utterance]:
    """Share a turn's time (milliseconds) evenly among its sentences, every boundary truncated to ``share_ms``."""
    edges = [(start + (end - start) * i // len(sentences)) // share_ms * share_ms for i in range(len(sentences) + 1)]
    return [
        Utterance(text, begin, stop - begin) for text, begin, stop in zip(sentences, edges[:-1], edges[1:], strict=True)
    ]


def frame_times(utterance: Utterance, step_ms: int, max_frames: int) -> list[int]:
    """Milliseconds at which frames are taken: every ``step_ms`` from the start, 1 to ``max_frames`` of them."""
    count = max(1, min(max_frames, utterance.duration_ms // step_ms))
    return [utterance.start_ms + step_ms * i for i in range(count)]
