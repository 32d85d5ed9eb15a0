"""Test that stored frames are those that a player shows: at the right time, upright, intact, in the right colors."""

import csv
import io
import shutil
import subprocess
import unicodedata
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.curation.ingest.hdr import HLG, PQ, tone_map
from babyvlm.curation.ingest.video import (
    BEFORE_FIRST_FRAME,
    DAMAGED,
    VideoError,
    duration_seconds,
    encode_jpeg,
    frames_at,
    probe,
)
from babyvlm.errors import UserError
from support.filming import (
    numbered_image,
    read_full_frame_number,
    run_frames,
    write_corpus,
    write_transcript,
    write_video,
)

FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(not FFMPEG, reason="needs the program ffmpeg")
FAST = {"libx264": {"preset": "veryfast"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}
CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}


def ffmpeg(*args):
    return subprocess.run([FFMPEG, "-v", "error", "-y", *map(str, args)], capture_output=True, check=True).stdout


def player_image(path, *options):
    """Return the first image that FFmpeg shows."""
    return Image.open(io.BytesIO(ffmpeg("-i", path, "-frames:v", 1, *options, "-f", "image2pipe", "-c:v", "png", "-")))


def numbers_at(path, times, notes=None):
    """Return the number in the frame at each time, or the reason why there is none."""
    found = frames_at(path, times, encode_jpeg, set() if notes is None else notes)
    return [image if isinstance(image, str) else read_full_frame_number(image) for _, image in found]


def first_image(path, notes=None):
    ((_, image),) = frames_at(path, [0], lambda image: image.copy(), set() if notes is None else notes)
    return image


def write_images(path, images, codec="libx264", pix_fmt="yuv420p", prepare=None, rate=10, **options):
    """Write images, as arrays, to a video."""
    with av.open(str(path), "w") as container:
        options = {"threads": "1", **FAST.get(codec, {}), **options}
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if prepare:
            prepare(stream)
        kind = "rgba" if images[0].shape[2] == 4 else "rgb24"
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=kind)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_with_sound(path, seconds, delay, sound_start=0, rate=8000):
    """Write numbered frames, 10 per second, from ``delay`` seconds, with sound from ``sound_start``."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"g": "25", "threads": "1", "preset": "veryfast"})
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        sound = container.add_stream("mp2", rate=32_000)
        packets = []
        for number in range(seconds * 10):
            frame = av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")
            frame.pts, frame.time_base = number + 10 * delay, Fraction(1, 10)
            packets += video.encode(frame)
        packets += video.encode()
        for number in range((seconds + delay - sound_start) * 32_000 // 1152):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 32_000, sound_start * 32_000 + number * 1152, Fraction(1, 32_000)
            packets += sound.encode(frame)
        packets += sound.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts"])
def test_frames_at_counts_from_start_of_sound(tmp_path, suffix):
    path = tmp_path / f"late.{suffix}"
    write_with_sound(path, 30, delay=2)
    assert numbers_at(path, [1000, 5050, 20_050, 31_050]) == [BEFORE_FIRST_FRAME, 30, 180, 290]
    assert duration_seconds(path, exact=False) == pytest.approx(32, abs=0.2)
    if FFMPEG and suffix != "ts":  # FFmpeg subtracts the offset of a transport stream only without -copyts
        content = ffmpeg("-ss", 5.05, "-i", path, "-frames:v", 1, "-f", "image2pipe", "-c:v", "png", "-")
        assert read_full_frame_number(content) in (30, 31)


def test_frames_at_counts_from_first_frame_without_sound(tmp_path):
    write_video(tmp_path / "late.mkv", 200, first=70)
    assert numbers_at(tmp_path / "late.mkv", [0, 200, 15_000]) == [0, 2, 150]


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_frames_at_counts_on_where_joined_clock_restarts(tmp_path, suffix):
    codec = "libx264" if suffix == "ts" else "mpeg2video"
    for part, first in (("a", 0), ("b", 200)):
        images = [numbered_image(number) for number in range(first, first + 200)]
        rate = 10 if suffix == "ts" else 25
        write_images(tmp_path / f"{part}.{suffix}", images, codec, rate=rate, g="25")
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes((tmp_path / f"a.{suffix}").read_bytes() + (tmp_path / f"b.{suffix}").read_bytes())
    notes = set()
    times = [1050, 7050, 9050, 15_050] if suffix == "mpg" else [5050, 15_050, 25_050, 38_050]
    assert numbers_at(joined, times, notes) == [time * rate // 1000 for time in times]
    assert notes == {"joined parts: its clock restarts, times are counted on"}
    assert duration_seconds(joined, exact=True) == pytest.approx(400 / rate, abs=0.3)


def write_h264(path, **options):
    """Write 30 s of moving texture with a keyframe every 5 s; return the position and size of the fourth keyframe."""
    random = np.random.default_rng(0)
    texture = np.array(Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((160, 120)))
    images = [np.roll(texture, (number, 2 * number), (0, 1)) for number in range(300)]
    write_images(path, images, g="50", sc_threshold="0", movflags="faststart", **options)
    with av.open(str(path)) as container:
        keys = [entry for entry in container.streams.video[0].index_entries if entry.is_keyframe]
        return keys[3].pos, keys[3].size


@pytest.mark.parametrize("damage", ["zeros", "noise"])
@pytest.mark.parametrize("bframes", ["0", "3"])
def test_frames_at_discards_frames_after_damaged_keyframe(tmp_path, damage, bframes):
    position, size = write_h264(tmp_path / "whole.mp4", bf=bframes)
    content = bytearray((tmp_path / "whole.mp4").read_bytes())
    junk = np.random.default_rng(1).integers(0, 256, size - 100, np.uint8).tobytes()
    content[position + 100 : position + size] = junk
    if damage == "zeros":
        content[position : position + size] = bytes(size)
    (tmp_path / "damaged.mp4").write_bytes(content)
    times = [50 + 100 * number for number in range(300)]
    notes = set()
    whole = dict(frames_at(tmp_path / "whole.mp4", times, lambda image: np.asarray(image).tobytes(), set()))
    found = dict(frames_at(tmp_path / "damaged.mp4", times, lambda image: np.asarray(image).tobytes(), notes))
    assert notes == {"damaged frames were left out"}
    intact = [time for time in times if found[time] == whole[time]]
    assert [time for time in times if time not in intact and found[time] != DAMAGED] == []
    assert set(times) - set(intact) >= {time for time in times if 15_000 <= time < 20_000}
    assert len(intact) >= 246  # all but the 50 frames of one group, and at most a few that depend on it


@pytest.mark.parametrize(
    ("suffix", "codec", "bframes", "stale"),
    # With B-frames, up to two of the frames that were decoded before the damage are shown until the next one.
    [("mkv", "libx264", "0", 0), ("ts", "libx264", "0", 0), ("mp4", "mpeg4", "2", 2)],
)
@pytest.mark.parametrize("is_key", [False, True])
def test_frames_at_discards_frames_after_packet_lost_by_container(tmp_path, suffix, codec, bframes, stale, is_key):
    random = np.random.default_rng(0)
    texture = np.array(Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((160, 120)))
    images = [np.roll(texture, (number, 2 * number), (0, 1)) for number in range(100)]
    write_images(tmp_path / f"whole.{suffix}", images, codec, g="25", sc_threshold="0", bf=bframes)
    with av.open(str(tmp_path / f"whole.{suffix}")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert sum(packet.is_keyframe for packet in packets) in (4, 5)
        lost = next(packet for packet in packets[30:] if packet.is_keyframe == is_key)
    content = bytearray((tmp_path / f"whole.{suffix}").read_bytes())
    content[lost.pos : lost.pos + lost.size] = bytes(lost.size)
    (tmp_path / f"damaged.{suffix}").write_bytes(content)

    def pixels(name, notes):
        found = frames_at(tmp_path / f"{name}.{suffix}", times, lambda image: np.asarray(image).tobytes(), notes)
        return dict(found)

    times, notes = [50 + 100 * number for number in range(100)], set()
    whole, found = pixels("whole", set()), pixels("damaged", notes)
    assert "damaged frames were left out" in notes
    different = [time for time in times if found[time] not in (whole[time], DAMAGED)]
    assert len(different) <= stale
    assert all(found[time] in [whole[time - 100], whole[time - 200]] for time in different)
    assert 10 < sum(found[time] == DAMAGED for time in times) < 35  # to the next keyframe, of which there is one in 25


def test_frames_drops_utterances_in_damaged_part_only(tmp_path):
    rows = [
        ("0:14", "M", "before"),
        ("0:16", "M", "broken"),
        ("0:17", "M", "too"),
        ("0:18", "M", ""),
        ("0:22", "M", "a"),
    ]
    write_corpus(tmp_path, rows, "V", count=30)
    position, size = write_h264(tmp_path / "videos" / "V.mp4")
    content = bytearray((tmp_path / "videos" / "V.mp4").read_bytes())
    content[position : position + size] = bytes(size)
    (tmp_path / "videos" / "V.mp4").write_bytes(content)
    store = run_frames(tmp_path)
    assert store.manifest["funnel"]["dropped"] == {DAMAGED: 2, "utterance without words": 1}
    assert set(store.columns("utterance")["utterance"].to_pylist()) == {"before", "a"}


def test_frames_reports_matroska_that_was_cut_off(tmp_path):
    rows = [("0:05", "M", "look"), ("0:36", "M", "and"), ("0:37", "M", "end")]
    write_corpus(tmp_path, rows, "good")
    write_corpus(tmp_path, rows, "V")
    write_video(tmp_path / "videos" / "V.mkv", 400)
    (tmp_path / "videos" / "V.mp4").unlink()
    content = (tmp_path / "videos" / "V.mkv").read_bytes()
    (tmp_path / "videos" / "V.mkv").write_bytes(content[: len(content) // 2])
    assert run_frames(tmp_path).manifest["funnel"]["dropped"] == {"video is truncated": 3}


def test_frames_at_accepts_sound_that_lasts_longer(tmp_path):
    write_video(tmp_path / "v.mkv", 100)
    with av.open(str(tmp_path / "long.mkv"), "w") as output, av.open(str(tmp_path / "v.mkv")) as source:
        video = output.add_stream_from_template(source.streams.video[0])
        sound = output.add_stream("mp2", rate=32_000)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                output.mux(packet)
        for number in range(20 * 32_000 // 1152):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            frame.rate, frame.pts = 32_000, number * 1152
            output.mux(sound.encode(frame))
    assert numbers_at(tmp_path / "long.mkv", [5050, 15_000]) == [50]


def quarters(size=96):
    image = np.zeros((size, size, 3), np.uint8)
    image[: size // 2, : size // 2], image[: size // 2, size // 2 :] = CORNERS["red"], CORNERS["green"]
    image[size // 2 :, : size // 2] = CORNERS["blue"]
    return image


def corners(image):
    """Return the names of the colors at top left, top right, bottom left and bottom right."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    points = [pixels[height * y // 4, width * x // 4] for y in (1, 3) for x in (1, 3)]
    return [min(CORNERS, key=lambda name: np.abs(point - CORNERS[name]).sum()) for point in points]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("flips", [{}, {"hflip": True}, {"vflip": True}])
def test_frames_at_applies_display_matrix(tmp_path, degrees, flips):
    path = tmp_path / "v.mp4"
    prepare = (lambda stream: stream.set_display_rotation(degrees, **flips)) if degrees or flips else None
    write_images(path, [quarters()] * 10, prepare=prepare)
    notes = set()
    image = first_image(path, notes)
    pixels = np.rot90(quarters(), degrees // 90)
    if not flips:
        assert corners(image) == corners(Image.fromarray(np.ascontiguousarray(pixels)))
    assert any("mirrored" in note for note in notes) == bool(flips)
    if FFMPEG:
        assert corners(image) == corners(player_image(path))


@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(1, 2), Fraction(64, 45)])
def test_frames_at_corrects_pixel_aspect_ratio(tmp_path, ratio):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = ratio

    write_images(tmp_path / "v.mkv", [quarters()] * 10, prepare=prepare)
    notes = set()
    image = first_image(tmp_path / "v.mkv", notes)
    assert image.width / image.height == pytest.approx(float(ratio), abs=0.02)
    assert min(image.size) == 96
    assert notes == {f"pixels are not square ({ratio}), corrected"}
    assert (probe(tmp_path / "v.mkv").width, probe(tmp_path / "v.mkv").height) == image.size


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_frames_at_starts_no_threads(tmp_path):
    """A process that is forked later would wait for threads that only its parent has, if it freed a frame."""

    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = 2

    def threads(_=None):
        return {task.name for task in Path("/proc/self/task").iterdir()}

    write_images(tmp_path / "v.mkv", [quarters()] * 10, prepare=prepare)
    before = threads()
    ((_, during),) = frames_at(tmp_path / "v.mkv", [0], threads, set())
    assert during <= before


def test_frames_at_lays_transparent_video_over_white(tmp_path):
    image = np.zeros((96, 96, 4), np.uint8)  # transparent black
    image[24:72, 24:72] = (220, 40, 40, 255)
    write_images(tmp_path / "v.mov", [image] * 5, "qtrle", "argb")
    shown = first_image(tmp_path / "v.mov")
    assert shown.mode == "RGB"
    assert shown.getpixel((2, 2)) == (255, 255, 255)
    assert shown.getpixel((48, 48)) == (220, 40, 40)


def test_frames_at_reads_default_stream(tmp_path):
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        streams = []
        for width in (320, 160):
            stream = container.add_stream("libx264", rate=10, options={"threads": "1"})
            stream.width, stream.height, stream.pix_fmt = width, 120, "yuv420p"
            streams.append(stream)
        streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
        for number in range(20):
            for stream in streams:
                pixels = numbered_image(number, stream.width, 120)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    assert first_image(tmp_path / "v.mkv").size == (160, 120)
    if FFMPEG:
        assert player_image(tmp_path / "v.mkv").size == (160, 120)


def test_frames_notes_interlaced_video(tmp_path):
    write_corpus(tmp_path, [("0:00", "M", "a"), ("0:01", "M", "b")], "V", count=30)
    images = [numbered_image(number) for number in range(30)]
    write_images(tmp_path / "videos" / "V.mp4", images, **{"x264-params": "interlaced=1:tff=1", "flags": "+ildct+ilme"})
    run_frames(tmp_path)
    with (tmp_path / "store.frames.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["notes"] == "interlaced, stored frames show both fields"


@pytest.mark.parametrize("transfer", [HLG, PQ])
def test_tone_map_keeps_gray_and_saturated_colors(transfer):
    """Compare with the curves of ITU-R BT.2100, derived for single values."""

    def signal(srgb):
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
        nits = 203 * to_2020 @ linear
        if transfer == PQ:
            power = (nits / 10_000) ** 0.1593017578125
            return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
        scene = (nits / 1000) ** (1 / 1.2)
        logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)

    for color in ((128, 128, 128), (200, 30, 30), (60, 160, 70), (20, 20, 20)):
        encoded = tuple(int(value) for value in np.round(255 * signal(np.array(color) / 255)))
        mapped = tone_map(Image.new("RGB", (2, 2), encoded), transfer).getpixel((0, 0))
        assert mapped == pytest.approx(color, abs=5)
    white = tone_map(Image.new("RGB", (2, 2), "white"), transfer).getpixel((0, 0))
    assert min(white) >= 245
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    assert tone_map(image, 1) is image


@needs_ffmpeg
def test_frames_at_maps_hdr_as_ffmpeg(tmp_path):
    if b" zscale " not in ffmpeg("-hide_banner", "-filters") or b"libx265" not in ffmpeg("-hide_banner", "-encoders"):
        pytest.skip("ffmpeg has no zscale or no x265")
    image = np.full((128, 128, 3), 128, np.uint8)
    image[:, :64] = (200, 30, 30)
    Image.fromarray(image).save(tmp_path / "h.png")
    to_hlg = "zscale=tin=iec61966-2-1:pin=bt709:min=gbr:t=arib-std-b67:p=bt2020:m=bt2020nc:r=tv:npl=203"
    tags = ("-color_primaries", "bt2020", "-color_trc", "arib-std-b67", "-colorspace", "bt2020nc")
    encoder = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=1", "-tag:v", "hvc1")
    video = ("-loop", 1, "-i", tmp_path / "h.png", "-t", 1, "-r", 10, "-vf", f"{to_hlg},format=yuv420p10le")
    ffmpeg(*video, *tags, *encoder, tmp_path / "v.mov")
    notes = set()
    shown = first_image(tmp_path / "v.mov", notes)
    assert notes == {"HDR (HLG), mapped to SDR"}
    for point, drawn in (((32, 64), (200, 30, 30)), ((96, 64), (128, 128, 128))):
        assert shown.getpixel(point) == pytest.approx(drawn, abs=6)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("MTS", "libx264"),
        ("m2ts", "libx264"),
        ("webm", "libvpx-vp9"),
        ("3gp", "mpeg4"),
        ("mpg", "mpeg2video"),
        ("avi", "mpeg4"),
        ("mkv", "libx264"),
        ("DIVX", "mpeg4"),
    ],
)
def test_frames_reads_containers(tmp_path, suffix, codec):
    write_corpus(tmp_path, [("0:05", "M", "look"), ("0:06", "M", "end")], "V", count=100)
    (tmp_path / "videos" / "V.mp4").unlink()
    written = tmp_path / f"v.{ {'MTS': 'ts', 'DIVX': 'avi'}.get(suffix, suffix) }"
    write_images(written, [numbered_image(number) for number in range(250)], codec, rate=25)
    written.rename(tmp_path / "videos" / f"V.{suffix}")
    store = run_frames(tmp_path, max_frames=1)
    assert store.manifest["funnel"]["dropped"] == {}
    (number,) = numbers_at(tmp_path / "videos" / f"V.{suffix}", [5010])
    assert number == 125


@pytest.mark.parametrize(
    ("video", "transcript"),
    [
        ("clip_01.mp4", "clip_01.mp4.csv"),
        ("clip_02.mp4", "clip_02.wav.csv"),
        ("clip.03.MOV", "clip.03.m4a.csv"),
        (unicodedata.normalize("NFD", "bébé.mp4"), unicodedata.normalize("NFC", "bébé.csv")),
        (unicodedata.normalize("NFC", "bébé.mp4"), unicodedata.normalize("NFD", "bébé.csv")),
    ],
)
def test_frames_matches_names(tmp_path, video, transcript):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "v.mp4", 50)
    (tmp_path / "v.mp4").rename(tmp_path / "videos" / video)
    write_transcript(tmp_path / "transcripts" / transcript, [["0:01", "M", "", "look"], ["0:02", "M", "", "end"]])
    assert run_frames(tmp_path).manifest["funnel"]["kept"] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0:05", "12:05", "12:30"], "2 of 3 utterances start after the end"),
        ([*(f"0:{second:02}" for second in range(10, 30)), "0:45", "0:46", "0:47"], "3 of 23 utterances start after"),
        (["0:00", "0:01", "0:02"], "all 3 utterances start within the first 1%"),
    ],
)
def test_frames_and_check_data_reject_times_that_do_not_fit(tmp_path, rows, message, capsys):
    write_corpus(tmp_path, [(time, "M", "look") for time in rows], "V", count=10)
    write_corpus(tmp_path, [("0:01", "M", "look"), ("0:10", "M", "look")], "good", count=400)
    seconds = 400 if "within" in message else 40
    write_video(tmp_path / "videos" / "V.mp4", seconds, fps=1)
    with pytest.raises(UserError, match=rf"V\.csv: {message}.* of .*V\.mp4 \({seconds}\.0 s; the last starts at"):
        run_frames(tmp_path)
    assert run_frames(tmp_path, skip_bad_transcripts=True).manifest["funnel"]["in"] == 2
    with pytest.raises(SystemExit, match="2"):
        main(["check-data", "--videos", str(tmp_path), "--out", str(tmp_path)])
    assert f"missing {tmp_path}/transcripts/V.csv: {message}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("container", ["matroska", "webm"])
def test_frames_checks_times_of_video_without_duration(tmp_path, container):
    """Browsers record in this way: the header is written before the duration is known."""
    write_corpus(tmp_path, [("0:05", "M", "look"), ("12:05", "M", "there"), ("12:30", "M", "end")], "V", count=1)
    (tmp_path / "videos" / "V.mp4").unlink()
    path = tmp_path / "videos" / "V.mkv"
    codec = "libx264" if container == "matroska" else "libvpx-vp9"
    with av.open(str(path), "w", format=container, options={"live": "1"}) as output:
        stream = output.add_stream(codec, rate=10, options={"threads": "1", **FAST.get(codec, {})})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for number in range(100):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24")))
        output.mux(stream.encode())
    assert duration_seconds(path, exact=False) == 0
    assert duration_seconds(path, exact=True) == pytest.approx(10, abs=0.2)
    with pytest.raises(UserError, match=r"2 of 3 utterances start after the end of .*V\.mkv \(10\.\d s"):
        run_frames(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["check-data", "--videos", str(tmp_path), "--out", str(tmp_path)])


def test_frames_accepts_one_mistyped_time_and_reports_it_as_loss(tmp_path):
    write_corpus(tmp_path, [("0:05", "M", "look"), ("0:06", "M", "there"), ("12:00", "M", "end")])
    assert run_frames(tmp_path).manifest["funnel"]["dropped"] == {"starts after the end of the video": 1}


def test_frames_at_rejects_video_without_any_intact_frame(tmp_path):
    position, _ = write_h264(tmp_path / "v.mp4")
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    assert position > start
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(VideoError, match="video cannot be decoded"):
        numbers_at(tmp_path / "v.mp4", [0, 1000])


@pytest.mark.parametrize("suffix", ["webm", "flv"])
def test_frames_names_cut_off_video(tmp_path, suffix):
    rows = [("0:02", "M", "look"), ("0:10", "M", "and"), ("0:11", "M", "end")]
    write_corpus(tmp_path, rows, "good", count=120)
    write_transcript(tmp_path / "transcripts" / "V.csv", [[time, who, "", text] for time, who, text in rows])
    path = tmp_path / "videos" / f"V.{suffix}"
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    images = [numbered_image(number) for number in range(120)]
    write_images(path, images, codec, g="20")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    store = run_frames(tmp_path)
    assert store.manifest["funnel"]["dropped"] == {"video is truncated": 3}
    assert {row["file"] for row in store.rows(["file"])} == {"good.mp4"}


@pytest.mark.parametrize(
    ("codec", "options", "is_interlaced"),
    [
        ("mpeg2video", {"flags": "+ildct+ilme", "top": "1"}, True),
        ("mpeg4", {"flags": "+ildct+ilme"}, True),
        ("libx264", {"x264-params": "interlaced=1:bff=1"}, True),
        ("libx264", {}, False),
        ("mpeg2video", {}, False),
    ],
)
def test_frames_at_notes_interlaced_video_of_any_codec(tmp_path, codec, options, is_interlaced):
    images = [numbered_image(number) for number in range(10)]
    write_images(tmp_path / "v.mkv", images, codec, rate=25, **options)
    notes = set()
    assert numbers_at(tmp_path / "v.mkv", [100], notes) == [2]
    assert notes == ({"interlaced, stored frames show both fields"} if is_interlaced else set())


@needs_ffmpeg
@pytest.mark.parametrize(
    "options",
    [
        ("-colorspace", "smpte170m", "-pix_fmt", "yuv420p"),
        ("-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709", "-color_range", "tv", "-pix_fmt", "yuv420p"),
        ("-vf", "scale=out_range=pc", "-color_range", "pc", "-pix_fmt", "yuvj420p"),
        ("-pix_fmt", "yuv422p10le"),
        ("-pix_fmt", "gray"),
        ("-vf", "scale=128:96,setsar=4/3", "-pix_fmt", "yuv420p"),
        ("-c:v", "ffv1", "-pix_fmt", "bgr0"),
        ("-c:v", "mjpeg", "-pix_fmt", "yuvj444p", "-q:v", "2"),
    ],
)
def test_frames_at_shows_colors_as_ffmpeg(tmp_path, options):
    source = ("-f", "lavfi", "-i", "smptebars=size=128x96:rate=10", "-frames:v", 3)
    codec = () if "-c:v" in options else ("-c:v", "libx264", "-crf", 5)
    ffmpeg(*source, *codec, *options, tmp_path / "v.mkv")
    shown = first_image(tmp_path / "v.mkv")
    expected = player_image(tmp_path / "v.mkv").convert("RGB").resize(shown.size)
    assert np.abs(np.asarray(shown, int) - np.asarray(expected, int)).mean() < 3


@needs_ffmpeg
def test_frames_at_does_not_map_10_bit_sdr(tmp_path):
    source = ("-f", "lavfi", "-i", "color=c=0x808080:size=64x64:rate=10", "-frames:v", 3)
    ffmpeg(*source, "-pix_fmt", "yuv420p10le", "-c:v", "libx264", "-color_trc", "bt709", tmp_path / "v.mkv")
    notes = set()
    assert first_image(tmp_path / "v.mkv", notes).getpixel((9, 9)) == pytest.approx((128, 128, 128), abs=2)
    assert not notes


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "ts"])
def test_frames_at_reads_parts_joined_by_ffmpeg(tmp_path, kind):
    for part, first in (("a", 0), ("b", 120)):
        images = [numbered_image(number) for number in range(first, first + 120)]
        write_images(tmp_path / f"{part}.mp4", images, g="20")
    (tmp_path / "list.txt").write_text("file a.mp4\nfile b.mp4\n")
    ffmpeg("-f", "concat", "-i", tmp_path / "list.txt", "-c", "copy", tmp_path / f"joined.{kind}")
    assert numbers_at(tmp_path / f"joined.{kind}", [5050, 11_950, 12_050, 20_050]) == [50, 119, 120, 200]


def test_frames_reads_raw_dv(tmp_path):
    images = [np.full((576, 720, 3), 8 * number, np.uint8) for number in range(25)]
    write_images(tmp_path / "v.dv", images, "dvvideo", rate=25)
    notes = set()
    found = frames_at(tmp_path / "v.dv", [0, 410], lambda image: (image.size, image.getpixel((9, 9))), notes)
    assert list(found) == [(0, ((768, 576), (0, 0, 0))), (410, ((768, 576), (80, 80, 80)))]
    assert notes == {"interlaced, stored frames show both fields", "pixels are not square (16/15), corrected"}


@needs_ffmpeg
def test_frames_reads_theora(tmp_path):
    if b"libtheora" not in ffmpeg("-hide_banner", "-encoders"):
        pytest.skip("ffmpeg has no Theora")
    write_images(tmp_path / "v.mp4", [numbered_image(number) for number in range(60)])
    ffmpeg("-i", tmp_path / "v.mp4", "-c:v", "libtheora", "-q:v", 10, tmp_path / "v.ogv")
    assert numbers_at(tmp_path / "v.ogv", [50, 2050, 5050]) == [0, 20, 50]
