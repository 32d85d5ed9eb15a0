"""SAYCam, BabyView and their like: transcripts and videos -> timed utterances -> frames -> a pair store."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import asdict, dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, track

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.cropping import as_jpeg, crop_frame
from babyvlm.curation.ingest.profiles import Profile, find_profile
from babyvlm.curation.ingest.sentences import frame_times
from babyvlm.curation.ingest.transcripts import (
    VIDEO_SUFFIXES,
    Transcript,
    check_some_serve,
    plain_name,
    read_transcript,
)
from babyvlm.curation.ingest.video import VideoError, frames_at
from babyvlm.curation.options import at_least
from babyvlm.curation.store.chunked_writer import Log, UnusableInputError, store_from_parts
from babyvlm.curation.store.pair_store import split_of
from babyvlm.errors import UserError
from babyvlm.io.artifacts import one_at_a_time
from babyvlm.io.files import combine_hashes, files_below, fingerprint_files, require_outside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image

KEY = "VIDEO_N_I: the Nth sentence of the caregiver's in VIDEO's transcript, from 1; its Ith frame, from 0"
LARGEST = 4096  # side of a frame; our choice, no video is larger and no memory holds much more
HEADING = ("transcript", "video", "utterances", "frames", "problem", "notes")


@one_at_a_time
def frames(
    videos: Path,
    transcripts: Path,
    out: Path,
    profile: str = "saycam",
    image_size: int = 224,
    max_frames: int = 16,
    num_workers: int = 2,
    skip_bad_transcripts: bool = False,
    licensed: bool = True,
) -> None:
    """Cut the frames that go with each utterance out of videos, and write them as a pair store.

    In go a folder of videos and one of transcripts (CSV, a row a turn: when it begins, who speaks, what is said). The
    caregiver's turns are cleaned and split into sentences, each with a share of the turn's time; from its start on,
    five frames a second are cut, turned and cropped. Out comes a store of (frame, utterance) pairs.

    The funnel counts utterances: the caregiver's sentences, and each turn that was dropped before it was split. A
    video that is missing or cannot be decoded is reported and passed over; `OUT.frames.csv` says what became of each.
    A call that was killed goes on: the videos that are done are not touched again.

    For example:
        python -m babyvlm curate frames --videos raw/videos --transcripts raw/transcripts --out frames --num_workers 8

    Args:
        videos: folder of videos, named as the transcripts name them; subfolders are searched too.
        transcripts: folder of CSVs, one a video; subfolders are searched too.
        out: store to make.
        profile: conventions of the corpus: `saycam`, `babyview`, or your own YAML or JSON file (docs/how-to/data.md).
        image_size: side of the frames in pixels.
        max_frames: most frames an utterance (16 in BabyVLM, 32 in CVCL).
        num_workers: processes, each at one video.
        skip_bad_transcripts: pass over transcripts that cannot be trusted (a missing column, times that run
            backwards, two videos) instead of stopping before any work is done.
        licensed: the frames may never leave this machine. Say false only of data that is free to share.
    """
    rules = find_profile(profile)
    at_least(1, image_size=image_size, max_frames=max_frames, num_workers=num_workers)
    if image_size > LARGEST:
        raise UserError(f"--image_size {image_size}: must be at most {LARGEST}")
    require_outside(out, videos, transcripts)
    read = read_transcripts(find_transcripts(transcripts), rules, skip_bad=skip_bad_transcripts)
    index = find_videos(videos, rules)
    check_some_serve(read, transcripts, index, videos, rules)
    with Progress(console=Console(stderr=True)) as bar:  # ends before an error is told
        parts = [
            VideoFrames.of(one, index.get(one.video, []), rules, image_size, max_frames)
            for one in bar.track(read, description="looking at videos")
        ]
    arguments = {
        "command": "frames",
        "profile": asdict(rules),
        "image_size": image_size,
        "max_frames": max_frames,
        "licensed": licensed,
        "transcripts": combine_hashes(part.transcript_hash for part in parts),
        "videos": combine_hashes(part.video_hash for part in parts),
    }
    funnel = Funnel("frames", unit="utterances")
    raw = {rules.source: {"files": [one.path.name for one in read], "key": KEY}}
    store = store_from_parts(
        out, parts, funnel, HEADING, arguments=arguments, raw=raw, licensed=licensed, workers=num_workers
    )
    if store:
        print(
            f"{funnel}\n{out}: {len(store):,} frames of {funnel.kept:,} utterances; {out}.frames.csv lists the videos"
        )


@dataclass(frozen=True)
class VideoFrames:
    """The frames of one video's utterances: a part of the store."""

    transcript: Transcript
    paths: tuple[Path, ...]
    profile: Profile
    image_size: int
    max_frames: int
    transcript_hash: str
    video_hash: str

    @classmethod
    def of(
        cls, transcript: Transcript, paths: Sequence[Path], profile: Profile, image_size: int, max_frames: int
    ) -> VideoFrames:
        """The part of a transcript whose video is at one of ``paths``; which should be one."""
        hashes = fingerprint_files([transcript.path]), fingerprint_files(paths)
        return cls(transcript, tuple(paths), profile, image_size, max_frames, *hashes)

    @property
    def arguments(self) -> dict[str, Any]:
        """All that the rows are a function of."""
        return {
            "profile": asdict(self.profile),
            "image_size": self.image_size,
            "max_frames": self.max_frames,
            "transcript": self.transcript_hash,
            "video": self.video_hash,
        }

    def rows(self, log: Log) -> Iterator[dict[str, Any]]:
        """A row a frame.

        Raises:
            UnusableInputError: there is no such video, or it cannot be decoded.
        """
        notes: set[str] = set()
        cut = 0
        for number, text, pictures in self._cut(notes):
            if not pictures:
                log.funnel.drop("said after the end of the video")
                continue
            log.funnel.keep()
            cut += len(pictures)
            group = f"{self.transcript.video}_{number:03d}"
            for index, picture in enumerate(pictures):
                yield {
                    "key": f"{group}_{index:02d}",
                    "image": picture,
                    "utterance": text,
                    "source": self.profile.source,
                    "group": group,
                    "split": split_of(group),
                }
        self._close(log, cut, "", notes)

    def record_failure(self, reason: str, log: Log) -> None:
        """Log that the video gave nothing."""
        if self.transcript.utterances:
            log.funnel.drop(reason, len(self.transcript.utterances))
        self._close(log, 0, reason, set())

    def _close(self, log: Log, cut: int, problem: str, notes: set[str]) -> None:
        for reason, count in self.transcript.dropped:
            log.funnel.drop(reason, count)
        name, video, said = self.transcript.path.name, self.transcript.video, len(self.transcript.utterances)
        unusual = "; ".join(sorted(notes))
        log.lines.append([name, video, str(said), str(cut), problem, unusual])
        if problem or unusual:
            log.warnings.append(f"{name}: {video}: {f'{problem}; passed over' if problem else unusual}")

    def _cut(self, notes: set[str]) -> Iterator[tuple[int, str, list[bytes]]]:
        """Number, text and frames of each utterance; no more is held than utterances that overlap need."""
        if len(self.paths) != 1:
            raise UnusableInputError("several videos of this name" if self.paths else "video missing")
        said = self.transcript.utterances
        wanted = [frame_times(utterance, self.profile.step_ms, self.max_frames) for utterance in said]
        times = sorted(set(chain.from_iterable(wanted)))
        # Turns may overlap, so that one sentence can begin before the one listed above it.
        needed_from = list(accumulate((moments[0] for moments in reversed(wanted)), min))[::-1]
        pending = deque[tuple[int, bytes]]()
        stream = frames_at(self.paths[0], times, self._prepare, notes) if times else iter(())
        try:
            for number, (utterance, moments) in enumerate(zip(said, wanted, strict=True), start=1):
                while pending and pending[0][0] < needed_from[number - 1]:
                    pending.popleft()
                while (not pending or pending[-1][0] < moments[-1]) and (found := next(stream, None)):
                    pending.append(found)
                found_here = dict(pending)
                yield number, utterance.text, [found_here[time] for time in moments if time in found_here]
        except VideoError as error:
            raise UnusableInputError(str(error)) from None

    def _prepare(self, image: Image) -> bytes:
        return as_jpeg(crop_frame(image, self.profile, self.image_size))


def find_transcripts(folder: Path) -> list[Path]:
    """All CSVs below a folder, sorted.

    Raises:
        UserError: there is no such folder, or no CSV in it.
    """
    files = sorted(files_below(folder, (".csv",)))
    if not files:
        raise UserError(f"{folder}: holds no .csv transcript")
    return files


def find_videos(folder: Path, profile: Profile) -> dict[str, list[Path]]:
    """The videos below a folder by their plain names.

    Raises:
        UserError: there is no such folder, or no video in it.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(files_below(folder, VIDEO_SUFFIXES)):
        found.setdefault(plain_name(path.name, profile), []).append(path)
    if not found:
        raise UserError(f"{folder}: holds no {', '.join(VIDEO_SUFFIXES)} video")
    return found


def read_transcripts(paths: Sequence[Path], profile: Profile, *, skip_bad: bool) -> list[Transcript]:
    """Read all transcripts.

    Raises:
        UserError: some cannot be trusted, and ``skip_bad`` is not set; each is told on standard error before.
    """
    good: dict[str, Transcript] = {}
    problems = []
    for path in track(paths, "reading transcripts", console=Console(stderr=True)):
        try:
            transcript = read_transcript(path, profile)
            other = good.setdefault(transcript.video, transcript)
            if other is not transcript:
                raise UserError(f"{path}: is of video {transcript.video!r}, as {other.path} is; keep one of them")
        except UserError as error:
            problems.append(str(error))
    if len(problems) > 1 or skip_bad:
        print("\n".join(problems), file=sys.stderr)
    if problems and not skip_bad:
        more = f" (and {len(problems) - 1} more transcripts, see above)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}{more}, or pass over such transcripts with --skip_bad_transcripts true")
    return list(good.values())
