"""Test items as examples: captions of several models, and items that one of two models got right.

Only items of lists that are known to be free are shown (``license.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from babyvlm.curation.contact_sheet import thumbnail
from babyvlm.io.files import resolve_inside
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.report.columns import METEOR_15
from babyvlm.report.license import free_list, trained_on_free
from babyvlm.report.runs import Row, Run, benchmarks_of
from babyvlm.report.tables import Table
from babyvlm.report.trial_lists import Question, TrialList, questions

MAX_EXAMPLES = 8  # on a page


@dataclass(frozen=True)
class Example:
    """A test item.

    Attributes:
        images: JPEGs.
        text: reference caption, or the options.
        captions: (model, generated caption) pairs.
    """

    images: Sequence[bytes]
    text: str
    captions: Sequence[tuple[str, str]] = ()


@dataclass
class CaptionExamples:
    """Captions of test images.

    Attributes:
        shown: images with reference and generated captions.
        left_out: names of rows whose captions may not be shown.
    """

    shown: list[Example] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def caption_examples(rows: Sequence[Row]) -> CaptionExamples:
    """Return images with their reference and the captions by each row's first seed, evenly spaced over the list."""
    found = CaptionExamples()
    captions: dict[str, dict[str, str]] = {}  # row -> item -> caption with its score
    free: TrialList | None = None
    for row in rows:
        run = row.runs[0]
        meteor = run.items(METEOR_15)
        if not meteor:
            continue
        run_list = free_list(run, METEOR_15.benchmark) if trained_on_free(run) else None
        if run_list is None:
            found.left_out.append(row.name)
        else:
            free = free or run_list  # rows of one world share their list
            texts = run.results[METEOR_15.benchmark].captions
            captions[row.name] = {item: f"{texts[item]} ({value:.2f})" for item, value in meteor.items()}
    if free is not None:
        listed = questions(METEOR_15.benchmark, free.trials)
        known = [item for item in listed if all(item in row_captions for row_captions in captions.values())]
        for item in _evenly_spaced(known):
            image = _thumbnail(free.image_root, listed[item].images[0])
            if image is not None:
                by_row = [(row, row_captions[item]) for row, row_captions in captions.items()]
                found.shown.append(Example([image], listed[item].text, by_row))
    return found


def caption_table(examples: CaptionExamples) -> Table | None:
    """Return caption examples as a table for the terminal; None if there are none."""
    if not examples.shown:
        return None
    heading = ["reference", *(row for row, _ in examples.shown[0].captions)]
    body = [[example.text, *(caption for _, caption in example.captions)] for example in examples.shown]
    return Table("Captions", heading, body, "METEOR 1.5 in parentheses.")


@dataclass(frozen=True)
class ChangedItems:
    """The test items of a benchmark on which two runs differ.

    Attributes:
        title: title of the benchmark.
        counts: number of items on which the first run is better, and the second run.
        better_a: examples on which the first run is better; empty unless they may be shown.
        better_b: examples on which the second run is better; empty unless they may be shown.
        free: whether examples may be shown.
    """

    title: str
    counts: tuple[int, int]
    better_a: Sequence[Example]
    better_b: Sequence[Example]
    free: bool


def changed_items(run_a: Run, run_b: Run) -> list[ChangedItems]:
    """Return the changed items of each multiple-choice benchmark that both runs were tested on."""
    changes = []
    for benchmark in benchmarks_of([Row([run_a]), Row([run_b])]):
        column = benchmark.main[0]
        credit_a, credit_b = run_a.items(column), run_b.items(column)
        shared = [item for item in credit_a if item in credit_b]
        if column.chance is None or not shared:
            continue
        better_a = [item for item in shared if credit_a[item] > credit_b[item]]
        better_b = [item for item in shared if credit_a[item] < credit_b[item]]
        free = free_list(run_a, benchmark.name) if free_list(run_b, benchmark.name) else None
        listed = {} if free is None else questions(benchmark.name, free.trials)
        examples = [_examples(free, listed, items) for items in (better_a, better_b)]
        counts = len(better_a), len(better_b)
        changes.append(ChangedItems(benchmark.title, counts, examples[0], examples[1], free is not None))
    return changes


def _examples(free: TrialList | None, listed: Mapping[str, Question], items: Sequence[str]) -> list[Example]:
    examples: list[Example] = []
    if free is None:
        return examples
    for question in (listed[item] for item in _evenly_spaced(items) if item in listed):
        images = [image for name in question.images if (image := _thumbnail(free.image_root, name)) is not None]
        if images:
            examples.append(Example(images, question.text))
    return examples


def _evenly_spaced(items: Sequence[str]) -> Sequence[str]:
    return items[:: max(1, -(-len(items) // MAX_EXAMPLES))]


def _thumbnail(folder: Path, name: str) -> bytes | None:
    """Return a small JPEG of an image; None if it is missing, broken, or a link out of the folder."""
    path = resolve_inside(folder, name)
    try:
        return None if path is None else thumbnail(open_rgb(path))
    except BrokenImageError:
        return None
