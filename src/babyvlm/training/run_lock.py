"""One process at a time writes to a run's folder."""

from __future__ import annotations

from pathlib import Path

from babyvlm.errors import UserError
from babyvlm.io.locks import LockedError, lock_until_exit


def claim(run: Path) -> None:
    """Keep all other processes from a run's folder until this one has ended, however it ends.

    Raises:
        UserError: another process has it.
    """
    try:
        lock_until_exit(run.resolve() / ".lock")
    except LockedError as error:
        raise UserError(f"{run}: process {error} works in it; wait until it has ended") from None
