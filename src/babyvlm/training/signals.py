"""What a run makes of SIGTERM, SIGUSR1 and SIGUSR2, and how it asks SLURM for another turn."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import active_children
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class SignalNote:
    """Takes note of a signal and does nothing else: in training the state can only be saved between two batches.

    Args:
        at_once: called with a signal's number, it gives the exit code with which the process ends in that moment, as
            if it were killed. For where all that is on disk is whole at any time. An exception would not do: where it
            meets a fork or a destructor, Python drops it.

    Attributes:
        received: number of the last signal, 0 if there was none.
    """

    def __init__(self, at_once: Callable[[int], int] | None = None) -> None:
        self.at_once = at_once
        self.received = 0
        self._process = 0
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take the signals over."""
        self._process = os.getpid()
        self._before = {number: signal.signal(number, self._take_note) for number in SIGNALS}

    def _take_note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.at_once is not None and os.getpid() == self._process:  # a loader's worker inherits the handler
            code = 128 + number
            try:
                code = self.at_once(number)
                for worker in active_children():
                    worker.terminate()
                sys.stdout.flush()
            finally:
                os._exit(code)

    def give_back(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def end(received: int, how: str, may_requeue: bool) -> int:
    """Say that a signal ends the run, ask for another turn if it may have one; the exit code.

    Call this on the first rank. The others end with 0: Lightning kills the first if one that it started fails.
    """
    print(f"{signal.Signals(received).name}: {how}", file=sys.stderr)
    return exit_code(received, may_requeue and received != signal.SIGTERM and requeue())


def exit_code(received: int, requeued: bool) -> int:
    """143 on SIGTERM, 0 where SLURM runs the job again, else 128 + the signal's number."""
    return 0 if requeued and received != signal.SIGTERM else 128 + received


def requeue() -> bool:
    """Ask SLURM to run this job, or this task of an array, again; true if it will. Why not is told."""
    job = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    if job is None:
        return False
    if not re.fullmatch(r"\d+(_\d+)?", job):
        print(f"not requeued: {job!r} names no SLURM job", file=sys.stderr)
        return False
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"not requeued: scontrol cannot be run ({error})", file=sys.stderr)
        return False
    if done.returncode:
        print(f"not requeued: scontrol says {done.stderr.strip() or done.returncode}", file=sys.stderr)
    return done.returncode == 0
