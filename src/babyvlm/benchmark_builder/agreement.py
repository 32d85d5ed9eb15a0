"""How far reviewers agree beyond chance."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Cohen's kappa of two reviewers' verdicts on the same items (Cohen 1960); nan if chance alone agrees fully."""
    count = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    ours, theirs = Counter(first), Counter(second)
    expected = sum(ours[verdict] * theirs[verdict] for verdict in ours) / count**2
    return _beyond_chance(observed, expected)


def fleiss_kappa(counts_NK: Sequence[Sequence[int]]) -> float:
    """Fleiss' kappa (Fleiss 1971) of N items; nan if chance alone agrees fully.

    Args:
        counts_NK: how many reviewers gave each of the K verdicts to an item; every row has the same sum, 2 or more.
    """
    items, raters = len(counts_NK), sum(counts_NK[0])
    if raters < 2 or any(sum(row) != raters for row in counts_NK):
        raise ValueError("every item needs the same number of verdicts, 2 or more")
    observed = sum(sum(n * (n - 1) for n in row) for row in counts_NK) / (items * raters * (raters - 1))
    shares = [sum(column) / (items * raters) for column in zip(*counts_NK, strict=True)]
    return _beyond_chance(observed, sum(share**2 for share in shares))


def _beyond_chance(observed: float, expected: float) -> float:
    return math.nan if math.isclose(expected, 1) else (observed - expected) / (1 - expected)


def agreement(verdicts: Mapping[str, Mapping[str, str]]) -> dict[str, object]:
    """Agreement on the items that every reviewer answered with yes or no.

    Args:
        verdicts: reviewer -> item -> ``yes``, ``no`` or ``skip``.

    Returns:
        ``measure`` (empty for fewer than two reviewers), ``kappa`` (None where it is undefined), ``items``,
        ``reviewers``, and how many items all ``agreed`` on.
    """
    decided = [{item for item, verdict in mine.items() if verdict != "skip"} for mine in verdicts.values()]
    common = sorted(set.intersection(*decided)) if decided else []
    columns = [[mine[item] for item in common] for mine in verdicts.values()]
    kappa, measure = math.nan, ""
    if len(columns) > 1:
        measure = "Cohen's kappa" if len(columns) == 2 else "Fleiss' kappa"
    if measure and common:
        rows = list(zip(*columns, strict=True))
        counts = [[row.count("yes"), row.count("no")] for row in rows]
        kappa = cohen_kappa(columns[0], columns[1]) if len(columns) == 2 else fleiss_kappa(counts)
    return {
        "measure": measure,
        "kappa": None if math.isnan(kappa) else round(kappa, 4),
        "items": len(common),
        "agreed": sum(len(set(row)) == 1 for row in zip(*columns, strict=True)),
        "reviewers": sorted(verdicts),
    }


def sentence(found: Mapping[str, object]) -> str:
    """Agreement in words."""
    if not found["measure"]:
        return "agreement: needs two reviewers"
    if not found["items"]:
        return "agreement: no item has a yes or no from every reviewer"
    kappa = "undefined (all verdicts alike)" if found["kappa"] is None else f"{found['kappa']:.3f}"
    return f"agreement: {found['measure']} {kappa}, {found['agreed']} of {found['items']} items alike"
