"""What is known about a recording: the child, the date, and the child's age, by its name and its transcript."""

from __future__ import annotations

import math
import re
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import AGE, CHILD, DATE, RECORDING_FIELDS, PairStore, write_pairs
from babyvlm.errors import UserError
from babyvlm.io.encodings import read_text
from babyvlm.io.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from babyvlm.curation.ingest.profiles import Profile

DAYS_PER_MONTH = 365.2425 / 12
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")  # in CHAT's dates


class Recording(NamedTuple):
    """Facts about a recording; empty or None where they are not known.

    Attributes:
        child: name of the child.
        day: date of the recording.
        age_months: age of the child on that day.
    """

    child: str = ""
    day: date | None = None
    age_months: float | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The facts as columns of a pair store."""
        return {
            CHILD: self.child or None,
            DATE: self.day.isoformat() if self.day else None,
            AGE: None if self.age_months is None else round(self.age_months, 2),
        }


def recording_of(name: str, profile: Profile, stated: Recording | None = None) -> Recording:
    """Return what the name of a recording says, completed by the profile.

    >>> from babyvlm.curation.ingest.profiles import find_profile
    >>> recording_of("S_20140420_1803_01", find_profile("saycam")).columns
    {'child': 'S', 'date': '2014-04-20', 'age_months': None}

    Args:
        name: of the video, without folder and suffix, or of something whose name begins with it.
        profile: the conventions of the corpus.
        stated: what the transcript says, if anything, which counts more than the name.

    Raises:
        UserError: the child was not born on that day, or the age in the name is not a number.
    """
    found = re.match(profile.recording, name) if profile.recording else None
    named = found.groupdict() if found else {}
    stated = stated or Recording()
    child, day, age = stated.child or named.get("child") or "", stated.day, stated.age_months
    day = day or _named_day(named)
    if age is None and named.get("age_months"):
        try:
            age = float(named["age_months"])
        except ValueError:
            raise UserError(
                f"{name}: age_months is {named['age_months']!r}. Correct `recording` in the profile"
            ) from None
    born = profile.birth_dates.get(child)
    if age is None and day is not None and born:
        age = (day - date.fromisoformat(born)).days / DAYS_PER_MONTH
        if age < 0:
            raise UserError(f"{name}: recorded on {day}, but the profile says that {child} was born on {born}")
    return Recording(child, day, age)


def _named_day(named: Mapping[str, str | None]) -> date | None:
    """Return the date in a name; None if the name has no date, or an impossible one, since names are typed by hand."""
    parts = [named.get(part) for part in ("year", "month", "day")]
    try:
        return date.fromisoformat(named.get("date") or "-".join(part or "" for part in parts))
    except ValueError:
        return None


def stated_recording(path: Path, profile: Profile) -> Recording:
    """Return what a transcript says about its recording: in columns of a table, or in the header of CHAT.

    Raises:
        UserError: a column is missing, or a value cannot be read or is not the same in all rows.
    """
    if profile.transcript_format == "chat":
        return _chat_header(path)
    columns = {CHILD: profile.child_column, DATE: profile.date_column, AGE: profile.age_column}
    if profile.transcript_format != "table" or not any(columns.values()):
        return Recording()
    table = Table(path, encoding=profile.encoding, names=profile.heading)
    table.require(*filter(None, columns.values()), hint=". Rename the columns, or pass a --profile that names them")
    values = dict.fromkeys(columns, "")
    for row in table:
        for fact, column in columns.items():
            value = row[column].strip() if column else ""
            if value and values[fact] not in ("", value):
                raise UserError(
                    f"{path}, row {row.number}: {column} is {value!r}, but {values[fact]!r} above. A transcript belongs"
                    " to one recording"
                )
            values[fact] = value or values[fact]
    try:
        day = date.fromisoformat(values[DATE]) if values[DATE] else None
        age = float(values[AGE]) if values[AGE] else None
        if age is not None and not 0 <= age < math.inf:
            raise ValueError(f"{age} months")
    except ValueError as error:
        raise UserError(f"{path}: date or age cannot be read ({error}). Dates: 2014-04-20; ages: in months") from None
    return Recording(values[CHILD], day, age)


@stage
def add_recordings(store: Path, out: Path, profile: str) -> Stage:
    """Add the child, date and age of the recording to the pairs of a store, by the names that their keys begin with.

    For stores that an earlier version built, and to add ages once dates of birth are known. Pairs, images and splits
    are copied as they are. Pairs whose names do not match the profile's `recording` keep what they have.

    For example:
        python -m babyvlm curate add-recordings --store stores/frames --profile saycam.yaml --out stores/dated

    Args:
        store: pair store.
        out: store to create, with the columns `child`, `date` and `age_months`.
        profile: named profile, or your own YAML or JSON file, with `recording` and `birth_dates`.
    """
    from babyvlm.curation.ingest.profiles import find_profile  # which imports this module's classes

    rules, source = find_profile(profile), PairStore(store)
    if not rules.recording:
        raise UserError(f"--profile {profile}: has no `recording`, a pattern for names of videos")
    funnel = Funnel("add-recordings", unit="pairs")
    described = {"recording": rules.recording, "birth_dates": rules.birth_dates}
    folder = yield (artifact := Artifact("store", {"command": "add-recordings", "store": source, **described}, funnel))
    kept = {name: kind for name, kind in source.extra_fields.items() if name not in RECORDING_FIELDS}
    counts = dict.fromkeys(RECORDING_FIELDS, 0)

    def rows() -> Iterator[dict[str, Any]]:
        for row in source.rows():
            had = {name: row.get(name) for name in RECORDING_FIELDS}
            found = recording_of(PurePosixPath(row["key"]).name, rules).columns
            facts = {name: had[name] if found[name] is None else found[name] for name in RECORDING_FIELDS}
            for name, value in facts.items():
                counts[name] += value is not None
            funnel.keep()
            yield row | facts

    artifact.manifest |= write_pairs(
        folder, rows(), funnel=funnel, licensed=source.licensed, extra_fields=kept | RECORDING_FIELDS
    )
    if not any(counts.values()):
        raise UserError(f"{store}: no key begins with a name like {rules.recording!r}. Check the profile")
    return ", ".join(f"{name} of {count:,} pairs" for name, count in counts.items())


def _chat_header(path: Path) -> Recording:
    """Read name and age of the target child and the date of a CHAT transcript (``@Participants``, ``@ID``, ``@Date``).

    An age is ``years;months.days`` (CHAT manual, "File Headers").
    """
    text, _ = read_text(path)
    target = re.search(r"^@ID:\s*(?:[^|\n]*\|){2}(\w+)\|(\d*);?(\d*)\.?(\d*)\|.*\|Target_Child\|", text, re.MULTILINE)
    code = target[1] if target else "CHI"
    name = re.search(rf"^@Participants:.*?\b{code} (?!Target_Child)(\w+) Target_Child\b", text, re.MULTILINE)
    written = re.search(r"^@Date:\s*(\d\d)-([A-Z]{3})-(\d{4})\s*$", text, re.MULTILINE)
    day = None
    if written and written[2] in MONTHS:
        try:
            day = date(int(written[3]), MONTHS.index(written[2]) + 1, int(written[1]))
        except ValueError as error:
            raise UserError(f"{path}: @Date {written[0].split()[-1]}: {error}") from None
    age = None
    if target and target[2]:
        years, months, days = (int(part or 0) for part in target.group(2, 3, 4))
        age = 12 * years + months + days / DAYS_PER_MONTH
    return Recording(name[1] if name else "", day, age)
