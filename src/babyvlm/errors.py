"""Errors that a user can act on."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the user's input. The message is one line: what is wrong, where, and how to fix it.

    The command line prints it without a traceback and exits with status 2.
    """


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class if it has none.

    Messages of libraries often span many lines.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def require_at_least(minimum: int, **options: int) -> None:
    """Check that options of a command are not too small.

    >>> require_at_least(1, batch_size=0)
    Traceback (most recent call last):
    babyvlm.errors.UserError: --batch_size 0: must be at least 1

    Raises:
        UserError: an option is smaller than ``minimum``.
    """
    for name, value in options.items():
        if value < minimum:
            raise UserError(f"--{name} {value}: must be at least {minimum}")


def require_fraction(**options: float) -> None:
    """Check that options of a command are between 0 and 1.

    Raises:
        UserError: an option is not.
    """
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise UserError(f"--{name} {value}: must be between 0 and 1")
