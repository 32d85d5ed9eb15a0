"""Decode the frames of a video that are shown at given times, as a player shows them; crop and encode them."""

from __future__ import annotations

import heapq
import io
import re
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, NamedTuple

import av
import numpy as np
from av.buffer import Buffer
from av.stream import Disposition
from PIL import Image

from babyvlm.curation.ingest.hdr import HDR_NAMES, tone_map
from babyvlm.io.images import to_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator, Sequence
    from pathlib import Path

    from babyvlm.curation.ingest.profiles import Profile

    VideoPacket = av.Packet[av.VideoStream]

JPEG_QUALITY = 95  # OpenCV's default, with which the authors' release was written
MAX_PROBED_FRAMES = 64  # the first may be damaged
SEEK_GAP_MS = 10_000  # longer gaps are skipped by seeking instead of decoding: our choice, about a keyframe interval
MAX_MISSING_MS = 1_000  # a complete video may end this much earlier than its header says: our choice
# A frame rate is variable if one frame is shown this much longer than another. Rounded timestamps stay below it.
VARIABLE_RATE_RATIO = 1.5
VARIABLE_RATE = "variable frame rate, frames are selected by timestamp"
# A frame is also shown this long before its time, if it is the first: encoders delay it by a few frames. Our choice.
MAX_FIRST_DELAY_MS = 200
# Formats whose clock may restart where parts were joined, and the jump that counts as such: FFmpeg's flag
# AVFMT_TS_DISCONT and its option -dts_delta_threshold.
RESTARTING_FORMATS, MAX_CLOCK_JUMP_MS = {"mpegts", "mpeg"}, 10_000
MAX_REORDERED = 16  # frames; the most that H.264 and HEVC allow
BEFORE_FIRST_FRAME = "starts before the first frame of the video"
DAMAGED = "frames are damaged"
MIN_SIDE = 16  # pixels: our choice
av.logging.set_level(av.logging.FATAL)  # errors are counted, see `_OpenVideo.packets`, and not printed
MAX_PIXELS = 7680 * 4320  # 8K: our choice
# A playlist inside an .mp4 would make FFmpeg open other files or network addresses.
FFMPEG_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,asf,flv,dv,ogg",
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}


class VideoError(Exception):
    """A video cannot be used. The message is the reason that the funnel shows."""


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video from its header and its first frame.

    Attributes:
        width: displayed width in pixels, after the video's rotation and pixel aspect ratio are applied.
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
    path: Path,
    times_ms: Sequence[int],
    encode: Callable[[Image.Image], bytes],
    notes: set[str],
    numbers: dict[int, int] | None = None,
) -> Iterator[tuple[int, bytes | str]]:
    """Yield the frame shown at each time (the last one that starts at or before it), encoded.

    The video is decoded once, forwards; only long gaps are skipped. Frames are selected by timestamp, not by
    number, so a variable frame rate is handled. Images are what a player shows: rotated and mirrored by the display
    matrix, with square pixels, transparent parts over white, HDR mapped to SDR.

    Args:
        path: video file.
        times_ms: ascending times in milliseconds from the start of the file, which is not always that of its images.
        encode: turns an image into the bytes that are yielded.
        notes: receives unusual properties of the video that do not prevent its use.
        numbers: receives, by time, the number of the frame in the video, from 0, at its average rate.

    Yields:
        Time and encoded frame (bytes), or the reason why it is missing (str), in the order of ``times_ms``. Times after
        the end of the video are skipped.

    Raises:
        VideoError: the file is missing, contains no decodable video, has no timestamps, or is truncated.
    """
    with _open_video(path) as video:
        for times in _split_at_gaps(times_ms):
            end_ms = yield from _frames_at_times(times, video, notes, encode, {} if numbers is None else numbers)
            if end_ms is not None and video.is_truncated(end_ms):
                raise VideoError("video is truncated")


def probe(path: Path) -> VideoInfo:
    """Read the header, the index and the first frame of a video.

    Raises:
        VideoError: as ``frames_at``, as far as these parts show it.
    """
    notes: set[str] = set()
    with _open_video(path) as video:
        stream = video.stream
        first = islice(video.frames_from(0, notes), MAX_PROBED_FRAMES)
        frame = next((timed.frame for timed in first if timed.frame), None)
        if frame is None:
            raise VideoError("video cannot be decoded")
        index = list(stream.index_entries)  # complete in an mp4
        if max((entry.pos + entry.size for entry in index), default=0) > path.stat().st_size:
            raise VideoError("video is truncated")
        if _has_variable_rate([after.timestamp - before.timestamp for before, after in pairwise(index)]):
            notes.add(VARIABLE_RATE)
        seconds = float(video.duration_ms) / 1000
        return VideoInfo(*video.image_of(frame).size, seconds, float(stream.average_rate or 0), tuple(sorted(notes)))


def duration_seconds(path: Path, *, exact: bool) -> float:
    """Return the time at which the images of a video end, by its header; 0 if it is unknown.

    Args:
        path: video file.
        exact: read the complete file if its header has no duration, as in recordings of browsers, or if its clock may
            restart, as in joined MPEG streams. Their headers give only the difference between the first and the last
            timestamp.

    Raises:
        VideoError: as ``frames_at``, as far as the header shows it.
    """
    with _open_video(path) as video:
        if not exact or (video.duration_ms and not video.may_restart):
            return float(video.duration_ms) / 1000
        ends = [packet.pts + (packet.duration or 0) for packet in video.packets(set()) if packet.pts is not None]
        return float(video.time_ms(max(ends))) / 1000 if ends else 0.0


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
    """A decoded frame, or None if it is damaged, and the times, in milliseconds, from and until which it is shown."""

    frame: av.VideoFrame | None
    start_ms: Fraction
    end_ms: Fraction


class _OpenVideo:
    """An open video: its packets, frames and images, with times from the start of the file."""

    def __init__(self, path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.path, self.container, self.stream = path, container, stream
        self.time_base = stream.time_base or Fraction(1, 1000)
        # Players count from the first timestamp of any stream. The images may begin later than the sound.
        start = container.start_time
        self.zero = (
            Fraction(stream.start_time or 0) if start is None else Fraction(start, av.time_base) / self.time_base
        )
        self.may_restart = not RESTARTING_FORMATS.isdisjoint(container.format.name.split(","))
        self._after_loss = set[int]()  # timestamps
        self._clock_offset, self._clock_end = 0, 0
        self._rest: Iterator[VideoPacket] | None = None

    def time_ms(self, timestamp: int) -> Fraction:
        """Return the time of a timestamp of the stream."""
        return (timestamp - self.zero) * self.time_base * 1000

    def number_of(self, start_ms: Fraction) -> int:
        """Return the number of the frame that is shown from a time, from 0, at the average rate of the video."""
        first_ms = self.time_ms(self.stream.start_time or 0)
        return max(0, round((start_ms - first_ms) * (self.stream.average_rate or 0) / 1000))

    @property
    def duration_ms(self) -> Fraction:
        """When the images end, by the header; 0 if it is unknown."""
        if self.stream.duration:
            return self.time_ms((self.stream.start_time or 0) + self.stream.duration)
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", self.stream.metadata.get("DURATION", ""))  # of Matroska
        if tag:
            seconds = 3600 * int(tag[1]) + 60 * int(tag[2]) + Fraction(tag[3])
            return seconds * 1000 - self.zero * self.time_base * 1000
        return Fraction((self.container.duration or 0) * 1000, av.time_base)

    def is_truncated(self, end_ms: Fraction) -> bool:
        """Tell whether the images, which end at ``end_ms``, should have continued, according to the header."""
        if self.may_restart or end_ms + MAX_MISSING_MS >= self.duration_ms:
            return False
        if self.stream.duration or "DURATION" in self.stream.metadata:
            return True
        # The header gives the duration of the longest stream only. If the sound lasts so long, nothing is missing.
        with av.open(f"file:{self.path}", options=FFMPEG_OPTIONS) as container:
            packets = (packet for packet in container.demux() if packet.pts is not None and packet.time_base)
            ends = [(packet.pts or 0) * packet.time_base for packet in packets]
        last_ms = 1000 * max(ends, default=Fraction(0)) - self.zero * self.time_base * 1000
        return last_ms + MAX_MISSING_MS < self.duration_ms

    def frames_from(self, time_ms: int, notes: set[str]) -> Iterator[_TimedFrame]:
        """Yield frames in order, beginning with the one shown at ``time_ms`` or an earlier one."""
        if self.may_restart:  # seeking would not count the restarts
            self._rest = self._rest or self.packets(notes)
            self.stream.codec_context.flush_buffers()
            return self._timed(self._skip(self._rest, time_ms), notes, may_be_empty=time_ms > SEEK_GAP_MS)
        if time_ms <= SEEK_GAP_MS:
            return self._timed(self.packets(notes), notes)
        self.container.seek(int(self.zero + Fraction(time_ms, 1000) / self.time_base), stream=self.stream)
        frames = self._timed(self.packets(notes), notes, may_be_empty=True)
        first = next(frames, None)
        if first is not None and first.start_ms <= time_ms:
            return chain([first], frames)
        # A poor index led too far: decode from the start.
        self.container.seek(self.stream.start_time or 0, stream=self.stream)
        return self._timed(self.packets(notes), notes)

    def packets(self, notes: set[str]) -> Iterator[VideoPacket]:
        """Yield the packets, and an empty one at the end. Where the clock restarts, their timestamps continue."""
        packets = self.container.demux(self.stream)
        while True:
            num_errors, _ = av.logging.get_last_error()
            packet = next(packets, None)
            if packet is None:
                return
            if self.may_restart and packet.dts is not None:
                self._continue_clock(packet, packet.dts, notes)
            now, error = av.logging.get_last_error()
            if now > num_errors and error and error[1] == self.container.format.name and packet.pts is not None:
                # The container skipped what it could not read: this packet may depend on lost ones.
                self._after_loss.add(packet.pts)
                packet.is_corrupt = not packet.is_keyframe
            yield packet

    def _continue_clock(self, packet: VideoPacket, dts: int, notes: set[str]) -> None:
        jump_ms = (dts + self._clock_offset - self._clock_end) * self.time_base * 1000
        if self._clock_end and abs(jump_ms) > (MAX_CLOCK_JUMP_MS if jump_ms > 0 else MAX_MISSING_MS):
            self._clock_offset = self._clock_end - dts
            notes.add("joined parts: its clock restarts, times are counted on")
        packet.dts = dts + self._clock_offset
        if packet.pts is not None:
            packet.pts += self._clock_offset
        self._clock_end = packet.dts + (packet.duration or 0)

    def _skip(self, packets: Iterator[VideoPacket], time_ms: int) -> Iterator[VideoPacket]:
        """Yield the packets from the last keyframe at or before a time."""
        group: list[VideoPacket] = []
        for packet in packets:
            is_later = packet.pts is None or self.time_ms(packet.pts) > time_ms
            if packet.is_keyframe and not is_later:
                group.clear()
            group.append(packet)
            if is_later:
                break
        yield from chain(group, packets)

    def _timed(
        self, packets: Iterator[VideoPacket], notes: set[str], *, may_be_empty: bool = False
    ) -> Iterator[_TimedFrame]:
        previous: av.VideoFrame | None = None
        previous_pts: int | None = None
        durations = set[int]()
        for pts, frame in _Decoder().frames(packets, may_be_empty=may_be_empty):
            self._add_notes(frame, notes)
            if previous_pts is not None:
                if pts in self._after_loss:  # the frame before was not shown until then
                    previous = None
                    self._add_notes(None, notes)
                yield _TimedFrame(previous, self.time_ms(previous_pts), self.time_ms(pts))
                if previous and frame:
                    durations.add(pts - previous_pts)
                if VARIABLE_RATE not in notes and _has_variable_rate(durations):
                    notes.add(VARIABLE_RATE)
            previous, previous_pts = frame, pts
        if previous_pts is not None:
            start, frame_duration = self.time_ms(previous_pts), Fraction(1000) / (self.stream.average_rate or 25)
            yield _TimedFrame(previous, start, start + frame_duration)

    def _add_notes(self, frame: av.VideoFrame | None, notes: set[str]) -> None:
        if frame is None:
            notes.add("damaged frames were left out")
            return
        (_, x_to_y), (_, _) = matrix = _display_matrix(frame)
        if _is_mirrored(matrix):
            notes.add("mirrored" + (" and turned" if x_to_y else "") + ", according to its metadata")
        elif frame.rotation:
            notes.add(f"rotated by {frame.rotation % 360} degrees, according to its metadata")
        if frame.interlaced_frame:
            notes.add("interlaced, stored frames show both fields")
        if frame.color_trc in HDR_NAMES:
            notes.add(f"HDR ({HDR_NAMES[frame.color_trc]}), mapped to SDR")
        if self._pixel_aspect_ratio != 1:
            notes.add(f"pixels are not square ({self._pixel_aspect_ratio}), corrected")

    @property
    def _pixel_aspect_ratio(self) -> Fraction:
        return self.stream.sample_aspect_ratio or Fraction(1)

    def image_of(self, frame: av.VideoFrame) -> Image.Image:
        """Convert a frame to the 8-bit RGB image that a player shows."""
        width, height, ratio = frame.width, frame.height, self._pixel_aspect_ratio
        width, height = (round(width * ratio), height) if ratio > 1 else (width, round(height / ratio))
        if width * height > MAX_PIXELS:
            raise VideoError("unsupported frame size")
        if ratio != 1:
            frame = frame.reformat(width, height, interpolation="BICUBIC", threads=1)
        has_alpha = any(component.is_alpha for component in frame.format.components)
        # Without threads of FFmpeg, which live as long as the frame: in a process that is forked meanwhile they do not
        # exist, and its garbage collector would wait for them forever.
        pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", threads=1)
        image = to_rgb(Image.fromarray(pixels))
        return _display(tone_map(image, frame.color_trc), _display_matrix(frame))


class _Decoded(NamedTuple):
    timestamp: int
    frame: av.VideoFrame | None
    is_corrupt: bool
    is_key: bool


class _Decoder:
    """Decode packets and find the frames that are damaged.

    A packet that cannot be decoded, or a frame that the decoder marks, also damages the frames that are decoded after
    it, up to the next keyframe, although decoders do not mark those. Some of them are displayed earlier, so a frame is
    held back until all that were decoded before it are known.
    """

    def __init__(self) -> None:
        self._index_of: dict[int, int] = {}  # timestamp -> position in decoding order, of packets without a frame yet
        self._timestamp_of: dict[int, int] = {}  # its inverse
        self._corrupt = set[int]()  # positions of packets that are marked by the container
        self._last_error = -1  # position of the last packet that could not be decoded
        self._decoded: dict[int, _Decoded] = {}  # by that position; not yet judged
        self._judged: list[tuple[int, int, av.VideoFrame | None]] = []  # heap of timestamp, serial number and frame
        self._num_judged = self._next_index = 0
        self._is_broken = False
        self._intact_from: int | None = None  # timestamp of the keyframe that followed broken frames
        self._yielded: int | None = None  # timestamp
        self._shown: int | None = None  # timestamp of the last frame; the decoder returns them in order of display

    def frames(
        self, packets: Iterator[VideoPacket], *, may_be_empty: bool
    ) -> Iterator[tuple[int, av.VideoFrame | None]]:
        """Yield timestamps and frames in order of display; None for frames that are damaged."""
        index = 0
        for index, packet in enumerate(packets):
            self._decode(packet, index)
            self._judge(index - MAX_REORDERED)
            if self._shown is not None:
                yield from self._ordered(min([self._shown, *(entry.timestamp for entry in self._decoded.values())]))
        if self._shown is None and not may_be_empty:
            raise VideoError("video cannot be decoded")
        self._judge(max(self._decoded, default=index) + 1)
        yield from self._ordered(None)

    def _decode(self, packet: VideoPacket, index: int) -> None:
        timestamp = packet.dts if packet.pts is None else packet.pts
        if timestamp is not None:
            self._index_of[timestamp], self._timestamp_of[index] = index, timestamp
        if packet.is_corrupt:  # parts are missing, says the container
            self._corrupt.add(index)
        try:
            frames = packet.decode()
        except av.FFmpegError:
            frames = []
            self._last_error = index
            if timestamp is not None:
                self._decoded[index] = _Decoded(timestamp, None, is_corrupt=True, is_key=False)
        for frame in frames:
            if frame.pts is None:
                raise VideoError("video has no timestamps")
            position = self._index_of.pop(frame.pts, -1)
            is_corrupt = frame.is_corrupt or position in self._corrupt
            entry = _Decoded(frame.pts, frame, is_corrupt, bool(frame.key_frame))
            if position < self._next_index:  # its packet is unknown, or was thought lost
                self._judge_entry(entry)
            else:
                self._decoded[position] = entry
            self._shown = frame.pts

    def _judge(self, limit: int) -> None:
        """Decide, in decoding order, whether frames are damaged. Do not wait for those before ``limit``."""
        while self._next_index < limit or self._next_index in self._decoded:
            entry = self._decoded.pop(self._next_index, None)
            timestamp = self._timestamp_of.pop(self._next_index, None)
            is_lost = timestamp is not None and self._index_of.get(timestamp) == self._next_index
            if timestamp is not None and is_lost:
                del self._index_of[timestamp]
            is_broken = self._is_broken or self._next_index in self._corrupt
            # An error also costs the frame that the decoder would have returned then, and those that depend on it.
            is_costly = is_broken or self._next_index < self._last_error
            if entry is None and timestamp is not None and is_lost and is_costly:
                entry = _Decoded(timestamp, None, is_corrupt=is_broken, is_key=False)
            if entry:
                self._judge_entry(entry)
            self._next_index += 1

    def _judge_entry(self, entry: _Decoded) -> None:
        if self._is_broken and entry.is_key:
            self._intact_from = entry.timestamp
        self._is_broken = entry.is_corrupt or (self._is_broken and not entry.is_key)
        self._num_judged += 1
        # Frames that are shown before a keyframe and decoded after it depend on the frames before it (open GOP).
        is_leading = self._intact_from is not None and entry.timestamp < self._intact_from
        frame = None if self._is_broken or is_leading else entry.frame
        heapq.heappush(self._judged, (entry.timestamp, self._num_judged, frame))

    def _ordered(self, last: int | None) -> Iterator[tuple[int, av.VideoFrame | None]]:
        """Yield the judged frames up to timestamp ``last``, or all of them."""
        while self._judged and (last is None or self._judged[0][0] <= last):
            timestamp, _, frame = heapq.heappop(self._judged)
            if self._yielded is None or timestamp > self._yielded:  # a lost frame may still arrive, much later
                yield timestamp, frame
                self._yielded = timestamp


@contextmanager
def _open_video(path: Path) -> Iterator[_OpenVideo]:
    """Open a video. Any failure inside the block becomes a ``VideoError``."""
    try:
        if not path.is_file():
            raise VideoError("video missing")
        if not path.stat().st_size:
            raise VideoError("video file is empty")
        if _is_cut_off_avi(path):
            raise VideoError("video is truncated")
        with av.open(f"file:{path}", options=FFMPEG_OPTIONS) as container:
            streams = [stream for stream in container.streams.video if not _is_cover_image(stream)]
            if not streams:
                raise VideoError("file has no video stream")
            # Players and FFmpeg show the default stream, or the largest if several are.
            stream = max(streams, key=lambda stream: (_is_default(stream), stream.width * stream.height))
            context = stream.codec_context
            if min(context.width, context.height) < MIN_SIDE or context.width * context.height > MAX_PIXELS:
                raise VideoError("unsupported frame size")
            context.options = {"max_pixels": FFMPEG_OPTIONS["max_pixels"]}  # the size may change within the video
            context.thread_count = 1  # one process per video already uses all cores
            yield _OpenVideo(path, container, stream)
    except (av.FFmpegError, AttributeError, ValueError, OSError, MemoryError):  # AttributeError: an unknown codec
        raise VideoError("video cannot be decoded") from None


def _is_cut_off_avi(path: Path) -> bool:
    """Tell whether an AVI is shorter than its header says. Without its index, its duration is that of what is left."""
    with path.open("rb") as file:
        name, size, kind = file.read(4), int.from_bytes(file.read(4), "little"), file.read(4)
    # The largest size stands for an unknown one.
    return (name, kind) == (b"RIFF", b"AVI ") and path.stat().st_size < size < 0xFFFFFFFF


def _is_cover_image(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _is_default(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.default)


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
    times_ms: Sequence[int],
    video: _OpenVideo,
    notes: set[str],
    encode: Callable[[Image.Image], bytes],
    numbers: dict[int, int],
) -> Generator[tuple[int, bytes | str], None, Fraction | None]:
    """Yield each time with the frame shown then. Return None if all were found, else the time when the video ended."""
    remaining = iter(times_ms)
    time = next(remaining)
    end_ms: Fraction | None = None
    for frame, start_ms, frame_end_ms in video.frames_from(time, notes):
        first_ms = start_ms if end_ms is not None else start_ms - MAX_FIRST_DELAY_MS
        end_ms = frame_end_ms
        if time >= end_ms:
            continue
        encoded = encode(video.image_of(frame)) if frame else DAMAGED
        while time < end_ms:
            numbers[time] = video.number_of(start_ms)
            yield time, (encoded if time >= first_ms else BEFORE_FIRST_FRAME)
            following = next(remaining, None)
            if following is None:
                return None
            time = following
    return end_ms or Fraction(0)


Matrix = tuple[tuple[int, int], tuple[int, int]]


def _display_matrix(frame: av.VideoFrame) -> Matrix:
    """Return where the x axis and the y axis of a frame point when it is displayed: vectors of -1, 0 and 1."""
    content = frame.side_data.get("DISPLAYMATRIX")
    # Nine 16.16 fixed-point numbers, by rows (FFmpeg's libavutil/display.h).
    a, b, _, c, d, *_ = (
        np.frombuffer(bytes(content), np.int32).tolist() if isinstance(content, Buffer) else [1, 0, 0, 0, 1]
    )
    if a * d == b * c:  # degenerate
        return (1, 0), (0, 1)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (1 if a > 0 else -1, 0), (0, 1 if d > 0 else -1)
    return (0, 1 if b > 0 else -1), (1 if c > 0 else -1, 0)


def _is_mirrored(matrix: Matrix) -> bool:
    (a, b), (c, d) = matrix
    return a * d - b * c < 0


def _display(image: Image.Image, matrix: Matrix) -> Image.Image:
    (a, b), (c, d) = matrix
    if b:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    if a + c < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if b + d < 0 else image


def _rotate(image: Image.Image, degrees: int) -> Image.Image:
    """Rotate counterclockwise, rounded to multiples of 90 degrees."""
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    turn = turns[round(degrees / 90) % 4]
    return image if turn is None else image.transpose(turn)


def _has_variable_rate(durations: Collection[int]) -> bool:
    """Tell whether frame durations, in ticks, differ by more than rounding, which is one tick."""
    return bool(durations) and max(durations) > max(VARIABLE_RATE_RATIO * min(durations), min(durations) + 1)
