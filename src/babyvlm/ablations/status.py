"""What of a matrix is done, running, failed or missing."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from babyvlm.ablations.budget import budgets
from babyvlm.ablations.plan import Plan
from babyvlm.ablations.state import State, state_of
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from babyvlm.ablations.plan import Run, Task

JOB = "ablations"  # name of the array in slurm/ablations.sbatch


def status(
    matrix: Path = Path("configs/playroom/ablations.yaml"), quick: bool = False, log_dir: Path | None = None
) -> None:
    """Print how far every row of a matrix is, and how many samples each step sees; reads only what is on disk.

    For example:
        python -m babyvlm ablations status

    Args:
        matrix: which rows there are.
        quick: the matrix's short form.
        log_dir: where runs are written: `lightning_logs` by default, `lightning_logs/quick` of the short form.
    """
    plan, queue = Plan(matrix, quick, log_dir), queued()
    width = max(len(task.row) for task in plan.tasks)
    print(f"task  {'row':{width}}  seed  in {plan.log_dir}")
    counts: Counter[str] = Counter()
    runs: list[tuple[Task, Run]] = []
    for number, task in enumerate(plan.tasks):
        try:
            runs.append((task, plan.run(task)))
            found = row_state(runs[-1][1])
        except UserError as error:
            found = State("missing", str(error))
        counts[found.word] += 1
        print(f"{number:4}  {task.row:{width}}  {task.seed:4}  {_told(found, queue.get(number))}")
    print(
        f"{len(plan.tasks)} rows and seeds: " + ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    )
    if seen := budgets(runs):
        print("\n".join(["samples that a run sees:", *(f"  {line}" for line in seen)]))


def row_state(run: Run) -> State:
    """How far a row's last run is, or the first of those before it that is not done."""
    own = state_of(run)
    if own.word != "missing":
        return own
    before = [found for found in map(state_of, run.chain[:-1]) if found.word not in ("done", "missing")]
    return before[0] if before else own


def queued() -> Mapping[int, str]:
    """Task of the array -> its state in SLURM's queue, of this user's; nothing where there is no SLURM."""
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--me", "--array", "--noheader", f"--name={JOB}", "--format=%K %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"the queue is not known: {error}")
        return {}
    parts = [line.split() for line in done.stdout.splitlines()]
    return {int(part[0]): part[1].lower() for part in parts if len(part) == 2 and part[0].isdigit()}


def _told(found: State, queue: str | None) -> str:
    return f"{found} (SLURM: {queue})" if queue and found.word not in ("done", "running") else str(found)
