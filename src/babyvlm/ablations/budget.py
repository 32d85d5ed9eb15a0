"""How many samples a step sees, so that rows of one model can be seen to be trained alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyvlm.curation.store.pair_store import PairStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from babyvlm.ablations.plan import Run, Task


def samples_seen(run: Run) -> int | None:
    """Samples that a step sees at most: it may be stopped early. None where only its data module could count them."""
    trainer, data = run.settings["config"].get("trainer", {}), run.settings["config"].get("data", {})
    options = data.get("init_args", {})
    batch = options.get("batch_size", 1)
    if trainer.get("max_steps", -1) > 0:
        return int(trainer["max_steps"] * batch * trainer.get("accumulate_grad_batches", 1))
    epochs = trainer.get("max_epochs")
    if epochs is None or not str(data.get("class_path")).endswith(".PairMix"):
        return None
    return int(epochs * (_utterances(options) // batch) * batch)


def budgets(runs: Iterable[tuple[Task, Run]]) -> list[str]:
    """A line for each model and step: what all of its rows see, or, loudly, in what they differ."""
    seen: dict[tuple[str, str], dict[str, int | None]] = {}
    for task, last in runs:
        for run in last.chain:
            if run.command[0] == "fit":
                seen.setdefault((task.model, run.name), {})[task.row] = samples_seen(run)
    return [f"{model}: {step}: {_said(rows)}" for (model, step), rows in seen.items()]


def _said(rows: dict[str, int | None]) -> str:
    if len(set(rows.values())) == 1:
        return _count(next(iter(rows.values())))
    return "ROWS DIFFER: " + "; ".join(f"{row} {_count(count)}" for row, count in rows.items())


def _count(samples: int | None) -> str:
    return "as its config says" if samples is None else f"{samples:,} samples"


def _utterances(options: dict[str, Any]) -> int:
    """Training utterances of a mix."""
    total = 0
    for source in options["sources"]:
        table = PairStore(Path(options["stores"], source["store"])).columns("group", "split").to_pydict()
        groups = {group for group, split in zip(table["group"], table["split"], strict=True) if split == "train"}
        total += min(len(groups), source.get("utterances") or len(groups))
    return total
