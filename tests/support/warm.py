"""A parent process that has imported everything and forks a child for each command: 0.05 s instead of 12 s."""

import multiprocessing
import os
import signal
import sys
from contextlib import redirect_stdout, suppress
from importlib import import_module
from multiprocessing import forkserver, resource_tracker
from pathlib import Path


def start_server(serve, *args):
    """Start ``serve(connection, *args)`` in a process of which commands are forked, and wait for its first message.

    It is forked itself, from the fork server of the tests, which has imported everything (see ``conftest.py``).

    Returns:
        The process, and the other end of the connection.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([])  # and what `conftest` adds
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_as_main, args=(serve, theirs, dict(os.environ), *args))
    process.start()
    theirs.close()
    assert ours.recv() == "ready"
    return process, ours


def _serve_as_main(serve, connection, environment, *args):
    become_main(environment)
    serve(connection, *args)


def become_main(environment):
    """Forget the fork server: this process becomes a main process, and the workers that it starts are its own."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [__file__]
    sys.modules["__main__"] = sys.modules[__name__]
    multiprocessing.set_start_method(None, force=True)  # the platform's own
    multiprocessing.current_process().name = "MainProcess"
    multiprocessing.process._parent_process = None
    forkserver._forkserver.__init__()
    resource_tracker._resource_tracker.__init__()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background processes


class WarmParent:
    """Start ``python -m babyvlm ARGS`` many times, each in its own process, which can be killed."""

    def __init__(self, *modules, first=(), folder=None):
        """Import ``modules``, in addition to the command line.

        Args:
            modules: their names.
            first: command that the parent runs itself before all others, which find caches filled and are much faster.
            folder: where it runs.
        """
        self._process, self._connection = start_server(_serve, modules, first, folder)

    def start(self, args, folder, **environment):
        """Start a command in a folder and return its process id. Its output goes to ``output.txt`` there."""
        self._connection.send({"args": [str(arg) for arg in args], "folder": str(folder), "environment": environment})
        return self._connection.recv()

    def wait(self):
        """Return the exit code of the last command, or minus the number of the signal that ended it."""
        return self._connection.recv()

    def close(self):
        """Stop the parent."""
        self._connection.close()
        self._process.join(60)


def _serve(connection, modules, first, folder):
    from babyvlm.cli.main import COMMANDS, load_function, main

    for module in modules:
        import_module(module)
    for name in COMMANDS:
        load_function(name)
    if first:
        os.chdir(folder)
        with redirect_stdout(sys.stderr):
            main(first)
    connection.send("ready")
    with suppress(EOFError):
        while True:
            job = connection.recv()
            child = os.fork()
            if child == 0:
                connection.close()
                _run(job)
            connection.send(child)
            connection.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


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


_stop_workers()  # this module is also the main module of a command's workers
