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
