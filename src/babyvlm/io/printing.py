"""Text for people: data that is shown to them cannot act on the program that shows it.

A caption, a column name, a run's name or a server's answer may contain escape sequences that a terminal executes,
characters that reorder text, or a formula that a spreadsheet computes. All printing goes through ``echo`` and
``Console``.
"""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING

import rich.console
from rich.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable

# Control characters other than tab and newline, marks that change the direction of text, line separators, invisible
# tags, and lone surrogates, which stand for bytes of a file name that are not UTF-8 and cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = r"[+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?%?"
_NUMERIC = re.compile(rf"(?:{_NUMBER}|[+-]?(?:inf|nan))(?: \[{_NUMBER}, {_NUMBER}\])?[*‡]*|-")


def printable(text: str) -> str:
    r"""Return text in which control characters are written out, such as ``\x1b``; tabs and newlines are kept.

    >>> print(printable("\x1b[2Jcup"))
    \x1b[2Jcup
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_line(text: str) -> str:
    """Return printable text on one line, with single spaces."""
    return printable(" ".join(text.split()))


def echo(text: object = "", *, file: IO[str] | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print text for people, without control characters; to standard output by default."""
    print(printable(str(text)), file=file, end=end, flush=flush)


class Console(rich.console.Console):
    """Rich's console, which prints tables and progress bars, without control characters from data."""

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable; only Rich's own segments may contain control characters."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def is_numeric(text: str) -> bool:
    """Return whether text is a number, an estimate with its interval, or the dash of an empty cell."""
    return _NUMERIC.fullmatch(text) is not None


def spreadsheet_cell(text: str) -> str:
    """Return text for a cell of a CSV file, with a leading apostrophe if a spreadsheet would compute it.

    Numbers stay numbers, also negative ones.

    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("-0.5")
    ("'=1+1", '-0.5')
    """
    return f"'{text}" if text.startswith(_FORMULA) and not is_numeric(text) else text
