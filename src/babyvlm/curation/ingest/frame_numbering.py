"""Which released frames belong to which row of a transcript: the CVCL authors' numbering, counted as they counted.

The authors' frames are named ``VIDEO_UTTERANCE_FRAME.jpg``, and UTTERANCE counts what their preprocessing
(github.com/wkvong/multimodal-baby) left of the transcript. ``utterances`` mends that preprocessing and so counts
otherwise. Here it is followed to the letter, slips included, for numbers and frame counts only:

- ``h:mm:ss`` is read as minutes and seconds, marks run on to the last partner, an empty cell is the word ``nan``;
- a gap between two full stops is an utterance without words, which takes a number;
- an utterance of d whole seconds has ``int(d / 0.2)`` frames, 1 to 32.

The frame counts tell whether transcript and frames belong together: an utterance whose frames are not as many as its
time allows is left out, and a video with too many of them altogether, since its numbers have slipped.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from babyvlm.curation.ingest.profiles import SAYCAM
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_FRAMES = 32
MISSING = {"", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "<NA>", "#N/A", "-NaN", "-nan"}  # to pandas
MARKS = (r"\*[^)]*\*", r"\[[^)]*\]", r"\([^)]*\)")
REMOVED = str.maketrans("", "", "-'*_,…")


class Numbered(NamedTuple):
    """An utterance as the authors counted it: its number, their text (lower case), how many frames its time allows."""

    number: int
    text: str
    frames: int


def numbered_utterances(path: Path) -> tuple[str, list[Numbered]]:
    """The video of a SAYCam transcript, and its utterances with the authors' numbers.

    Returns:
        The video's name, "" if the authors left the transcript out (it names none or several); and the utterances.

    Raises:
        UserError: a column is missing, or the file is not UTF-8 CSV.
    """
    rows = _read(path)
    names = {row["video"] for row in rows if row["video"] not in MISSING and "part" not in row["video"]}
    if len(names) != 1 or len(rows) <= 1:
        return "", []
    starts = [_seconds(row["time"]) for row in rows]
    said: list[Numbered] = []
    for row, start, end in zip(rows, starts, [*starts[1:], *starts[-1:]], strict=True):
        if start is None or end is None or row["speaker"] not in SAYCAM.caregivers:
            continue
        sentences = _sentences("nan" if row["utterance"] in MISSING else row["utterance"])
        said += _number(sentences, start, end, first=len(said) + 1)
    return re.sub(r"\.\w+$", "", names.pop()), said


def _number(sentences: list[str], start: int, end: int, first: int) -> Iterator[Numbered]:
    if not sentences:
        return
    edges = [int(edge) for edge in np.linspace(start, end, len(sentences) + 1)]
    for index, text in enumerate(sentences):
        frames = int((edges[index + 1] - edges[index]) / 0.2)
        yield Numbered(first + index, text, max(min(frames, MOST_FRAMES), 1))


def _read(path: Path) -> list[dict[str, str]]:
    columns = {"time": SAYCAM.time, "speaker": SAYCAM.speaker, "video": SAYCAM.video, "utterance": SAYCAM.utterance}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = [name for name in columns.values() if name not in (reader.fieldnames or [])]
            if missing:
                raise UserError(f"{path}: row 1: no column {', '.join(map(repr, missing))}; name it so")
            return [{key: row[name] for key, name in columns.items()} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as UTF-8 CSV ({error}); export it again as UTF-8") from None


def _seconds(text: str) -> int | None:
    if text in MISSING or not (begin := text.split("-", maxsplit=1)[0]):
        return None
    parts = re.split(r"[:.,;]", begin)
    minutes, seconds = [*parts, "0"][:2]
    if seconds in {"1", "2", "3", "4", "5"}:
        seconds += "0"
    try:
        return int(minutes or "0") * 60 + int(seconds) if len(seconds.strip()) <= 2 else None
    except ValueError:  # theirs stopped here
        return None


def _sentences(text: str) -> list[str]:
    for mark in MARKS:
        text = re.sub(mark, "", text)
    text = re.sub(" +", " ", text).replace("--", " ").translate(REMOVED).lower().strip()
    return [sentence.strip() for sentence in re.split(r"[.?!]", text) if sentence]
