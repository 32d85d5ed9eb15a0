"""A parent process that has imported everything and forks a child for each command: 0.05 s instead of 12 s."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path


class WarmParent:
    """Start ``python -m babyvlm ARGS`` many times, each in its own process, which can be killed."""

    def __init__(self, *modules, first=(), folder=None):
        """Import ``modules`` once, in addition to the command line.

        Args:
            modules: their names.
            first: command that the parent runs itself before all others, which find caches filled and are much faster.
            folder: where it runs.
        """
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps([modules, first])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )
        assert self._process.stdout.readline() == "ready\n"

    def start(self, args, folder, **environment):
        """Start a command in a folder and return its process id. Its output goes to ``output.txt`` there."""
        job = {"args": [str(arg) for arg in args], "folder": str(folder), "environment": environment}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self):
        """Return the exit code of the last command, or minus the number of the signal that ended it."""
        return int(self._process.stdout.readline())

    def close(self):
        """Stop the parent."""
        self._process.stdin.close()
        self._process.wait(60)


def _serve():
    from babyvlm.cli.main import COMMANDS, load_function, main

    modules, first = json.loads(sys.argv[1])
    for module in modules:
        import_module(module)
    for name in COMMANDS:
        load_function(name)
    if first:
        with redirect_stdout(sys.stderr):
            main(first)
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(job)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _stop_workers():
    """Stop this process if it is a worker, or else those that are forked (see ``killing.kill_a_worker``)."""
    if "STOP_WORKERS" not in os.environ:
        return
    if multiprocessing.current_process().name == "MainProcess":
        os.register_at_fork(after_in_child=_stop)
    else:
        _stop()


def _stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def _run(job):
    os.environ.update(job["environment"])
    _stop_workers()
    run_here(job["args"], job["folder"], *[Path(job["folder"]) / "output.txt"] * 2)


def run_here(args, folder, output, errors):
    """Run a command in this process, in a folder, with its output appended to files, and exit."""
    from babyvlm.cli.main import main

    for number, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(folder)
    end_as(main, args)


def end_as(main, args):
    """Run a command in this process and exit as the command would."""
    code = 1
    try:
        main(args)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_stop_workers()  # this file is also the main module of a command's workers
if __name__ == "__main__":
    _serve()
