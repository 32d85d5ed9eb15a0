"""Commands as real processes that are killed at random moments and run again, compared with one that was left alone."""

import os
import random
import signal
import time
from contextlib import suppress

OUTPUT = "output.txt"  # what a command prints, by ``warm.WarmParent``


def tree(folder):
    """Every file and folder below ``folder``, with the bytes of files; what was printed is left out."""
    paths = [path for path in sorted(folder.rglob("*")) if path.name != OUTPUT]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def undisturbed(parent, args, folder):
    """Run a command; the seconds it took and what it left."""
    folder.mkdir()
    began = time.monotonic()
    finish(parent, args, folder)
    return time.monotonic() - began, tree(folder)


def finish(parent, args, folder):
    """Run a command to its end."""
    parent.start(args, folder)
    code = parent.wait()
    assert code == 0, (folder / OUTPUT).read_text()


def kill(parent, args, folder, after):
    """Run a command and end it after some seconds, its children by themselves; whether the kill found it alive."""
    process = parent.start(args, folder)
    time.sleep(after)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return parent.wait() == -signal.SIGKILL


def differences(parent, args, folder, seconds, wanted, seed, kills):
    """Kill a command at so many random moments of its time, one after another, then let it end.

    Returns:
        How many kills found it alive, and the names of what differs from ``wanted``.
    """
    folder.mkdir()
    generator = random.Random(seed)
    landed = sum(kill(parent, args, folder, generator.uniform(0, seconds)) for _ in range(kills))
    finish(parent, args, folder)
    found = tree(folder)
    return landed, sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
