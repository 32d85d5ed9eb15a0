"""Kill commands at random moments, run them again, and compare the result with an undisturbed run."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

OUTPUT = "output.txt"  # what a command prints, by ``warm.WarmParent``


def tree(folder):
    """Return every file and folder below ``folder`` with the bytes of files, without the command's output."""
    paths = [path for path in sorted(folder.rglob("*")) if path.name != OUTPUT]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def undisturbed(parent, args, folder):
    """Run a command and return its duration in seconds and the files that it wrote."""
    folder.mkdir()
    began = time.monotonic()
    finish(parent, args, folder)
    return time.monotonic() - began, tree(folder)


def finish(parent, args, folder):
    """Run a command to its end and check its exit code."""
    parent.start(args, folder)
    code = parent.wait()
    assert code == 0, (folder / OUTPUT).read_text()


def kill_a_worker(parent, args, folder, workers=1):
    """Start a command whose worker processes stop when they are forked, and kill one of ``workers``.

    A pool starts its workers one after the other, and Python itself fails if the first dies in between.
    """
    process = parent.start(args, folder, STOP_WORKERS="true")
    until = time.monotonic() + 200
    while len(stopped := _stopped_below(process)) < workers:
        assert time.monotonic() < until, f"{len(stopped)} workers\n{(folder / OUTPUT).read_text()}"
        time.sleep(0.01)
    os.kill(stopped[0], signal.SIGKILL)
    for other in stopped[1:]:
        os.kill(other, signal.SIGCONT)


def _stopped_below(process):
    """Return the stopped processes among the children of a process and their children."""
    with suppress(FileNotFoundError, ProcessLookupError):
        if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T":
            return [process]
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [found for child in children for found in _stopped_below(int(child))]
    return []


def kill(parent, args, folder, after):
    """Kill a command after some seconds, but not its children; return whether it was still running."""
    process = parent.start(args, folder)
    time.sleep(after)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return parent.wait() == -signal.SIGKILL


def differences(parent, args, folder, seconds, wanted, seed, kills):
    """Kill a command at random moments of its duration, ``kills`` times, then run it to its end.

    Returns:
        The number of kills that hit a running process, and the names of files that differ from ``wanted``.
    """
    folder.mkdir()
    generator = random.Random(seed)
    landed = sum(kill(parent, args, folder, generator.uniform(0, seconds)) for _ in range(kills))
    finish(parent, args, folder)
    found = tree(folder)
    return landed, sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
