"""Programs that run at the same time: their output, failures, and signals."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from babyvlm.io.processes import available_cores, run_together


def python(code):
    return [sys.executable, "-c", code]


def test_output_is_shown_in_order_of_programs_that_ran_at_the_same_time(tmp_path):
    shown = []
    wait = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\nprint('first')"
    touch = "import pathlib, sys\npathlib.Path(sys.argv[1]).touch()\nprint('second', file=sys.stderr)"
    file = str(tmp_path / "done")  # the first one ends only after the second
    assert run_together([[*python(wait), file], [*python(touch), file]], shown.append) == 0
    assert shown == ["first\n", "second\n"]


def test_programs_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shown = []
    program = python("import os; print(os.environ['OMP_NUM_THREADS'])")
    assert run_together([program] * 2, shown.append) == 0
    assert shown == [f"{max(1, available_cores() // 2)}\n"] * 2


def test_failure_ends_later_programs(tmp_path):
    shown, pid = [], tmp_path / "pid"
    sleep = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    fail = f"import pathlib, time\nwhile not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.01)\nexit(2)"
    assert run_together([python(fail), python(sleep)], shown.append) == 2
    assert shown == [""]
    assert not Path("/proc", pid.read_text()).exists()


def test_signals_are_passed_to_all_programs(tmp_path):
    program = (
        f"import os, pathlib, sys, time\npathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\ntime.sleep(600)"
    )
    code = (
        "import sys\n"
        "from babyvlm.io.processes import run_together\n"
        f"sys.exit(run_together([[sys.executable, '-c', {program!r}]] * 2, print))"
    )
    parent = subprocess.Popen(python(code))
    while len(pids := [path.name for path in tmp_path.iterdir()]) < 2:
        time.sleep(0.01)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(60) == 128 + signal.SIGTERM
    assert not any(Path("/proc", pid).exists() for pid in pids)
