"""Two commands that build the same artifact at the same time, as real processes."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.artifacts import exclusive
from support.filming import write_corpus
from support.killing import tree


@pytest.fixture
def command(tmp_path):
    """A command that extracts frames from a few videos, in one process."""
    for index in range(3):
        write_corpus(
            tmp_path, [("0:00", "M", "Look at that. It is a dog."), ("0:06", "Mom", "three")], f"V_{index}", count=90
        )
    words = ["curate", "frames", "--videos", "videos", "--transcripts", "transcripts", "--out", "new/store"]
    return [sys.executable, "-m", "babyvlm", *words, "--num_workers", "1"]


@contextmanager
def begun(command, folder):
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(found):
    until = time.monotonic() + 60
    while not found():
        assert time.monotonic() < until
        time.sleep(0.002)


@contextmanager
def one_stopped_and_one_waiting(command, folder):
    """Yield a first process that holds the lock and is stopped, and a second one that waits."""
    with begun(command, folder) as first:
        wait_for((folder / "new/store.partial").exists)  # created when the process holds the lock
        first.send_signal(signal.SIGSTOP)
        assert not (folder / "new/store").exists()
        with begun(command, folder) as second:
            line = next(line for line in second.stderr if "another process" in line)
            assert line == "new/store: another process is building it; waiting\n"
            yield first, second


def test_second_command_waits_and_skips(tmp_path, command):
    with one_stopped_and_one_waiting(command, tmp_path) as (first, second):
        time.sleep(0.5)
        assert second.poll() is None
        first.send_signal(signal.SIGCONT)
        assert first.wait(60) == second.wait(60) == 0
        assert "of 9 utterances" in first.stdout.read()
        assert second.stdout.read() == "new/store: already complete, skipping\n"
    assert sorted(path.name for path in tmp_path.glob("new/*")) == ["store", "store.frames.csv"]


def test_second_command_builds_after_first_is_killed(tmp_path, command):
    with one_stopped_and_one_waiting(command, tmp_path) as (first, second):
        first.kill()
        assert second.wait(60) == 0
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
