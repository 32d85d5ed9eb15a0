"""How far a run of the matrix is, by what is on disk."""

from __future__ import annotations

import csv
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from babyvlm.ablations.plan import Run, differences, settings_hash
from babyvlm.io.files import atomic_write
from babyvlm.io.locks import LockedError, is_locked, lock_open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RECORD = "ablation.json"  # in a run's folder: its settings, and why it failed if it did
FINISHED = "finished"  # written by the command line when all is done
SHOWN = 3  # names of changed settings


@dataclass(frozen=True)
class State:
    """Of a run.

    Attributes:
        word: what there is of it. ``stale``: there is one with other settings. ``interrupted``: it goes on when it is
            called again.
        detail: how far it is, why it failed, what differs.
    """

    word: Literal["done", "running", "failed", "interrupted", "stale", "missing"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.word}: {self.detail}" if self.detail else self.word


def state_of(run: Run) -> State:
    """How far a run is."""
    record = _record(run)
    if record is None:
        by_hand = (run.folder / "config.yaml").is_file()
        return State("stale", "a run that is not of this matrix is in its place") if by_hand else State("missing")
    if settings_hash(record["settings"]) != run.hash:
        changed = differences(run.settings, record["settings"])
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        return State("stale", f"made with other {', '.join(changed[:SHOWN])}{more}")
    if (run.folder / FINISHED).is_file():
        return State("done")
    if not is_free(run):
        return State("running", _progress(run))
    if "failed" in record:
        return State("failed", record["failed"])
    return State("interrupted", _progress(run))


def begin(run: Run) -> None:
    """Note in its folder what a run is."""
    run.folder.mkdir(parents=True, exist_ok=True)
    _write(run, {"step": run.name, "settings": run.settings})


def fail(run: Run, reason: str) -> None:
    """Note why a run failed."""
    _write(run, {"step": run.name, "settings": run.settings, "failed": reason})


def log_file(run: Run) -> Path:
    """What its process prints."""
    return run.folder / "log.txt"


def last_lines(run: Run, count: int) -> list[str]:
    """The end of what its process printed; blank lines are left out."""
    file = log_file(run)
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    return [line.rstrip() for line in lines if line.strip()][-count:]


def logged_at(run: Run) -> float:
    """When its metrics were written last; 0 if they never were."""
    file = _metrics(run)
    return file.stat().st_mtime if file.is_file() else 0.0


def steps_done(run: Run) -> int:
    """Training steps that it has logged."""
    file = _metrics(run)
    if not file.is_file():
        return 0
    rows = csv.DictReader(file.read_text().splitlines())
    return max((int(row["step"]) + 1 for row in rows if (row.get("step") or "").isdigit()), default=0)


def steps_wanted(run: Run) -> int | None:
    """Training steps that it will take, where its config says so."""
    steps = run.settings["config"].get("trainer", {}).get("max_steps", -1)
    return int(steps) if steps > 0 else None


def is_free(run: Run) -> bool:
    """Whether no process has it claimed."""
    return not is_locked(_lock(run))


@contextmanager
def claimed(run: Run, waiting: Callable[[], None]) -> Iterator[int]:
    """Keep a run from all other processes; wait while another has it.

    Args:
        run: to claim.
        waiting: called twice a second while another has it; what it raises ends the waiting.

    Yields:
        The descriptor of the lock. A process that inherits it keeps the lock: it ends when the last of them has ended,
        however they end.
    """
    file = _lock(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        while True:
            try:
                lock_open_file(lock)
                break
            except LockedError:
                waiting()
                time.sleep(0.5)
        yield lock.fileno()


def _metrics(run: Run) -> Path:
    return run.folder / "metrics.csv"


def _lock(run: Run) -> Path:
    return run.folder.with_name(f".{run.folder.name}.lock")


def _progress(run: Run) -> str:
    wanted = steps_wanted(run)
    return f"{run.name}, step {steps_done(run):,}" + (f" of {wanted:,}" if wanted else "")


def _record(run: Run) -> dict[str, Any] | None:
    try:
        return dict(json.loads((run.folder / RECORD).read_text()))
    except FileNotFoundError:
        return None


def _write(run: Run, record: dict[str, Any]) -> None:
    with atomic_write(run.folder / RECORD) as file:
        json.dump(record, file, indent=2, sort_keys=True, default=str)
        file.write("\n")
