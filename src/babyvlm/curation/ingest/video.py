"""Video -> the frames shown at given times."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import av
from av.stream import Disposition
from PIL import Image

from babyvlm.curation.ingest.cropping import turned

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence
    from pathlib import Path

LONG_GAP_MS = (
    10_000  # over a longer silence we seek instead of decoding through it: our choice, about a keyframe's reach
)
SHORTFALL_MS = 1_000  # how much earlier than its header says a sound video may end: our choice
UNEVEN = 1.5  # a rate is variable if one frame is shown this much longer than another: rounded clocks stay below
VARIABLE = "variable frame rate: its timestamps count"
MIN_SIDE = 16  # pixels of a picture that can be a film's: our choice
MAX_PIXELS = 7680 * 4320  # 8K: our choice
# A playlist inside an .mp4 would make FFmpeg open other files, or the network.
SAFE = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,asf,flv",
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}

Shown = tuple[av.VideoFrame, Fraction, Fraction]  # a frame, from when and until when it is seen, in milliseconds


class VideoError(Exception):
    """A video that cannot serve; the message is the reason the funnel shows."""


@dataclass(frozen=True)
class VideoFacts:
    """What a video's header and its first frame say.

    Attributes:
        width: pixels, as it is shown (after its own rotation).
        height: likewise.
        seconds: length; 0 if the header does not say.
        fps: frames a second, on average.
        notes: what is unusual about it and yet served.
    """

    width: int
    height: int
    seconds: float
    fps: float
    notes: tuple[str, ...]


def probe(path: Path) -> VideoFacts:
    """Look at a video's header, its index and its first frame; nothing else is read.

    Raises:
        VideoError: as ``frames_at``, as far as these show it.
    """
    notes: set[str] = set()
    with _opened(path) as film:
        stream = film.stream
        frame = next(film.container.decode(stream), None)
        if frame is None:
            raise VideoError("video cannot be decoded")
        if frame.pts is None:
            raise VideoError("video without timestamps")
        _note_rotation(frame, notes)
        index = list(stream.index_entries)  # of an mp4, all of it
        if max((entry.pos + entry.size for entry in index), default=0) > path.stat().st_size:
            raise VideoError("video breaks off before its end")
        if _uneven([after.timestamp - before.timestamp for before, after in pairwise(index)]):
            notes.add(VARIABLE)
        seconds = float(film.milliseconds(stream.duration or 0)) / 1000
        return VideoFacts(*_picture(frame).size, seconds, float(stream.average_rate or 0), tuple(sorted(notes)))


def frames_at(
    path: Path, times_ms: Sequence[int], prepare: Callable[[Image.Image], bytes], notes: set[str]
) -> Iterator[tuple[int, bytes]]:
    """The frame shown at each time (the last one that starts no later), prepared.

    The video is decoded once, forwards; only long gaps are jumped. Timestamps count, not frame numbers, so that a
    variable rate is no harm; a rotation that the file asks for is done first, as players do.

    Args:
        path: video file.
        times_ms: ascending milliseconds from the video's first moment.
        prepare: turns a picture into what is yielded.
        notes: takes what is unusual about the video and yet served.

    Yields:
        time and prepared frame, in the order of the times. Times after the end of the video are left out.

    Raises:
        VideoError: the file is missing, holds no readable video, has no timestamps, or breaks off early.
    """
    with _opened(path) as film:
        length_ms = film.milliseconds(film.stream.duration or 0)
        for run in _runs(times_ms):
            ended = yield from _fill(run, film.shown_from(run[0], notes), prepare)
            if ended is not None and ended + SHORTFALL_MS < length_ms:
                raise VideoError("video breaks off before its end")


@contextmanager
def _opened(path: Path) -> Iterator[_Film]:
    """An open video; whatever goes wrong with it is a ``VideoError``."""
    try:
        if not path.is_file():
            raise VideoError("video missing")
        if not path.stat().st_size:
            raise VideoError("video file is empty")
        with av.open(f"file:{path}", options=SAFE) as container:
            films = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
            if not films:
                raise VideoError("no video stream in the file")
            context = films[0].codec_context
            if min(context.width, context.height) < MIN_SIDE or context.width * context.height > MAX_PIXELS:
                raise VideoError("absurd picture size")
            context.options = {"max_pixels": SAFE["max_pixels"]}  # the size may change on the way
            context.thread_count = 1  # one process a video already fills the cores
            yield _Film(container, films[0])
    except (av.FFmpegError, AttributeError, ValueError, OSError, MemoryError):  # AttributeError: a codec unknown here
        raise VideoError("video cannot be decoded") from None


def _runs(times_ms: Sequence[int]) -> list[list[int]]:
    """Split ascending times wherever a long gap lies between two."""
    runs: list[list[int]] = []
    for time in times_ms:
        if runs and time - runs[-1][-1] <= LONG_GAP_MS:
            runs[-1].append(time)
        else:
            runs.append([time])
    return runs


@dataclass(frozen=True)
class _Film:
    """An open video."""

    container: av.container.InputContainer
    stream: av.VideoStream

    def milliseconds(self, ticks: int) -> Fraction:
        return Fraction(ticks * 1000) * (self.stream.time_base or 0)

    def shown_from(self, time_ms: int, notes: set[str]) -> Iterator[Shown]:
        """Frames from the one shown at ``time_ms`` or an earlier one on."""
        if time_ms <= LONG_GAP_MS:
            return self._shown(notes)
        origin = self.stream.start_time or 0
        base = self.stream.time_base or Fraction(1, 1000)
        self.container.seek(origin + int(Fraction(time_ms, 1000) / base), stream=self.stream)
        frames = self._shown(notes)
        first = next(frames, None)
        if first is not None and first[1] <= time_ms:
            return chain([first], frames)
        self.container.seek(origin, stream=self.stream)  # a poor index led too far: go through it all
        return self._shown(notes)

    def _shown(self, notes: set[str]) -> Iterator[Shown]:
        """Each frame with the milliseconds from which and until which it is shown."""
        before: av.VideoFrame | None = None
        start, lengths = Fraction(0), set[int]()
        for frame in self.container.decode(self.stream):
            if frame.pts is None:
                raise VideoError("video without timestamps")
            until = self.milliseconds(frame.pts - (self.stream.start_time or 0))
            if before is None:
                _note_rotation(frame, notes)
            else:
                yield before, start, until
                lengths.add(frame.pts - (before.pts or 0))
                if VARIABLE not in notes and _uneven(lengths):
                    notes.add(VARIABLE)
            before, start = frame, until
        if before:
            yield before, start, start + Fraction(1000) / (self.stream.average_rate or 25)


def _fill(
    times_ms: Sequence[int], shown: Iterator[Shown], prepare: Callable[[Image.Image], bytes]
) -> Generator[tuple[int, bytes], None, Fraction | None]:
    """Yield each time with the frame shown then; return None if all were found, else when the video ended."""
    waiting = iter(times_ms)
    time = next(waiting)
    end = Fraction(0)
    for frame, _, until in shown:
        end = until
        if time >= until:
            continue
        ready = prepare(_picture(frame))
        while time < until:
            yield time, ready
            following = next(waiting, None)
            if following is None:
                return None
            time = following
    return end


def _picture(frame: av.VideoFrame) -> Image.Image:
    """The picture that a player would show."""
    return turned(Image.fromarray(frame.to_ndarray(format="rgb24")), frame.rotation)


def _note_rotation(frame: av.VideoFrame, notes: set[str]) -> None:
    if frame.rotation:
        notes.add(f"turned by {frame.rotation % 360} degrees, as its metadata asks")


def _uneven(lengths: Collection[int]) -> bool:
    """Whether frames are shown for different times, in ticks; one tick more or less is rounding."""
    return bool(lengths) and max(lengths) > max(UNEVEN * min(lengths), min(lengths) + 1)
