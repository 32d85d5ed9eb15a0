"""``python -m babyvlm ablations status``: which runs of a matrix are done, running, failed or missing."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from babyvlm.ablations.plan import Plan, PlannedRun, Task
from babyvlm.ablations.state import State, state_of
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.printing import echo

JOB_NAME = "ablations"  # of the array in slurm/ablations.sbatch


def status(
    matrix: Path = Path("configs/playroom/ablations.yaml"), quick: bool = False, log_dir: Path | None = None
) -> None:
    """Print the state of every row of a matrix and the number of training samples of each phase.

    For example:
        python -m babyvlm ablations status

    Args:
        matrix: YAML file with the rows.
        quick: use the quick version of the matrix, with one seed and less training.
        log_dir: folder of runs. Default: `lightning_logs`, or `lightning_logs/quick` for the quick version.
    """
    plan, queue = Plan(matrix, quick, log_dir), slurm_queue()
    width = max(len(task.row) for task in plan.tasks)
    echo(f"task  {'row':{width}}  world  seed  state in {plan.log_dir}")
    counts: Counter[str] = Counter()
    runs: list[tuple[Task, PlannedRun]] = []
    for number, task in enumerate(plan.tasks):
        try:
            runs.append((task, plan.run(task)))
            state = row_state(runs[-1][1])
        except UserError as error:
            state = State("missing", str(error))
        counts[state.status] += 1
        queued = f" (SLURM: {queue[number]})" if number in queue and state.status not in ("done", "running") else ""
        world = "-" if task.world is None else task.world
        echo(f"{number:4}  {task.row:{width}}  {world:>5}  {task.seed:4}  {state}{queued}")
    echo(f"{len(plan.tasks)} rows and seeds: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    if budgets := sample_budgets(runs):
        echo("\n".join(["samples seen per run:", *(f"  {line}" for line in budgets)]))


def row_state(run: PlannedRun) -> State:
    """Return the state of a row's last run, or of its first earlier step that is not done."""
    own = state_of(run)
    if own.status != "missing":
        return own
    earlier = [state for state in map(state_of, run.chain[:-1]) if state.status not in ("done", "missing")]
    return earlier[0] if earlier else own


def slurm_queue() -> Mapping[int, str]:
    """Return array task -> state in SLURM's queue for this user; empty without SLURM."""
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--me", "--array", "--noheader", f"--name={JOB_NAME}", "--format=%K %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        echo(f"SLURM queue unknown: {error}")
        return {}
    parts = [line.split() for line in done.stdout.splitlines()]
    return {int(part[0]): part[1].lower() for part in parts if len(part) == 2 and part[0].isdigit()}


def sample_budgets(runs: Iterable[tuple[Task, PlannedRun]]) -> list[str]:
    """Return one line per model and step: how many samples its rows see, or in what they differ."""
    by_step: dict[tuple[str, str], dict[str, int | None]] = {}
    for task, last in runs:
        for run in last.chain:
            if run.command[0] == "fit":
                by_row = by_step.setdefault((task.model, run.name), {})
                if task.row not in by_row:  # every seed of a row sees as many
                    try:
                        by_row[task.row] = samples_seen(run)
                    except (UserError, LookupError, TypeError, ValueError):  # the run itself reports it
                        by_row[task.row] = None
    lines = []
    for (model, step), by_row in by_step.items():
        if len(set(by_row.values())) == 1:
            samples = _samples_text(next(iter(by_row.values())))
        else:
            samples = "ROWS DIFFER: " + "; ".join(f"{row} {_samples_text(count)}" for row, count in by_row.items())
        lines.append(f"{model}: {step}: {samples}")
    return lines


def samples_seen(run: PlannedRun) -> int | None:
    """Return the maximum number of samples that a run sees; None if only its data module can count them."""
    trainer, data = run.settings["config"].get("trainer") or {}, run.settings["config"].get("data") or {}
    options = data.get("init_args") or {}
    batch = options.get("batch_size", 1)
    if trainer.get("max_steps", -1) > 0:
        return int(trainer["max_steps"] * batch * trainer.get("accumulate_grad_batches", 1))
    epochs = trainer.get("max_epochs")
    if epochs is None or not str(data.get("class_path")).endswith(".PairMix"):
        return None
    home = options["validation"] if options.get("home") else None
    items = [None if source["store"] == home else _training_items(options, source) for source in options["sources"]]
    counted = [count for count in items if count is not None]
    return int(epochs * (sum(counted) // batch) * batch) if len(counted) == len(items) else None


def _samples_text(samples: int | None) -> str:
    return "set by its config, or unknown" if samples is None else f"{samples:,} samples"


def _training_items(options: Mapping[str, Any], source: Mapping[str, Any]) -> int | None:
    """Return the items per epoch that a mix takes from a store; None if they depend on a draw or a subset."""
    if source.get("subset"):
        return None
    table = PairStore(Path(options["stores"], source["store"])).columns("group", "split").to_pydict()
    splits, limit = source.get("splits", ["train"]), source.get("utterances")
    groups = [group for group, split in zip(table["group"], table["split"], strict=True) if split in splits]
    if options.get("sample", "pairs") == "pairs":
        return len(groups) if limit is None else None
    return min(len(set(groups)), limit or len(groups))
