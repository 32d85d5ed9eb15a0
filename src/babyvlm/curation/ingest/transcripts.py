"""Transcripts -> timed utterances, by the rules of ``utterances`` and the columns of a profile."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.curation.ingest.sentences import Utterance, divide_turn, parse_clock, parse_seconds, split_sentences
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from babyvlm.curation.ingest.profiles import Profile

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv")


class Row(NamedTuple):
    """One row of a transcript: its number in a spreadsheet (the header is row 1) and its cells by column."""

    number: int
    cells: dict[str, str]


class Turn(NamedTuple):
    """What one speaker says without a break; milliseconds, None where nothing readable says when.

    ``row`` is its first row's number, ``given`` what stands there for its time.
    """

    row: int
    speaker: str
    text: str
    given: str
    start: int | None
    end: int | None


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


def check_some_serve(
    read: Sequence[Transcript], transcripts: Path, videos: Mapping[str, object], folder: Path, profile: Profile
) -> None:
    """Make sure that transcripts and videos belong together and to the profile, before any work.

    Args:
        read: the transcripts in the folder ``transcripts``.
        transcripts: that folder.
        videos: those in ``folder``, by their plain names.
        folder: theirs.
        profile: says whose turns count.

    Raises:
        UserError: no transcript has an utterance, or none has a video.
    """
    said = [one for one in read if one.utterances]
    if not said:
        reasons = sorted({reason for one in read for reason, _ in one.dropped})
        raise UserError(
            f"{transcripts}: no utterance of a caregiver in {len(read)} transcripts "
            f"({', '.join(reasons) or 'no rows'}); the profile takes those of {', '.join(profile.caregivers)}"
        )
    if not any(one.video in videos for one in said):
        raise UserError(
            f"{folder}: none of its {len(videos)} videos is one that the transcripts name; {said[0].path} names "
            f"{said[0].video!r}, there is {min(videos)!r}"
        )


def read_transcript(path: Path, profile: Profile) -> Transcript:
    """Read one transcript.

    A turn is dropped if nothing says when it begins or ends, if the speaker is not the caregiver, or if no words are
    left of it.

    Raises:
        UserError: a column is missing, times run backwards, two videos are named, or the file is not UTF-8 CSV.
    """
    rows = read_rows(path, profile)
    turns = list(_turns(rows, profile))
    _check_order(path, turns)
    utterances: list[Utterance] = []
    dropped: dict[str, int] = {}
    for turn in turns:
        sentences = split_sentences(turn.text)
        reason = _why_not(turn, sentences, profile)
        if reason or turn.start is None or turn.end is None:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            utterances += divide_turn(sentences, turn.start, turn.end, profile.share_ms)
    return Transcript(path, _video_name(path, rows, profile), tuple(utterances), tuple(sorted(dropped.items())))


def _turns(rows: list[Row], profile: Profile) -> Iterable[Turn]:
    """The turns that the rows are; one without an end column ends where the next begins, the last where it begins."""
    parse = parse_clock if profile.clock == "minutes" else parse_seconds
    groups = [[row] for row in rows]
    if profile.turn:
        groups = [list(group) for _, group in groupby(rows, key=lambda row: row.cells[profile.turn])]
    starts = [parse(group[0].cells[profile.time]) for group in groups]
    ends = [parse(group[-1].cells[profile.end]) for group in groups] if profile.end else [*starts[1:], *starts[-1:]]
    for group, start, end in zip(groups, starts, ends, strict=True):
        number, cells = group[0]
        yield Turn(number, cells[profile.speaker], cells[profile.utterance], cells[profile.time], start, end)


def _why_not(turn: Turn, sentences: list[str], profile: Profile) -> str:
    if turn.speaker not in profile.caregivers:
        return "not the caregiver speaking"
    if not sentences:
        return "no words in the turn"
    if turn.start is None:
        return "time not readable" if turn.given else "no time given"
    if turn.end is None:
        return "no end given" if profile.end else "no time given in the next row"
    return ""


def read_rows(path: Path, profile: Profile) -> list[Row]:
    """Rows of a transcript that hold anything, without the columns that ``profile`` does not name.

    Raises:
        UserError: the file is not UTF-8 CSV, or a column is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as UTF-8 CSV ({error}); export it again as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    header = [cell.strip() for cell in lines[0]] if lines else []
    named = (profile.time, profile.end, profile.turn, profile.speaker, profile.video, profile.utterance)
    wanted = [name for name in named if name]
    missing = [name for name in wanted if name not in header]
    if missing:
        found = ", ".join(header) or "nothing"
        raise UserError(f"{path}: row 1: no column {', '.join(map(repr, missing))} (found {found}); name it so")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line]
        if any(cells):
            cells += [""] * (len(header) - len(cells))
            rows.append(Row(number, {name: cells[header.index(name)] for name in wanted}))
    return rows


def _check_order(path: Path, turns: list[Turn]) -> None:
    known = [(turn.row, turn.start) for turn in turns if turn.start is not None]
    for (_, before), (number, start) in pairwise(known):
        if start < before:
            raise UserError(
                f"{path}: row {number}: its time ({start / 1000:g} s) is before that of the row above"
                f" ({before / 1000:g} s); correct the time or leave it blank"
            )
    for turn in turns:
        if turn.start is not None and turn.end is not None and turn.end < turn.start:
            raise UserError(
                f"{path}: row {turn.row}: its end ({turn.end / 1000:g} s) is before its time"
                f" ({turn.start / 1000:g} s); correct one or leave it blank"
            )


def plain_name(name: str, profile: Profile) -> str:
    """The name of a video or transcript without folder, suffix and what the profile drops from names."""
    stem = re.sub(
        rf"({'|'.join(map(re.escape, (*VIDEO_SUFFIXES, '.csv')))})$",
        "",
        PureWindowsPath(name).name,
        flags=re.IGNORECASE,
    )
    return re.sub(profile.drop_from_names, "", stem) if profile.drop_from_names else stem


def _video_name(path: Path, rows: list[Row], profile: Profile) -> str:
    """The one video the rows name; the transcript's own name if they name none."""
    first = ""
    for row in rows if profile.video else []:
        # Names come with and without a suffix, and some with a Windows folder before them.
        name = plain_name(row.cells[profile.video], profile)
        if not name or (profile.not_a_video and re.search(profile.not_a_video, name)):
            continue
        if first and name != first:
            raise UserError(f"{path}: row {row.number}: names video {name!r}, rows above {first!r}; one file a video")
        first = name
    return first or plain_name(path.name, profile)
