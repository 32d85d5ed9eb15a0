"""The command line: help, unknown commands, and errors of the machine."""

import errno
import subprocess
import sys

import pytest
from torch import distributed

from babyvlm.__main__ import main
from babyvlm.cli.main import _is_first_to_report
from support.ranks import on_ranks


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied")])
def test_main_reports_disk_errors_in_one_line(monkeypatch, tmp_path, capsys, number, words):
    def refuse(*_, **__):
        raise OSError(number, words, str(tmp_path / "world"))

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with pytest.raises(SystemExit) as end:
        main(["playroom", "--out", str(tmp_path / "world"), "--size", "tiny"])
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'world'}: ")
    assert words in last


def test_main_reports_full_disk_in_one_line(tmp_path):
    """A real one: /dev/full refuses every byte."""
    code = (
        "from babyvlm.cli import main as m\n"
        "m.run = lambda args: open('/dev/full', 'w', buffering=1).write('x\\n')\n"
        "m.main(['store'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_main_ends_silently_if_pipe_is_closed():
    code = (
        "from babyvlm.cli import main as m\n"
        "m.run = lambda args: [print(number) for number in range(100_000)]\n"
        "m.main(['store'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_main_lists_commands_after_unknown_one(capsys):
    with pytest.raises(SystemExit) as end:
        main(["fitt"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fitt" in line
    assert all(command in line for command in ("fit,", "resume", "report", "curate"))


@pytest.mark.parametrize(("args", "words"), [([], "curate"), (["--version"], "0.")])
def test_main_shows_help_without_arguments(args, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("failing", [[0, 1, 2], [1, 2], [2]])
def test_error_of_connected_ranks_is_printed_by_one_of_them(tmp_path, failing):
    def work(rank):
        distributed.barrier()  # all are connected, until all have asked
        prints = rank in failing and _is_first_to_report()
        distributed.barrier()
        return prints

    printed = on_ranks(3, work, tmp_path)
    assert sorted(printed) == [False, False, True]


@pytest.mark.parametrize("rank", [0, 1])
def test_error_before_ranks_are_connected_is_printed_by_the_first(monkeypatch, capsys, rank):
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    with pytest.raises(SystemExit) as end:
        main(["store", "info", "--store", "missing"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("error: ") == (rank == 0)
