"""What was said while an image was seen: lists beside an image folder -> utterances with their images.

Read are the lists that the CVCL authors' release ships (``train.json``, ``val.json``, ``test.json``, or their
preprocessed transcripts), any CSV of images and captions, and the raw SAYCam transcripts by the authors' numbering.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from babyvlm.curation.ingest.frame_numbering import Numbered, numbered_utterances
from babyvlm.curation.ingest.sentences import split_sentences
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from babyvlm.curation.funnel import Funnel

# S_20140420_1803_01_082_00: video, utterance, frame
RELEASED_NAME = re.compile(r"(?P<group>(?P<video>.+)_(?P<number>\d{3,}))_(?P<frame>\d{2,})")
IMAGE_COLUMNS = ("image", "frame_filename")  # the second is the authors'
TEXT_COLUMNS = ("utterance", "caption", "text")
SPLITS = ("train", "val", "test")
MOST_SLIPS = 0.1  # share of a video's utterances whose frames may be others than their time allows: our choice


class Said(NamedTuple):
    """An utterance and the images seen with it: paths below the image folder."""

    text: str
    group: str
    split: str
    images: tuple[str, ...]


class Entry(NamedTuple):
    """A line of a list: where it stands, the image, and what was said; "" for what the list does not tell."""

    where: str
    image: str
    text: str
    group: str
    split: str


def read_lists(paths: Sequence[Path], funnel: Funnel) -> list[Said]:
    """The utterances of caption lists, each with its images; entries that say nothing are counted in ``funnel``.

    A list without groups gets them from the released frames' names; any other image is a group of its own. A list
    named train, val or test says which split its images are in.

    Raises:
        UserError: a list cannot be read, an image comes twice, or the images of one group are said different things.
    """
    said: dict[str, Said] = {}
    images: dict[str, list[str]] = {}
    first_at: dict[str, str] = {}
    for entry in (entry for path in paths for entry in _read_list(path)):
        text = " ".join(split_sentences(entry.text))
        if not entry.image or not text:
            funnel.drop("no words in the caption" if entry.image else "malformed entry")
            continue
        if entry.image in first_at:
            raise UserError(f"{entry.where}: image {entry.image!r} came before, at {first_at[entry.image]}; keep one")
        first_at[entry.image] = entry.where
        group = entry.group or _group_of(entry.image)
        known = said.setdefault(group, Said(text, group, entry.split, ()))
        if (text, entry.split) != (known.text, known.split):
            raise UserError(
                f"{entry.where}: group {group!r} has the utterance {text!r} here and {known.text!r} at"
                f" {first_at[images[group][0]]}; give them groups of their own"
            )
        images.setdefault(group, []).append(entry.image)
    return [one._replace(images=tuple(images[group])) for group, one in said.items()]


def read_transcripts_of_frames(paths: Iterable[Path], names: Iterable[str], funnel: Funnel) -> list[Said]:
    """The utterances of raw SAYCam transcripts, each with its released frames, found by the authors' numbers.

    Args:
        paths: transcripts.
        names: the released frames, as paths below the image folder.
        funnel: counts the frames that no utterance takes.
    """
    frames = _by_number(names, funnel)
    said: list[Said] = []
    for path in paths:
        video, utterances = numbered_utterances(path)
        there = frames.pop(video, {})
        if there:
            said += _match(video, utterances, there, funnel)
    for there in frames.values():
        funnel.drop("no transcript of its video", sum(map(len, there.values())))
    return said


def _by_number(names: Iterable[str], funnel: Funnel) -> dict[str, dict[int, list[str]]]:
    """Video -> the authors' utterance number -> its frames in order."""
    frames: dict[str, dict[int, list[str]]] = {}
    for name in sorted(names):
        found = RELEASED_NAME.fullmatch(PurePosixPath(name).stem)
        if found:
            frames.setdefault(found["video"], {}).setdefault(int(found["number"]), []).append(name)
        else:
            funnel.drop("not named as a released frame")
    return frames


def _match(
    video: str, utterances: Sequence[Numbered], frames: Mapping[int, list[str]], funnel: Funnel
) -> Iterator[Said]:
    expected = {one.number: one for one in utterances}
    fit = [number for number, names in frames.items() if number in expected and expected[number].frames == len(names)]
    if len(fit) < (1 - MOST_SLIPS) * len(frames):
        funnel.drop("transcript does not fit the frames of its video", sum(map(len, frames.values())))
        return
    for number, names in frames.items():
        text = " ".join(split_sentences(expected[number].text)) if number in fit else ""
        if not text or expected[number].text == "nan":
            reason = "no words in the turn" if number in fit else "not as many frames as its time allows"
            funnel.drop(reason, len(names))
        else:
            yield Said(text, f"{video}_{number:03d}", "", tuple(names))


def _group_of(image: str) -> str:
    stem = str(PurePosixPath(image).with_suffix(""))
    found = RELEASED_NAME.fullmatch(stem)
    return found["group"] if found else stem


def _read_list(path: Path) -> Iterator[Entry]:
    """The entries of a CSV or JSON list, or of all lists in a folder."""
    if path.is_dir():
        inner = sorted(file for file in path.iterdir() if file.suffix in (".csv", ".json"))
        if not inner:
            raise UserError(f"{path}: holds no .csv or .json list")
        for file in inner:
            yield from _read_list(file)
    elif path.suffix == ".json":
        yield from _read_json(path)
    else:
        yield from _read_csv(path)


def _read_json(path: Path) -> Iterator[Entry]:
    """The authors' ``{"data": [{"utterance", "frame_filenames", ...}]}``."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    entries = content.get("data") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise UserError(f'{path}: not a list of utterances, {{"data": [{{"utterance", "frame_filenames"}}]}}')
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        text, names = _utterance_of(entry)
        for name in names or [""]:
            yield Entry(where, name, text, "", path.stem if path.stem in SPLITS else "")


def _utterance_of(entry: Any) -> tuple[str, list[str]]:  # noqa: ANN401 - whatever the JSON holds
    names = entry.get("frame_filenames") if isinstance(entry, dict) else None
    text = entry.get("utterance") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "", []
    return text, names


def _read_csv(path: Path) -> Iterator[Entry]:
    """A table with columns ``image``, ``utterance`` (or ``caption``, ``text``), and ``group`` and ``split`` if any."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, restval="")
            columns = rows.fieldnames or []
            image, text = (_column(path, columns, names) for names in (IMAGE_COLUMNS, TEXT_COLUMNS))
            for number, row in enumerate(rows, start=2):
                where = f"{path}: row {number}"
                split = (row.get("split") or "").strip()
                if split and split not in SPLITS:
                    raise UserError(f"{where}: split is {split!r}, must be one of {', '.join(SPLITS)}")
                yield Entry(where, row[image].strip(), row[text], (row.get("group") or "").strip(), split)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as UTF-8 CSV ({error}); export it again as UTF-8") from None


def _column(path: Path, columns: Sequence[str], names: tuple[str, ...]) -> str:
    for name in names:
        if name in columns:
            return name
    raw = {"Time", "Speaker"} <= set(columns)
    hint = "; this is a raw transcript: give its folder as --transcripts" if raw else ""
    raise UserError(f"{path}: no column {' or '.join(map(repr, names))} (found {', '.join(columns)}){hint}")
