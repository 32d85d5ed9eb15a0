"""Transcripts -> timed utterances. Pure rules on text and time; the only file read is the CSV.

The rules are those of the CVCL authors' public preprocessing (github.com/wkvong/multimodal-baby), which BabyVLM uses.
Where ours differ on purpose:

- ``1:02:33`` is 1 h 2 min 33 s; theirs read the first two numbers as minutes and seconds.
- ``[a] word [b]`` keeps ``word``: each mark ends at its own partner; theirs ran on to the last one.
- A sentence without a word in it (the gaps of ``. . .``) is none; theirs could count it as an empty utterance. So our
  utterance numbers can be lower than those in their released frames' names.
- A row with every cell empty is no row.
- Frame counts are taken in integer milliseconds; ``int(seconds / 0.2)`` in floats loses a frame at some durations.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PureWindowsPath

from babyvlm.contracts import UserError

MARKED = re.compile(r"\*[^*]*\*|\[[^\]]*\]|\([^)]*\)")  # what the transcriber added: actions, doubts, noises
# "dont", "uhoh": the authors' 2,350 words hold no signs. Quotes, colons and stray brackets are our addition to theirs.
SIGNS = str.maketrans("", "", "-'’‘*_,…\"“”;:[]()")
SENTENCE_END = re.compile(r"[.?!]+")
INAUDIBLE = re.compile(r"\binaudible\b")
RANGE = re.compile(r"[-–—]")
CLOCK = re.compile(r"[:.,;]")


@dataclass(frozen=True)
class Profile:
    """How a corpus was filmed and transcribed: all that differs between two of them.

    Attributes:
        source: the corpus' name in the store.
        time: column of the row's start.
        speaker: column of who speaks.
        video: column of the video's name.
        utterance: column of what is said.
        caregivers: spellings of the speakers whose turns count.
        not_a_video: pattern of entries in the video column that name no video.
        suffix: of the video files.
        step_ms: milliseconds between two frames.
        resized: shorter side in pixels before the crop, for a crop of ``cropped``.
        cropped: side of the square crop.
        crop_up: how many of those pixels the crop lies above the centre.
        upside_down: the camera was worn upside down: turn the crop by 180 degrees.
    """

    source: str
    time: str
    speaker: str
    video: str
    utterance: str
    caregivers: frozenset[str]
    not_a_video: str
    suffix: str
    step_ms: int
    resized: int
    cropped: int
    crop_up: int
    upside_down: bool


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


@dataclass(frozen=True)
class Transcript:
    """What one transcript file holds.

    Attributes:
        path: the CSV.
        video: name of its video without the suffix.
        utterances: the caregiver's, in order; the first is number 1 in keys.
        dropped: (reason, count) of the turns that are not among them.
    """

    path: Path
    video: str
    utterances: tuple[Utterance, ...]
    dropped: tuple[tuple[str, int], ...]


def parse_time(text: str) -> int | None:
    """Seconds from the start of the video, or None if ``text`` is blank or no time.

    Takes ``m:ss``, ``h:mm:ss``, ``:ss``, plain minutes, ``.`` ``,`` ``;`` for the colon, and of a range the start.
    A single digit 1..5 after minutes stands for tens of seconds (``0:3`` is 30 s): the authors' reading of their
    transcribers' habit.
    """
    parts = [part.strip() for part in CLOCK.split(RANGE.split(text)[0].strip())]
    if len(parts) > 1 and not parts[0]:
        parts[0] = "0"
    if len(parts) > 3 or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    if any(len(part) > 2 for part in parts[1:]):
        return None  # a spreadsheet's fraction, not a clock time
    numbers = [int(part) for part in parts]
    if len(parts) == 3:
        return numbers[0] * 3600 + numbers[1] * 60 + numbers[2]
    minutes, seconds = (*numbers, 0)[:2]
    if len(parts) == 2 and parts[1] in {"1", "2", "3", "4", "5"}:
        seconds *= 10
    return minutes * 60 + seconds


def split_sentences(text: str) -> list[str]:
    """The sentences of a turn, cleaned: marked passages gone, ``inaudible`` as ``<unk>``, lower case, words only."""
    clean = MARKED.sub(" ", text).replace("--", " ").translate(SIGNS).lower()
    sentences = (" ".join(part.split()) for part in SENTENCE_END.split(clean))
    return [INAUDIBLE.sub("<unk>", sentence) for sentence in sentences if any(map(str.isalnum, sentence))]


def divide_row(sentences: list[str], start: int, end: int) -> list[Utterance]:
    """Share a row's time (whole seconds) evenly among its sentences, every boundary truncated to a whole second."""
    edges = [start + (end - start) * i // len(sentences) for i in range(len(sentences) + 1)]
    return [
        Utterance(text, begin * 1000, (stop - begin) * 1000)
        for text, begin, stop in zip(sentences, edges[:-1], edges[1:], strict=True)
    ]


def frame_times(utterance: Utterance, step_ms: int, max_frames: int) -> list[int]:
    """Milliseconds at which frames are taken: every ``step_ms`` from the start, 1 to ``max_frames`` of them."""
    count = max(1, min(max_frames, utterance.duration_ms // step_ms))
    return [utterance.start_ms + step_ms * i for i in range(count)]


def read_transcript(path: Path, profile: Profile) -> Transcript:
    """Read one transcript.

    A row ends where the next begins; the last has no end. A turn is dropped if its row or the next has no time, if
    the speaker is not the caregiver, or if no words are left of it.

    Raises:
        UserError: a column is missing, times run backwards, two videos are named, or the file is not UTF-8 CSV.
    """
    rows = _read_rows(path, profile)
    starts = [parse_time(row[profile.time]) for _, row in rows]
    _check_order(path, [(number, start) for (number, _), start in zip(rows, starts, strict=True)])
    utterances: list[Utterance] = []
    dropped: dict[str, int] = {}
    for (_, row), start, end in zip(rows, starts, [*starts[1:], *starts[-1:]], strict=True):
        sentences = split_sentences(row[profile.utterance])
        reason = _why_not(row, sentences, start, end, profile)
        if reason or start is None or end is None:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            utterances += divide_row(sentences, start, end)
    return Transcript(path, _video_name(path, rows, profile), tuple(utterances), tuple(sorted(dropped.items())))


def _why_not(row: dict[str, str], sentences: list[str], start: int | None, end: int | None, profile: Profile) -> str:
    if row[profile.speaker] not in profile.caregivers:
        return "not the caregiver speaking"
    if not sentences:
        return "no words in the turn"
    if start is None:
        return "time not readable" if row[profile.time] else "no time given"
    return "" if end is not None else "no time given in the next row"


def _read_rows(path: Path, profile: Profile) -> list[tuple[int, dict[str, str]]]:
    """Rows that hold anything, each with its number in a spreadsheet (the header is row 1)."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as UTF-8 CSV ({error}); export it again as UTF-8") from None
    header = [cell.strip() for cell in lines[0]] if lines else []
    wanted = (profile.time, profile.speaker, profile.video, profile.utterance)
    missing = [name for name in wanted if name not in header]
    if missing:
        found = ", ".join(header) or "nothing"
        raise UserError(f"{path}: row 1: no column {', '.join(map(repr, missing))} (found {found}); name it so")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line]
        if any(cells):
            cells += [""] * (len(header) - len(cells))
            rows.append((number, {name: cells[header.index(name)] for name in wanted}))
    return rows


def _check_order(path: Path, starts: list[tuple[int, int | None]]) -> None:
    known = [(number, start) for number, start in starts if start is not None]
    for (_, before), (number, start) in pairwise(known):
        if start < before:
            raise UserError(
                f"{path}: row {number}: its time ({start} s) is before that of the row above ({before} s);"
                " correct the time or leave it blank"
            )


def _video_name(path: Path, rows: list[tuple[int, dict[str, str]]], profile: Profile) -> str:
    """The one video the rows name; the transcript's own name if they name none."""
    first = ""
    for number, row in rows:
        # Names come with and without a suffix, and some with a Windows folder before them.
        name = re.sub(r"\.(mp4|mov|m4v|avi|mkv)$", "", PureWindowsPath(row[profile.video]).name, flags=re.IGNORECASE)
        if not name or re.search(profile.not_a_video, name):
            continue
        if first and name != first:
            raise UserError(f"{path}: row {number}: names video {name!r}, rows above {first!r}; one file a video")
        first = name
    return first or path.stem
