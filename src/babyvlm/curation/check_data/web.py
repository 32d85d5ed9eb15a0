"""Check a web corpus."""

from __future__ import annotations

import time
from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING

from babyvlm.curation.check_data.findings import Findings, format_bytes
from babyvlm.curation.check_data.requirements import Requirement
from babyvlm.curation.ingest.image_validation import InvalidSampleError
from babyvlm.curation.ingest.web import validate_sample
from babyvlm.curation.ingest.web_corpora.sources import Source, find_source
from babyvlm.curation.stage import MIN_FRACTION
from babyvlm.errors import UserError
from babyvlm.io.files import file_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from babyvlm.curation.ingest.web_corpora.samples import Chunk

NUM_SAMPLES = 300  # that are read to estimate the share of valid ones


def check_web_source(path: Path) -> Findings:
    """Check a web corpus: count its samples and the recorded failed downloads, and read a few hundred samples."""
    findings = Findings(f"Web corpus ({path})")
    try:
        source = find_source(path)
        chunks = list(source.chunks())
        start = time.perf_counter()
        sizes, problems = _read_samples(chunks)
        seconds = time.perf_counter() - start
        count, is_exact = _count_samples(source, chunks)
        failed = sum(chunk.count for chunk in source.failed_downloads())
    except UserError as error:
        findings.missing.append(str(error))
        return findings
    num_read = len(sizes) + len(problems)
    valid_share = len(sizes) / num_read if num_read else 0.0
    findings.pairs = round(count * valid_share)
    findings.facts += [
        ("files", f"{len(source.files):,} ({format_bytes(sum(map(file_size, source.files)))})"),
        ("samples", f"{'' if is_exact else 'about '}{count:,}"),
        (f"valid samples among the first {num_read:,}", f"{valid_share:.1%}"),
        *((f"invalid: {reason}", f"{times:,}") for reason, times in Counter(problems).items()),
    ]
    if source.download_records:
        findings.facts.append(("failed downloads", f"{failed:,} of {count + failed:,}"))
    elif source.is_tar:
        findings.notes.append(
            "no record of failed downloads beside the archives. To count them, pass --expected_count to `curate web`"
        )
    if not count or findings.pairs < MIN_FRACTION * (count + failed):
        findings.missing.append(
            f"{path}: about {findings.pairs:,} of {count + failed:,} samples are valid"
            f" (failed downloads count as invalid); `curate web` needs {MIN_FRACTION:.0%}"
        )
        findings.fixes.append("Download the corpus again, or pass a lower --min_fraction to `curate web`")
    if sizes:
        rate = num_read / seconds
        findings.image_bytes = findings.pairs * sum(sizes) / len(sizes)
        basis = f"{rate:,.0f} samples/s, measured on these samples"
        findings.requirements = [
            Requirement("curate web", f"{count:,} samples", findings.image_bytes, count / rate, basis)
        ]
    return findings


def _read_samples(chunks: Sequence[Chunk]) -> tuple[list[int], list[str]]:
    """Read the first samples. Return the sizes of valid images in bytes, and the problems of the other samples."""
    sizes, problems = [], []
    for sample in islice(chain.from_iterable(chunk.samples() for chunk in chunks), NUM_SAMPLES):
        try:
            _, image = validate_sample(sample)
            sizes.append(len(image))
        except InvalidSampleError as error:
            problems.append(str(error))
    return sizes, problems


def _count_samples(source: Source, chunks: Sequence[Chunk]) -> tuple[int, bool]:
    """Return the number of samples, and whether it is exact. Of several archives only the first is read."""
    counts = [chunk.count for chunk in chunks if chunk.count is not None]
    if len(counts) == len(chunks):
        return sum(counts), True
    first = sum(1 for _ in chunks[0].samples())
    total_bytes = sum(map(file_size, source.files))
    return round(first * total_bytes / max(1, file_size(source.files[0]))), len(source.files) == 1
