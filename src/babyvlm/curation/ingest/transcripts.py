"""Read transcripts: CSV files to timed utterances, with the columns, times and text of a profile.

The rules are those of the authors' current preprocessing (``_preprocess_transcripts`` and ``_preprocess_utterance`` in
``multimodal_saycam_data_module.py`` of github.com/arjunchandra2/multimodal-baby at 2bd8989), with these differences:

- A transcript that names no video belongs to the video of its own name. Theirs skips it.
- An utterance without any token, which can be left of a remark, takes up a number and its time, but is dropped.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.curation.ingest.clock import is_read_as_minutes, parse_time
from babyvlm.curation.ingest.sentences import MISSING, Utterance, divide_turn, has_words
from babyvlm.errors import UserError
from babyvlm.io.files import files_below
from babyvlm.io.tables import Table
from babyvlm.text import find_splitter, remove_remarks, sentences

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
        utterances: the caregivers' utterances in order.
        dropped: (reason, count) of the turns and utterances that were dropped.
        times: start times of all turns as written.
        notes: what a user should know about how it was read.
    """

    path: Path
    video: str
    utterances: tuple[Utterance, ...]
    dropped: tuple[tuple[str, int], ...]
    times: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
        video: name of the video as written; "" if the profile has no column for it.
    """

    row: int
    speaker: str
    text: str
    start_text: str
    start_ms: int | None
    end_ms: int | None
    video: str = ""


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

    A turn is dropped if its start or end is unknown or if the speaker is not a caregiver. If rows have no end, a
    transcript of a single row has no utterance, as in the authors' code.

    Raises:
        UserError: a column is missing, a time is not in the profile's format, times decrease, two videos are named, or
            the table is invalid (see `Table`).
    """
    rows = _read_rows(path, profile)
    turns = list(_turns(path, rows, profile))
    _check_times(path, turns)
    numbered, dropped = number_utterances(turns, profile)
    utterances = tuple(filter(has_words, numbered))
    if len(utterances) < len(numbered):
        dropped["utterance without words"] += len(numbered) - len(utterances)
    times = tuple(turn.start_text for turn in turns)
    notes = []
    if three_parts := sum(is_read_as_minutes(time, profile.time_format) for time in times):
        notes.append(
            f"{three_parts} times such as {next(t for t in times if is_read_as_minutes(t, profile.time_format))!r} read"
            " as minutes and seconds, as the authors do; if they are h:mm:ss, declare time_format: clock in the profile"
        )
    return Transcript(
        path, _video_name(path, rows, profile), utterances, tuple(sorted(dropped.items())), times, tuple(notes)
    )


def read_turns(path: Path, profile: Profile) -> list[Turn]:
    """Return the turns of a transcript.

    Raises:
        UserError: a column is missing, a time is not in the profile's format, or the table is invalid (see `Table`).
    """
    return list(_turns(path, _read_rows(path, profile), profile))


def number_utterances(turns: Sequence[Turn], profile: Profile) -> tuple[list[Utterance], Counter[str]]:
    """Return all numbered utterances of a transcript's turns, and why turns were dropped, with their counts."""
    if len(turns) == 1 and not profile.end_column:
        return [], Counter({"transcript of a single row": 1})
    dropped = Counter(reason for turn in turns if (reason := _drop_reason(turn, profile)))
    kept = [turn for turn in turns if not _drop_reason(turn, profile)]
    texts = (remove_remarks(turn.text or MISSING) for turn in kept)
    utterances: list[Utterance] = []
    for turn, found in zip(kept, sentences(texts, find_splitter(profile.splitter)), strict=True):
        assert turn.start_ms is not None and turn.end_ms is not None  # noqa: PT018 - see `_drop_reason`
        if not found:
            dropped["utterance without words"] += 1
        utterances += divide_turn(found, turn.start_ms, turn.end_ms, profile.boundary_ms, first=len(utterances) + 1)
    return utterances, dropped


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
    # As in the authors' code, a row of empty cells has no time, so that the turn before it has no end.
    rows = (row for row in table if not profile.end_column or any(map(str.strip, row.cells.values())))
    return [Row(row.number, {name: row[name] for name in columns}) for row in rows]


def _turns(path: Path, rows: list[Row], profile: Profile) -> Iterator[Turn]:
    """Yield the turns. Without an end column a turn ends where the next one starts; the last has no duration."""

    def parse(row: Row, column: str) -> int | None:
        try:
            return parse_time(row.cells[column], profile.time_format, ranges=profile.time_ranges)
        except ValueError as error:
            raise UserError(
                f"{path}, row {row.number}: {error}. Correct it, or declare another time_format in the --profile"
            ) from None

    groups = [[row] for row in rows]
    if profile.turn_column:
        groups = [list(group) for _, group in groupby(rows, key=lambda row: row.cells[profile.turn_column].strip())]
    starts = [parse(group[0], profile.start_column) for group in groups]
    ends = [*starts[1:], *starts[-1:]]
    if profile.end_column:
        ends = [parse(group[-1], profile.end_column) for group in groups]
    for group, start, end in zip(groups, starts, ends, strict=True):
        number, cells = group[0]
        yield Turn(
            row=number,
            speaker=cells[profile.speaker_column],
            text=cells[profile.utterance_column],
            start_text=cells[profile.start_column],
            start_ms=start,
            end_ms=end,
            video=cells.get(profile.video_column, ""),
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


def _drop_reason(turn: Turn, profile: Profile) -> str:
    """Return why a turn is dropped, or "" if it is kept."""
    if turn.speaker not in profile.caregivers:
        # The authors' code skips "M " too, which their numbers depend on.
        padded = turn.speaker.strip() in profile.caregivers
        return "blanks around the name of the speaker" if padded else "speaker is not a caregiver"
    if turn.start_ms is None:
        return "start time cannot be parsed" if turn.start_text.strip() else "no start time"
    if turn.end_ms is None:
        return "no end time" if profile.end_column else "no start time in the next row"
    return ""


def _video_name(path: Path, rows: list[Row], profile: Profile) -> str:
    """Return the one video that the rows name, or the name of the transcript if they name none."""
    video = ""
    for row in rows if profile.video_column else []:
        name = base_name(row.cells[profile.video_column].strip(), profile)
        if not name or (profile.ignored_videos and re.search(profile.ignored_videos, name)):
            continue
        if video and name != video:
            raise UserError(
                f"{path}, row {row.number}: video {name!r}, but the rows above name {video!r}."
                " Split the transcript into one file per video"
            )
        video = name
    return video or base_name(path.name, profile)
