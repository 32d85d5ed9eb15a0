"""Profiles: everything that differs between two corpora of baby video. A new corpus needs a profile, not new code."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from jsonargparse import ArgumentError

from babyvlm.config import CheckedParser, one_line
from babyvlm.curation.ingest.clock import TimeFormat
from babyvlm.curation.ingest.transcripts import TranscriptFormat
from babyvlm.errors import UserError
from babyvlm.io.limits import load_yaml_file
from babyvlm.text import SplitterName

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDING_GROUPS = ("child", "date", "year", "month", "day", "age_months")


@dataclass(frozen=True)
class Profile:
    """How a corpus was filmed and transcribed.

    Attributes:
        source: name of the corpus in the store.
        caregivers: speaker labels whose turns are used. Empty: all turns are used, whoever speaks.
        transcript_format: ``table``: CSV, with the columns below; ``whisper``: JSON of Whisper, WhisperX or
            whisper.cpp; ``subtitles``: SubRip or WebVTT; ``chat``: TalkBank's CHAT.
        utterance_column: column with the text of a turn.
        speaker_column: column with the speaker. Empty: the table names no speakers.
        start_column: column with the time at which a row starts.
        end_column: column with the time at which a row ends. Empty: a row ends where the next one starts, and the last
            row has no duration.
        turn_column: column that numbers the turns, for transcripts in which a turn spans several rows (one per word).
            Rows with the same number and text form one turn; those of people who speak at the same time may alternate.
            Empty: each row is a turn.
        word_column: column with the word, for tables with ``turn_column``: divides a turn whose words have several
            speakers. The same as ``utterance_column`` if the text of a turn is not repeated on its rows.
        video_column: column with the name of the video. Empty: the transcript has the name of its video.
        heading: names of the columns of tables without a heading. Empty: the first row is the heading.
        encoding: encoding of the transcripts, such as ``cp1252``. Empty: it is detected.
        text_format: ``plain``, or ``chat`` if the text has the codes of CHAT (``xxx``, ``doggie@f``, ``(be)cause``).
        time_format: ``saycam``: typed by hand, read as minutes and seconds as the authors do. The others are strict:
            ``clock``: ``m:ss`` or ``h:mm:ss``, with or without a fraction; ``seconds``: a number of seconds, or the
            same as ``clock``; ``milliseconds``: a whole number.
        time_ranges: accept ranges such as ``0:12-0:15`` in strict formats, and use their start.
        splitter: ``spacy``: sentences and tokens by spaCy's ``en_core_web_sm``, as the authors do (needs the extra
            ``text``); ``rules``: by rules that agree with it on everyday English and need no model.
        boundary_ms: the time of a turn is divided evenly among its sentences; boundaries are rounded down to multiples
            of this many milliseconds.
        ignored_videos: regular expression for entries of the video column that are not names of videos. Empty: none.
        strip_from_names: regular expression removed from names of videos and transcripts before they are matched.
            Empty: nothing is removed.
        recording: regular expression for the beginning of a video's name, with any of the groups ``child``, ``date``
            (``20140420`` or ``2014-04-20``; or ``year``, ``month`` and ``day``) and ``age_months``. Empty: names say
            nothing about child and date.
        birth_dates: child -> date of birth (``2013-01-31``), from which ages follow.
        child_column: column of tables with the name of the child. Empty: none.
        date_column: column of tables with the date of the recording (as in ``recording``). Empty: none.
        age_column: column of tables with the age of the child in months. Empty: none.
        frame_interval_ms: milliseconds between two extracted frames, independent of the frame rate of the video.
        resize_to: length of the shorter side before the crop, in pixels, for a crop of ``crop_size``.
        crop_size: side of the square crop, in pixels.
        crop_offset_up: distance of the crop above the center, in the same pixels.
        rotation: counterclockwise rotation, in degrees, that turns the crop upright.

    Raises:
        UserError: a number is out of range, a pattern is not a valid regular expression, a table lacks a column, or a
            date of birth is not a date.
    """

    source: str
    caregivers: tuple[str, ...]
    transcript_format: TranscriptFormat = "table"
    utterance_column: str = ""
    speaker_column: str = ""
    start_column: str = ""
    end_column: str = ""
    turn_column: str = ""
    word_column: str = ""
    video_column: str = ""
    heading: tuple[str, ...] = ()
    encoding: str = ""
    text_format: Literal["plain", "chat"] = "plain"
    time_format: TimeFormat = "seconds"
    time_ranges: bool = False
    splitter: SplitterName = "rules"
    boundary_ms: int = 1
    ignored_videos: str = ""
    strip_from_names: str = ""
    recording: str = ""
    birth_dates: dict[str, str] = field(default_factory=dict)
    child_column: str = ""
    date_column: str = ""
    age_column: str = ""
    frame_interval_ms: int = 200
    resize_to: int = 256
    crop_size: int = 224
    crop_offset_up: int = 0
    rotation: Literal[0, 90, 180, 270] = 0

    def __post_init__(self) -> None:
        if self.transcript_format == "table":
            needed = ["utterance_column", "start_column", *(["end_column"] if self.turn_column else [])]
            absent = [name for name in needed if not getattr(self, name)]
            if absent:
                kind = "tables with a turn_column" if self.turn_column else "transcripts that are tables"
                raise UserError(f"{absent[0]}: is needed for {kind}")
        for name in ("boundary_ms", "frame_interval_ms", "crop_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} must be at least 1")
        if not self.crop_size <= self.resize_to or not 0 <= self.crop_offset_up <= self.resize_to - self.crop_size:
            raise UserError(
                f"crop_size: {self.crop_size} and crop_offset_up: {self.crop_offset_up} must fit into"
                f" resize_to: {self.resize_to} pixels"
            )
        for name in ("ignored_videos", "strip_from_names", "recording"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise UserError(f"{name}: {getattr(self, name)!r} is not a regular expression ({error})") from None
        self._check_recording()

    def _check_recording(self) -> None:
        if unknown := re.compile(self.recording).groupindex.keys() - set(RECORDING_GROUPS):
            raise UserError(f"recording: no group is called {min(unknown)}. Groups: {', '.join(RECORDING_GROUPS)}")
        for child, born in self.birth_dates.items():
            try:
                date.fromisoformat(born)
            except ValueError:
                raise UserError(f"birth_dates: {child}: {born!r} is not a date such as '2013-01-31'") from None

    @property
    def has_ends(self) -> bool:
        """Whether turns have an end of their own. Otherwise they end where the next one starts."""
        return bool(self.end_column) or self.transcript_format != "table"


# Column names, speakers, text and geometry of the authors' preprocessing (github.com/arjunchandra2/multimodal-baby).
SAYCAM = Profile(
    source="saycam",
    utterance_column="Utterance",
    speaker_column="Speaker",
    caregivers=("M", "Mom", "mom", "m", "mother", "Mother", "papa", "the mom"),
    start_column="Time",
    video_column="Video Name",
    time_format="saycam",
    splitter="spacy",
    boundary_ms=1000,
    ignored_videos="part",  # "S_20141029_2412_part 2": an old name that some transcripts carry beside the real one
    # Child, date, time of day, part. Dates of birth are not public; add yours as `birth_dates`.
    recording=r"(?P<child>[A-Za-z]+)_(?P<date>\d{8})_",
    crop_offset_up=16,
    rotation=180,  # the camera was worn upside down
)

# Playroom's recordings are like SAYCam's, but their times are always correct, and its text needs no model.
# Its children are as old as SAYCam's when the recordings begin, 6 to 8 months (Sullivan et al. 2021).
PLAYROOM = replace(
    SAYCAM,
    source="playroom",
    time_format="clock",
    time_ranges=True,
    splitter="rules",
    birth_dates={"S": "2013-01-01", "A": "2012-11-01", "Y": "2012-12-01"},
)

# BabyView (Long et al. 2024, arXiv 2406.10447): GoPro videos, transcribed by Whisper, speakers labeled by a voice type
# classifier. The layout is that of the project's public pipeline (github.com/babyview-project/transcriptions): one CSV
# per video, with the same name, one row per word, `utterance` repeated on each of its words; times in seconds, or as
# h:mm:ss in transcripts with speakers. The pipeline adds "_processed" to the names of videos.
# Assumptions: videos are upright once their rotation metadata is applied (the pipeline does that); the adult voices,
# FEM and MAL, are the caregivers (the other labels are KCHI, the child, CHI, another child, and "unknown").
# Our choices: a central crop, because the camera records portrait video; the frame rate of SAYCam.
BABYVIEW = Profile(
    source="babyview",
    utterance_column="utterance",
    speaker_column="speaker",
    caregivers=("FEM", "MAL"),
    start_column="token_start_time",
    end_column="token_end_time",
    turn_column="utterance_id",
    word_column="token",
    strip_from_names=r"_processed$",
)

# What programs write, as a base for profiles: whose speech counts depends on the corpus.
WHISPER = Profile(source="whisper", caregivers=(), transcript_format="whisper")
SUBTITLES = Profile(source="subtitles", caregivers=(), transcript_format="subtitles")
CHAT = Profile(source="chat", caregivers=("MOT", "FAT"), transcript_format="chat")  # TalkBank's codes of parents

PROFILES = {profile.source: profile for profile in (SAYCAM, BABYVIEW, PLAYROOM, WHISPER, SUBTITLES, CHAT)}


def find_profile(name: str) -> Profile:
    """Return a named profile, or read one from a YAML or JSON file with the fields of ``Profile``.

    In a file, ``base: NAME`` takes all fields that the file does not set from a named profile.

    Raises:
        UserError: no such profile or file, or one of its fields is unknown, missing or invalid.
    """
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise UserError(
            f"--profile {name}: no such profile. Available: {', '.join(PROFILES)}, or pass your own .yaml or .json file"
        )
    try:
        values = load_yaml_file(path)  # JSON is a subset of YAML
    except OSError as error:
        raise UserError(f"--profile {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: contains no profile fields. See docs/how-to/data.md for an example")
    return _profile_from_fields(path, values)


def _profile_from_fields(path: Path, values: Mapping[object, object]) -> Profile:
    values = {str(name): value for name, value in values.items()}
    base = str(values.pop("base", ""))
    if base and base not in PROFILES:
        raise UserError(f"{path}: base: no profile {base!r}. Available: {', '.join(PROFILES)}")
    known = [field.name for field in fields(Profile)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise UserError(f"{path}: {unknown[0]}: no such field. A profile has {', '.join(known)}")
    parser = CheckedParser(exit_on_error=False)
    parser.add_class_arguments(Profile)
    try:
        return Profile(**parser.parse_object((asdict(PROFILES[base]) if base else {}) | values).as_dict())
    except (ArgumentError, TypeError, UserError) as error:
        raise UserError(f"{path}: {one_line(str(error))}") from None
