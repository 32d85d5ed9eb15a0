"""Read which utterance belongs to which image, for images that are already extracted.

Sources are the lists of the CVCL authors' release (``train.json``, ``val.json``, ``test.json``, or their preprocessed
transcripts), BabyVLM's mixed training list in LLaVA's format, any CSV of images and captions, and raw SAYCam
transcripts with the authors' utterance numbers.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.curation.ingest.frame_numbering import NumberedUtterance, numbered_utterances
from babyvlm.curation.ingest.image_validation import InvalidSampleError
from babyvlm.curation.ingest.sentences import split_sentences
from babyvlm.curation.ingest.web_corpora.lists import image_and_caption
from babyvlm.errors import UserError
from babyvlm.io.files import stored_name
from babyvlm.io.limits import MAX_LIST_BYTES, load_json
from babyvlm.io.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from babyvlm.curation.funnel import Funnel

# S_20140420_1803_01_082_00: video, utterance, frame
RELEASED_NAME = re.compile(r"(?P<group>(?P<video>.+)_(?P<number>\d{3,}))_(?P<frame>\d{2,})")
IMAGE_COLUMNS = ("image", "frame_filename")  # the second is the authors'
TEXT_COLUMNS = ("utterance", "caption", "text")
SPLITS = ("train", "val", "test")
MAX_MISMATCHES = 0.1  # share of a video's utterances whose number of frames may differ from their duration: our choice


class CaptionedImages(NamedTuple):
    """An utterance and its images, as paths below the image folder. ``split`` is "" if no list gives one."""

    text: str
    group: str
    split: str
    images: tuple[str, ...]


class Entry(NamedTuple):
    """One entry of a list: its location for messages, the image and its caption; "" for what the list does not give."""

    location: str
    image: str
    text: str
    group: str
    split: str


def read_caption_lists(paths: Sequence[Path], funnel: Funnel, stored: Collection[str] = ()) -> list[CaptionedImages]:
    """Read caption lists and group their images by utterance.

    If a list has no groups, the names of released frames determine them; any other image is a group of its own. A list
    named train, val or test determines the split of its images.

    Args:
        paths: lists, or folders of lists.
        funnel: counts the entries without image or words.
        stored: paths of the images below the image folder, whose spelling is used (see ``stored_name``).

    Raises:
        UserError: a list cannot be read, an image occurs twice, or the images of one group have different utterances.
    """
    utterances: dict[str, CaptionedImages] = {}
    images: dict[str, list[str]] = {}
    location_of: dict[str, str] = {}
    for entry in (entry for path in paths for entry in _read_list(path)):
        entry = entry._replace(image=_stored_path(entry.image, stored))  # noqa: PLW2901
        text = " ".join(split_sentences(entry.text))
        if not entry.image or not text:
            funnel.drop("caption without words" if entry.image else "malformed entry")
            continue
        if entry.image in location_of:
            raise UserError(
                f"{entry.location}: image {entry.image!r} occurs twice, first in {location_of[entry.image]}. Keep one"
            )
        location_of[entry.image] = entry.location
        group = entry.group or _group_of(entry.image)
        known = utterances.setdefault(group, CaptionedImages(text, group, entry.split, ()))
        if (text, entry.split) != (known.text, known.split):
            raise UserError(
                f"{entry.location}: group {group!r} has the utterance {text!r} here, but {known.text!r} in"
                f" {location_of[images[group][0]]}. Give them different groups"
            )
        images.setdefault(group, []).append(entry.image)
    return [utterance._replace(images=tuple(images[group])) for group, utterance in utterances.items()]


def read_frame_transcripts(paths: Iterable[Path], names: Iterable[str], funnel: Funnel) -> list[CaptionedImages]:
    """Read raw SAYCam transcripts and find the released frames of each utterance by the authors' numbers.

    Args:
        paths: transcripts.
        names: released frames, as paths below the image folder.
        funnel: counts the frames without an utterance.
    """
    frames = _frames_by_number(names, funnel)
    utterances: list[CaptionedImages] = []
    for path in paths:
        video, numbered = numbered_utterances(path)
        video_frames = frames.pop(video, {})
        if video_frames:
            utterances += _match_frames(video, numbered, video_frames, funnel)
    for video_frames in frames.values():
        funnel.drop("video has no transcript", sum(map(len, video_frames.values())))
    return utterances


def _frames_by_number(names: Iterable[str], funnel: Funnel) -> dict[str, dict[int, list[str]]]:
    """Return video -> utterance number -> frames in order."""
    frames: dict[str, dict[int, list[str]]] = {}
    for name in sorted(names):
        match = RELEASED_NAME.fullmatch(PurePosixPath(name).stem)
        if match:
            frames.setdefault(match["video"], {}).setdefault(int(match["number"]), []).append(name)
        else:
            funnel.drop("name is not VIDEO_UTTERANCE_FRAME")
    return frames


def _match_frames(
    video: str, numbered: Sequence[NumberedUtterance], frames: Mapping[int, list[str]], funnel: Funnel
) -> Iterator[CaptionedImages]:
    utterance_of = {utterance.number: utterance for utterance in numbered}
    matching = {
        number
        for number, names in frames.items()
        if number in utterance_of and utterance_of[number].frames == len(names)
    }
    if len(matching) < (1 - MAX_MISMATCHES) * len(frames):
        funnel.drop("transcript does not match the frames of the video", sum(map(len, frames.values())))
        return
    for number, names in frames.items():
        if number not in matching:
            funnel.drop("number of frames does not match the duration", len(names))
            continue
        text = " ".join(split_sentences(utterance_of[number].text))
        if not text or utterance_of[number].text == "nan":
            funnel.drop("turn without words", len(names))
            continue
        yield CaptionedImages(text, f"{video}_{number:03d}", "", tuple(names))


def _stored_path(image: str, stored: Collection[str]) -> str:
    """Return the path below the image folder of a listed image: of an absolute path, the longest end that exists."""
    parts = PurePosixPath(image).parts
    ends = ["/".join(parts[start:]) for start in range(1, len(parts))] if image.startswith("/") else []
    found = (stored_name(name, stored.__contains__) for name in (image, *ends))
    return next((name for name in found if name in stored), stored_name(image, stored.__contains__))


def _group_of(image: str) -> str:
    stem = str(PurePosixPath(image).with_suffix(""))
    match = RELEASED_NAME.fullmatch(stem)
    return match["group"] if match else stem


def _read_list(path: Path) -> Iterator[Entry]:
    """Yield the entries of a CSV or JSON list, or of all lists in a folder."""
    if path.is_dir():
        lists = sorted(file for file in path.iterdir() if file.suffix in (".csv", ".json"))
        if not lists:
            raise UserError(f"{path}: contains no .csv or .json list")
        for file in lists:
            yield from _read_list(file)
    elif path.suffix == ".json":
        yield from _read_json(path)
    else:
        yield from _read_csv(path)


def _read_json(path: Path) -> Iterator[Entry]:
    """Yield the entries of the authors' ``{"data": [{"utterance", "frame_filenames", ...}]}``, or of LLaVA's list."""
    try:
        content = load_json(path.read_bytes(), MAX_LIST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    entries = content.get("data") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise UserError(f'{path}: not a list of utterances {{"data": [{{"utterance", "frame_filenames"}}]}}')
    for number, entry in enumerate(entries):
        text, names = _parse_entry(entry)
        for name in names or [""]:
            yield Entry(f"{path}, entry {number}", name, text, "", _split_of(path))


def _split_of(path: Path) -> str:
    """Return the split that the name of a list gives."""
    return path.stem if path.stem in SPLITS else ""


def _parse_entry(entry: object) -> tuple[str, list[str]]:
    """Return utterance and image names; no names if the entry is malformed."""
    if isinstance(entry, dict) and "frame_filenames" not in entry:
        try:
            image, caption = image_and_caption(entry)
        except InvalidSampleError:
            return "", []
        return caption.lower(), [image]  # lower case as in arjunchandra2/multimodal-baby, `_process_json`
    names = entry.get("frame_filenames") if isinstance(entry, dict) else None
    text = entry.get("utterance") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "", []
    return text, names


def _read_csv(path: Path) -> Iterator[Entry]:
    """Yield the rows of a table with ``IMAGE_COLUMNS``, ``TEXT_COLUMNS`` and optionally ``group`` and ``split``."""
    table = read_table(path)
    is_transcript = {"Time", "Speaker"} <= set(table.columns)
    hint = ". This is a raw transcript: pass its folder as --transcripts" if is_transcript else ""
    image, text = (table.find(names, hint) for names in (IMAGE_COLUMNS, TEXT_COLUMNS))
    for row in table:
        location = f"{path}, row {row.number}"
        group, split = (row.cells.get(column, "").strip() for column in ("group", "split"))
        split = split or _split_of(path)
        if split and split not in SPLITS:
            raise UserError(f"{location}: split is {split!r}, must be one of {', '.join(SPLITS)}")
        yield Entry(location, row[image].strip(), row[text], group, split)
