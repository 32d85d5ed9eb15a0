"""The state of a run of the matrix, as found on disk."""

from __future__ import annotations

import csv
import json
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from babyvlm.ablations.plan import PlannedRun, changed_settings, settings_hash
from babyvlm.errors import first_line
from babyvlm.io.files import atomic_write, read_bounded
from babyvlm.io.limits import MAX_JSON_BYTES, load_json
from babyvlm.io.locks import LockedError, is_locked, lock_open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RECORD = "ablation.json"  # in a run's folder: its settings, and the reason if it failed
FINISHED = "finished"  # written by the command line after training and tests
MAX_CHANGED = 3  # names of changed settings in a message
POLL_SECONDS = 0.5
MAX_DIGITS = 19  # of a number of steps


@dataclass(frozen=True)
class State:
    """State of a run.

    Attributes:
        status: ``stale``: the folder holds a run with other settings; ``interrupted``: the run resumes when the command
            is called again.
        detail: progress, reason of the failure, or changed settings.
    """

    status: Literal["done", "running", "failed", "interrupted", "stale", "missing"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.detail}" if self.detail else self.status


def state_of(run: PlannedRun) -> State:
    """Return the state of a run."""
    try:
        record = _read_record(run.folder / RECORD)
    except FileNotFoundError:
        is_other_run = (run.folder / "config.yaml").is_file()
        return State("stale", "the folder holds a run that is not of this matrix") if is_other_run else State("missing")
    except (OSError, ValueError) as error:
        return State("stale", f"{RECORD} cannot be read ({first_line(error)})")
    if settings_hash(record["settings"]) != run.hash:
        changed = changed_settings(run.settings, record["settings"])
        more = f" and {len(changed) - MAX_CHANGED} more" if len(changed) > MAX_CHANGED else ""
        return State("stale", f"different {', '.join(changed[:MAX_CHANGED])}{more}")
    if (run.folder / FINISHED).is_file():
        return State("done")
    if is_running(run):
        return State("running", _progress(run))
    return State("failed", str(record["failed"])) if "failed" in record else State("interrupted", _progress(run))


def _read_record(file: Path) -> dict[str, Any]:
    """Return what ``record_settings`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    record = load_json(read_bounded(file, MAX_JSON_BYTES))
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise ValueError("it has no settings")
    return record


def record_settings(run: PlannedRun, failure: str = "") -> None:
    """Write a run's settings, and the reason if it failed, to its folder."""
    run.folder.mkdir(parents=True, exist_ok=True)
    record = {"step": run.name, "settings": run.settings} | ({"failed": failure} if failure else {})
    with atomic_write(run.folder / RECORD) as file:
        json.dump(record, file, indent=2, sort_keys=True, default=str)
        file.write("\n")


def log_file(run: PlannedRun) -> Path:
    """Return the file that the output of a run's process is written to."""
    return run.folder / "log.txt"


def last_log_lines(run: PlannedRun, count: int) -> list[str]:
    """Return the last lines of a run's log, without blank lines."""
    file = log_file(run)
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    return [line.rstrip() for line in lines if line.strip()][-count:]


def metrics_changed_at(run: PlannedRun) -> float:
    """Return the time of the last change of a run's metrics; 0 if there are none."""
    file = run.folder / "metrics.csv"
    return file.stat().st_mtime if file.is_file() else 0.0


def steps_done(run: PlannedRun) -> int:
    """Return the number of training steps that a run has logged."""
    file = run.folder / "metrics.csv"
    done = 0
    with suppress(OSError, csv.Error):  # it is being written, or damaged; the number is for people
        for row in csv.DictReader(file.read_text(errors="replace").splitlines()):
            step = row.get("step") or ""
            done = max(done, int(step) + 1 if step.isdecimal() and len(step) < MAX_DIGITS else 0)
    return done


def total_steps(run: PlannedRun) -> int | None:
    """Return the number of training steps of a run; None if its config does not set one."""
    steps = (run.settings["config"].get("trainer") or {}).get("max_steps", -1)
    return int(steps) if isinstance(steps, int) and steps > 0 else None


def is_running(run: PlannedRun) -> bool:
    """Return whether a process has locked a run."""
    return is_locked(_lock_file(run))


@contextmanager
def locked(run: PlannedRun, on_wait: Callable[[], None]) -> Iterator[int]:
    """Lock a run for this process; wait while another process has locked it.

    Args:
        run: the run.
        on_wait: called twice per second while another process has the lock; an exception that it raises ends the wait.

    Yields:
        The descriptor of the lock file. A child process that inherits it keeps the lock until the last of these
        processes ends, however it ends.
    """
    path = _lock_file(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        while True:
            try:
                lock_open_file(file)
                break
            except LockedError:
                on_wait()
                time.sleep(POLL_SECONDS)
        yield file.fileno()


def _lock_file(run: PlannedRun) -> Path:
    return run.folder.with_name(f".{run.folder.name}.lock")


def _progress(run: PlannedRun) -> str:
    total = total_steps(run)
    return f"{run.name}, step {steps_done(run):,}" + (f" of {total:,}" if total else "")
