"""Collect the credit of every test item of every run of Playroom in one small Parquet file.

python docs/scripts/items.py lightning_logs/study docs/playroom-report/items.parquet

The columns are those of a run's results (docs/reference/data-formats.md) without images, texts, and scores, after the
run's row, world, and seed. Means, intervals, and tests of a report can be computed again from them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from babyvlm.report.runs import Run

COLUMNS = ["item", "category", "group", "control", "measure", "credit"]
SUFFIX = "-test.parquet"


def collect(log_dir: Path) -> pa.Table:
    """Return the items of all runs with test results in ``log_dir/ROW/RUN``."""
    tables = []
    for folder in sorted({file.parents[1] for file in log_dir.glob(f"*/*/results/*{SUFFIX}")}):
        run = Run(folder)
        for file in sorted((folder / "results").glob(f"*{SUFFIX}")):
            table = parquet.read_table(file, columns=COLUMNS)
            facts = {"row": run.row, "world": run.world, "seed": str(run.seed), "benchmark": file.name[: -len(SUFFIX)]}
            for name, value in facts.items():
                table = table.append_column(name, pa.array([value] * len(table)))
            tables.append(table.select([*facts, *COLUMNS]))
    return pa.concat_tables(tables)


if __name__ == "__main__":
    parquet.write_table(collect(Path(sys.argv[1])), sys.argv[2], compression="zstd", compression_level=19)
