"""How a run handles Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2, and how it asks SLURM to requeue the job."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children
from types import FrameType
from typing import Any

from babyvlm.io.printing import echo

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
SAME_PRESS_SECONDS = 1  # a terminal and a launcher may both pass on one Ctrl-C


class SignalListener:
    """Record a signal and do nothing else: during training the state can only be saved between two batches.

    Args:
        on_signal: called with a signal's number, returns the exit code with which the process ends immediately, as if
            it were killed. For phases in which everything on disk is complete at any time. An exception would not do:
            Python drops it if it is raised during a fork or in a destructor.
        interrupt: also record SIGINT (Ctrl-C), unless this process ignores it, as background processes of a shell do.
            A second one ends the process.

    Attributes:
        received: number of the last signal, 0 if there was none.
    """

    def __init__(self, on_signal: Callable[[int], int] | None = None, *, interrupt: bool = False) -> None:
        self.on_signal, self.interrupt = on_signal, interrupt
        self.received = 0
        self._process, self._interrupted_at = 0, 0.0
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Install the handlers. In a thread, which Python lets handle no signals, they keep their effect."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._process = os.getpid()
        interrupt = self.interrupt and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        handled = [*SIGNALS, *([signal.SIGINT] if interrupt else [])]
        self._previous = {number: signal.signal(number, self._handle) for number in handled}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # loader workers inherit the handler
            return
        if number == signal.SIGINT and self.on_signal is None:
            if self.received == number:
                if time.monotonic() - self._interrupted_at > SAME_PRESS_SECONDS:
                    os._exit(128 + number)
                return
            self._interrupted_at = time.monotonic()
            os.write(2, b"\nInterrupting after this step. Press Ctrl-C again to end without saving.\n")
        self.received = number
        if self.on_signal is not None:
            code = 128 + number
            try:
                code = self.on_signal(number)
                for worker in active_children():
                    worker.terminate()
                sys.stdout.flush()
            finally:
                os._exit(code)

    def restore(self) -> None:
        """Reinstall the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def report_end(received: int, state: str, may_requeue: bool) -> int:
    """Print that a signal ended the run, ask SLURM to requeue it if allowed, and return the exit code.

    Call this on the first rank. The others exit with 0: Lightning kills the first rank if one that it started fails.
    """
    echo(f"{signal.Signals(received).name}: {state}", file=sys.stderr)
    return exit_code(received, may_requeue and asks_to_requeue(received) and requeue())


def exit_code(received: int, requeued: bool) -> int:
    """Return 0 if SLURM requeues the job, otherwise 128 + the signal's number: 143 after SIGTERM, 130 after Ctrl-C."""
    return 0 if requeued else 128 + received


def asks_to_requeue(received: int) -> bool:
    """Return whether a signal asks to continue the job later: SIGTERM does if SLURM preempts it, and Ctrl-C never."""
    return received in (signal.SIGUSR1, signal.SIGUSR2) or (received == signal.SIGTERM and _is_preempted())


def _is_preempted() -> bool:
    """Return whether SLURM ends this job in favor of another one; `scancel` sends the same signal."""
    job = _slurm_job()
    if job is None:
        return False
    try:
        command = ["scontrol", "show", "job", job]
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.search(r"\bPreemptTime=(\S+)", shown)
    return found is not None and found[1] not in ("None", "N/A", "Unknown")


def _slurm_job() -> str | None:
    """Return the number of this SLURM job or array task; None outside SLURM."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return os.environ.get("SLURM_JOB_ID")


def requeue() -> bool:
    """Ask SLURM to requeue this job or array task; return whether it will. The reason for a failure is printed."""
    job = _slurm_job()
    if job is None:
        return False
    if not re.fullmatch(r"\d+(_\d+)?", job):
        echo(f"not requeued: {job!r} is not the number of a SLURM job", file=sys.stderr)
        return False
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        echo(f"not requeued: scontrol cannot be run ({error})", file=sys.stderr)
        return False
    if done.returncode:
        echo(f"not requeued: scontrol failed: {done.stderr.strip() or done.returncode}", file=sys.stderr)
    return done.returncode == 0
