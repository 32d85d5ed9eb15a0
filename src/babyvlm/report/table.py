"""The main table: rows are runs, columns are benchmarks, cells have their 95 % interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from babyvlm.report.runs import BENCHMARKS, find_runs
from babyvlm.report.statistics import Estimate, accuracy

TITLES = {"labeled_s": "Labeled-S", "vtwt": "VTWT", "baby_winoground": "Baby Winoground"}
CHANCE = {"labeled_s": 1 / 4, "vtwt": 1 / 2, "baby_winoground": 1 / 6}  # paper, table 1
NOTE = "Accuracy on the test half, with its 95 % bootstrap interval over items. *: the interval holds chance."
PARTIAL = " ‡: some of the list's images were missing; the rest was scored."
SCRATCH = " †: vision trunk trained from scratch; the paper's begins from DINO on the frames."
EMBEDDED = "Playroom, the embedded world: a stand-in for SAYCam, not to be compared with the paper's numbers"


def report(logs: Path = Path("lightning_logs"), out: Path | None = None) -> None:
    """Print the table of all tested runs, and write it as Markdown if asked.

    Args:
        logs: folder of runs.
        out: Markdown file to write the table to.
    """
    runs = find_runs(logs)
    rows = [("chance", [f"{CHANCE[benchmark]:.3f}" for benchmark in BENCHMARKS])]
    rows += [
        (
            run.row + "†" * run.trunk_from_scratch,
            [
                cell(run.credits(benchmark), CHANCE[benchmark]) + "‡" * bool(run.missing(benchmark))
                for benchmark in BENCHMARKS
            ],
        )
        for run in runs
    ]
    titles = [TITLES[benchmark] for benchmark in BENCHMARKS]
    title = EMBEDDED if any(run.embedded for run in runs) else "BabyVLM"
    note = NOTE + SCRATCH * any(run.trunk_from_scratch for run in runs)
    note += PARTIAL * any(run.missing(benchmark) for run in runs for benchmark in BENCHMARKS)
    table = Table("model", *titles, title=title, caption=note)
    for name, cells in rows:
        table.add_row(name, *cells)
    Console(width=100).print(table)
    for run in runs:
        print(f"{run.row}: {run.path}")
    if out is not None:
        lines = [title, "", f"| model | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join([*lines, "", note, ""]))


def cell(credit: npt.NDArray[np.float64] | None, chance: float) -> str:
    """A table's cell: mean and interval of a test's credits."""
    if credit is None:
        return "-"
    estimate: Estimate = accuracy(credit)
    mark = "*" if estimate.low <= chance <= estimate.high else ""
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]{mark}"
