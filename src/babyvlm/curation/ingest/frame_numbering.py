"""The CVCL authors' utterance numbers: which released frames belong to which row of a SAYCam transcript.

The authors' frames are named ``VIDEO_UTTERANCE_FRAME.jpg``, and UTTERANCE counts the utterances that their
preprocessing (github.com/wkvong/multimodal-baby) kept. ``sentences`` corrects that preprocessing and therefore counts
differently. This module reproduces it exactly, including its errors, for numbers and frame counts only:

- ``h:mm:ss`` is read as minutes and seconds, an annotation extends to the last closing mark, an empty cell is ``nan``;
- a gap between two full stops is an utterance without words, which is counted;
- an utterance of d whole seconds has ``int(d / 0.2)`` frames, 1 to 32.

The frame counts show whether a transcript and frames belong together: an utterance with a different number of frames
than its duration allows is dropped, and so is a video with too many such utterances, because its numbers have shifted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from babyvlm.curation.ingest.profiles import SAYCAM
from babyvlm.io.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_FRAMES = 32
ANNOTATIONS = (r"\*[^)]*\*", r"\[[^)]*\]", r"\([^)]*\)")
PUNCTUATION = str.maketrans("", "", "-'*_,…")
COLUMNS = {
    "time": SAYCAM.start_column,
    "speaker": SAYCAM.speaker_column,
    "video": SAYCAM.video_column,
    "utterance": SAYCAM.utterance_column,
}


class NumberedUtterance(NamedTuple):
    """An utterance as the authors count it: its number, their lower-case text, and its number of frames."""

    number: int
    text: str
    frames: int


def numbered_utterances(path: Path) -> tuple[str, list[NumberedUtterance]]:
    """Read a SAYCam transcript with the authors' rules.

    Returns:
        The name of the video, "" if the authors skipped the transcript (it names no video or several); and its
        utterances.

    Raises:
        UserError: a column is missing, or the table is invalid (see `Table`).
    """
    rows = _read_rows(path)
    videos = {row["video"] for row in rows if row["video"] and "part" not in row["video"]}
    if len(videos) != 1 or len(rows) <= 1:
        return "", []
    starts = [_parse_seconds(row["time"]) for row in rows]
    utterances: list[NumberedUtterance] = []
    for row, start, end in zip(rows, starts, [*starts[1:], *starts[-1:]], strict=True):
        if start is None or end is None or row["speaker"] not in SAYCAM.caregivers:
            continue
        sentences = _split_sentences(row["utterance"] or "nan")
        utterances += _number(sentences, start, end, first=len(utterances) + 1)
    return re.sub(r"\.\w+$", "", videos.pop()), utterances


def _read_rows(path: Path) -> list[dict[str, str]]:
    table = read_table(path)
    table.require(*COLUMNS.values(), hint=". Rename the columns")
    return [{key: row[name] for key, name in COLUMNS.items()} for row in table]


def _parse_seconds(text: str) -> int | None:
    if not (start := text.split("-", maxsplit=1)[0]):
        return None
    minutes, seconds = [*re.split(r"[:.,;]", start), "0"][:2]
    if seconds in {"1", "2", "3", "4", "5"}:
        seconds += "0"
    try:
        return int(minutes or "0") * 60 + int(seconds) if len(seconds.strip()) <= 2 else None
    except ValueError:  # the authors' code stops here
        return None


def _split_sentences(text: str) -> list[str]:
    for annotation in ANNOTATIONS:
        text = re.sub(annotation, "", text)
    text = re.sub(" +", " ", text).replace("--", " ").translate(PUNCTUATION).lower().strip()
    return [sentence.strip() for sentence in re.split(r"[.?!]", text) if sentence]


def _number(sentences: list[str], start: int, end: int, first: int) -> Iterator[NumberedUtterance]:
    if not sentences:
        return
    edges = [int(edge) for edge in np.linspace(start, end, len(sentences) + 1)]
    for index, text in enumerate(sentences):
        frames = int((edges[index + 1] - edges[index]) / 0.2)
        yield NumberedUtterance(first + index, text, max(min(frames, MAX_FRAMES), 1))
