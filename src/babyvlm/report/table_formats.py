"""A table with its title and note, in the forms that it is wanted in."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH, NAME_WIDTH = 120, 40
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
}


@dataclass(frozen=True)
class Section:
    """A table with its title, heading first, and a note. Cells may hold anything: each form escapes them."""

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def name(self) -> str:
        """The title as the name of a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.partition(":")[0].lower()).strip("-")

    def print(self) -> None:
        """To the terminal."""
        table = Table(title=Text(self.title), caption=Text(self.note) if self.note else None)
        names_fit = max(len(row[0]) for row in self.rows) <= NAME_WIDTH  # a longer one is broken, not cut
        for number, cell in enumerate(self.rows[0]):
            table.add_column(Text(cell), overflow="fold", no_wrap=number == 0 and names_fit)
        for row in self.rows[1:]:
            table.add_row(*map(Text, row))
        Console(width=WIDTH).print(table)

    def markdown(self) -> str:
        """As Markdown."""
        lines = [_line(self.rows[0]), "|---" * len(self.rows[0]) + "|", *map(_line, self.rows[1:])]
        return "\n".join([self.title, "", *lines, "", *([self.note, ""] if self.note else [])])

    def latex(self) -> str:
        """As a LaTeX table; it needs the package ``booktabs``."""
        heading, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in self.rows)
        caption = _latex(". ".join(filter(None, [self.title, self.note])))
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{caption}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.rows[0]) - 1)}}}",
                r"\toprule",
                heading,
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def csv(self) -> str:
        """As CSV."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(self.rows)
        return out.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(markdown_text, cells))} |"


def markdown_text(text: str) -> str:
    """Text as it may stand in Markdown: on one line, no tag, no bar."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", r"\|")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
