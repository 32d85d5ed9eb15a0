"""Start ``python -m babyvlm ARGS`` in 0.1 s: a server process with everything imported forks one process per request.

The client, ``forking.py SOCKET python -m babyvlm ARGS``, stands for the command: it passes signals on and exits with
its exit code. Each command's process id is appended to ``pids.txt`` in its working directory.
"""

import json
import os
import signal
import socket
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # this file is also a script

from support.warm import end_as, start_server

MODULES = [
    "cli.lightning",
    "benchmarks",
    "data.pair_mix",
    "data.text_mix",
    "models.babyllava",
    "models.cvcl",
    "models.language",
]
MODULES += ["models.zero_shot", "ablations.runner"]
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def server(folder, first=()):
    """Run a server; yield the command prefix that starts commands by it.

    Args:
        folder: for its socket.
        first: command that it runs in ``folder`` before all others, which find caches filled and are a third faster.
    """
    address = str(folder / "socket")
    process, _ = start_server(_serve, folder, address, first)
    yield [sys.executable, __file__, address]
    process.terminate()
    process.join(60)


def started(folder, *commands):
    """Return the process ids of commands that were started in a folder."""
    lines = [line.split() for line in (folder / "pids.txt").read_text().splitlines()]
    return [int(number) for number, command in lines if command in commands]


def _serve(ready, folder, address, first):
    from babyvlm.__main__ import main

    for module in MODULES:
        import_module(f"babyvlm.{module}")
    os.chdir(folder)
    if first:
        with redirect_stdout(sys.stderr):
            main(first)
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    ready.send("ready")
    while True:
        connection, _ = listener.accept()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the parents of commands
        if os.fork() == 0:
            listener.close()
            _supervise(connection, main)
        connection.close()


def _supervise(connection, main):
    """Run one command in a child process and report its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, output, _, _ = socket.recv_fds(connection, 1 << 20, 2)
    if not message:  # the client was killed
        os._exit(0)
    job = json.loads(message)
    child = os.fork()
    if child == 0:
        connection.close()
        _run(job, output, main)
    with Path(job["folder"], "pids.txt").open("a") as file:
        file.write(f"{child} {job['args'][0]}\n")
    with suppress(BrokenPipeError):
        connection.send(str(child).encode())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.send(str(code).encode())
    os._exit(0)


def _run(job, output, main):
    os.dup2(output[0], 1)
    os.dup2(output[1], 2)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    end_as(main, job["args"])


def _request(address, args):
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        job = {"args": args, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(job).encode()], [1, 2])
        child = int(connection.recv(64))
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: os.kill(child, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        code = int(connection.recv(64))
    if code < 0:
        if -code in PASSED_ON:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    _request(sys.argv[1], sys.argv[sys.argv.index("babyvlm") + 1 :])
