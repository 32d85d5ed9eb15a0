"""Verdicts of reviewers, and their agreement.

Each reviewer has an append-only file; every verdict is on disk before the next item is shown.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from babyvlm.errors import UserError
from babyvlm.io.limits import load_json
from babyvlm.io.locks import LockedError, lock_open_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

VERDICTS = ("yes", "no", "skip")
UNDO = "undo"
REVIEWER = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class VerdictFile:
    """The verdicts of one reviewer. The first line identifies the items; a line ``undo`` retracts the last verdict.

    An incomplete last line, left by a crash, was never confirmed to the reviewer and is removed.

    Args:
        folder: Of the files of all reviewers.
        reviewer: Name; lower-case letters, digits, ``-`` and ``_``.
        items: Fingerprint of the items.

    Raises:
        UserError: the name is invalid, another process writes the file, or it belongs to other items.
    """

    def __init__(self, folder: Path, reviewer: str, items: str) -> None:
        if not REVIEWER.fullmatch(reviewer):
            raise UserError(f"reviewer {reviewer!r}: use up to 40 lower-case letters, digits, - and _")
        self.path = folder / f"{reviewer}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            lock_open_file(self._file)
        except LockedError:
            self._file.close()
            raise UserError(f"{self.path}: in use by another review process. Stop that process first") from None
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)
        self.given: dict[str, str] = read_verdicts(self.path, items)  # in chronological order
        if b"\n" not in content:
            self._write({"items": items})
            _sync_folder(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def give(self, item: str, verdict: str) -> None:
        """Record a verdict; it is on disk when this returns."""
        self._write({"item": item, "verdict": verdict})
        _apply(self.given, item, verdict)

    def undo(self) -> str | None:
        """Retract the last verdict and return its item, or None if no verdict is left."""
        if not self.given:
            return None
        item = next(reversed(self.given))
        self.give(item, UNDO)
        return item

    def _write(self, entry: dict[str, str]) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._file.write(json.dumps(entry | {"at": at}).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read_verdicts(path: Path, items: str) -> dict[str, str]:
    """Return the verdicts of a file that were not retracted, in chronological order: item -> verdict.

    Raises:
        UserError: the file belongs to other items, or a line is malformed.
    """
    given: dict[str, str] = {}
    *lines, _ = path.read_bytes().split(b"\n")  # without an incomplete last line
    for number, line in enumerate(lines, 1):
        try:
            entry: Any = load_json(line)
            if number == 1 and entry["items"] != items:
                raise UserError(f"{path}: contains verdicts on other items. Pass a different --verdicts folder")
            if number > 1:
                _apply(given, entry["item"], entry["verdict"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, row {number}: not a verdict. Remove the line") from None
    return given


def read_all(folder: Path, items: str) -> dict[str, dict[str, str]]:
    """Return the verdicts of all reviewers: reviewer -> item -> verdict."""
    return {path.stem: read_verdicts(path, items) for path in sorted(folder.glob("*.jsonl"))}


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Cohen's kappa of two reviewers' verdicts on the same items (Cohen 1960); NaN if all verdicts are equal.

    Written out, like Fleiss' kappa: torchmetrics would load torch for a page without models, statsmodels is an extra.
    """
    count = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    counts = Counter(first), Counter(second)
    expected = sum(counts[0][verdict] * counts[1][verdict] for verdict in counts[0]) / count**2
    return _beyond_chance(observed, expected)


def fleiss_kappa(counts_NK: Sequence[Sequence[int]]) -> float:
    """Return Fleiss' kappa of N items (Fleiss 1971); NaN if all verdicts are equal.

    Args:
        counts_NK: Number of reviewers who gave each of the K verdicts to an item; all rows have the same sum, 2 or
            more.
    """
    items, raters = len(counts_NK), sum(counts_NK[0])
    if raters < 2 or any(sum(row) != raters for row in counts_NK):
        raise ValueError("every item needs the same number of verdicts, 2 or more")
    observed = sum(sum(n * (n - 1) for n in row) for row in counts_NK) / (items * raters * (raters - 1))
    shares = [sum(column) / (items * raters) for column in zip(*counts_NK, strict=True)]
    return _beyond_chance(observed, sum(share**2 for share in shares))


def _beyond_chance(observed: float, expected: float) -> float:
    return math.nan if math.isclose(expected, 1) else (observed - expected) / (1 - expected)


def agreement(verdicts: Mapping[str, Mapping[str, str]]) -> dict[str, object]:
    """Return the agreement on items that every reviewer answered with yes or no.

    Args:
        verdicts: Reviewer -> item -> ``yes``, ``no`` or ``skip``.

    Returns:
        ``measure`` (empty for fewer than two reviewers), ``kappa`` (None where it is undefined), ``items``,
        ``reviewers``, and how many items all ``agreed`` on.
    """
    decided = [{item for item, verdict in own.items() if verdict != "skip"} for own in verdicts.values()]
    common = sorted(set.intersection(*decided)) if decided else []
    columns = [[own[item] for item in common] for own in verdicts.values()]
    kappa, measure = math.nan, ""
    if len(columns) > 1:
        measure = "Cohen's kappa" if len(columns) == 2 else "Fleiss' kappa"
    if measure and common:
        rows = list(zip(*columns, strict=True))
        counts = [[row.count("yes"), row.count("no")] for row in rows]
        kappa = cohen_kappa(columns[0], columns[1]) if len(columns) == 2 else fleiss_kappa(counts)
    return {
        "measure": measure,
        "kappa": None if math.isnan(kappa) else round(kappa, 4),
        "items": len(common),
        "agreed": sum(len(set(row)) == 1 for row in zip(*columns, strict=True)),
        "reviewers": sorted(verdicts),
    }


def agreement_text(found: Mapping[str, object]) -> str:
    """Return agreement in words."""
    if not found["measure"]:
        return "agreement: needs two reviewers"
    if not found["items"]:
        return "agreement: no item has a yes or no from every reviewer"
    kappa = "undefined (all verdicts are equal)" if found["kappa"] is None else f"{found['kappa']:.3f}"
    return f"agreement: {found['measure']} {kappa}, {found['agreed']} of {found['items']} items with equal verdicts"


def _apply(given: dict[str, str], item: str, verdict: str) -> None:
    if verdict not in (*VERDICTS, UNDO):
        raise ValueError(verdict)
    given.pop(item, None)
    if verdict != UNDO:
        given[item] = verdict


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
