"""Counts of what a curation stage kept and dropped, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


WITHDRAWN = "withdrawn"  # reason for what was removed later, on request


@dataclass
class Funnel:
    """Counts of one stage; ``seen == kept + sum(dropped)`` at its end.

    >>> funnel = Funnel("filter", unit="pairs")
    >>> funnel.keep(3)
    >>> funnel.drop("no caption")
    >>> print(funnel)
    filter: 4 pairs in, 3 kept (75.0%)
      dropped         1  no caption

    Attributes:
        stage: name of the stage.
        unit: what is counted: rows, utterances, captions.
        kept: number of units kept.
        dropped: number of units dropped, by reason.
        unwanted: reasons of what the stage is not meant to keep, such as the turns of other speakers. It is not lost.
    """

    stage: str
    unit: str = "rows"
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unwanted: set[str] = field(default_factory=set)

    @property
    def seen(self) -> int:
        """Number of units that came in."""
        return self.kept + self.dropped.total()

    @property
    def wanted(self) -> int:
        """Number of units that the stage could have kept."""
        return self.seen - sum(self.dropped[reason] for reason in {*self.unwanted, WITHDRAWN})

    def keep(self, count: int = 1) -> None:
        """Count what is kept."""
        self.kept += count

    def drop(self, reason: str, count: int = 1) -> None:
        """Count what is dropped, under a reason that a reader understands."""
        self.dropped[reason] += count

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON, the reasons sorted by name."""
        return {
            "stage": self.stage,
            "unit": self.unit,
            "in": self.seen,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
        }

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Funnel:
        """Read the counts that ``as_dict`` returned."""
        return cls(counts["stage"], counts["unit"], counts["kept"], Counter(counts["dropped"]))

    def __str__(self) -> str:
        share = f" ({self.kept / self.seen:.1%})" if self.seen else ""
        lines = [f"{self.stage}: {self.seen:,} {self.unit} in, {self.kept:,} kept{share}"]
        lines += [f"  dropped {count:>9,}  {reason}" for reason, count in self.dropped.most_common()]
        return "\n".join(lines)
