"""Video -> the frames shown at given times, cut as the corpus asks."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING

import av
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from babyvlm.curation.transcripts import Profile

LONG_GAP_MS = (
    10_000  # over a longer silence we seek instead of decoding through it: our choice, about a keyframe's reach
)
SHORTFALL_MS = 1_000  # how much earlier than its header says a sound video may end: our choice
JPEG_QUALITY = 95  # OpenCV's default, with which the authors' release was written


Shown = tuple[av.VideoFrame, Fraction, Fraction]  # a frame, from when and until when it is seen, in milliseconds


class VideoError(Exception):
    """A video that cannot serve; the message is the reason the funnel shows."""


def frames_at(path: Path, times_ms: Sequence[int], prepare: Callable[[Image.Image], bytes]) -> dict[int, bytes]:
    """The frame shown at each time (the last one that starts no later), prepared.

    The video is decoded once, forwards; only long gaps are jumped.

    Args:
        path: video file.
        times_ms: ascending milliseconds from the video's first moment.
        prepare: turns a picture into what is returned.

    Returns:
        time -> prepared frame. Times after the end of the video are left out.

    Raises:
        VideoError: the file is missing, holds no readable video, has no timestamps, or breaks off early.
    """
    if not path.is_file():
        raise VideoError("video missing")
    found: dict[int, bytes] = {}
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError("no video stream in the file")
            stream = container.streams.video[0]
            stream.thread_count = 1  # one process a video already fills the cores
            length_ms = _milliseconds(stream.duration or 0, stream)
            for run in _runs(times_ms):
                end_ms = _fill(run, _shown_from(container, stream, run[0]), found, prepare)
                if end_ms is not None and end_ms + SHORTFALL_MS < length_ms:
                    raise VideoError("video breaks off before its end")
    except (av.FFmpegError, ValueError, OSError, MemoryError):
        raise VideoError("video cannot be decoded") from None
    return found


def crop_frame(image: Image.Image, profile: Profile, size: int) -> Image.Image:
    """Cut a frame: shorter side resized, square crop above the centre, then turned if the camera was upside down.

    The corpus' pixel numbers are scaled to ``size``. Pillow's bicubic filter smooths when it shrinks; OpenCV's, used
    for the authors' release, does not.
    """
    short = round(size * profile.resized / profile.cropped)
    shift = round(size * profile.crop_up / profile.cropped)
    width, height = (side * short // min(image.size) for side in image.size)
    left, top = width // 2 - size // 2, max(0, height // 2 - size // 2 - shift)
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return image.transpose(Image.Transpose.ROTATE_180) if profile.upside_down else image


def as_jpeg(image: Image.Image) -> bytes:
    """JPEG bytes, as good as those of the authors' release."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _runs(times_ms: Sequence[int]) -> list[list[int]]:
    """Split ascending times wherever a long gap lies between two."""
    runs: list[list[int]] = []
    for time in times_ms:
        if runs and time - runs[-1][-1] <= LONG_GAP_MS:
            runs[-1].append(time)
        else:
            runs.append([time])
    return runs


def _milliseconds(ticks: int, stream: av.VideoStream) -> Fraction:
    return Fraction(ticks * 1000) * (stream.time_base or 0)


def _shown_from(container: av.container.InputContainer, stream: av.VideoStream, time_ms: int) -> Iterator[Shown]:
    """Frames from the one shown at ``time_ms`` or an earlier one on."""
    if time_ms <= LONG_GAP_MS:
        return _shown(container, stream)
    origin = stream.start_time or 0
    base = stream.time_base or Fraction(1, 1000)
    container.seek(origin + int(Fraction(time_ms, 1000) / base), stream=stream)
    frames = _shown(container, stream)
    first = next(frames, None)
    if first is not None and first[1] <= time_ms:
        return chain([first], frames)
    container.seek(origin, stream=stream)  # a poor index led too far: go through it all
    return _shown(container, stream)


def _shown(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[Shown]:
    """Each frame with the milliseconds from which and until which it is shown."""
    before: tuple[av.VideoFrame, Fraction] | None = None
    frame_ms = Fraction(1000) / (stream.average_rate or 25)
    for frame in container.decode(stream):
        if frame.pts is None:
            raise VideoError("video without timestamps")
        start = _milliseconds(frame.pts - (stream.start_time or 0), stream)
        if before:
            yield *before, start
        before = frame, start
    if before:
        yield *before, before[1] + frame_ms


def _fill(
    times_ms: Sequence[int],
    shown: Iterator[Shown],
    found: dict[int, bytes],
    prepare: Callable[[Image.Image], bytes],
) -> Fraction | None:
    """Put the frame shown at each time into ``found``.

    Returns:
        None once every time has its frame, else the milliseconds at which the video ended.
    """
    waiting = iter(times_ms)
    time = next(waiting)
    end = Fraction(0)
    for frame, _, until in shown:
        end = until
        if time >= until:
            continue
        ready = prepare(Image.fromarray(frame.to_ndarray(format="rgb24")))
        while time < until:
            found[time] = ready
            following = next(waiting, None)
            if following is None:
                return None
            time = following
    return end
