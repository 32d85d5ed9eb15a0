"""``curate released``: frames that were extracted by others, and their utterances, to a pair store."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.caption_lists import CaptionedImages, read_caption_lists, read_frame_transcripts
from babyvlm.curation.ingest.frame_numbering import RULES
from babyvlm.curation.ingest.image_validation import InvalidSampleError, validate_image
from babyvlm.curation.ingest.profiles import PROFILES, Profile, find_profile
from babyvlm.curation.ingest.recordings import Recording, recording_of
from babyvlm.curation.ingest.transcripts import find_transcripts
from babyvlm.curation.stage import MIN_FRACTION, Artifact, Stage, parts_folder, stage
from babyvlm.curation.store.chunked_writer import Log, write_parts, write_share
from babyvlm.curation.store.pair_store import RECORDING_FIELDS, SplitBy, split_of, split_units
from babyvlm.errors import UserError, require_at_least, require_fraction
from babyvlm.io.files import as_list, combine_hashes, file_size, files_below, join_inside, require_outside
from babyvlm.io.images import IMAGE_SUFFIXES
from babyvlm.io.limits import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CHUNK_IMAGES = 2048  # images per part: seconds of work, and a few hundred files for the authors' 600,285 frames
KEY = "IMAGE: the image with this path below the image folder, without its suffix"
REPORT_COLUMNS = ("image", "problem")
NOT_LISTED = "not in any caption list"
UNWANTED = (NOT_LISTED, "caption without words", "utterance without words")


@stage
def released(  # noqa: PLR0913, PLR0917 - a command's options
    frames: Path,
    out: Path,
    captions: list[Path] | Path | None = None,
    transcripts: Path | None = None,
    source: str = "saycam",
    profile: str | None = None,
    tokenize: bool | None = None,
    image_size: int = 0,
    num_workers: int = 2,
    split_by: SplitBy | None = None,
    min_fraction: float = MIN_FRACTION,
    licensed: bool = True,
    share: str = "",
) -> Stage:
    """Create a pair store from frames that are already extracted, such as the 600,285 frames of the CVCL authors.

    Input: a folder of images, and their utterances: either lists that assign images to utterances, or SAYCam's raw
    transcripts, whose utterances are then numbered as in the authors' preprocessing: by their current or their older
    rule, whichever fits the number of frames. Output: a store of (frame, utterance) pairs, with the child, date and age
    where the names of the images give them.

    The funnel counts images; those that are missing or damaged are left out and listed in `OUT.released.csv`. If the
    command is interrupted, run it again and it resumes.

    For example:
        python -m babyvlm curate released --frames train_5fps --captions '[train.json,val.json]' --out stores/frames

    Args:
        frames: folder of images; includes subfolders.
        out: store to create.
        captions: list, lists `[a,b]` or a folder of lists: the authors' train.json, val.json and test.json, their
            preprocessed transcripts, a JSON list in LLaVA's format, or CSV files with the columns image, utterance and
            optionally group and split. A list named train, val or test gives its images this split.
        transcripts: folder of raw SAYCam transcripts, for images with the authors' names
            (S_20140420_1803_01_082_00.jpg).
        source: name of the corpus in the store. Empty: that of the first folder in an image's path, for lists that mix
            corpora.
        profile: named profile, or your own file, whose `recording` and `birth_dates` tell the child, date and age from
            the names of the images. By default, the one with the name of the source, if there is one.
        tokenize: true splits the captions of the lists into lower-case tokens, false takes them as they are. By default
            they are taken as they are, but must be tokenized already, as the authors' are; those of lists in LLaVA's
            format are always tokenized.
        image_size: maximum length of the shorter side in pixels; larger images are resized. 0 keeps the original bytes.
        num_workers: number of processes; each processes some images at a time.
        split_by: assign train (90%), val and test (5% each) by utterance, by video or by child, so that no video or
            child is in two splits. A child is what the names of its videos begin with, up to the first `_`. By default,
            the lists assign the splits, and utterances for which they do not are assigned one by one.
        min_fraction: minimum share of the images with an utterance that must be valid. Below it, no store is written.
        licensed: mark the store so that its contents never leave this machine. Pass false only for data that may be
            shared.
        share: build only this share of the images, such as 2/16 for the second of 16 jobs that run at the same time.
            When all shares are complete, run the command without it to assemble the store.
    """
    if (captions is None) == (transcripts is None):
        raise UserError("pass either --captions or --transcripts, so that each image has an utterance")
    require_at_least(0, image_size=image_size)
    require_at_least(1, num_workers=num_workers)
    require_fraction(min_fraction=min_fraction)
    require_outside(out, frames)
    named = find_profile(profile) if profile else None
    sizes = {path.relative_to(frames).as_posix(): file_size(path) for path in files_below(frames, IMAGE_SUFFIXES)}
    if not sizes:
        raise UserError(f"{frames}: contains no image ({', '.join(IMAGE_SUFFIXES)})")
    funnel = Funnel("released", unit="images", unwanted=set(UNWANTED))
    raw: dict[str, Any] = {"files": [path.name for path in as_list(captions or transcripts)], "key": KEY}
    if transcripts:
        utterances, rule = read_frame_transcripts(find_transcripts(transcripts), sizes, funnel)
        raw["numbering"] = RULES[rule]
    else:
        utterances = read_caption_lists(as_list(captions), funnel, sizes, tokenize)
        listed = {name for utterance in utterances for name in utterance.images}
        funnel.drop(NOT_LISTED, len(sizes.keys() - listed))
    if split_by:
        splits = split_units((utterance.group for utterance in utterances), split_by)
        utterances = [utterance._replace(split=splits[utterance.group]) for utterance in utterances]
    parts = [ImagePart.create(frames, chunk, sizes, source, image_size, named) for chunk in _chunks(utterances)]
    arguments = {
        "command": "released",
        "source": source,
        "image_size": image_size,
        "licensed": licensed,
        "images": combine_hashes(part.content for part in parts),
        "columns": list(RECORDING_FIELDS),
        **({"birth_dates": named.birth_dates, "recording": named.recording} if named else {}),
    }
    report = out.with_name(f"{out.name}.released.csv")
    artifact = Artifact(
        "store", arguments, funnel, state=parts_folder(out), min_fraction=min_fraction, input_list=report
    )
    if share:
        return write_share(out, parts, share, stage="released", num_workers=num_workers, extra_fields=RECORDING_FIELDS)
    folder = yield artifact
    artifact.manifest |= write_parts(
        folder,
        parts,
        funnel=funnel,
        raw={source: raw},
        licensed=licensed,
        num_workers=num_workers,
        input_list=report,
        heading=REPORT_COLUMNS,
        extra_fields=RECORDING_FIELDS,
    )
    numbering = f" Utterances are numbered by {raw['numbering']}." if transcripts else ""
    return f"{artifact.manifest['rows']:,} images.{numbering} See {report} for the images that were left out"


@dataclass(frozen=True)
class ImagePart:
    """Some utterances and their images: a part of the store.

    Attributes:
        folder: the image folder.
        utterances: the utterances with their images.
        source: name of the corpus.
        image_size: maximum length of the shorter side in pixels; 0 for no limit.
        content: hash of the utterances and of the names and sizes of the images. Hashing the content of 600,285 images
            would take as long as the stage itself, so a change that keeps the size of an image is not detected.
        profile: what the names of recordings mean; by default that of the corpus.
    """

    folder: Path
    utterances: tuple[CaptionedImages, ...]
    source: str
    image_size: int
    content: str = ""
    profile: Profile | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        utterances: Sequence[CaptionedImages],
        sizes: dict[str, int],
        source: str,
        image_size: int,
        profile: Profile | None = None,
    ) -> ImagePart:
        """Return the part of some utterances, whose images have the given sizes in bytes."""
        described = [[*utterance, [sizes.get(name, -1) for name in utterance.images]] for utterance in utterances]
        content = hashlib.sha256(json.dumps(described).encode()).hexdigest()
        return cls(folder, tuple(utterances), source, image_size, content, profile)

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything that determines the rows."""
        names = {"profile": asdict(self.profile)} if self.profile else {}
        return {"source": self.source, "image_size": self.image_size, "content": self.content, **names}

    def rows(self, log: Log) -> Iterator[dict[str, Any]]:
        """Yield one row per valid image."""
        for utterance in self.utterances:
            for name in utterance.images:
                try:
                    image = self._read_image(name)
                except InvalidSampleError as error:
                    _leave_out(name, str(error), log)
                    continue
                log.funnel.keep()
                path = PurePosixPath(name)
                source = self.source or path.parts[0]
                profile = self.profile or PROFILES.get(source)
                yield {
                    "key": str(path.with_suffix("")),
                    "image": image,
                    "utterance": utterance.text,
                    "source": source,
                    "group": utterance.group,
                    "split": utterance.split or split_of(utterance.group),
                    **(recording_of(path.stem, profile) if profile else Recording()).columns,
                }

    def record_failure(self, reason: str, log: Log) -> None:
        """Log that none of the images could be read."""
        for utterance in self.utterances:
            for name in utterance.images:
                _leave_out(name, reason, log)

    def _read_image(self, name: str) -> bytes:
        path = join_inside(self.folder, name)
        if path is None:
            raise InvalidSampleError("path is outside the image folder")
        try:
            if not path.is_file():
                raise InvalidSampleError("image missing")
            if path.stat().st_size > MAX_IMAGE_BYTES:
                raise InvalidSampleError("over 64 MiB")
            return validate_image(path.read_bytes(), self.image_size)
        except OSError as error:
            raise InvalidSampleError(f"image cannot be read ({error.strerror})") from None


def _leave_out(name: str, reason: str, log: Log) -> None:
    log.funnel.drop(reason)
    log.lines.append([name, reason])


def _chunks(utterances: Iterable[CaptionedImages]) -> Iterator[list[CaptionedImages]]:
    """Split utterances into chunks of about ``CHUNK_IMAGES`` images."""
    chunk: list[CaptionedImages] = []
    num_images = 0
    for utterance in utterances:
        chunk.append(utterance)
        num_images += len(utterance.images)
        if num_images >= CHUNK_IMAGES:
            yield chunk
            chunk, num_images = [], 0
    if chunk:
        yield chunk
