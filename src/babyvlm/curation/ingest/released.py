"""Frames that somebody has cut already, and what was said with them -> a pair store."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.caption_lists import Said, read_lists, read_transcripts_of_frames
from babyvlm.curation.ingest.frames import find_transcripts
from babyvlm.curation.ingest.image_validation import MAX_BYTES, UnsoundError, sound_image
from babyvlm.curation.store.chunked_writer import Log, store_from_parts
from babyvlm.curation.store.pair_store import split_of
from babyvlm.errors import UserError
from babyvlm.io.artifacts import one_at_a_time
from babyvlm.io.files import as_list, combine_hashes, file_size, files_below, join_inside, require_outside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CHUNK_IMAGES = 2048  # committed at a time: seconds of work to lose, a few hundred files for the authors' 600,285 frames
KEY = "IMAGE: the image of that name below the folder, without its suffix"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@one_at_a_time
def released(
    frames: Path,
    out: Path,
    captions: list[Path] | Path | None = None,
    transcripts: Path | None = None,
    source: str = "saycam",
    image_size: int = 0,
    num_workers: int = 2,
    licensed: bool = True,
) -> None:
    """Make a pair store of frames that are cut already, such as the 600,285 of the CVCL authors.

    In go a folder of images and what was said with them: the lists that say which image goes with which utterance, or
    SAYCam's raw transcripts, whose utterances are then numbered as the authors numbered them. Out comes a store of
    (frame, utterance) pairs.

    The funnel counts images; those that are missing or broken are left out and listed in `OUT.released.csv`. A call
    that was killed goes on where it was.

    For example:
        python -m babyvlm curate released --frames train_5fps --captions '[train.json,val.json]' --out stores/frames

    Args:
        frames: folder of images; subfolders are searched too.
        out: store to make.
        captions: list, lists `[a,b]` or folder of them: the authors' train.json, val.json and test.json (or their
            preprocessed transcripts), or CSVs with columns image, utterance and, if there are any, group and split.
        transcripts: folder of raw SAYCam transcripts, for images named as the authors' (S_20140420_1803_01_082_00.jpg).
        source: the corpus' name in the store.
        image_size: make images smaller until the shorter side has this many pixels; 0 keeps the bytes as they are.
        num_workers: processes, each at some images.
        licensed: the images may never leave this machine. Say false only of data that is free to share.
    """
    if (captions is None) == (transcripts is None):
        raise UserError("give either --captions or --transcripts, so that each image has its utterance")
    if image_size < 0 or num_workers < 1:
        raise UserError(f"--image_size {image_size} must be 0 or more, --num_workers {num_workers} at least 1")
    require_outside(out, frames)
    sizes = {path.relative_to(frames).as_posix(): file_size(path) for path in files_below(frames, SUFFIXES)}
    if not sizes:
        raise UserError(f"{frames}: holds no {', '.join(SUFFIXES)} image")
    funnel = Funnel("released", unit="images")
    if transcripts:
        said = read_transcripts_of_frames(find_transcripts(transcripts), sizes, funnel)
    else:
        said = read_lists(as_list(captions), funnel)
        funnel.drop("in no list", len(sizes.keys() - {name for one in said for name in one.images}))
    parts = [ImageChunk.of(frames, chunk, sizes, source, image_size) for chunk in _chunks(said)]
    arguments = {
        "command": "released",
        "source": source,
        "image_size": image_size,
        "licensed": licensed,
        "images": combine_hashes(part.content for part in parts),
    }
    raw = {source: {"files": [path.name for path in as_list(captions or transcripts)], "key": KEY}}
    store = store_from_parts(
        out, parts, funnel, ("image", "problem"), arguments=arguments, raw=raw, licensed=licensed, workers=num_workers
    )
    if store:
        print(f"{funnel}\n{out}: {len(store):,} images; what was left out is listed in {out}.released.csv")


@dataclass(frozen=True)
class ImageChunk:
    """Some utterances and their images: a part of the store.

    ``content`` is a hash of what is said and of the images' names and sizes: reading 600,285 images twice to hash them
    would take as long as the work itself, so a change that keeps an image's size is not seen.
    """

    folder: Path
    said: tuple[Said, ...]
    source: str
    image_size: int
    content: str

    @classmethod
    def of(cls, folder: Path, said: Sequence[Said], sizes: dict[str, int], source: str, image_size: int) -> ImageChunk:
        """The part of some utterances, whose images have the given sizes in bytes."""
        known = [[*one, [sizes.get(name, -1) for name in one.images]] for one in said]
        content = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        return cls(folder, tuple(said), source, image_size, content)

    @property
    def arguments(self) -> dict[str, Any]:
        """All that the rows are a function of."""
        return {"source": self.source, "image_size": self.image_size, "content": self.content}

    def rows(self, log: Log) -> Iterator[dict[str, Any]]:
        """A row an image that is whole."""
        for said in self.said:
            for name in said.images:
                try:
                    image = self._read(name)
                except UnsoundError as error:
                    _set_aside(name, str(error), log)
                    continue
                log.funnel.keep()
                yield {
                    "key": str(PurePosixPath(name).with_suffix("")),
                    "image": image,
                    "utterance": said.text,
                    "source": self.source,
                    "group": said.group,
                    "split": said.split or split_of(said.group),
                }

    def record_failure(self, reason: str, log: Log) -> None:
        """Log that no image could be had."""
        for said in self.said:
            for name in said.images:
                _set_aside(name, reason, log)

    def _read(self, name: str) -> bytes:
        path = join_inside(self.folder, name)
        if path is None:
            raise UnsoundError("path leaves the image folder")
        try:
            if not path.is_file():
                raise UnsoundError("image missing")
            if path.stat().st_size > MAX_BYTES:
                raise UnsoundError("over 64 MiB")
            return sound_image(path.read_bytes(), self.image_size)
        except OSError as error:
            raise UnsoundError(f"image cannot be read ({error.strerror})") from None


def _set_aside(name: str, reason: str, log: Log) -> None:
    log.funnel.drop(reason)
    log.lines.append([name, reason])


def _chunks(said: Iterable[Said]) -> Iterator[list[Said]]:
    """Utterances in chunks of about as many images."""
    chunk: list[Said] = []
    count = 0
    for one in said:
        chunk.append(one)
        count += len(one.images)
        if count >= CHUNK_IMAGES:
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk
