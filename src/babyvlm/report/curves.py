"""How training went, from ``metrics.csv``, and how much of it there was."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from babyvlm.errors import UserError
from babyvlm.report.runs import Run


def curve(run: Run, metric: str) -> list[tuple[float, float]]:
    """(samples seen, value) for every row that has the metric; none if it was never logged."""
    size = _samples_a_step(run) or 1
    return [((step + 1) * size, value) for step, value in _logged(run.path, metric)]


def samples_seen(run: Run) -> int | None:
    """Samples that the run itself was trained on, what it began from left aside; None if that is not known."""
    noted = provenance(run.path).get("samples")
    if isinstance(noted, int):
        return noted
    size, logged = _samples_a_step(run), _logged(run.path, "train_loss")
    return (logged[-1][0] + 1) * size if size and logged else None


def provenance(folder: Path) -> dict[str, Any]:
    """What a run noted of its making; nothing if it was made before it did.

    Raises:
        UserError: it is there and cannot be read.
    """
    file = folder / "provenance.json"
    if not file.is_file():
        return {}
    try:
        noted = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it") from None
    return noted if isinstance(noted, dict) else {}


def _samples_a_step(run: Run) -> int | None:
    size = run.settings("data").get("batch_size")
    return size * ((run.config.get("trainer") or {}).get("accumulate_grad_batches") or 1) if size else None


def _logged(folder: Path, metric: str) -> list[tuple[int, float]]:
    """(step, value) of whole rows; the last one of a run that goes on may be torn."""
    file = folder / "metrics.csv"
    if not file.is_file():
        return []
    text = file.read_text(errors="replace")
    found = []
    for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
        try:
            found.append((int(row["step"]), float(row[metric])))
        except (KeyError, TypeError, ValueError):  # another metric's row
            continue
    return found
