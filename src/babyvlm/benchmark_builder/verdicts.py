"""What reviewers said: a file each, to which lines are only added, each on disk before the next is taken."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from babyvlm.errors import UserError
from babyvlm.io.locks import LockedError, lock_open_file

if TYPE_CHECKING:
    from pathlib import Path

VERDICTS = ("yes", "no", "skip")
UNDO = "undo"
REVIEWER = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class VerdictFile:
    """One reviewer's verdicts. The first line names the items; a line ``undo`` takes the last verdict back.

    A last line that a crash cut short was never confirmed to the reviewer, and is removed.

    Args:
        folder: of all reviewers' files.
        reviewer: name; small letters, digits, ``-`` and ``_``.
        items: fingerprint of the items.

    Raises:
        UserError: no such name can be, another process writes the file, or it belongs to other items.
    """

    def __init__(self, folder: Path, reviewer: str, items: str) -> None:
        if not REVIEWER.fullmatch(reviewer):
            raise UserError(f"reviewer {reviewer!r}: use up to 40 small letters, digits, - and _")
        self.path = folder / f"{reviewer}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            lock_open_file(self._file)
        except LockedError:
            self._file.close()
            raise UserError(f"{self.path}: another review is writing it; end that one first") from None
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)
        self.given: dict[str, str] = read_verdicts(self.path, items)  # in the order in which they were given
        if b"\n" not in content:
            self._write({"items": items})
            _sync_folder(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def give(self, item: str, verdict: str) -> None:
        """Write a verdict down; it is on disk when this returns."""
        self._write({"item": item, "verdict": verdict})
        _apply(self.given, item, verdict)

    def undo(self) -> str | None:
        """Take the last verdict back; returns its item, None if there is none."""
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
    """The verdicts of a file that stand, in the order in which they were given.

    Raises:
        UserError: it belongs to other items, or a line is none of ours.
    """
    given: dict[str, str] = {}
    *lines, _ = path.read_bytes().split(b"\n")  # what follows the last line's end was cut short
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if number == 1 and entry["items"] != items:
                raise UserError(f"{path}: holds verdicts on other items; choose another --verdicts folder")
            if number > 1:
                _apply(given, entry["item"], entry["verdict"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: row {number}: is no verdict; remove the line") from None
    return given


def read_all(folder: Path, items: str) -> dict[str, dict[str, str]]:
    """Verdicts of all reviewers: reviewer -> item -> verdict."""
    return {path.stem: read_verdicts(path, items) for path in sorted(folder.glob("*.jsonl"))}


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
