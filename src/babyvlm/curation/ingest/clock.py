"""Read the times of transcripts in the format that the profile of the corpus declares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal, TypeAlias, get_args

# ``saycam``: typed by hand, read as the authors do. The others are strict: ``clock``: ``m:ss`` or ``h:mm:ss``, with or
# without a fraction; ``seconds``: a number of seconds, or the same as ``clock``; ``milliseconds``: a whole number.
TimeFormat: TypeAlias = Literal["saycam", "clock", "seconds", "milliseconds"]
FORMS: dict[TimeFormat, str] = {
    "clock": "m:ss or h:mm:ss",
    "seconds": "a number of seconds, m:ss or h:mm:ss",
    "milliseconds": "a whole number of milliseconds",
}
CLOCK = re.compile(r"(?:(\d{1,4}):(?=\d\d:))?(\d{1,4}):([0-5]\d(?:\.\d{1,9})?)", re.ASCII)
SECONDS = re.compile(r"\d{1,9}(?:\.\d{0,9})?", re.ASCII)
WHOLE_NUMBER = re.compile(r"\d{1,12}", re.ASCII)
THREE_PARTS = re.compile(r"(\d{1,4}):(\d\d):(\d\d)", re.ASCII)
HOURS_WITH_FRACTION = re.compile(r"\d{1,4}:\d\d:\d\d[.,]\d+", re.ASCII)
MIN_SHRINKAGE = 20  # h:mm:ss read as minutes and seconds is 60 times too small, without the seconds. Our choice.
RANGE = re.compile(r"[-–—]")
assert set(FORMS) | {"saycam"} == set(get_args(TimeFormat))


def parse_time(text: str, time_format: TimeFormat, *, ranges: bool = False) -> int | None:
    """Return the milliseconds of a time; None if the cell is blank or, in the format ``saycam``, cannot be read.

    Args:
        text: the cell as written.
        time_format: the format that the profile declares.
        ranges: accept ``0:12-0:15`` in the strict formats and return its start. ``saycam`` always does.

    Raises:
        ValueError: the time does not have the declared format.
    """
    if time_format == "saycam":
        return _parse_saycam(text)
    stripped = text.strip()
    start = RANGE.split(stripped)[0].strip() if ranges else stripped
    if not start or not stripped.strip("-–—"):
        return None
    milliseconds = _parse_strict(start, time_format)
    if milliseconds is None:
        raise ValueError(f"time {text!r} is not {FORMS[time_format]}{_ambiguity(stripped)}")
    return milliseconds


def _parse_saycam(text: str) -> int | None:
    """Read a time as ``convert_timestamps_to_seconds`` of github.com/arjunchandra2/multimodal-baby at 2bd8989 does.

    The first two numbers of ``text`` are minutes and seconds, whatever separates and follows them; a single number is
    minutes. A single digit from 1 to 5 counts as tens of seconds. Whole seconds only.
    """
    parts = re.split(r"[:.,;]", RANGE.split(text)[0])
    minutes, seconds = [*parts, "0"][:2]
    if parts == [""]:
        return None
    if seconds in {"1", "2", "3", "4", "5"}:
        seconds += "0"
    numbers = (minutes or "0").strip(), seconds.strip()
    if len(numbers[1]) > 2 or not all(WHOLE_NUMBER.fullmatch(number) for number in numbers):
        return None  # a fraction of a day from a spreadsheet, for example; the authors' code stops at letters
    return (int(numbers[0]) * 60 + int(numbers[1])) * 1000


def _parse_strict(text: str, time_format: TimeFormat) -> int | None:
    if time_format == "milliseconds":
        return int(text) if WHOLE_NUMBER.fullmatch(text) else None
    if time_format == "seconds" and SECONDS.fullmatch(text):
        return round(Fraction(text.rstrip(".")) * 1000)
    match = CLOCK.fullmatch(text)
    if not match or (match[1] is not None and int(match[2]) > 59):
        return None
    hours, minutes, seconds = match.groups(default="0")
    return round((int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) * 1000)


def _ambiguity(text: str) -> str:
    """Return why a time that is not in its declared format is not guessed."""
    if re.fullmatch(r"\d+:\d", text, re.ASCII):
        minutes, digit = text.split(":")
        return f" ({minutes} min {digit} s, or {digit}0 s?)"
    if re.fullmatch(r"\d+\.\d\d", text, re.ASCII):
        minutes, seconds = text.split(".")
        return f" ({text} s, or {minutes} min {seconds} s?)"
    if re.search(r"\d\s*[-–—]\s*\d", text):
        return ". Declare time_ranges: true in the profile to use the start of a range"
    return ""


def is_read_as_minutes(text: str, time_format: TimeFormat) -> bool:
    """Return whether the format ``saycam`` reads minutes and seconds from what looks like ``h:mm:ss``."""
    return time_format == "saycam" and RANGE.split(text.strip())[0].count(":") > 1


def likely_mistake(texts: Iterable[str], time_format: TimeFormat, seconds: float, *, fit: bool) -> str:
    """Return why times that a spreadsheet or a program wrote are probably not in the declared format; "" if unknown.

    Another reading is likely if it places the times inside the video, beyond its first hundredth, and the declared
    format does not.

    Args:
        texts: the times as written.
        time_format: the format that they were read in.
        seconds: duration of the video, above 0.
        fit: whether the times as read fit the video.
    """
    cells = [text.strip() for text in texts if text.strip()]
    three_parts = [match for match in map(THREE_PARTS.fullmatch, cells) if match]
    if three_parts and all(match[3] == "00" for match in three_parts):
        as_hours = max(int(hours) * 3600 + int(minutes) * 60 for hours, minutes, _ in map(re.Match.groups, three_parts))
        as_minutes = max(int(minutes) * 60 + int(secs) for minutes, secs, _ in map(re.Match.groups, three_parts))
        if as_minutes < seconds <= as_hours:
            return (
                f"{three_parts[-1][0]!r} looks like h:mm:ss from a spreadsheet that was given m:ss. Format the column"
                " as text and export it again"
            )
    if time_format == "saycam" and (written := _time_of_program(cells, three_parts, seconds)):
        return f"{written!r} looks like h:mm:ss from a program. Declare time_format: clock in the profile"
    if time_format in ("saycam", "seconds"):
        factor = 60 if time_format == "saycam" else 1
        late = [int(cell) for cell in cells if WHOLE_NUMBER.fullmatch(cell) and int(cell) * factor >= seconds]
        if late and 1000 <= max(late) < 1000 * seconds:
            return f"'{late[0]}' looks like milliseconds. Declare time_format: milliseconds in the profile"
    if time_format == "saycam" and not fit:
        for other in ("clock", "seconds"):
            try:
                times = [parse_time(cell, other) for cell in cells]
            except ValueError:
                continue
            known = [time for time in times if time is not None]
            if (
                known
                and times != [parse_time(cell, "saycam") for cell in cells]
                and 10 * seconds < max(known) < 1000 * seconds
            ):
                return f"{cells[-1]!r} looks like {FORMS[other]}. Declare time_format: {other} in the profile"
    return ""


def _time_of_program(cells: Sequence[str], three_parts: Sequence[re.Match[str]], seconds: float) -> str:
    """Return one of the times if they are ``h:mm:ss``; "" otherwise.

    Without a fraction they must fit the video as such, and fill little of it as minutes and seconds.
    """
    if len(three_parts) == len(cells) > 1:
        read = max(int(time[1]) * 60 + int(time[2]) for time in three_parts)
        last = max(int(time[1]) * 3600 + int(time[2]) * 60 + int(time[3]) for time in three_parts)
        return cells[-1] if MIN_SHRINKAGE * read < last < seconds else ""
    return next(filter(HOURS_WITH_FRACTION.fullmatch, cells), "")
