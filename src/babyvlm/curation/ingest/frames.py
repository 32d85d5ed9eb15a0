"""``curate frames``: videos and transcripts to a store of (frame, utterance) pairs."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.progress import Progress

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.clock import TimeFormat, likely_mistake
from babyvlm.curation.ingest.frame_review import write_review_page
from babyvlm.curation.ingest.profiles import Profile, find_profile
from babyvlm.curation.ingest.recordings import Recording
from babyvlm.curation.ingest.sentences import frame_times
from babyvlm.curation.ingest.transcripts import (
    NO_SPEAKER,
    VIDEO_SUFFIXES,
    Transcript,
    base_name,
    find_speakers,
    find_transcripts,
    read_transcripts,
)
from babyvlm.curation.ingest.video import VideoError, crop_frame, duration_seconds, encode_jpeg, frames_at, probe
from babyvlm.curation.stage import MIN_FRACTION, Artifact, Stage, parts_folder, stage
from babyvlm.curation.store.chunked_writer import Log, UnusableInputError, write_parts, write_share
from babyvlm.curation.store.pair_store import RECORDING_FIELDS, SplitBy, split_of, split_units
from babyvlm.errors import UserError, require_at_least, require_fraction
from babyvlm.io.files import combine_hashes, files_below, fingerprint_files, require_outside
from babyvlm.io.printing import Console, echo
from babyvlm.playroom.credit import is_in_playroom

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from PIL.Image import Image

# Where a frame comes from.
FIELDS = {"file": pa.string(), "time_ms": pa.int64(), "frame": pa.int64()} | RECORDING_FIELDS
KEY = "VIDEO_N_I: utterance N in the transcript of VIDEO, from 1, and its frame I, from 0"
MAX_IMAGE_SIZE = 4096  # our choice: no video is larger
MAX_LATE_FRACTION, MIN_COVERED_FRACTION = 0.1, 0.01  # see `check_times_fit`
VIDEO_MISSING = "video missing"
# Containers that `video` does not read.
UNREAD_SUFFIXES = (".rm", ".rmvb", ".mxf", ".insv", ".360", ".braw", ".r3d", ".crm", ".swf")
REPORT_COLUMNS = ("transcript", "video", "utterances", "frames", "problem", "notes")


@stage
def frames(  # noqa: PLR0913, PLR0917 - a command's options
    videos: Path,
    transcripts: Path,
    out: Path,
    profile: str = "saycam",
    image_size: int = 224,
    max_frames: int = 32,
    num_workers: int = 2,
    split_by: SplitBy = "utterance",
    min_fraction: float = MIN_FRACTION,
    skip_bad_transcripts: bool = False,
    licensed: bool = True,
    speakers: Path | None = None,
    share: str = "",
) -> Stage:
    """Extract the frames of each utterance from videos and write them to a pair store.

    Input: a folder of videos and a folder of transcripts: tables (CSV), Whisper's JSON, subtitles or CHAT. The
    caregivers' turns are split into sentences and tokens, and each sentence gets a share of the turn's time. From its
    start, five frames per second are extracted, cropped and rotated upright. Output: a store of (frame, utterance)
    pairs, with the video, time and frame number of each, and the child, date and age where the names of the videos or
    the transcripts give them. `OUT/review.html` shows random frames with the words around their time: look whether they
    fit.

    The funnel counts utterances: the caregivers' sentences, and turns that were dropped before they were split. Videos
    that are missing or cannot be decoded are reported and skipped; `OUT.frames.csv` lists the result of each. If the
    command is interrupted, run it again: completed videos are not processed twice.

    For example:
        python -m babyvlm curate frames --videos raw/videos --transcripts raw/transcripts --out frames --num_workers 8

    Args:
        videos: folder of videos, named as in the transcripts; includes subfolders.
        transcripts: folder of transcripts, one per video; includes subfolders.
        out: store to create.
        profile: conventions of the corpus: `saycam`, `babyview`, `playroom`, `whisper`, `subtitles`, `chat`, or your
            own YAML or JSON file (docs/how-to/data.md).
        image_size: side of the stored frames in pixels.
        max_frames: maximum number of frames per utterance (32 in the authors' code).
        num_workers: number of processes; each processes one video at a time.
        split_by: assign train (90%), val and test (5% each) by utterance, as BabyVLM does, by video or by child, so
            that no video or child is in two splits. A child is what the names of its videos begin with, up to the first
            `_`.
        min_fraction: minimum share of the caregivers' utterances that must have a frame. Below it, no store is written;
            pass less if you know that many videos are missing.
        skip_bad_transcripts: skip transcripts with errors (a missing column, decreasing times, times that do not fit
            the video, two videos) instead of stopping before any video is processed.
        licensed: mark the store so that its contents never leave this machine. Pass false only for data that may be
            shared.
        speakers: folder of RTTM files with the names of the videos, if the transcripts do not say who speaks.
        share: build only this share of the videos, such as 2/16 for the second of 16 jobs that run at the same time.
            When all shares are complete, run the command without it to assemble the store.
    """
    rules = find_profile(profile)
    require_at_least(1, image_size=image_size, max_frames=max_frames, num_workers=num_workers)
    require_fraction(min_fraction=min_fraction)
    if image_size > MAX_IMAGE_SIZE:
        raise UserError(f"--image_size {image_size}: must be at most {MAX_IMAGE_SIZE}")
    require_outside(out, videos, transcripts)
    video_files = find_videos(videos, rules)
    paths = find_transcripts(transcripts, rules.transcript_format)
    speaker_files = find_speakers(speakers, rules) if speakers else None
    read = _read_usable(paths, video_files, rules, speaker_files, skip_bad=skip_bad_transcripts)
    _check_inputs_match(read, transcripts, video_files, videos, rules)
    missing = missing_reasons({transcript.video for transcript in read} - video_files.keys(), videos, rules)
    with Progress(console=Console(stderr=True)) as progress:  # closed before an error is printed
        parts = [
            VideoPart.create(
                transcript,
                video_files.get(transcript.video, []),
                rules,
                image_size,
                max_frames,
                videos,
                missing.get(transcript.video, ""),
            )
            for transcript in progress.track(read, description="hashing videos")
        ]
    arguments = {
        "command": "frames",
        "profile": asdict(rules),
        "image_size": image_size,
        "max_frames": max_frames,
        "licensed": licensed,
        "transcripts": combine_hashes(part.transcript_hash for part in parts),
        "videos": combine_hashes(part.video_hash for part in parts),
        **({"split_by": split_by} if split_by != "utterance" else {}),
    }
    if split_by != "utterance":
        splits = split_units((f"{part.transcript.video}_" for part in parts if part.paths), split_by)
        parts = [replace(part, split=splits.get(f"{part.transcript.video}_", "")) for part in parts]
    # A turn without a valid time is lost; other turns are dropped for what they are.
    unwanted = {reason for transcript in read for reason, _ in transcript.dropped if "time" not in reason}
    funnel = Funnel("frames", unit="utterances", unwanted=unwanted)
    report = out.with_name(f"{out.name}.frames.csv")
    artifact = Artifact(
        "store", arguments, funnel, state=parts_folder(out), min_fraction=min_fraction, input_list=report
    )
    if share:
        return write_share(out, parts, share, stage="frames", num_workers=num_workers, extra_fields=FIELDS)
    folder = yield artifact
    artifact.manifest |= write_parts(
        folder,
        parts,
        funnel=funnel,
        raw={rules.source: {"files": [transcript.path.name for transcript in read], "key": KEY}},
        licensed=licensed,
        num_workers=num_workers,
        input_list=report,
        heading=REPORT_COLUMNS,
        extra_fields=FIELDS,
    )
    write_review_page(folder, read, licensed=licensed)
    if is_in_playroom(videos):
        artifact.manifest["world"] = "playroom"  # a benchmark that is built from these frames must say so
    count = artifact.manifest["rows"]
    return f"{count:,} frames of {funnel.kept:,} utterances. See {report} for the result of each video"


@dataclass(frozen=True)
class VideoPart:
    """The frames of one video's utterances: a part of the store.

    Attributes:
        transcript: the transcript of the video.
        paths: video files with the name of the video; exactly one is needed.
        profile: the conventions of the corpus.
        image_size: side of the frames in pixels.
        max_frames: maximum number of frames per utterance.
        transcript_hash: hash of the transcript, and of its speakers.
        video_hash: hash of the video files.
        file: path of the video below the folder of videos.
        split: of all utterances; "" to assign it by utterance.
        missing: reason to report if the video is missing.
    """

    transcript: Transcript
    paths: tuple[Path, ...]
    profile: Profile
    image_size: int
    max_frames: int
    transcript_hash: str = ""
    video_hash: str = ""
    file: str = ""
    split: str = ""
    missing: str = VIDEO_MISSING

    @classmethod
    def create(
        cls,
        transcript: Transcript,
        paths: Sequence[Path],
        profile: Profile,
        image_size: int,
        max_frames: int,
        folder: Path,
        missing: str = VIDEO_MISSING,
    ) -> VideoPart:
        """Return the part of a transcript, with the hashes of its files. The videos are below ``folder``."""
        hashes = fingerprint_files(transcript.files), fingerprint_files(paths)
        file = paths[0].relative_to(folder).as_posix() if paths else ""
        return cls(transcript, tuple(paths), profile, image_size, max_frames, *hashes, file, missing=missing)

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything that determines the rows."""
        return {
            "profile": asdict(self.profile),
            "image_size": self.image_size,
            "max_frames": self.max_frames,
            "transcript": self.transcript_hash,
            "video": self.video_hash,
            "file": self.file,
            **({"split": self.split} if self.split else {}),
        }

    def rows(self, log: Log) -> Iterator[dict[str, Any]]:
        """Yield one row per frame.

        Raises:
            UnusableInputError: the video is missing, there are several, or it cannot be decoded.
        """
        notes: set[str] = set()
        numbers: dict[int, int] = {}
        num_frames = 0
        for number, text, found in self._utterances(notes, numbers):
            images = [(time, image) for time, image in found if isinstance(image, bytes)]
            if not images:
                reasons = (reason for _, reason in found if isinstance(reason, str))
                log.funnel.drop(next(reasons, "starts after the end of the video"))
                continue
            log.funnel.keep()
            num_frames += len(images)
            group = f"{self.transcript.video}_{number:03d}"
            for index, (time, image) in enumerate(images):
                yield {
                    "key": f"{group}_{index:02d}",
                    "image": image,
                    "utterance": text,
                    "source": self.profile.source,
                    "group": group,
                    "split": self.split or split_of(group),
                    "file": self.file,
                    "time_ms": time,
                    "frame": numbers[time],
                    **(self.transcript.recording or Recording()).columns,
                }
        self._report(log, num_frames, problem="", notes=notes)

    def record_failure(self, reason: str, log: Log) -> None:
        """Log that no frame could be extracted."""
        if self.transcript.utterances:
            log.funnel.drop(reason, len(self.transcript.utterances))
        self._report(log, 0, problem=reason, notes=set())

    def _utterances(
        self, notes: set[str], numbers: dict[int, int]
    ) -> Iterator[tuple[int, str, list[tuple[int, bytes | str]]]]:
        """Yield number, text and frames of each utterance, as of ``frames_at``; keeps only the frames needed later."""
        if len(self.paths) != 1:
            raise UnusableInputError("several videos have this name" if self.paths else self.missing)
        utterances = self.transcript.utterances
        times_of = [frame_times(utterance, self.profile.frame_interval_ms, self.max_frames) for utterance in utterances]
        all_times = sorted(set(chain.from_iterable(times_of)))
        # Turns may overlap, so an utterance can start before the one listed above it.
        first_needed = list(accumulate((times[0] for times in reversed(times_of)), min))[::-1]
        buffer = deque[tuple[int, bytes | str]]()
        stream = frames_at(self.paths[0], all_times, self._encode, notes, numbers) if all_times else iter(())
        try:
            for utterance, times, needed in zip(utterances, times_of, first_needed, strict=True):
                while buffer and buffer[0][0] < needed:
                    buffer.popleft()
                while (not buffer or buffer[-1][0] < times[-1]) and (frame := next(stream, None)):
                    buffer.append(frame)
                frame_at = dict(buffer)
                yield utterance.number, utterance.text, [(time, frame_at[time]) for time in times if time in frame_at]
        except VideoError as error:
            raise UnusableInputError(str(error)) from None

    def _encode(self, image: Image) -> bytes:
        return encode_jpeg(crop_frame(image, self.profile, self.image_size))

    def _report(self, log: Log, num_frames: int, problem: str, notes: set[str]) -> None:
        for reason, count in self.transcript.dropped:
            log.funnel.drop(reason, count)
        name, video = self.transcript.path.name, self.transcript.video
        note = "; ".join([*self.transcript.notes, *sorted(notes)])
        log.lines.append([name, video, str(len(self.transcript.utterances)), str(num_frames), problem, note])
        if problem or note:
            log.warnings.append(f"{name}: {video}: {f'{problem}; skipped' if problem else note}")


def find_videos(folder: Path, profile: Profile) -> dict[str, list[Path]]:
    """Return the videos below a folder by name, without suffix and ``profile.strip_from_names``.

    Raises:
        UserError: no such folder, or it contains no video.
    """
    videos: dict[str, list[Path]] = {}
    for path in sorted(files_below(folder, VIDEO_SUFFIXES)):
        videos.setdefault(base_name(path.name, profile), []).append(path)
    if not videos:
        raise UserError(f"{folder}: contains no video ({', '.join(VIDEO_SUFFIXES)})")
    return videos


def missing_reasons(names: Collection[str], folder: Path, profile: Profile) -> dict[str, str]:
    """Return why the videos of some transcripts are not among ``find_videos``."""
    if not names:
        return {}
    present = sorted(path.name for path in files_below(folder, ("",)))
    by_case = {base_name(name, profile).casefold() for name in present if name.lower().endswith(VIDEO_SUFFIXES)}
    unread = (Path(name) for name in present if name.lower().endswith(UNREAD_SUFFIXES))
    by_stem = {base_name(path.stem, profile): path.suffix for path in unread}
    reasons = {}
    for name in names:
        reasons[name] = VIDEO_MISSING
        if name.casefold() in by_case:
            reasons[name] = "video has this name in another case"
        elif name in by_stem:
            reasons[name] = f"video format is not read ({by_stem[name]})"
    return reasons


def _named(caregivers: Sequence[str]) -> str:
    return f"the speakers {', '.join(caregivers)}" if caregivers else "all speakers"


def check_times_fit(transcript: Transcript, video: Path, time_format: TimeFormat, seconds: float | None = None) -> None:
    """Check that the times of a transcript belong to its video. A video that cannot be read is not checked.

    Args:
        transcript: the transcript.
        video: its video.
        time_format: the format of the times.
        seconds: the duration by the header of the video, if it is known already.

    Raises:
        UserError: more than a tenth of the utterances start after the end of the video, or all within its first
            hundredth (a single utterance proves neither: one time may be mistyped); or the times look like those of a
            spreadsheet or a program that were read in another format.
    """
    starts = [utterance.start_ms / 1000 for utterance in transcript.utterances]

    def problems(seconds: float) -> tuple[str, str]:
        misfit = _misfit(starts, seconds)
        return misfit, likely_mistake(transcript.times, time_format, seconds, fit=not misfit) if seconds else ""

    try:
        seconds = duration_seconds(video, exact=False) if seconds is None else seconds
        if not seconds or any(problems(seconds)):  # the exact duration may need the complete file
            probe(video)
            seconds = duration_seconds(video, exact=True)
    except VideoError:
        return
    misfit, mistake = problems(seconds)
    if mistake:
        raise UserError(f"{transcript.path}: the times do not fit {video} ({seconds:,.1f} s): {mistake}")
    if misfit:
        raise UserError(
            f"{transcript.path}: {misfit} of {video} ({seconds:,.1f} s; the last starts at {max(starts):,.1f} s)."
            " Check unit and format of the times in the --profile, and that this is the transcript of this video, which"
            " must be complete"
        )


def _misfit(starts: Sequence[float], seconds: float) -> str:
    """Return what is wrong with start times, in seconds, of utterances in a video of some duration (0: unknown)."""
    late = sum(start >= seconds for start in starts)
    if seconds and late > max(1, MAX_LATE_FRACTION * len(starts)):
        return f"{late} of {len(starts)} utterances start after the end"
    if seconds and len(set(starts)) > 1 and max(starts) < MIN_COVERED_FRACTION * seconds:
        return f"all {len(starts)} utterances start within the first {MIN_COVERED_FRACTION:.0%}"
    return ""


def _read_usable(
    paths: Sequence[Path],
    video_files: Mapping[str, Sequence[Path]],
    profile: Profile,
    speakers: Mapping[str, Path] | None,
    *,
    skip_bad: bool,
) -> list[Transcript]:
    """Read the transcripts whose times fit their videos.

    Raises:
        UserError: some have errors and ``skip_bad`` is false. All errors are printed to standard error first.
    """
    transcripts, problems = read_transcripts(paths, profile, speakers)
    usable = []
    for transcript in transcripts:
        files = video_files.get(transcript.video, ())
        try:
            if len(files) == 1:
                check_times_fit(transcript, files[0], profile.time_format)
            usable.append(transcript)
        except UserError as error:
            problems.append(str(error))
    if len(problems) > 1 or skip_bad:
        echo("\n".join(problems), file=sys.stderr)
    if problems and not skip_bad:
        more = f" ({len(problems) - 1} more errors above)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}{more}. To skip such transcripts, pass --skip_bad_transcripts true")
    return usable


def _check_inputs_match(
    read: Sequence[Transcript],
    transcript_folder: Path,
    video_files: Mapping[str, object],
    video_folder: Path,
    profile: Profile,
) -> None:
    """Check that transcripts, videos and profile belong together, before any video is processed.

    Raises:
        UserError: no transcript contains an utterance, or none of those that do has a video.
    """
    usable = [transcript for transcript in read if transcript.utterances]
    if not usable:
        reasons = sorted({reason for transcript in read for reason, _ in transcript.dropped})
        raise UserError(
            f"{transcript_folder}: no caregiver utterance in {len(read)} transcripts"
            f" ({', '.join(reasons) or 'no rows'}). The profile uses {_named(profile.caregivers)}"
            f"{'. Pass --speakers, or set `caregivers: []` to use all' if reasons == [NO_SPEAKER] else ''}"
        )
    if not any(transcript.video in video_files for transcript in usable):
        raise UserError(
            f"{video_folder}: no transcript belongs to any of its {len(video_files)} videos. {usable[0].path} names"
            f" video {usable[0].video!r}; the folder contains, for example, {min(video_files)!r}"
        )
