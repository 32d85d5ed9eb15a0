"""Jobs on this machine: their order, their output, failures, and signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from babyvlm.workflow import local
from babyvlm.workflow.corpus import Job, Resources
from babyvlm.workflow.local import run_jobs

WAIT = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)\n"
TOUCH = "import pathlib, sys\npathlib.Path(sys.argv[2]).touch()\n"


@pytest.fixture(autouse=True)
def _python(tmp_path, monkeypatch):
    """``python -m babyvlm CODE`` runs the code, in the processes that the test starts."""
    package = tmp_path / "path" / "babyvlm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys\nexec(sys.argv[1])\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(local, "available_cores", lambda: 2)


def job(name, needs, code, *words):
    return Job(name, (code, *map(str, words)), tuple(f"{need}-0" for need in needs), Resources())


def record(name, file):
    """Return code that adds a job's start and end to a file."""
    line = f"print({name!r}, flush=True, file=open({str(file)!r}, 'a'))\n"
    return f"import time\n{line}time.sleep(0.3)\n{line}"


def test_jobs_run_beside_each_other_when_those_that_they_need_are_complete(tmp_path, capfd):
    mark = tmp_path / "mark"
    run_jobs(
        [
            job("first", [], "print('a')"),
            job("waits", ["first"], WAIT + "print('b')", mark),  # ends only after the next one
            job("touches", ["first"], TOUCH + "print('c', file=sys.stderr)", mark),
            job("last", ["waits", "touches"], "print('d')"),
        ]
    )
    lines = [line for line in capfd.readouterr().out.splitlines() if len(line) == 1]
    assert lines[0] == "a"
    assert {*lines[1:3]} == {"b", "c"}
    assert lines[3] == "d"


def test_not_more_jobs_at_a_time_than_cores_and_in_the_order_given(tmp_path):
    file = tmp_path / "log"
    run_jobs([job(name, [], record(name, file)) for name in ("a", "b", "c")])
    lines = file.read_text().split()
    assert {*lines[:2]} == {"a", "b"}
    assert lines.index("c") > min(lines.index(name, lines.index(name) + 1) for name in ("a", "b"))


def test_job_beside_others_has_its_share_of_the_cores(monkeypatch, capfd):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "available_cores", lambda: 8)
    code = "import os; print('threads', os.environ.get('OMP_NUM_THREADS'))"
    run_jobs([job("alone", [], code), job("one", ["alone"], code), job("two", ["alone"], code)])
    shown = [line for line in capfd.readouterr().out.splitlines() if line.startswith("threads")]
    assert shown == ["threads None", "threads 4", "threads 4"]


def test_failure_ends_the_jobs_beside_it_and_starts_no_more(tmp_path, capfd):
    pid, never = tmp_path / "pid", tmp_path / "never"
    sleep = "import os, pathlib, sys, time\npathlib.Path(sys.argv[2]).write_text(str(os.getpid()))\ntime.sleep(600)"
    with pytest.raises(SystemExit) as end:
        run_jobs(
            [
                job("fails", [], WAIT + "print('why')\nexit(2)", pid),
                job("sleeps", [], sleep, pid),
                job("needs", ["fails"], TOUCH, never),
            ]
        )
    assert end.value.code == 2
    assert "why" in capfd.readouterr().out
    assert not Path("/proc", pid.read_text()).exists()
    assert not never.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_all_jobs(tmp_path, number):
    pids = tmp_path / "pids"
    pids.mkdir()
    program = "import os, pathlib, sys, time\npathlib.Path(sys.argv[2], str(os.getpid())).touch()\ntime.sleep(600)"
    code = (
        "from babyvlm.workflow import local\n"
        "from babyvlm.workflow.corpus import Job, Resources\n"
        "local.available_cores = lambda: 2\n"
        f"local.run_jobs([Job('job', ({program!r}, {str(pids)!r}), (), Resources(), n) for n in range(2)])"
    )
    source = Path(local.__file__).parents[2]
    # The package of this process comes after that of its jobs, so that the process imports it by a path of its own.
    start = f"import sys\nsys.path.insert(0, {str(source)!r})\n{code}"
    parent = subprocess.Popen([sys.executable, "-c", start], start_new_session=True)
    while len(running := [path.name for path in pids.iterdir()]) < 2:
        assert parent.poll() is None
        time.sleep(0.01)
    os.killpg(parent.pid, number) if number == signal.SIGINT else parent.send_signal(number)  # Ctrl-C goes to the group
    assert parent.wait(60) not in {0, -number}
    assert not any(Path("/proc", pid).exists() for pid in running)


def test_one_core_runs_one_job_at_a_time_and_shows_it_as_it_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(local, "available_cores", lambda: 1)
    file = tmp_path / "log"
    run_jobs([job(name, [], record(name, file)) for name in ("a", "b")])
    assert file.read_text().split() == ["a", "a", "b", "b"]
    assert capfd.readouterr().out.count("$ python -m babyvlm") == 2
