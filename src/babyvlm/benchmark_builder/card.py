"""What a benchmark folder says about itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from babyvlm.benchmark_builder.agreement import sentence
from babyvlm.playroom.world import CREDIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TITLES = {"labeled_s": "Labeled-S", "vtwt": "Visual Two-Word Test", "baby_winoground": "Baby Winoground"}
YIELD = ("proposed", "with mirrored", "accepted pairs", "checked", "fit by CLIP", "reviewed", "accepted", "kept")


def counted(names: Iterable[str]) -> dict[str, int]:
    """How often each name comes, the most frequent first."""
    return dict(Counter(names).most_common())


def digest(value: object) -> str:
    """Hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def card(manifest: Mapping[str, Any]) -> str:
    """The card as Markdown: counts, how it was made, yield, agreement."""
    lines = ["# Benchmark", ""]
    if manifest["world"] == "playroom":
        lines += [f"Of Playroom, a drawn world that stands in for SAYCam. Pictures: {CREDIT}.", ""]
    if manifest["licensed"]:
        lines += ["**Licensed images: they may not leave this machine.** Pass on what `--images hashes` makes.", ""]
    for name, facts in manifest["facts"].items():
        lines += [f"## {TITLES[name]}", ""]
        steps = [f"{facts[step]:,} {step}" for step in YIELD if step in facts]
        lines += [" -> ".join(steps), ""] if steps else []
        lines += [f"- {key}: {_told(value)}" for key, value in facts.items() if key not in YIELD]
        lines.append("")
    return "\n".join(lines)


def _told(value: object) -> str:
    if isinstance(value, dict) and "kappa" in value:
        return f"{sentence(value).removeprefix('agreement: ')} ({', '.join(value['reviewers'])})"
    if isinstance(value, dict) and "dropped" in value:
        dropped = "".join(f", {count} {reason}" for reason, count in value["dropped"].items())
        return f"{value['kept']:,} of {value['in']:,}{dropped}"
    if isinstance(value, dict):
        return ", ".join(f"{count} {key}" for key, count in value.items())
    return f"`{value}`"
