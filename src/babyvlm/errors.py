"""Errors that a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave. The message is one line: what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with 2.
    """


def first_line(error: Exception) -> str:
    """What an error says first, or its name if it says nothing: libraries' messages run over many lines."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
