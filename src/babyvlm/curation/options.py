"""What the stages' options must hold."""

from __future__ import annotations

from babyvlm.errors import UserError


def at_least(least: int, **options: int) -> None:
    """Make sure that numbers are not too small.

    Raises:
        UserError: one is; named as its option.
    """
    for name, value in options.items():
        if value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
