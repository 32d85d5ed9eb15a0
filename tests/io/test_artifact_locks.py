"""Two commands that build the same artifact at the same time, as real processes."""

import multiprocessing
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.artifacts import exclusive
from support.filming import write_corpus
from support.killing import tree
from support.warm import run_here

WAITING = "new/store: another process is building it; waiting"


@pytest.fixture
def command(tmp_path):
    """A command that extracts frames from a few videos, in one process."""
    for index in range(3):
        write_corpus(
            tmp_path, [("0:00", "M", "Look at that. It is a dog."), ("0:06", "Mom", "three")], f"V_{index}", count=90
        )
    words = ["curate", "frames", "--videos", "videos", "--transcripts", "transcripts", "--out", "new/store"]
    return [*words, "--profile", "playroom", "--num_workers", "1"]  # a profile that does not load spaCy


@contextmanager
def begun(command, folder, name):
    """A process that runs a command, and the files of its output and its errors."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([])  # and what `conftest` adds
    files = folder / f"{name}.out", folder / f"{name}.err"
    process = context.Process(target=run_here, args=(command, folder, *files))
    process.start()
    try:
        yield process, *files
    finally:
        process.kill()
        process.join()


def wait_for(found):
    until = time.monotonic() + 200
    while not found():
        assert time.monotonic() < until
        time.sleep(0.002)


@contextmanager
def one_stopped_and_one_waiting(command, folder):
    """Yield a first process that holds the lock and is stopped, and a second one that waits."""
    with begun(command, folder, "first") as first:
        wait_for((folder / "new/store.partial").exists)  # created when the process holds the lock
        os.kill(first[0].pid, signal.SIGSTOP)
        assert not (folder / "new/store").exists()
        with begun(command, folder, "second") as second:
            wait_for(lambda: second[2].exists() and "waiting\n" in second[2].read_text())
            assert second[2].read_text().splitlines()[-1] == WAITING
            yield first, second


def test_second_command_waits_and_skips(tmp_path, command):
    with one_stopped_and_one_waiting(command, tmp_path) as (first, second):
        time.sleep(0.5)
        assert second[0].is_alive()
        os.kill(first[0].pid, signal.SIGCONT)
        for process, *_ in (first, second):
            process.join(200)
            assert process.exitcode == 0
        assert "of 9 utterances" in first[1].read_text()
        assert second[1].read_text() == "new/store: already complete, skipping\n"
    assert sorted(path.name for path in tmp_path.glob("new/*")) == ["store", "store.frames.csv"]


def test_second_command_builds_after_first_is_killed(tmp_path, command):
    with one_stopped_and_one_waiting(command, tmp_path) as (first, second):
        first[0].kill()
        second[0].join(200)
        assert second[0].exitcode == 0
    assert PairStore(tmp_path / "new/store").manifest["funnel"]["kept"] == 9
    assert sorted(path.name for path in tmp_path.glob("new/*")) == ["store", "store.frames.csv"]


def test_exclusive_ignores_and_removes_leftover_lock_file(tmp_path, capsys):
    (tmp_path / "store.lock").touch()
    with exclusive(tmp_path / "store"):
        assert (tmp_path / "store.lock").exists()
    assert tree(tmp_path) == {}
    assert not capsys.readouterr().err


def test_exclusive_releases_lock_after_error(tmp_path):
    with pytest.raises(ValueError, match="mine"), exclusive(tmp_path / "store"):
        raise ValueError("mine")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file/store", r"file/store: cannot be written \(.*file: (File exists|Not a directory)\)"),
        ("/proc/store", r"/proc/store: cannot be written \(/proc/store.lock: No such file or directory\)"),
        ("", "not a valid output folder"),
        (".", "not a valid output folder"),
        ("/", "not a valid output folder"),
        ("store/..", "not a valid output folder"),
    ],
)
def test_exclusive_reports_unwritable_output_in_one_line(tmp_path, monkeypatch, out, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message), exclusive(Path(out)):
        pass
    assert list(tree(tmp_path)) == ["file"]
