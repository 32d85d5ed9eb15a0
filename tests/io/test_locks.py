"""Locks, held by real processes."""

import errno
import fcntl
import subprocess
import sys

import pytest

from babyvlm.errors import UserError
from babyvlm.io.locks import LockedError, exclusive_lock, is_locked, lock_open_file, lock_until_exit

HOLD = {
    "exclusive_lock": "stack.enter_context(locks.exclusive_lock(path))",
    "lock_until_exit": "locks.lock_until_exit(path)",
    "lock_open_file": "file = path.open('a'); locks.lock_open_file(file)",
}

CHILD = "if os.fork() == 0: sys.stdin.read(); os._exit(0)"  # ends with the test, which closes its input


@pytest.fixture
def holder(tmp_path):
    """``holder(kind)``: a process that holds a lock on ``tmp_path / "lock"`` until it is killed."""
    processes = []

    def start(kind, then=""):
        code = (
            "import contextlib, os, pathlib, sys, time\nfrom babyvlm.io import locks\nstack = contextlib.ExitStack()\n"
            f"path = pathlib.Path({str(tmp_path / 'lock')!r})\n{HOLD[kind]}\n{then}\nprint('held', flush=True)\n"
            "time.sleep(300)\n"
        )
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_exclusive_lock_waits_until_holder_is_killed(holder, tmp_path):
    process, waited = holder("exclusive_lock"), []

    def on_wait():
        waited.append(process.poll())
        process.kill()

    with exclusive_lock(tmp_path / "lock", on_wait):
        assert process.wait(60) != 0
    assert waited == [None]
    assert list(tmp_path.iterdir()) == []


def test_exclusive_lock_ignores_leftover_file(tmp_path):
    (tmp_path / "lock").touch()
    with exclusive_lock(tmp_path / "lock", lambda: pytest.fail("waited")):
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_lock_until_exit_names_holder_and_is_free_after_kill(holder, tmp_path):
    process = holder("lock_until_exit")
    with pytest.raises(LockedError, match=rf"^{process.pid} on "):
        lock_until_exit(tmp_path / "lock")
    process.kill()
    process.wait(60)
    lock_until_exit(tmp_path / "lock")
    lock_until_exit(tmp_path / "lock")  # this process holds it already


def test_lock_until_exit_is_not_inherited_by_forked_child(holder, tmp_path):
    process = holder("lock_until_exit", CHILD)
    process.kill()
    process.wait(60)
    lock_until_exit(tmp_path / "lock")  # although the child still runs


def test_lock_open_file_is_inherited_by_forked_child(holder, tmp_path):
    process = holder("lock_open_file", CHILD)
    with (tmp_path / "lock").open("a") as file, pytest.raises(LockedError):
        lock_open_file(file)
    assert is_locked(tmp_path / "lock")
    process.kill()
    process.wait(60)
    assert is_locked(tmp_path / "lock")  # by the child


def test_is_locked_without_holder(tmp_path):
    assert not is_locked(tmp_path / "lock")
    with (tmp_path / "lock").open("a") as file:
        lock_open_file(file)
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_locks_explain_file_system_without_locks(tmp_path, monkeypatch, number):
    def unsupported(*_):
        raise OSError(number, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    monkeypatch.setattr(fcntl, "lockf", unsupported)
    (tmp_path / "lock").touch()
    for lock in (
        lambda: exclusive_lock(tmp_path / "lock").__enter__(),
        lambda: lock_until_exit(tmp_path / "lock"),
        lambda: is_locked(tmp_path / "lock"),
    ):
        with pytest.raises(UserError, match="this file system does not support file locks"):
            lock()
