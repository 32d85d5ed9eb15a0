"""Forced-choice trials: read from CSV lists, scored by any ``ImageTextScorer``, written as Parquet."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from babyvlm.contracts import ImageTextScorer, TrialResult, UserError
from babyvlm.curation.files import inside
from babyvlm.images import BrokenImageError, open_rgb

ImageText = tuple[str, str]  # an image's path below the list's root, and a text
RESULT_SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("half", pa.string()),
        ("category", pa.string()),
        ("scores", pa.list_(pa.float64())),
        ("choice", pa.int32()),
        ("credit", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Trial:
    """A choice among some (image, text) pairs.

    Attributes:
        item: id, unique in its list.
        half: ``dev`` or ``test``.
        category: what the item is counted under besides the total.
        options: the pairs.
        answer: index of the right one.
    """

    item: str
    half: str
    category: str
    options: tuple[ImageText, ...]
    answer: int


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a trial list.

    Raises:
        UserError: no such file, a column that is missing, an empty cell in one of ``columns``, or no row at all.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            found, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV ({error})") from None
    missing = [column for column in columns if column not in found]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; it has {', '.join(found) or 'none'}")
    for number, row in enumerate(rows, start=2):
        empty = [column for column in columns if not (row[column] or "").strip()]
        if empty:
            raise UserError(f"{path}: row {number}: {empty[0]} is empty")
    if not rows:
        raise UserError(f"{path}: holds no row")
    return rows


def half_of(row: Mapping[str, str], item: str, dev_fraction: float, path: Path) -> str:
    """The half of an item: its list's own column ``half``, else by a hash of the item.

    Raises:
        UserError: the column holds something else than ``dev`` or ``test``.
    """
    if "half" not in row:
        position = int.from_bytes(hashlib.sha256(item.encode()).digest()[:4], "big") / 2**32
        return "dev" if position < dev_fraction else "test"
    if row["half"] not in ("dev", "test"):
        raise UserError(f"{path}: item {item}: half is {row['half']!r}, must be dev or test")
    return row["half"]


def check_images(trials: Sequence[Trial], root: Path, path: Path) -> None:
    """Make sure that every image is there and below ``root``.

    Raises:
        UserError: some are not; the message names the first and counts them.
    """
    images = sorted({image for trial in trials for image, _ in trial.options})
    outside = [image for image in images if inside(root, image) is None]
    if outside:
        raise UserError(f"{path}: image {outside[0]} leaves {root}")
    absent = [image for image in images if not (root / image).is_file()]
    if absent:
        raise UserError(f"{path}: {len(absent)} of {len(images)} images are not in {root}, the first is {absent[0]}")


def score_options(
    scorer: ImageTextScorer, trials: Sequence[Trial], root: Path, *, device: torch.device, batch_size: int = 64
) -> dict[ImageText, float]:
    """Scores of all options of all trials; each distinct image is encoded once.

    Raises:
        UserError: an image cannot be read, or a score is NaN.
    """
    texts_of: dict[str, set[str]] = {}
    for trial in trials:
        for image, text in trial.options:
            texts_of.setdefault(image, set()).add(text)
    # Images with the same texts stand together, so that a batch asks for few others.
    images = sorted(texts_of, key=lambda image: (sorted(texts_of[image]), image))
    scores: dict[ImageText, float] = {}
    for first in range(0, len(images), batch_size):
        scores.update(_score_batch(scorer, images[first : first + batch_size], texts_of, root, device))
    return scores


def _score_batch(
    scorer: ImageTextScorer, images: Sequence[str], texts_of: Mapping[str, set[str]], root: Path, device: torch.device
) -> Iterator[tuple[ImageText, float]]:
    texts = sorted(set().union(*(texts_of[image] for image in images)))
    wanted_BT = torch.tensor([[text in texts_of[image] for text in texts] for image in images])
    images_BCHW = torch.stack([scorer.preprocess(_open(root / image)) for image in images]).to(device)
    with torch.no_grad():
        score_BT = scorer.score(images_BCHW, texts, wanted_BT.to(device)).double().cpu()
    for b, t in wanted_BT.nonzero().tolist():
        score = score_BT[b, t].item()
        if math.isnan(score):
            raise UserError(f"the model's score of {images[b]!r} with {texts[t]!r} is not a number")
        yield (images[b], texts[t]), score


def _open(path: Path) -> Image.Image:
    try:
        return open_rgb(path)
    except BrokenImageError as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None


def judge(trial: Trial, scores: Mapping[ImageText, float]) -> TrialResult:
    """The outcome of a trial: a choice among k tied best is worth 1/k if the right one is among them."""
    values = tuple(scores[option] for option in trial.options)
    best = max(values)
    tied = [index for index, value in enumerate(values) if value == best]
    credit = 1 / len(tied) if trial.answer in tied else 0.0
    return TrialResult(trial.item, trial.half, trial.category, values, tied[0], credit)


def world_of(path: Path) -> str:
    """``playroom`` for a list of the embedded world, which is told by the manifest above it; else ``real``."""
    embedded = any((folder / "playroom.json").is_file() for folder in path.resolve().parents)
    return "playroom" if embedded else "real"


def write_results(path: Path, results: Sequence[TrialResult], world: str) -> None:
    """Write results beside and rename them in; ``world`` stands in the file's metadata, for every table made of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    schema = RESULT_SCHEMA.with_metadata({"world": world})
    pq.write_table(pa.Table.from_pylist([asdict(result) for result in results], schema), beside)
    beside.rename(path)
