"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyvlm.curation.check_data.requirements import Requirement


@dataclass
class Findings:
    """The result of checking one input.

    Attributes:
        title: heading: what was checked.
        facts: name and value.
        missing: inputs that a stage needs and that are missing or damaged, one line each.
        fixes: how to fix them, one line each.
        notes: observations that stop no stage, one line each.
        requirements: what the stages will need.
        pairs: number of (image, utterance) pairs to expect.
        image_bytes: size of their images.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    fixes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)
    pairs: int = 0
    image_bytes: float = 0.0


def format_bytes(count: float) -> str:
    """Return a size in GB, or in MB below 0.1 GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
