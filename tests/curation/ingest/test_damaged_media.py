"""Test damaged and hostile videos and transcripts: each is reported, none crashes the stage or writes elsewhere."""

import csv
import io
import os
import re
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.ingest.video import VideoError, encode_jpeg, frames_at, probe
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from support.filming import run_frames, write_corpus, write_transcript, write_video

ROWS = [("0:00", "M", "A ball. A dog."), ("0:30", "M", "c")]


@pytest.fixture(scope="module")
def video_bytes(tmp_path_factory):
    """Return the bytes of a valid mp4 of 35 s with its header at the start."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(path, 350, options={"movflags": "faststart"})
    return path.read_bytes()


def encode_image(image_format):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, image_format)
    return buffer.getvalue()


def write_raw_h264(path):
    write_video(path, 100, format="h264")


def write_audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        audio = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        audio.rate = 8000
        container.mux([*stream.encode(audio), *stream.encode()])


def write_tiny(path):
    write_video(path, 20, size=(8, 6))


def write_growing_mjpeg(path):
    """Write motion JPEG whose frames claim 16,000 x 16,000 pixels."""
    content = bytearray(encode_image("JPEG"))
    start = content.find(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", 16_000, 16_000)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for number in range(20):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64)))
            frame.pts = number
            for packet in stream.encode(frame):
                huge = av.Packet(bytes(content))
                huge.pts, huge.dts, huge.time_base, huge.stream = packet.pts, packet.dts, packet.time_base, stream
                container.mux(huge)


def replace_bytes(content, old, new):
    assert old in content
    return content.replace(old, new)


UNDECODABLE, TRUNCATED = "video cannot be decoded", "video is truncated"
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///{other}\n#EXT-X-ENDLIST\n"
# Name -> function of the bytes and the path of a valid file, and the expected problem.
BAD_BYTES = {
    "empty": (lambda video_bytes, _: b"", "video file is empty"),
    "header": (lambda video_bytes, _: video_bytes[:500], UNDECODABLE),
    "half": (lambda video_bytes, _: video_bytes[: len(video_bytes) // 2], {UNDECODABLE, TRUNCATED}),
    "headless": (lambda video_bytes, _: video_bytes[2000:], UNDECODABLE),
    "noise": (lambda video_bytes, _: np.random.default_rng(0).integers(0, 256, 9000, np.uint8).tobytes(), UNDECODABLE),
    "zeros": (lambda video_bytes, _: bytes(9000), UNDECODABLE),
    "text": (lambda video_bytes, _: b"hello\n" * 500, UNDECODABLE),
    "html": (lambda video_bytes, _: b"<html><title>403 Forbidden</title></html>", UNDECODABLE),
    "jpeg": (lambda video_bytes, _: encode_image("JPEG"), UNDECODABLE),
    "png": (lambda video_bytes, _: encode_image("PNG"), UNDECODABLE),
    "gif": (lambda video_bytes, _: encode_image("GIF"), UNDECODABLE),
    "playlist": (lambda video_bytes, other: PLAYLIST.format(other=other).encode(), UNDECODABLE),
    "concat": (lambda video_bytes, other: f"ffconcat version 1.0\nfile {other.name}\n".encode(), UNDECODABLE),
    "codec": (lambda video_bytes, _: replace_bytes(video_bytes, b"avc1", b"zzzz"), UNDECODABLE),
}
BAD_FILES = {
    "raw": (write_raw_h264, "video has no timestamps"),
    "audio": (write_audio_only, "file has no video stream"),
    "tiny": (write_tiny, "unsupported frame size"),
    "huge": (write_growing_mjpeg, UNDECODABLE),
    "folder": (lambda path: path.mkdir(), "video missing"),
    "pipe": (os.mkfifo, "video missing"),
    "gone": (lambda path: None, "video missing"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "video missing"),
}


def test_frames_skips_and_reports_damaged_videos(tmp_path, video_bytes, capsys):
    write_corpus(tmp_path, ROWS, "good", count=350)
    videos = tmp_path / "videos"
    expected = {}
    for name, (make, problem) in BAD_BYTES.items():
        (videos / f"{name}.mp4").write_bytes(make(video_bytes, videos / "good.mp4"))
        expected[name] = problem
    for name, (make, problem) in BAD_FILES.items():
        make(videos / f"{name}.mp4")
        expected[name] = problem
    (videos / "twice.mp4").write_bytes(video_bytes)
    (videos / "twice.mov").write_bytes(video_bytes)
    expected["twice"] = "several videos have this name"
    for name in expected:
        write_transcript(
            tmp_path / "transcripts" / f"{name}.csv", [[time, who, name, text] for time, who, text in ROWS]
        )
    before = {path for path in tmp_path.rglob("*")}
    store = run_frames(tmp_path)
    assert {row["group"][:4] for row in store.columns("group").to_pylist()} == {"good"}
    with (tmp_path / "store.frames.csv").open() as file:
        problems = {row["video"]: row["problem"] for row in csv.DictReader(file)}
    assert problems.pop("good") == ""
    assert problems.keys() == expected.keys()
    for name, reason in expected.items():
        assert problems[name] in (reason if isinstance(reason, set) else {reason}), name
    assert len(expected) > 20
    funnel = store.manifest["funnel"]
    assert sum(funnel["dropped"].values()) == 3 * len(expected)
    assert funnel["dropped"].keys() == set(problems.values())
    messages = capsys.readouterr().err
    assert messages.count("; skipped") == len(expected)
    assert "gone.csv: gone: video missing; skipped" in messages
    created = {path for path in tmp_path.rglob("*")} - before
    assert {path.relative_to(tmp_path).parts[0] for path in created} == {"store", "store.frames.csv"}


def test_cut_off_avi_is_truncated(tmp_path):
    write_video(tmp_path / "whole.avi", count=40, format="avi")
    content = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    assert probe(tmp_path / "whole.avi").seconds == 4
    with pytest.raises(VideoError, match=TRUNCATED):
        probe(tmp_path / "cut.avi")
    with pytest.raises(VideoError, match=TRUNCATED):
        list(frames_at(tmp_path / "cut.avi", [0], encode_jpeg, set()))


def test_frames_accepts_unusual_suffixes_and_names(tmp_path, video_bytes):
    for name, file in (("avi", "avi.AVI"), ("mov", "sub/mov.mov"), ("b'a d;$(x)", "b'a d;$(x).mp4"), ("-i", "-i.mkv")):
        (tmp_path / "videos" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / file).write_bytes(video_bytes)  # an mp4, whatever its name says
        write_transcript(tmp_path / "transcripts" / f"{name}.csv", [[time, who, "", text] for time, who, text in ROWS])
    store = run_frames(tmp_path, max_frames=1)
    assert store.manifest["funnel"] | {"dropped": {}} == store.manifest["funnel"]
    assert len(store) == 12


def test_probe_treats_protocol_like_name_as_file(tmp_path, video_bytes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("concat:good.mp4", "wb") as file:  # noqa: PTH123 - a Path would put the folder before it
        file.write(video_bytes)
    assert probe(type(tmp_path)("concat:good.mp4")).seconds == pytest.approx(35)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "row 1: no column 'Time', 'Speaker', 'Video Name', 'Utterance' (found no columns)"),
        (b"Time,Speaker,Utterance\n", "row 1: no column 'Video Name' (found Time, Speaker, Utterance)"),
        (b"Time|Speaker|Video Name|Utterance\n", "row 1: no column"),
        (b"Time,Speaker,Video Name,Utterance\n0:01,M,V,caf\xc3\xa9\n0:02,M,V,caf\xe9\n", "line 2: is not UTF-8"),
        (b"PK\x03\x04" + bytes(range(256)) * 9, "is a spreadsheet or archive. Save it as"),
        (b"Time,Speaker,Video Name,Utterance\n0:01,M,V," + b"a" * 200_000, "field larger than field limit"),
        (b"Time,Speaker,Video Name,Utterance\n0:05,M,V,a\n,,,\n0:04,M,V,b\n", "row 4: start time 4 s is before"),
        (
            b"Time,Speaker,Video Name,Utterance\n0:05,M,V,a\n0:06,M,W.mp4,b\n",
            "row 3: video 'W', but the rows above name 'V'",
        ),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_frames_reports_file_and_row_of_damaged_transcripts(tmp_path, content, message, skip, capsys):
    write_corpus(tmp_path, ROWS, "good", count=350)
    (tmp_path / "transcripts" / "bad.csv").write_bytes(content)
    (tmp_path / "transcripts" / "dangling.csv").symlink_to("nowhere")
    if skip:
        store = run_frames(tmp_path, skip_bad_transcripts=True, max_frames=1)
        assert store.manifest["funnel"]["kept"] == 3
        output = capsys.readouterr().err
    else:
        with pytest.raises(UserError, match=r"\(1 more errors above\)") as caught:
            run_frames(tmp_path)
        assert not (tmp_path / "store").exists()
        output = f"{capsys.readouterr().err}{caught.value}"
    assert message in output
    assert re.search(r"bad\.csv[:,] ", output)
    assert "dangling.csv: No such file" in output


def test_frames_ignores_hostile_video_names(tmp_path, video_bytes):
    (tmp_path / "outside.mp4").write_bytes(video_bytes)
    names = [
        "../outside",
        "/etc/passwd",
        str(tmp_path / "outside"),
        "..\\outside.mp4",
        "a\0b",
        "..",
        "x" * 5000,
        "http://x/y.mp4",
        "|ls",
    ]
    write_corpus(tmp_path, ROWS, "good", count=350)
    for number, name in enumerate(names):
        rows = [[time, who, name, f"{text} {number}"] for time, who, text in ROWS]
        write_transcript(tmp_path / "transcripts" / f"t{number}.csv", rows)
    frames(
        tmp_path / "videos",
        tmp_path / "transcripts",
        tmp_path / "store",
        num_workers=1,
        skip_bad_transcripts=True,
        min_fraction=0,
    )
    with (tmp_path / "store.frames.csv").open(newline="") as file:
        problems = {row["transcript"]: row["problem"] for row in csv.DictReader(file)}
    assert set(problems.values()) == {"", "video missing"}
    assert [name for name, problem in problems.items() if not problem] == ["good.csv"]


def test_frames_memory_stays_below_one_gigabyte(tmp_path, video_bytes):
    """Process damaged files and a valid 4K video, as from a GoPro, in one process, which does not import PyTorch."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, (make, _) in BAD_BYTES.items():
        (videos / f"{name}.mp4").write_bytes(make(video_bytes, videos / "good.mp4"))
    write_growing_mjpeg(videos / "huge.mp4")
    write_video(videos / "large.mp4", 12, size=(3840, 2160))
    text = [["0:00", "M", "", "a"], ["0:01", "M", "", "b"]]
    for path in videos.iterdir():
        write_transcript(tmp_path / "transcripts" / f"{path.stem}.csv", text)
    code = (
        "import re, sys; from pathlib import Path; from babyvlm.curation.ingest.frames import frames\n"
        "root = Path(sys.argv[1])\n"
        "frames(root / 'videos', root / 'transcripts', root / 'store', num_workers=1, min_fraction=0)\n"
        "print('spacy' in sys.modules, 'torch' in sys.modules)\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
    assert {"large_001", "large_002"} <= set(PairStore(tmp_path / "store").columns("group")["group"].to_pylist())
    imported, peak = out.splitlines()[-2:]
    assert imported == "True False"
    assert int(peak) < 1_000_000  # KiB
