"""What of the web sources and the benchmark lists is there."""

from __future__ import annotations

import csv
import time
from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING

from babyvlm.curation.benchmark_images import absent_images
from babyvlm.curation.check_data.corpus import Findings
from babyvlm.curation.check_data.costs import Need
from babyvlm.curation.ingest.image_validation import UnsoundError, sound_image
from babyvlm.curation.ingest.web_corpora.readers import Source, find_source
from babyvlm.curation.ingest.web_corpora.tar import cut_tar
from babyvlm.errors import UserError
from babyvlm.io.files import file_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from babyvlm.curation.ingest.web_corpora.samples import Chunk

MIN_FRACTION = 0.5  # sound ones that `curate web` asks for by default
SAMPLES = 300  # of a web source that are read to judge it
# Name -> columns (the benchmarks' own), items in the authors' list, rows an item.
TRIALS = {
    "labeled_s.csv": (("trial_id", "target_category", "real_category", "image"), 2200, 4),
    "vtwt.csv": (("image", "positive_phrase", "negative_phrase"), 967, 1),
    "baby_winoground.csv": (("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag"), 365, 2),
    "SAYCam_caption.csv": (("image", "text"), 294, 1),
}
OTHER_NAMES = {"SAYCam_caption.csv": "caption.csv"}  # Playroom's


def check_web(path: Path) -> Findings:
    """Check a web source by counting its samples, and the lost links that are told of, and reading a few hundred."""
    found = Findings(f"web pairs ({path})")
    try:
        source = find_source(path)
        began = time.perf_counter()
        sizes, problems = [], []
        chunks = list(source.chunks())
        for sample in islice(chain.from_iterable(chunk.samples() for chunk in chunks), SAMPLES):
            try:
                if sample.image is None:
                    raise UnsoundError(sample.problem or "image missing")
                sizes.append(len(sound_image(sample.image)))
            except UnsoundError as error:
                problems.append(str(error))
        seconds = time.perf_counter() - began
        count, exact = _count(source, chunks)
        lost = sum(one.count for one in source.lost())
    except UserError as error:
        found.missing.append(str(error))
        return found
    looked_at = len(sizes) + len(problems)
    share = len(sizes) / looked_at if looked_at else 0.0
    found.pairs = round(count * share)
    found.facts += [
        ("files", f"{len(source.files):,} ({sum(map(file_size, source.files)) / 1e9:,.2f} GB)"),
        ("samples", f"{'' if exact else 'about '}{count:,}"),
        (f"sound among the first {looked_at:,}", f"{share:.1%}"),
        *((f"unsound: {reason}", f"{times:,}") for reason, times in Counter(problems).items()),
    ]
    _judge(found, source, count, lost)
    if sizes:
        rate = looked_at / seconds
        found.bytes = found.pairs * sum(sizes) / len(sizes)
        found.needs = [
            Need("curate web", f"{count:,} samples", found.bytes, count / rate, f"{rate:,.0f} samples/s, read just now")
        ]
    return found


def _judge(found: Findings, source: Source, count: int, lost: int) -> None:
    """Say whether so many samples of ``count`` are sound, and so many links lost, that the stage would go on."""
    if source.sidecars:
        found.facts.append(("lost links", f"{lost:,} of {count + lost:,}"))
    elif source.cut is cut_tar:
        found.notes.append(
            "nothing beside the tars tells which links were lost; `curate web --expected_count` counts them"
        )
    if not count or found.pairs < MIN_FRACTION * (count + lost):
        found.missing.append(
            f"{found.title}: about {found.pairs:,} of {count + lost:,} samples are sound, lost links included; that is"
            f" less than {MIN_FRACTION:.0%}"
        )


def _count(source: Source, chunks: Sequence[Chunk]) -> tuple[int, bool]:
    """How many samples a source holds, and whether that is sure: of several archives one is read through."""
    counts = [chunk.count for chunk in chunks if chunk.count is not None]
    if len(counts) == len(chunks):
        return sum(counts), True
    first = sum(1 for _ in chunks[0].samples())
    return round(first * sum(map(file_size, source.files)) / max(1, file_size(source.files[0]))), len(source.files) == 1


def check_trials(folder: Path, images: Path | None = None) -> Findings:
    """Check the benchmark lists: their columns, how many items they hold, and that their images are there.

    Args:
        folder: of the lists.
        images: folder that their image paths start from; that of the lists by default.
    """
    found = Findings(f"benchmark lists ({folder})")
    for name, (columns, items, rows_each) in TRIALS.items():
        path = folder / name
        if not path.is_file() and name in OTHER_NAMES and (folder / OTHER_NAMES[name]).is_file():
            path = folder / OTHER_NAMES[name]
        try:
            rows = _trial_rows(path, columns)
        except UserError as error:
            found.missing.append(str(error))
            continue
        count = len(rows) // rows_each
        found.facts.append((path.name, f"{count:,} items"))
        if count != items:
            found.notes.append(f"{path}: {count:,} items; the authors' list has {items:,}")
        try:
            absent_images(path, [row["image"] for row in rows], images or folder, where="--image_root")
        except UserError as error:
            found.missing.append(str(error))
    return found


def _trial_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise UserError(f"{path}: column {missing[0]} is missing; it needs {', '.join(columns)}")
            rows = list(reader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as UTF-8 CSV ({error}); export it again as UTF-8") from None
    if not rows:
        raise UserError(f"{path}: holds no row")
    return rows
