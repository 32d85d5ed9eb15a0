"""Decode the frames of a video that are shown at given times, crop and encode them."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

import av
from av.stream import Disposition
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence
    from pathlib import Path

    from babyvlm.curation.ingest.profiles import Profile

JPEG_QUALITY = 95  # OpenCV's default, with which the authors' release was written
SEEK_GAP_MS = 10_000  # longer gaps are skipped by seeking instead of decoding: our choice, about a keyframe interval
MAX_MISSING_MS = 1_000  # a complete video may end this much earlier than its header says: our choice
# A frame rate is variable if one frame is shown this much longer than another. Rounded timestamps stay below it.
VARIABLE_RATE_RATIO = 1.5
VARIABLE_RATE = "variable frame rate, frames are selected by timestamp"
MIN_SIDE = 16  # pixels: our choice
MAX_PIXELS = 7680 * 4320  # 8K: our choice
# A playlist inside an .mp4 would make FFmpeg open other files or network addresses.
FFMPEG_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,asf,flv",
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}


class VideoError(Exception):
    """A video cannot be used. The message is the reason that the funnel shows."""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video from its header and its first frame.

    Attributes:
        width: displayed width in pixels, after the video's rotation metadata is applied.
        height: displayed height, likewise.
        seconds: duration; 0 if the header does not contain it.
        fps: average frames per second.
        notes: unusual properties that do not prevent its use.
    """

    width: int
    height: int
    seconds: float
    fps: float
    notes: tuple[str, ...]


def frames_at(
    path: Path, times_ms: Sequence[int], encode: Callable[[Image.Image], bytes], notes: set[str]
) -> Iterator[tuple[int, bytes]]:
    """Yield the frame shown at each time (the last one that starts at or before it), encoded.

    The video is decoded once, forwards; only long gaps are skipped by seeking. Frames are selected by timestamp, not by
    number, so a variable frame rate is handled. Rotation metadata is applied first, as players do.

    Args:
        path: video file.
        times_ms: ascending times in milliseconds from the start of the video.
        encode: turns an image into the bytes that are yielded.
        notes: receives unusual properties of the video that do not prevent its use.

    Yields:
        Time and encoded frame, in the order of ``times_ms``. Times after the end of the video are skipped.

    Raises:
        VideoError: the file is missing, contains no decodable video, has no timestamps, or is truncated.
    """
    with _open_video(path) as video:
        duration_ms = video.milliseconds(video.stream.duration or 0)
        for times in _split_at_gaps(times_ms):
            end_ms = yield from _frames_at_times(times, video.frames_from(times[0], notes), encode)
            if end_ms is not None and end_ms + MAX_MISSING_MS < duration_ms:
                raise VideoError("video is truncated")


def probe(path: Path) -> VideoInfo:
    """Read the header, the index and the first frame of a video.

    Raises:
        VideoError: as ``frames_at``, as far as these parts show it.
    """
    notes: set[str] = set()
    with _open_video(path) as video:
        stream = video.stream
        frame = next(video.container.decode(stream), None)
        if frame is None:
            raise VideoError("video cannot be decoded")
        if frame.pts is None:
            raise VideoError("video has no timestamps")
        _note_rotation(frame, notes)
        index = list(stream.index_entries)  # complete in an mp4
        if max((entry.pos + entry.size for entry in index), default=0) > path.stat().st_size:
            raise VideoError("video is truncated")
        if _has_variable_rate([after.timestamp - before.timestamp for before, after in pairwise(index)]):
            notes.add(VARIABLE_RATE)
        seconds = float(video.milliseconds(stream.duration or 0)) / 1000
        return VideoInfo(*_upright_image(frame).size, seconds, float(stream.average_rate or 0), tuple(sorted(notes)))


def crop_frame(image: Image.Image, profile: Profile, size: int) -> Image.Image:
    """Resize the shorter side, take the square crop of the profile and rotate it upright.

    The pixel numbers of the profile are scaled to ``size``, the side of the result in pixels. Pillow's bicubic filter
    is antialiased when it shrinks an image; OpenCV's, which was used for the authors' release, is not.
    """
    short = round(size * profile.resize_to / profile.crop_size)
    shift = round(size * profile.crop_offset_up / profile.crop_size)
    width, height = (side * short // min(image.size) for side in image.size)
    left, top = width // 2 - size // 2, max(0, height // 2 - size // 2 - shift)
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return _rotate(image, profile.rotation)


def encode_jpeg(image: Image.Image) -> bytes:
    """Return JPEG bytes in the quality of the authors' release."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


class _TimedFrame(NamedTuple):
    """A decoded frame and the times, in milliseconds, from and until which it is shown."""

    frame: av.VideoFrame
    start_ms: Fraction
    end_ms: Fraction


@dataclass(frozen=True)
class _OpenVideo:
    container: av.container.InputContainer
    stream: av.VideoStream

    def milliseconds(self, ticks: int) -> Fraction:
        return Fraction(ticks * 1000) * (self.stream.time_base or 0)

    def frames_from(self, time_ms: int, notes: set[str]) -> Iterator[_TimedFrame]:
        """Yield frames in order, beginning with the one shown at ``time_ms`` or an earlier one."""
        if time_ms <= SEEK_GAP_MS:
            return self._decode(notes)
        first_pts = self.stream.start_time or 0
        time_base = self.stream.time_base or Fraction(1, 1000)
        self.container.seek(first_pts + int(Fraction(time_ms, 1000) / time_base), stream=self.stream)
        frames = self._decode(notes)
        first = next(frames, None)
        if first is not None and first.start_ms <= time_ms:
            return chain([first], frames)
        self.container.seek(first_pts, stream=self.stream)  # a poor index led too far: decode from the start
        return self._decode(notes)

    def _decode(self, notes: set[str]) -> Iterator[_TimedFrame]:
        previous: av.VideoFrame | None = None
        previous_start, durations = Fraction(0), set[int]()
        for frame in self.container.decode(self.stream):
            if frame.pts is None:
                raise VideoError("video has no timestamps")
            start = self.milliseconds(frame.pts - (self.stream.start_time or 0))
            if previous is None:
                _note_rotation(frame, notes)
            else:
                yield _TimedFrame(previous, previous_start, start)
                durations.add(frame.pts - (previous.pts or 0))
                if VARIABLE_RATE not in notes and _has_variable_rate(durations):
                    notes.add(VARIABLE_RATE)
            previous, previous_start = frame, start
        if previous:
            frame_duration = Fraction(1000) / (self.stream.average_rate or 25)
            yield _TimedFrame(previous, previous_start, previous_start + frame_duration)


@contextmanager
def _open_video(path: Path) -> Iterator[_OpenVideo]:
    """Open a video. Any failure inside the block becomes a ``VideoError``."""
    try:
        if not path.is_file():
            raise VideoError("video missing")
        if not path.stat().st_size:
            raise VideoError("video file is empty")
        with av.open(f"file:{path}", options=FFMPEG_OPTIONS) as container:
            streams = [stream for stream in container.streams.video if not _is_cover_image(stream)]
            if not streams:
                raise VideoError("file has no video stream")
            context = streams[0].codec_context
            if min(context.width, context.height) < MIN_SIDE or context.width * context.height > MAX_PIXELS:
                raise VideoError("unsupported frame size")
            context.options = {"max_pixels": FFMPEG_OPTIONS["max_pixels"]}  # the size may change within the video
            context.thread_count = 1  # one process per video already uses all cores
            yield _OpenVideo(container, streams[0])
    except (av.FFmpegError, AttributeError, ValueError, OSError, MemoryError):  # AttributeError: an unknown codec
        raise VideoError("video cannot be decoded") from None


def _is_cover_image(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _split_at_gaps(times_ms: Sequence[int]) -> list[list[int]]:
    """Split ascending times where two are further apart than ``SEEK_GAP_MS``."""
    runs: list[list[int]] = []
    for time in times_ms:
        if runs and time - runs[-1][-1] <= SEEK_GAP_MS:
            runs[-1].append(time)
        else:
            runs.append([time])
    return runs


def _frames_at_times(
    times_ms: Sequence[int], frames: Iterator[_TimedFrame], encode: Callable[[Image.Image], bytes]
) -> Generator[tuple[int, bytes], None, Fraction | None]:
    """Yield each time with the frame shown then. Return None if all were found, else the time when the video ended."""
    remaining = iter(times_ms)
    time = next(remaining)
    end_ms = Fraction(0)
    for frame in frames:
        end_ms = frame.end_ms
        if time >= end_ms:
            continue
        encoded = encode(_upright_image(frame.frame))
        while time < end_ms:
            yield time, encoded
            following = next(remaining, None)
            if following is None:
                return None
            time = following
    return end_ms


def _upright_image(frame: av.VideoFrame) -> Image.Image:
    """Convert a frame to RGB, rotated as a player would show it."""
    return _rotate(Image.fromarray(frame.to_ndarray(format="rgb24")), frame.rotation)


def _rotate(image: Image.Image, degrees: int) -> Image.Image:
    """Rotate counterclockwise, rounded to multiples of 90 degrees."""
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    turn = turns[round(degrees / 90) % 4]
    return image if turn is None else image.transpose(turn)


def _note_rotation(frame: av.VideoFrame, notes: set[str]) -> None:
    if frame.rotation:
        notes.add(f"rotated by {frame.rotation % 360} degrees, according to its metadata")


def _has_variable_rate(durations: Collection[int]) -> bool:
    """Tell whether frame durations, in ticks, differ by more than rounding, which is one tick."""
    return bool(durations) and max(durations) > max(VARIABLE_RATE_RATIO * min(durations), min(durations) + 1)
