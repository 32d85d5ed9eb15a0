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


def kill_a_worker(process):
    """Kill the first worker process of ``process`` that appears, forked by a server or by itself."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        commands = {child: _command(child) for child in _children(process)}
        servers = [child for child, command in commands.items() if b"forkserver" in command]
        # Two workers of a pool start one after the other; Python itself fails if the first dies in between.
        workers = [child for child in _children(servers[0]) if _age(child) > 0.05] if servers else []
        # For a moment, a process that becomes a fork server looks like a forked worker.
        workers += [child for child, command in commands.items() if command == _command(process) and _age(child) > 0.3]
        if workers:
            return os.kill(workers[0], signal.SIGKILL)
        time.sleep(0.001)
    raise AssertionError("no worker appeared")


def _age(process):
    with suppress(FileNotFoundError, ProcessLookupError):
        begun = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - begun / os.sysconf("SC_CLK_TCK")
    return 0


def _children(process):
    listed = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def _command(process):
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


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
