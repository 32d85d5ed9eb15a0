"""Read transcripts to timed utterances, with the format, columns, times and text of a profile.

The rules for tables are those of the authors' current preprocessing (``_preprocess_transcripts`` and
``_preprocess_utterance`` in ``multimodal_saycam_data_module.py`` of github.com/arjunchandra2/multimodal-baby at
2bd8989), with these differences:

- A transcript that names no video belongs to the video of its own name. Theirs skips it.
- An utterance without any token, which can be left of a remark, takes up a number and its time, but is dropped.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.progress import track

from babyvlm.curation.ingest.clock import is_read_as_minutes, parse_time
from babyvlm.curation.ingest.readers import (
    CHAT_CODE,
    chat_texts,
    read_chat,
    read_rttm,
    read_subtitles,
    read_whisper,
)
from babyvlm.curation.ingest.recordings import Recording, recording_of, stated_recording
from babyvlm.curation.ingest.sentences import MISSING, Utterance, divide_turn, has_words
from babyvlm.curation.ingest.turns import Turn, Word, assign_speakers, known_end, known_start, split_by_speaker
from babyvlm.errors import UserError
from babyvlm.io.characters import strip_invisible
from babyvlm.io.files import files_below
from babyvlm.io.printing import Console
from babyvlm.io.tables import Row, Table
from babyvlm.text import find_splitter, remove_remarks, sentences

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from babyvlm.curation.ingest.profiles import Profile

# Containers that `video` reads (its `format_whitelist`).
VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".qt", ".m4v", ".f4v", ".3gp", ".3g2", ".avi", ".divx", ".mkv", ".webm", ".wmv", ".asf", ".flv"),
    *(".ts", ".mts", ".m2t", ".m2ts", ".tod", ".mpg", ".mpeg", ".vob", ".mod"),
    *(".dv", ".ogv"),
)
# Programs for transcription name a transcript after the file that they read, as in NAME.wav.csv.
AUDIO_SUFFIXES = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".wma")
TranscriptFormat: TypeAlias = Literal["table", "whisper", "subtitles", "chat"]
SUFFIXES: dict[TranscriptFormat, tuple[str, ...]] = {
    "table": (".csv", ".tsv"),
    "whisper": (".json",),
    "subtitles": (".srt", ".vtt"),
    "chat": (".cha",),
}
NO_SPEAKER = "turn has no speaker"
ROW_LABELS = {"table": "row", "whisper": "segment", "subtitles": "cue", "chat": "utterance"}  # what ``Turn.row`` counts
# Pauses in a turn whose words alternate with others', and in any turn (Whisper's window has 30 s): our choices.
MAX_PAUSE_MS, MAX_SILENCE_MS = 2000, 30_000


@dataclass(frozen=True)
class Transcript:
    """The contents of one transcript file.

    Attributes:
        path: the file.
        video: name of its video, without suffix.
        utterances: the caregivers' utterances in order.
        dropped: (reason, count) of the turns and utterances that were dropped.
        times: start times of all turns as written.
        notes: what a user should know about how it was read.
        files: the file, and that of the speakers if there is one.
        recording: child, date and age, by the name of the video and the transcript; None if it was not asked for.
    """

    path: Path
    video: str
    utterances: tuple[Utterance, ...]
    dropped: tuple[tuple[str, int], ...]
    times: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    recording: Recording | None = None


def find_transcripts(folder: Path, transcript_format: TranscriptFormat = "table") -> list[Path]:
    """Return all transcripts of a format below a folder, sorted.

    Tables are ``.csv`` and ``.tsv`` files, or ``.txt`` files where there are none of these.

    Raises:
        UserError: no such folder, or it contains no transcript.
    """
    suffixes = SUFFIXES[transcript_format]
    files = sorted(files_below(folder, suffixes))
    if not files and transcript_format == "table":
        files = sorted(files_below(folder, (".txt",)))
    if not files:
        raise UserError(f"{folder}: contains no {' or '.join(suffixes)} transcript")
    return files


def find_speakers(folder: Path, profile: Profile) -> dict[str, Path]:
    """Return the RTTM files below a folder, by the name of their video.

    Raises:
        UserError: no such folder, or it contains no RTTM file.
    """
    found = {base_name(path.name, profile): path for path in sorted(files_below(folder, (".rttm",)))}
    if not found:
        raise UserError(f"{folder}: contains no .rttm file")
    return found


def read_transcripts(
    paths: Sequence[Path], profile: Profile, speakers: Mapping[str, Path] | None = None
) -> tuple[list[Transcript], list[str]]:
    """Read transcripts, at most one per video.

    Args:
        paths: the files.
        profile: the conventions of the corpus.
        speakers: RTTM files by the name of their video; None if the transcripts name the speakers.

    Returns:
        The transcripts, and one line for each that could not be read.
    """
    transcripts: dict[str, Transcript] = {}
    problems: list[str] = []
    for path in track(paths, "reading transcripts", console=Console(stderr=True)):
        try:
            transcript = read_transcript(path, profile, speakers)
        except UserError as error:
            problems.append(str(error))
            continue
        other = transcripts.setdefault(transcript.video, transcript)
        if other is not transcript:
            problems.append(f"{path}: video {transcript.video!r} already has a transcript, {other.path}. Keep one")
    return list(transcripts.values()), problems


def read_transcript(path: Path, profile: Profile, speakers: Mapping[str, Path] | None = None) -> Transcript:
    """Read one transcript.

    A turn is dropped if its start or end is unknown or if the speaker is not a caregiver. If rows have no end, a
    transcript of a single row has no utterance, as in the authors' code.

    Args:
        path: the file.
        profile: the conventions of the corpus.
        speakers: see ``read_transcripts``.

    Raises:
        UserError: the file is not in the profile's format, a column is missing, a time is not in the profile's format,
            times decrease, two videos are named, the speakers are unknown, the text contains undeclared codes, or the
            date of the recording is not possible.
    """
    turns, notes = read_turns(path, profile)
    video = _video_name(path, turns, profile)
    files = [path]
    if speakers is not None:
        if video not in speakers:
            raise UserError(f"{path}: no .rttm file has the name of its video, {video!r}. Add it to --speakers")
        files.append(speakers[video])
        turns = list(assign_speakers(turns, read_rttm(speakers[video])))
    elif profile.caregivers and profile.transcript_format == "table" and not profile.speaker_column:
        raise UserError(f"{path}: the profile names caregivers, but no speaker_column. Add it, or pass --speakers")
    is_table = profile.transcript_format == "table"
    _check_times(path, turns, profile)
    if is_table and profile.text_format == "plain":
        notes += _check_codes(path, turns, profile)
    numbered, dropped = number_utterances(turns, profile)
    utterances = tuple(filter(has_words, numbered))
    if len(utterances) < len(numbered):
        dropped["utterance without words"] += len(numbered) - len(utterances)
    times = tuple(turn.start_text for turn in turns) if is_table else ()
    if three_parts := sum(is_read_as_minutes(time, profile.time_format) for time in times):
        notes += (
            f"{three_parts} times such as {next(t for t in times if is_read_as_minutes(t, profile.time_format))!r} read"
            " as minutes and seconds, as the authors do; if they are h:mm:ss, declare time_format: clock in the"
            " profile",
        )
    recording = recording_of(video, profile, stated_recording(path, profile))
    return Transcript(path, video, utterances, tuple(sorted(dropped.items())), times, notes, tuple(files), recording)


def read_turns(path: Path, profile: Profile) -> tuple[list[Turn], tuple[str, ...]]:
    """Return the turns of a transcript, and notes on how it was read.

    Raises:
        UserError: the file is not in the profile's format, a column is missing, a time is not in the profile's format,
            or a turn is interrupted.
    """
    notes: tuple[str, ...] = ()
    match profile.transcript_format:
        case "whisper":
            turns = read_whisper(path)
        case "subtitles":
            turns, notes = read_subtitles(path, profile.caregivers, profile.encoding)
        case "chat":
            turns = read_chat(path)
        case _:
            table = Table(path, encoding=profile.encoding, names=profile.heading)
            notes = table.notes
            turns = list(_table_turns(table, profile))
    turns = [turn._replace(text=strip_invisible(turn.text)) for turn in turns]
    if profile.text_format == "chat":
        texts = chat_texts([turn.text for turn in turns])
        turns = [turn._replace(text=text) for turn, text in zip(turns, texts, strict=True)]
    return turns, notes


def number_utterances(turns: Sequence[Turn], profile: Profile) -> tuple[list[Utterance], Counter[str]]:
    """Return all numbered utterances of a transcript's turns, and why turns were dropped, with their counts."""
    if len(turns) == 1 and not profile.has_ends:
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
    suffixes = "|".join(map(re.escape, (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES, *chain(*SUFFIXES.values()), ".txt", ".rttm")))
    # Names in transcripts come with and without suffixes, some with a Windows folder in front.
    stem = re.sub(rf"(?<=.)({suffixes})+$", "", PureWindowsPath(name).name, flags=re.IGNORECASE)
    stem = unicodedata.normalize("NFC", stem)  # macOS decomposes accents
    return re.sub(profile.strip_from_names, "", stem) if profile.strip_from_names else stem


def _table_turns(table: Table, profile: Profile) -> Iterator[Turn]:
    """Yield the turns of a table. Without an end column a turn ends where the next one starts."""
    columns = (
        profile.start_column,
        profile.end_column,
        profile.turn_column,
        profile.speaker_column,
        profile.video_column,
        profile.utterance_column,
        profile.word_column if profile.turn_column else "",  # of a row per word; left over from the base otherwise
    )
    table.require(*filter(None, columns), hint=". Rename the columns, or pass a --profile that names them")
    # As in the authors' code, a row of empty cells has no time, so that the turn before it has no end.
    rows = [row for row in table if not profile.end_column or any(map(str.strip, row.cells.values()))]
    if profile.turn_column:
        for group in _group_words(table.path, rows, profile):
            yield from split_by_speaker(_turn_of_words(table.path, group, profile))
        return
    starts = [_parse_time(table.path, row, profile.start_column, profile) for row in rows]
    ends = [*starts[1:], *starts[-1:]]
    if profile.end_column:
        ends = [_parse_time(table.path, row, profile.end_column, profile) for row in rows]
    for row, start, end in zip(rows, starts, ends, strict=True):
        yield Turn(
            row=row.number,
            speaker=row.cells.get(profile.speaker_column, ""),
            text=row[profile.utterance_column],
            start_text=row[profile.start_column],
            start_ms=start,
            end_ms=end,
            video=row.cells.get(profile.video_column, ""),
        )


def _parse_time(path: Path, row: Row, column: str, profile: Profile) -> int | None:
    try:
        return parse_time(row[column], profile.time_format, ranges=profile.time_ranges)
    except ValueError as error:
        raise UserError(
            f"{path}, row {row.number}: {error}. Correct it, or declare another time_format in the --profile"
        ) from None


def _group_words(path: Path, rows: Iterable[Row], profile: Profile) -> list[list[Row]]:
    """Return the rows of each turn. The words of people who speak at the same time may alternate.

    Raises:
        UserError: a turn continues long after its last word, with others between: numbers are not unique.
    """
    groups: list[list[Row]] = []
    place: dict[tuple[str, str], int] = {}
    ends: dict[int, int] = {}  # by group
    current = -1
    for row in rows:
        text = row[profile.utterance_column] if profile.utterance_column != profile.word_column else ""
        key = row[profile.turn_column].strip(), text
        start, end = (_parse_time(path, row, name, profile) for name in (profile.start_column, profile.end_column))
        index = place.get(key, len(groups))
        if index == len(groups):
            groups.append([])
        elif start is not None:
            pause = start - (ends.get(index) or start)
            if pause > (MAX_SILENCE_MS if index == current else MAX_PAUSE_MS):
                raise UserError(
                    f"{path}, row {row.number}: turn {key[0]!r} goes on {pause / 1000:g} s after its last word (row"
                    f" {groups[index][-1].number}). Give each turn its own number in {profile.turn_column!r}"
                )
        place[key] = current = index
        groups[index].append(row)
        ends[index] = max(ends.get(index, 0), end or start or 0)
    return groups


def _turn_of_words(path: Path, rows: Sequence[Row], profile: Profile) -> Turn:
    """Return the turn of rows with one word each, from the first to the last time that they have."""
    words = tuple(
        Word(
            row.cells.get(profile.word_column, "").strip(),
            _parse_time(path, row, profile.start_column, profile),
            _parse_time(path, row, profile.end_column, profile),
            row.cells.get(profile.speaker_column, "").strip(),
        )
        for row in rows
    )
    first = rows[0]
    if not profile.word_column and len({word.speaker for word in words}) > 1:
        raise UserError(
            f"{path}, row {first.number}: the words of turn {first[profile.turn_column]!r} have several speakers. Set"
            " word_column in the --profile, so that the turn can be divided"
        )
    text = first[profile.utterance_column]
    if profile.utterance_column == profile.word_column:
        text = " ".join(word.text for word in words)
    start_text = next((row[profile.start_column] for row in rows if row[profile.start_column].strip()), "")
    video = first.cells.get(profile.video_column, "")
    return Turn(first.number, words[0].speaker, text, start_text, known_start(words), known_end(words), video, words)


def _check_times(path: Path, turns: Sequence[Turn], profile: Profile) -> None:
    label = ROW_LABELS[profile.transcript_format]
    known = [(turn.row, turn.start_ms) for turn in turns if turn.start_ms is not None]
    for (_, previous), (row, start) in pairwise(known):
        # What programs write with explicit ends may be in any order.
        if start < previous and profile.transcript_format == "table":
            raise UserError(
                f"{path}, row {row}: start time {start / 1000:g} s is before that of the row above"
                f" ({previous / 1000:g} s). Correct the time or leave it blank"
            )
    for turn in turns:
        if turn.start_ms is not None and turn.end_ms is not None and turn.end_ms < turn.start_ms:
            raise UserError(
                f"{path}, {label} {turn.row}: end time {turn.end_ms / 1000:g} s is before the start time"
                f" ({turn.start_ms / 1000:g} s). Correct one of them or leave it blank"
            )


def _check_codes(path: Path, turns: Sequence[Turn], profile: Profile) -> tuple[str, ...]:
    """Return a note on words that look like CHAT's marks of unintelligible speech.

    Raises:
        UserError: the text contains codes that are certainly CHAT's.
    """
    for turn in turns:
        if found := CHAT_CODE.search(turn.text):
            raise UserError(
                f"{path}, row {turn.row}: {found[0]!r} is a code of CHAT, not a word. Declare text_format: chat in the"
                " --profile, or remove the codes"
            )
    count = sum(bool(re.search(r"\b(xxx|yyy|www)\b", turn.text)) for turn in turns if not _drop_reason(turn, profile))
    if not count:
        return ()
    return (f"xxx, yyy or www in {count} turns are read as words; if they are CHAT's, declare text_format: chat",)


def _drop_reason(turn: Turn, profile: Profile) -> str:
    """Return why a turn is dropped, or "" if it is kept."""
    if profile.caregivers and turn.speaker not in profile.caregivers:
        if not turn.speaker.strip():
            return NO_SPEAKER
        # The authors' code skips "M " too, which their numbers depend on.
        padded = turn.speaker.strip() in profile.caregivers
        return "blanks around the name of the speaker" if padded else "speaker is not a caregiver"
    if turn.start_ms is None:
        return "start time cannot be parsed" if turn.start_text.strip() else "no start time"
    if turn.end_ms is None:
        return "no end time" if profile.has_ends else "no start time in the next row"
    return ""


def _video_name(path: Path, turns: Sequence[Turn], profile: Profile) -> str:
    """Return the one video that the turns name, or the name of the transcript if they name none."""
    video = ""
    for turn in turns:
        name = base_name(turn.video.strip(), profile)
        if not name or (profile.ignored_videos and re.search(profile.ignored_videos, name)):
            continue
        if video and name != video:
            raise UserError(
                f"{path}, row {turn.row}: video {name!r}, but the rows above name {video!r}."
                " Split the transcript into one file per video"
            )
        video = name
    return video or base_name(path.name, profile)
