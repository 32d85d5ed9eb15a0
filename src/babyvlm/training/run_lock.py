"""One process at a time writes into a run's folder."""

from __future__ import annotations

import fcntl
import os
import platform
from pathlib import Path
from typing import TextIO

from babyvlm.errors import UserError

_held: dict[Path, TextIO] = {}  # open until the process ends: closing gives the lock up


def claim(run: Path) -> None:
    """Keep all other processes from a run's folder until this one has ended, however it ends.

    The lock is a record lock. Unlike ``flock``'s, it is not inherited by a loader's workers, which outlive a process
    that is killed by some seconds.

    Raises:
        UserError: another process has it.
    """
    file = run.resolve() / ".lock"
    if file in _held:
        return
    lock = file.open("a+")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.seek(0)
        raise UserError(f"{run}: process {lock.read().strip()} works in it; wait until it has ended") from None
    lock.truncate(0)
    lock.write(f"{os.getpid()} on {platform.node()}")
    lock.flush()
    _held[file] = lock
