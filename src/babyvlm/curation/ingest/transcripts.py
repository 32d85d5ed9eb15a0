"""Read transcripts: CSV files to timed utterances, by the rules of ``sentences`` and the columns of a profile."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.curation.ingest.sentences import (
    Utterance,
    divide_turn,
    parse_timestamp,
    parse_typed_time,
    split_sentences,
)
from babyvlm.errors import UserError
from babyvlm.io.files import files_below
from babyvlm.io.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from babyvlm.curation.ingest.profiles import Profile

# Containers that `video` reads (its `format_whitelist`).
VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".3gp", ".3g2", ".avi", ".mkv", ".webm", ".wmv", ".asf", ".flv"),
    *(".ts", ".mts", ".m2t", ".m2ts", ".tod", ".mpg", ".mpeg", ".vob", ".mod"),
)
# Programs for transcription name a transcript after the file that they read, as in NAME.wav.csv.
AUDIO_SUFFIXES = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".wma")


@dataclass(frozen=True)
class Transcript:
    """The contents of one transcript file.

    Attributes:
        path: the CSV file.
        video: name of its video, without suffix.
        utterances: the caregivers' utterances in order. Keys count them from 1.
        dropped: (reason, count) of the turns that were dropped.
    """

    path: Path
    video: str
    utterances: tuple[Utterance, ...]
    dropped: tuple[tuple[str, int], ...]


class Row(NamedTuple):
    """One row of a transcript: its number in a spreadsheet (the header is row 1) and its cells by column."""

    number: int
    cells: dict[str, str]


class Turn(NamedTuple):
    """What one speaker says without a break.

    Attributes:
        row: number of the first row.
        speaker: speaker label.
        text: what the transcript says.
        start_text: the start time as typed.
        start_ms: start in milliseconds; None if it is missing or cannot be parsed.
        end_ms: end in milliseconds; None if it is missing or cannot be parsed.
    """

    row: int
    speaker: str
    text: str
    start_text: str
    start_ms: int | None
    end_ms: int | None


def find_transcripts(folder: Path) -> list[Path]:
    """Return all CSV files below a folder, sorted.

    Raises:
        UserError: no such folder, or it contains no CSV file.
    """
    files = sorted(files_below(folder, (".csv",)))
    if not files:
        raise UserError(f"{folder}: contains no .csv transcript")
    return files


def read_transcript(path: Path, profile: Profile) -> Transcript:
    """Read one transcript.

    A turn is dropped if its start or end is unknown, if the speaker is not a caregiver, or if no words are left after
    cleaning.

    Raises:
        UserError: a column is missing, times decrease, two videos are named, or the table is invalid (see `Table`).
    """
    rows = _read_rows(path, profile)
    turns = list(_turns(rows, profile))
    _check_times(path, turns)
    utterances: list[Utterance] = []
    dropped = Counter[str]()
    for turn in turns:
        sentences = split_sentences(turn.text)
        reason = _drop_reason(turn, sentences, profile)
        if reason or turn.start_ms is None or turn.end_ms is None:
            dropped[reason] += 1
        else:
            utterances += divide_turn(sentences, turn.start_ms, turn.end_ms, profile.boundary_ms)
    return Transcript(path, _video_name(path, rows, profile), tuple(utterances), tuple(sorted(dropped.items())))


def base_name(name: str, profile: Profile) -> str:
    """Return the name of a video or transcript without folder, suffixes and ``profile.strip_from_names``."""
    suffixes = "|".join(map(re.escape, (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES, ".csv")))
    # Names in transcripts come with and without suffixes, some with a Windows folder in front.
    stem = re.sub(rf"(?<=.)({suffixes})+$", "", PureWindowsPath(name).name, flags=re.IGNORECASE)
    stem = unicodedata.normalize("NFC", stem)  # macOS decomposes accents
    return re.sub(profile.strip_from_names, "", stem) if profile.strip_from_names else stem


def _read_rows(path: Path, profile: Profile) -> list[Row]:
    """Read the non-empty rows of a transcript, with the columns that the profile names."""
    table = Table(path)
    columns = [
        name
        for name in (
            profile.start_column,
            profile.end_column,
            profile.turn_column,
            profile.speaker_column,
            profile.video_column,
            profile.utterance_column,
        )
        if name
    ]
    table.require(*columns, hint=". Rename the columns, or pass a --profile that names them")
    rows = (row for row in table if any(map(str.strip, row.cells.values())))
    return [Row(row.number, {name: row[name].strip() for name in columns}) for row in rows]


def _turns(rows: list[Row], profile: Profile) -> Iterator[Turn]:
    """Yield the turns. Without an end column a turn ends where the next one starts; the last has no duration."""
    parse = parse_typed_time if profile.time_format == "minutes" else parse_timestamp
    groups = [[row] for row in rows]
    if profile.turn_column:
        groups = [list(group) for _, group in groupby(rows, key=lambda row: row.cells[profile.turn_column])]
    starts = [parse(group[0].cells[profile.start_column]) for group in groups]
    ends = [*starts[1:], *starts[-1:]]
    if profile.end_column:
        ends = [parse(group[-1].cells[profile.end_column]) for group in groups]
    for group, start, end in zip(groups, starts, ends, strict=True):
        number, cells = group[0]
        yield Turn(
            row=number,
            speaker=cells[profile.speaker_column],
            text=cells[profile.utterance_column],
            start_text=cells[profile.start_column],
            start_ms=start,
            end_ms=end,
        )


def _check_times(path: Path, turns: list[Turn]) -> None:
    known = [(turn.row, turn.start_ms) for turn in turns if turn.start_ms is not None]
    for (_, previous), (row, start) in pairwise(known):
        if start < previous:
            raise UserError(
                f"{path}, row {row}: start time {start / 1000:g} s is before that of the row above"
                f" ({previous / 1000:g} s). Correct the time or leave it blank"
            )
    for turn in turns:
        if turn.start_ms is not None and turn.end_ms is not None and turn.end_ms < turn.start_ms:
            raise UserError(
                f"{path}, row {turn.row}: end time {turn.end_ms / 1000:g} s is before the start time"
                f" ({turn.start_ms / 1000:g} s). Correct one of them or leave it blank"
            )


def _drop_reason(turn: Turn, sentences: list[str], profile: Profile) -> str:
    """Return why a turn is dropped, or "" if it is kept."""
    if turn.speaker not in profile.caregivers:
        return "speaker is not a caregiver"
    if not sentences:
        return "turn without words"
    if turn.start_ms is None:
        return "start time cannot be parsed" if turn.start_text else "no start time"
    if turn.end_ms is None:
        return "no end time" if profile.end_column else "no start time in the next row"
    return ""


def _video_name(path: Path, rows: list[Row], profile: Profile) -> str:
    """Return the one video that the rows name, or the name of the transcript if they name none."""
    video = ""
    for row in rows if profile.video_column else []:
        name = base_name(row.cells[profile.video_column], profile)
        if not name or (profile.ignored_videos and re.search(profile.ignored_videos, name)):
            continue
        if video and name != video:
            raise UserError(
                f"{path}, row {row.number}: video {name!r}, but the rows above name {video!r}."
                " Split the transcript into one file per video"
            )
        video = name
    return video or base_name(path.name, profile)
