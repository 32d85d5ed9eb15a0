"""What a run began from."""

from __future__ import annotations

from pathlib import Path

from babyvlm.report.runs import BEGINNINGS, Run


def phases(run: Run) -> list[Run]:
    """The runs that a run began from, the first one first and each once, and itself."""
    found: dict[Path, Run] = {}

    def visit(run: Run) -> None:
        for folder in run.begun_from(*BEGINNINGS):
            if folder not in found:
                found[folder] = Run(folder)
                visit(found[folder])
        found[run.path] = found.pop(run.path)  # after what it began from

    found[run.path] = run
    visit(run)
    return list(found.values())
