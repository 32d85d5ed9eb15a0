"""A page of random frames with the words around their time, so that a person sees a shift at a glance."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from babyvlm.curation.contact_sheet import Card, contact_sheet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from babyvlm.curation.ingest.transcripts import Transcript

REVIEW_PAGE = "review.html"
NUM_FRAMES = 24
CONTEXT_MS = 10_000  # before and after a frame: our choice, some utterances
NOTE = (
    "Random frames with the caregivers' words from 10 seconds before to 10 seconds after them; those of the frame are "
    "marked by an arrow. If frames fit words that come earlier or later, the times of the transcript are shifted."
)


def write_review_page(folder: Path, transcripts: Sequence[Transcript], *, licensed: bool) -> None:
    """Write ``review.html`` into the folder of an unfinished store of frames.

    Args:
        folder: contains the complete shards.
        transcripts: of the videos of the store.
        licensed: whether the page must say that it must not leave the machine.
    """
    transcript_of = {transcript.video: transcript for transcript in transcripts}
    files = sorted(folder.glob("part-*.parquet"))
    rows = list(_random_rows(files))
    sections: dict[str, list[Card]] = {}
    for row in rows:
        video = row["group"].rpartition("_")[0]
        detail = f"{row['file']} at {_clock(row['time_ms'])}, frame {row['frame']}, {row['key']}"
        card = Card(row["image"], _words_around(row, transcript_of[video]), detail)
        sections.setdefault(str(PurePosixPath(row["file"])), []).append(card)
    page = contact_sheet("Frames and the words around their time", NOTE, sections, licensed=licensed)
    (folder / REVIEW_PAGE).write_text(page, encoding="utf-8")


def _random_rows(files: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    """Yield random rows of Parquet files, in order."""
    counts = [pq.ParquetFile(file).metadata.num_rows for file in files]
    chosen = np.random.default_rng(0).choice(sum(counts), min(NUM_FRAMES, sum(counts)), replace=False)
    first = 0
    for file, count in zip(files, counts, strict=True):
        inside = np.sort(chosen[(chosen >= first) & (chosen < first + count)]) - first
        if len(inside):
            yield from pq.read_table(file).take(inside).to_pylist()
        first += count


def _words_around(row: Mapping[str, Any], transcript: Transcript) -> str:
    number = int(row["group"].rpartition("_")[2])
    near = [
        f"{'→ ' if utterance.number == number else ''}{_clock(utterance.start_ms)} {utterance.text}"
        for utterance in transcript.utterances
        if abs(utterance.start_ms - row["time_ms"]) <= CONTEXT_MS or utterance.number == number
    ]
    return " · ".join(near)


def _clock(time_ms: int) -> str:
    minutes, rest = divmod(time_ms, 60_000)
    return f"{minutes}:{rest / 1000:04.1f}"
