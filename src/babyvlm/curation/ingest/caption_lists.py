"""Read which utterance belongs to which image, for images that are already extracted.

Sources are the lists of the CVCL authors' release (``train.json``, ``val.json``, ``test.json``, or their preprocessed
transcripts), BabyVLM's mixed training list in LLaVA's format, any CSV of images and captions, and raw SAYCam
transcripts with the authors' utterance numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from babyvlm.curation.ingest.frame_numbering import RULES, NumberedUtterance, Rule, numbered_utterances
from babyvlm.curation.ingest.image_validation import InvalidSampleError
from babyvlm.curation.ingest.sentences import MISSING
from babyvlm.curation.ingest.web_corpora.lists import image_and_caption
from babyvlm.errors import UserError
from babyvlm.io.files import read_bounded, stored_name
from babyvlm.io.limits import MAX_LIST_BYTES, load_json
from babyvlm.io.tables import read_table
from babyvlm.text import normalize

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from babyvlm.curation.funnel import Funnel

# S_20140420_1803_01_082_00: video, utterance, frame
RELEASED_NAME = re.compile(r"(?P<group>(?P<video>.+)_(?P<number>\d{3,}))_(?P<frame>\d{2,})")
IMAGE_COLUMNS = ("image", "frame_filename")  # the second is the authors'
TEXT_COLUMNS = ("utterance", "caption", "text")
SPLITS = ("train", "val", "test")
MAX_MISMATCHES = 0.1  # share of a video's utterances whose number of frames may differ from their duration: our choice
MIN_MATCHES = 0.5  # share of all utterances that must have the number of frames of a numbering: our choice
MAX_UNTOKENIZED = 0.1  # share of the captions of a list that `normalize` may change: our choice (0.01 for the authors')


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


def read_caption_lists(
    paths: Sequence[Path], funnel: Funnel, stored: Collection[str] = (), tokenize: bool | None = None
) -> list[CaptionedImages]:
    """Read caption lists and group their images by utterance.

    If a list has no groups, the names of released frames determine them; any other image is a group of its own. A list
    named train, val or test determines the split of its images.

    Args:
        paths: lists, or folders of lists.
        funnel: counts the entries without image or words.
        stored: paths of the images below the image folder, whose spelling is used (see ``stored_name``).
        tokenize: bring the captions into the form of ``babyvlm.text``. False: take them as they are. None: the same,
            but reject lists that are not in that form.

    Raises:
        UserError: a list cannot be read, an image occurs twice, the images of one group have different utterances, or
            the captions are not tokenized and ``tokenize`` is None.
    """
    utterances: dict[str, CaptionedImages] = {}
    images: dict[str, list[str]] = {}
    location_of: dict[str, str] = {}
    for entry in (entry for path in paths for entry in _read_list(path)):
        entry = entry._replace(image=_stored_path(entry.image, stored))  # noqa: PLW2901
        text = normalize(entry.text) if tokenize else entry.text
        if not entry.image or not text.strip() or text == MISSING:
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
    if tokenize is None:
        _require_tokenized(utterances.values(), location_of, images)
    return [utterance._replace(images=tuple(images[group])) for group, utterance in utterances.items()]


def _require_tokenized(
    utterances: Collection[CaptionedImages], location_of: Mapping[str, str], images: Mapping[str, Sequence[str]]
) -> None:
    """Reject captions such as ``Where's the ball?`` where ``where 's the ball ?`` is expected."""
    other = [one for one in utterances if normalize(one.text).split() != one.text.split()]
    if len(other) > MAX_UNTOKENIZED * len(utterances):
        raise UserError(
            f"{location_of[images[other[0].group][0]]}: {other[0].text!r} is not lower-case tokens separated by blanks"
            f" ({normalize(other[0].text)!r}); so are {len(other):,} of {len(utterances):,} captions. Pass --tokenize"
            " true to tokenize them, or --tokenize false to take them as they are"
        )


def read_frame_transcripts(
    paths: Iterable[Path], names: Iterable[str], funnel: Funnel
) -> tuple[list[CaptionedImages], Rule]:
    """Read raw SAYCam transcripts and find the released frames of each utterance by the authors' numbers.

    Args:
        paths: transcripts.
        names: released frames, as paths below the image folder.
        funnel: counts the frames without an utterance.

    Returns:
        The utterances with their frames, and the rule that numbered them: the one whose frame counts fit best.

    Raises:
        UserError: the frame counts fit neither rule, or a transcript cannot be read.
    """
    frames = _frames_by_number(names, funnel)
    numberings = {rule: dict(numbered_utterances(path, rule) for path in paths) for rule in RULES}
    fits = {rule: _share_of_matches(numbering, frames) for rule, numbering in numberings.items()}
    rule = max(fits, key=lambda rule: fits[rule])
    if not any(video in frames for video in numberings[rule]):
        funnel.drop("video has no transcript", sum(len(names) for video in frames.values() for names in video.values()))
        return [], rule
    if fits[rule] < MIN_MATCHES:
        shares = ", ".join(f"{share:.0%} by {RULES[rule]}" for rule, share in fits.items())
        raise UserError(
            f"the frames do not have the numbers of these transcripts: the number of frames fits the utterance for"
            f" {shares}. Check that they belong together, or pass the lists of the frames' authors as --captions"
        )
    utterances: list[CaptionedImages] = []
    for video, video_frames in frames.items():
        numbered = numberings[rule].get(video)
        if numbered is None:
            funnel.drop("video has no transcript", sum(map(len, video_frames.values())))
        else:
            utterances += _match_frames(video, numbered, video_frames, funnel)
    return utterances, rule


Numbering: TypeAlias = Mapping[str, Sequence[NumberedUtterance]]


def _share_of_matches(numbering: Numbering, frames: Mapping[str, Mapping[int, Sequence[str]]]) -> float:
    """Return the share of the utterances with frames, of videos with a transcript, whose number of frames fits."""
    matches = [
        number in matching
        for video in numbering.keys() & frames.keys()
        for matching in [_matching(numbering[video], frames[video])]
        for number in frames[video]
    ]
    return sum(matches) / max(1, len(matches))


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
    matching = _matching(numbered, frames)
    if len(matching) < (1 - MAX_MISMATCHES) * len(frames):
        funnel.drop("transcript does not match the frames of the video", sum(map(len, frames.values())))
        return
    for number, names in frames.items():
        if number not in matching:
            funnel.drop("number of frames does not match the duration", len(names))
        elif not matching[number]:
            funnel.drop("utterance without words", len(names))
        else:
            yield CaptionedImages(matching[number], f"{video}_{number:03d}", "", tuple(names))


def _matching(numbered: Sequence[NumberedUtterance], frames: Mapping[int, Sequence[str]]) -> dict[int, str]:
    """Return the texts of the utterances that have as many frames as their duration allows, by number."""
    return {one.number: one.text for one in numbered if len(frames.get(one.number, ())) == one.frames}


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
        lists = sorted(file for file in path.iterdir() if file.suffix.lower() in (".csv", ".json", ".jsonl"))
        if not lists:
            raise UserError(f"{path}: contains no .csv, .json or .jsonl list")
        for file in lists:
            yield from _read_list(file)
    elif path.suffix.lower() in (".json", ".jsonl"):
        yield from _read_json(path)
    else:
        yield from _read_csv(path)


def _read_json(path: Path) -> Iterator[Entry]:
    """Yield the entries of the authors' ``{"data": [{"utterance", "frame_filenames", ...}]}``, or of LLaVA's list."""
    try:
        encoded = read_bounded(path, MAX_LIST_BYTES)
        if path.suffix.lower() == ".jsonl":
            encoded = b"[" + b",".join(line for line in encoded.splitlines() if line.strip()) + b"]"
        content = load_json(encoded, MAX_LIST_BYTES)
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
        # As arjunchandra2/multimodal-baby does when it reads them (`multimodal_saycamllava_data_module.py`).
        return normalize(caption), [image]
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
