"""File locks: the only module that uses ``filelock`` and ``fcntl``.

Every lock belongs to the operating system and ends with the process that holds it, however that process ends. Three
kinds are needed:

- ``exclusive_lock``: one process at a time builds an output. ``filelock`` does what is needed: it waits, and it works
  on Linux and macOS.
- ``lock_until_exit``: one process at a time writes to a run's folder. A POSIX record lock (``fcntl.lockf``), because
  unlike the locks of ``flock`` and ``filelock`` it is not inherited by forked data loader workers, which outlive a
  killed trainer by some seconds and would keep the folder locked.
- ``lock_open_file`` and ``is_locked``: a ``flock`` lock on an open file. A child process that inherits the descriptor
  keeps the lock, and ``is_locked`` tests it with a shared lock, which does not disturb other readers that test it at
  the same moment. ``filelock`` offers neither inheritance nor shared locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TextIO

from filelock import FileLock, Timeout

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_held: dict[Path, TextIO] = {}  # kept open until the process ends: closing a file releases its record lock


class LockedError(Exception):
    """Another process holds the lock. The message names that process if it is known."""


@contextmanager
def exclusive_lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; wait while another process holds it.

    The file is removed at the end. A file that a killed process left behind does not block anyone.

    Args:
        path: lock file; its folder must exist.
        on_wait: called once if another process holds the lock.

    Raises:
        UserError: the file system does not support locks, or ``path`` is a file of the user: lock files are empty.
        OSError: the lock file cannot be created.
    """
    if path.is_symlink() or (path.exists() and (not path.is_file() or path.stat().st_size)):
        raise UserError(f"{path}: already exists and is not a lock file. Move it or pass a different --out")
    path.touch()  # raises the reason at once; filelock would retry forever
    is_locked(path)  # raises if there are no locks here; filelock would use a marker file, which outlives its process
    lock = FileLock(path)
    with _explain_unsupported(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait:
                on_wait()
            lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: a waiting process notices and locks the new file
        lock.release()


def lock_until_exit(path: Path) -> None:
    """Hold a record lock on ``path`` until this process ends. Does nothing if this process holds it already.

    Raises:
        LockedError: another process holds it; the message is its process id and host.
        UserError: the file system does not support locks.
    """
    if path in _held:
        return
    file = path.open("a+")
    try:
        with _explain_unsupported(path):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
        file.seek(0)
        raise LockedError(file.read().strip()) from None
    file.truncate(0)
    file.write(f"{os.getpid()} on {platform.node()}")
    file.flush()
    _held[path] = file


def release(path: Path) -> None:
    """Release the lock of ``lock_until_exit`` on ``path``, if this process holds it, and delete the lock file."""
    file = _held.pop(path, None)
    if file is not None:
        path.unlink(missing_ok=True)
        file.close()


def lock_open_file(file: IO[Any]) -> None:
    """Lock an open file until it is closed here and in every process that inherited it.

    Raises:
        LockedError: another process holds the lock.
        UserError: the file system does not support locks.
    """
    try:
        with _explain_unsupported(file.name):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(str(file.name)) from None


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of ``lock_open_file`` on ``path``.

    Raises:
        UserError: the file system does not support locks.
    """
    try:
        with path.open() as file, _explain_unsupported(path):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def _explain_unsupported(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        raise UserError(
            f"{path}: this file system does not support file locks. Use a folder on a local disk, or mount the network "
            "file system with locks enabled (NFS: without `nolock`; Lustre: with `flock`)"
        ) from None
