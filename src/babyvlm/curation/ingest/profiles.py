"""Profiles: all that differs between two corpora of baby video. A new corpus is a profile, not a fork of the code."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from babyvlm.config import one_line
from babyvlm.errors import UserError


@dataclass(frozen=True)
class Profile:
    """How a corpus was filmed and transcribed.

    Attributes:
        source: the corpus' name in the store.
        utterance: transcript column of what is said.
        speaker: column of who speaks.
        caregivers: spellings of the speakers whose turns count.
        time: column of when a row begins.
        end: column of when a row ends; none ("") if a row ends where the next begins, and the last has no end.
        turn: column that numbers the turns, where a turn spans several rows (one a word): neighbours with the same
            number are one turn, from the first one's time to the last one's end. None ("") if each row is a turn.
        video: column of the video's name; none ("") if the transcript's own name is the video's.
        clock: how times are written. ``minutes``: by hand, ``m:ss`` with all its slips (``parse_clock``).
            ``seconds``: by a machine, as decimal seconds or ``h:mm:ss`` (``parse_seconds``).
        share_ms: a turn's time is shared evenly among its sentences, every boundary truncated to this many
            milliseconds.
        not_a_video: pattern of entries in the video column that name no video; none if "".
        drop_from_names: pattern removed from the names of videos and transcripts before they are matched; none if "".
        step_ms: milliseconds between two frames, whatever the video's own rate.
        resized: shorter side in pixels before the crop, for a crop of ``cropped``.
        cropped: side of the square crop.
        crop_up: how many of those pixels the crop lies above the centre.
        turned: degrees, counter-clockwise, by which the crop is turned to be upright.

    Raises:
        UserError: a number is out of range, or a pattern is none.
    """

    source: str
    utterance: str
    speaker: str
    caregivers: tuple[str, ...]
    time: str
    end: str = ""
    turn: str = ""
    video: str = ""
    clock: Literal["minutes", "seconds"] = "seconds"
    share_ms: int = 1
    not_a_video: str = ""
    drop_from_names: str = ""
    step_ms: int = 200
    resized: int = 256
    cropped: int = 224
    crop_up: int = 0
    turned: Literal[0, 90, 180, 270] = 0

    def __post_init__(self) -> None:
        for name in ("share_ms", "step_ms", "cropped"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} must be at least 1")
        if not self.cropped <= self.resized or not 0 <= self.crop_up <= self.resized - self.cropped:
            raise UserError(
                f"cropped: {self.cropped} and crop_up: {self.crop_up} must fit into resized: {self.resized} pixels"
            )
        for name in ("not_a_video", "drop_from_names"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise UserError(f"{name}: {getattr(self, name)!r} is no regular expression ({error})") from None


# Column names, speakers and geometry of the CVCL authors' preprocessing (github.com/wkvong/multimodal-baby).
SAYCAM = Profile(
    source="saycam",
    utterance="Utterance",
    speaker="Speaker",
    caregivers=("M", "Mom", "mom", "m", "mother", "Mother", "papa", "the mom"),
    time="Time",
    video="Video Name",
    clock="minutes",
    share_ms=1000,
    not_a_video=r"part ?\d",  # "S_20141029_2412_part 2": an old name some transcripts carry beside the real one
    crop_up=16,
    turned=180,  # the camera was worn upside down
)

# BabyView (Long et al. 2024, arXiv 2406.10447): GoPro videos, transcribed by Whisper, speakers told apart by a voice
# type classifier. The layout is that of the project's public pipeline (github.com/babyview-project/transcriptions):
# one CSV a video, named as it, one row a word, `utterance` repeated on each of its words; times in seconds in the
# transcripts, as h:mm:ss in the ones with speakers. The pipeline drops "_processed", which it adds to names of videos.
# Assumed: videos are upright once their own rotation is applied (the pipeline makes them so); the adults' voices, FEM
# and MAL, are the caregivers' (the classifier's others are KCHI, the child, CHI, another one, and "unknown").
# Our choices: the crop is central, since the camera is tall and centred; the frame rate is SAYCam's.
BABYVIEW = Profile(
    source="babyview",
    utterance="utterance",
    speaker="speaker",
    caregivers=("FEM", "MAL"),
    time="token_start_time",
    end="token_end_time",
    turn="utterance_id",
    drop_from_names=r"_processed$",
)

PROFILES = {profile.source: profile for profile in (SAYCAM, BABYVIEW)}


def find_profile(name: str) -> Profile:
    """A profile by its name, or from a YAML or JSON file of the fields above.

    In a file, ``base: NAME`` takes what the file does not say from a named profile.

    Raises:
        UserError: there is no such profile or file, or a field of it is unknown, missing or of the wrong type.
    """
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        known = ", ".join(PROFILES)
        raise UserError(f"--profile {name}: no such profile; use {known}, or a .yaml or .json file of your own")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except OSError as error:
        raise UserError(f"--profile {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise UserError(f"{path}: holds no fields of a profile; see docs/how-to/data.md for an example")
    return _from_fields(path, given)


def _from_fields(path: Path, given: dict[Any, Any]) -> Profile:
    base = str(given.pop("base", ""))
    if base and base not in PROFILES:
        raise UserError(f"{path}: base: no profile {base!r}; use {', '.join(PROFILES)}")
    known = [field.name for field in fields(Profile)]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise UserError(f"{path}: {unknown[0]}: no such field; a profile has {', '.join(known)}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Profile)
    try:
        return Profile(**parser.parse_object((asdict(PROFILES[base]) if base else {}) | given).as_dict())
    except (ArgumentError, TypeError, UserError) as error:
        raise UserError(f"{path}: {one_line(str(error))}") from None
