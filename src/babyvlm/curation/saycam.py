"""SAYCam: transcripts and videos -> timed utterances -> frames -> a pair store."""

from __future__ import annotations

import multiprocessing
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import track

from babyvlm import artefact
from babyvlm.contracts import UserError
from babyvlm.curation.files import fingerprint_files
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store import split_of, write_store
from babyvlm.curation.transcripts import Profile, Transcript, frame_times, read_transcript
from babyvlm.curation.video import VideoError, as_jpeg, crop_frame, frames_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from PIL.Image import Image

# Column names, speakers and geometry of the CVCL authors' preprocessing (github.com/wkvong/multimodal-baby).
SAYCAM = Profile(
    source="saycam",
    time="Time",
    speaker="Speaker",
    video="Video Name",
    utterance="Utterance",
    caregivers=frozenset({"M", "Mom", "mom", "m", "mother", "Mother", "papa", "the mom"}),
    not_a_video=r"part ?\d",  # "S_20141029_2412_part 2": an old name some transcripts carry beside the real one
    suffix=".mp4",
    step_ms=200,
    resized=256,
    cropped=224,
    crop_up=16,
    upside_down=True,
)
PROFILES = {"saycam": SAYCAM}


@dataclass(frozen=True)
class _Cut:
    """What a worker needs to cut the frames of one video."""

    videos: Path
    profile: Profile
    frame_size: int
    max_frames: int

    def __call__(self, transcript: Transcript) -> _Frames:
        wanted = [frame_times(said, self.profile.step_ms, self.max_frames) for said in transcript.utterances]
        times = sorted({time for utterance in wanted for time in utterance})
        try:
            path = self.videos / f"{transcript.video}{self.profile.suffix}"
            found = frames_at(path, times, self._prepare) if times else {}
        except VideoError as error:
            return _Frames(transcript, (), str(error))
        frames = tuple(tuple(found[time] for time in utterance if time in found) for utterance in wanted)
        return _Frames(transcript, frames, "")

    def _prepare(self, image: Image) -> bytes:
        return as_jpeg(crop_frame(image, self.profile, self.frame_size))


@dataclass(frozen=True)
class _Frames:
    """The frames of each utterance of one video, as JPEG; or why there are none."""

    transcript: Transcript
    frames: tuple[tuple[bytes, ...], ...]
    problem: str


def frames(
    videos: Path,
    transcripts: Path,
    out: Path,
    profile: Literal["saycam"] = "saycam",
    frame_size: int = 224,
    max_frames: int = 16,
    workers: int = 2,
    licensed: bool = True,
) -> None:
    """Cut the frames that go with each utterance and write them as a pair store.

    The funnel counts utterances: the caregiver's sentences, and each turn that was dropped before it was split.
    A video that is missing or cannot be decoded is reported and passed over.

    Args:
        videos: folder of `VIDEO.mp4`.
        transcripts: folder of CSVs, one a video, with columns Time, Speaker, Video Name and Utterance.
        out: store to make.
        profile: the corpus' conventions.
        frame_size: side of the frames in pixels.
        max_frames: most frames an utterance (16 in BabyVLM, 32 in CVCL).
        workers: processes, each at one video.
        licensed: the frames may never leave this machine. Say false only of data that is free to share.
    """
    rules = PROFILES[profile]
    for name, value in (("frame_size", frame_size), ("max_frames", max_frames), ("workers", workers)):
        if value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    files = _files(videos, transcripts)
    read = [read_transcript(path, rules) for path in files]
    _check_videos_differ(read)
    arguments = {
        "command": "frames", "profile": asdict(rules) | {"caregivers": sorted(rules.caregivers)},
        "frame_size": frame_size, "max_frames": max_frames, "licensed": licensed,
        "transcripts": fingerprint_files(files),
        "videos": fingerprint_files(videos / f"{one.video}{rules.suffix}" for one in read),
    }  # fmt: skip
    if artefact.made_already(out, "store", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    funnel = Funnel("frames", unit="utterances")
    cut = _in_order(_Cut(videos, rules, frame_size, max_frames), read, workers)
    done = track(cut, "cutting frames", total=len(read), console=Console(stderr=True))
    rows = (row for video in done for row in _rows(video, rules.source, funnel))
    store = write_store(out, rows, arguments=arguments, funnel=funnel, licensed=licensed)
    print(f"{funnel}\n{out}: {len(store):,} frames of {funnel.kept:,} utterances")


def _files(videos: Path, transcripts: Path) -> list[Path]:
    for folder in (videos, transcripts):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
    files = sorted(transcripts.glob("*.csv"))
    if not files:
        raise UserError(f"{transcripts}: holds no .csv transcript")
    return files


def _check_videos_differ(transcripts: Iterable[Transcript]) -> None:
    first: dict[str, Path] = {}
    for transcript in transcripts:
        other = first.setdefault(transcript.video, transcript.path)
        if other != transcript.path:
            raise UserError(f"{transcript.path}: is of video {transcript.video!r}, as {other} is; keep one of them")


def _in_order(
    cut: Callable[[Transcript], _Frames], transcripts: Iterable[Transcript], workers: int
) -> Iterator[_Frames]:
    """Cut videos in several processes; results come in the order of the transcripts, few of them held at a time."""
    if workers == 1:
        yield from map(cut, transcripts)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that libraries started
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        submitted = (pool.submit(cut, transcript) for transcript in transcripts)
        under_way = deque(islice(submitted, 2 * workers))
        while under_way:
            result = under_way.popleft().result()
            under_way.extend(islice(submitted, 1))
            yield result


def _rows(video: _Frames, source: str, funnel: Funnel) -> Iterator[dict[str, Any]]:
    """The store's rows of one video; counts its utterances."""
    transcript = video.transcript
    for reason, count in transcript.dropped:
        funnel.drop(reason, count)
    if video.problem:
        print(f"{transcript.path.name}: {transcript.video}: {video.problem}; passed over", file=sys.stderr)
        if transcript.utterances:
            funnel.drop(video.problem, len(transcript.utterances))
        return
    for number, (utterance, pictures) in enumerate(zip(transcript.utterances, video.frames, strict=True), start=1):
        if not pictures:
            funnel.drop("said after the end of the video")
            continue
        funnel.keep()
        group = f"{transcript.video}_{number:03d}"
        for index, picture in enumerate(pictures):
            yield {
                "key": f"{group}_{index:02d}", "image": picture, "utterance": utterance.text, "source": source,
                "group": group, "split": split_of(group),
            }  # fmt: skip
