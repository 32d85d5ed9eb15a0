"""Check the benchmark lists and their images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from babyvlm.curation.benchmark_images import missing_images
from babyvlm.curation.check_data.findings import Findings
from babyvlm.errors import UserError
from babyvlm.io.tables import read_complete_rows

if TYPE_CHECKING:
    from pathlib import Path

# Name -> columns (the same as in ``babyvlm.benchmarks``), items in the authors' list, rows per item.
TRIALS = {
    "labeled_s.csv": (("trial_id", "target_category", "real_category", "image"), 2200, 4),
    "vtwt.csv": (("image", "positive_phrase", "negative_phrase"), 967, 1),
    "baby_winoground.csv": (("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag"), 365, 2),
    "SAYCam_caption.csv": (("image", "text"), 294, 1),
}
ALTERNATIVE_NAMES = {"SAYCam_caption.csv": "caption.csv"}  # in Playroom


def check_trials(folder: Path, image_root: Path | None = None) -> Findings:
    """Check the benchmark lists: their columns, their number of items, and that their images exist.

    Args:
        folder: folder of the lists.
        image_root: folder that their image paths start from. Default: ``folder``.
    """
    findings = Findings(f"Benchmark lists ({folder})")
    for name, (columns, expected_items, rows_per_item) in TRIALS.items():
        path = folder / name
        if not path.is_file() and name in ALTERNATIVE_NAMES and (folder / ALTERNATIVE_NAMES[name]).is_file():
            path = folder / ALTERNATIVE_NAMES[name]
        try:
            rows = read_complete_rows(path, columns)
        except UserError as error:
            findings.missing.append(str(error))
            continue
        items = len(rows) // rows_per_item
        findings.facts.append((path.name, f"{items:,} items"))
        if items != expected_items:
            findings.notes.append(f"{path}: {items:,} items; the authors' list has {expected_items:,}")
        try:
            missing_images(path, [row["image"] for row in rows], image_root or folder, root_option="--image_root")
        except UserError as error:
            findings.missing.append(str(error))
    if not findings.facts:
        findings.fixes.append("Pass the folder of the lists as --trials. docs/how-to/data.md says who distributes them")
    return findings
