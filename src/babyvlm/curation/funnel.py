"""What a curation stage took in, kept and dropped, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass
class Funnel:
    """Counts of one stage; ``seen == kept + sum(dropped)`` once it is done.

    Attributes:
        stage: what the counts belong to.
        unit: what is counted (rows, utterances, captions).
        kept: how many went on.
        dropped: how many did not, by reason.
    """

    stage: str
    unit: str = "rows"
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def seen(self) -> int:
        """How many came in."""
        return self.kept + self.dropped.total()

    def keep(self, count: int = 1) -> None:
        """Count what goes on."""
        self.kept += count

    def drop(self, reason: str, count: int = 1) -> None:
        """Count what does not, under a reason a reader understands."""
        self.dropped[reason] += count

    def as_dict(self) -> dict[str, Any]:
        """JSON form, the reasons sorted by name."""
        return {
            "stage": self.stage,
            "unit": self.unit,
            "in": self.seen,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
        }

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Funnel:
        """The inverse of ``as_dict``."""
        return cls(counts["stage"], counts["unit"], counts["kept"], Counter(counts["dropped"]))

    def __str__(self) -> str:
        share = f" ({self.kept / self.seen:.1%})" if self.seen else ""
        lines = [f"{self.stage}: {self.seen:,} {self.unit} in, {self.kept:,} kept{share}"]
        lines += [f"  dropped {count:>9,}  {reason}" for reason, count in self.dropped.most_common()]
        return "\n".join(lines)
