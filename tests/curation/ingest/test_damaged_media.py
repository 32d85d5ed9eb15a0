"""Videos and transcripts that nobody should bring: each is told with its reason, none crashes or writes elsewhere."""

import csv
import io
import os
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.ingest.video import probe
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from support.filming import corpus, run, write_transcript, write_video

ROWS = [("0:00", "M", "a. b"), ("0:30", "M", "c")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound mp4 of 35 s whose header stands first."""
    path = tmp_path_factory.mktemp("whole") / "v.mp4"
    write_video(path, 350, options={"movflags": "faststart"})
    return path.read_bytes()


def encoded(picture_format):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, picture_format)
    return buffer.getvalue()


def raw_h264(path):
    write_video(path, 100, format="h264")


def sound_alone(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])


def tiny(path):
    write_video(path, 20, size=(8, 6))


def grows_on_the_way(path):
    """Motion JPEG whose pictures claim 16,000 x 16,000 pixels."""
    content = bytearray(encoded("JPEG"))
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


def patched(content, old, new):
    assert old in content
    return content.replace(old, new)


UNDECODABLE, BROKEN_OFF = "video cannot be decoded", "video breaks off before its end"
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///{other}\n#EXT-X-ENDLIST\n"
# name -> how it is made of a sound file's bytes and the path of a sound file, and what is said of it
BAD_BYTES = {
    "empty": (lambda whole, _: b"", "video file is empty"),
    "header": (lambda whole, _: whole[:500], UNDECODABLE),
    "half": (lambda whole, _: whole[: len(whole) // 2], {UNDECODABLE, BROKEN_OFF}),
    "headless": (lambda whole, _: whole[2000:], UNDECODABLE),
    "noise": (lambda whole, _: np.random.default_rng(0).integers(0, 256, 9000, np.uint8).tobytes(), UNDECODABLE),
    "zeros": (lambda whole, _: bytes(9000), UNDECODABLE),
    "text": (lambda whole, _: b"hello\n" * 500, UNDECODABLE),
    "html": (lambda whole, _: b"<html><title>403 Forbidden</title></html>", UNDECODABLE),
    "jpeg": (lambda whole, _: encoded("JPEG"), UNDECODABLE),
    "png": (lambda whole, _: encoded("PNG"), UNDECODABLE),
    "gif": (lambda whole, _: encoded("GIF"), UNDECODABLE),
    "playlist": (lambda whole, other: PLAYLIST.format(other=other).encode(), UNDECODABLE),
    "concat": (lambda whole, other: f"ffconcat version 1.0\nfile {other.name}\n".encode(), UNDECODABLE),
    "codec": (lambda whole, _: patched(whole, b"avc1", b"zzzz"), UNDECODABLE),
    "scrambled": (lambda whole, _: whole[:8000] + bytes(reversed(whole[8000:])), {UNDECODABLE, BROKEN_OFF}),
}
BAD_FILES = {
    "raw": (raw_h264, "video without timestamps"),
    "sound": (sound_alone, "no video stream in the file"),
    "tiny": (tiny, "absurd picture size"),
    "huge": (grows_on_the_way, UNDECODABLE),
    "folder": (lambda path: path.mkdir(), "video missing"),
    "pipe": (os.mkfifo, "video missing"),
    "gone": (lambda path: None, "video missing"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "video missing"),
}


def test_bad_videos_are_told_and_passed_over(tmp_path, whole, capsys):
    corpus(tmp_path, ROWS, "good", count=350)
    videos = tmp_path / "videos"
    expected = {}
    for name, (make, reason) in BAD_BYTES.items():
        (videos / f"{name}.mp4").write_bytes(make(whole, videos / "good.mp4"))
        expected[name] = reason
    for name, (make, reason) in BAD_FILES.items():
        make(videos / f"{name}.mp4")
        expected[name] = reason
    (videos / "twice.mp4").write_bytes(whole)
    (videos / "twice.mov").write_bytes(whole)
    expected["twice"] = "several videos of this name"
    for name in expected:
        write_transcript(
            tmp_path / "transcripts" / f"{name}.csv", [[time, who, name, said] for time, who, said in ROWS]
        )
    before = {path for path in tmp_path.rglob("*")}
    store = run(tmp_path)
    assert {row["group"][:4] for row in store.columns("group").to_pylist()} == {"good"}
    with (tmp_path / "store.frames.csv").open() as file:
        told = {row["video"]: row["problem"] for row in csv.DictReader(file)}
    assert told.pop("good") == ""
    assert told.keys() == expected.keys()
    for name, reason in expected.items():
        assert told[name] in (reason if isinstance(reason, set) else {reason}), name
    assert len(expected) > 20
    funnel = store.manifest["funnel"]
    assert sum(funnel["dropped"].values()) == 3 * len(expected)
    assert funnel["dropped"].keys() == set(told.values())
    assert f"{len(expected)} lines" == f"{capsys.readouterr().err.count('; passed over')} lines"
    made = {path for path in tmp_path.rglob("*")} - before
    assert {path.relative_to(tmp_path).parts[0] for path in made} == {"store", "store.frames.csv"}


def test_wrong_suffixes_and_names_are_no_harm(tmp_path, whole):
    for name, file in (("avi", "avi.AVI"), ("mov", "sub/mov.mov"), ("b'a d;$(x)", "b'a d;$(x).mp4"), ("-i", "-i.mkv")):
        (tmp_path / "videos" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / file).write_bytes(whole)  # an mp4, whatever its name says
        write_transcript(tmp_path / "transcripts" / f"{name}.csv", [[time, who, "", said] for time, who, said in ROWS])
    store = run(tmp_path, max_frames=1)
    assert store.manifest["funnel"] | {"dropped": {}} == store.manifest["funnel"]
    assert len(store) == 12


def test_a_video_named_like_a_protocol_is_a_file(tmp_path, whole, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("concat:good.mp4", "wb") as file:  # noqa: PTH123 - a Path would put the folder before it
        file.write(whole)
    assert probe(type(tmp_path)("concat:good.mp4")).seconds == pytest.approx(35)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "row 1: no column 'Time', 'Speaker', 'Video Name', 'Utterance' (found nothing)"),
        (b"Time,Speaker,Utterance\n", "row 1: no column 'Video Name' (found Time, Speaker, Utterance)"),
        (b"Time;Speaker;Video Name;Utterance\n", "row 1: no column"),
        ("Time,Speaker,Video Name,Utterance\n".encode("utf-16"), "not readable as UTF-8 CSV"),
        (b"Time,Speaker,Video Name,Utterance\n0:01,M,V,caf\xe9\n", "not readable as UTF-8 CSV"),
        (b"PK\x03\x04" + bytes(range(256)) * 9, "not readable as UTF-8 CSV"),
        (b"Time,Speaker,Video Name,Utterance\n0:01,M,V," + b"a" * 200_000, "field larger than field limit"),
        (b"Time,Speaker,Video Name,Utterance\n0:05,M,V,a\n,,,\n0:04,M,V,b\n", "row 4: its time (4 s) is before"),
        (b"Time,Speaker,Video Name,Utterance\n0:05,M,V,a\n0:06,M,W.mp4,b\n", "row 3: names video 'W', rows above 'V'"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_bad_transcripts_are_named_with_file_and_row(tmp_path, content, message, skip, capsys):
    corpus(tmp_path, ROWS, "good", count=350)
    (tmp_path / "transcripts" / "bad.csv").write_bytes(content)
    (tmp_path / "transcripts" / "dangling.csv").symlink_to("nowhere")
    if skip:
        store = run(tmp_path, skip_bad_transcripts=True, max_frames=1)
        assert store.manifest["funnel"]["kept"] == 3
        told = capsys.readouterr().err
    else:
        with pytest.raises(UserError, match=r"and 1 more transcripts, see above\), or pass over") as caught:
            run(tmp_path)
        assert not (tmp_path / "store").exists()
        told = f"{capsys.readouterr().err}{caught.value}"
    assert message in told
    assert "bad.csv: " in told
    assert "dangling.csv: No such file" in told


def test_hostile_names_in_a_transcript_stay_inside(tmp_path, whole):
    (tmp_path / "outside.mp4").write_bytes(whole)
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
    corpus(tmp_path, ROWS, "good", count=350)
    for number, name in enumerate(names):
        rows = [[time, who, name, f"{said} {number}"] for time, who, said in ROWS]
        write_transcript(tmp_path / "transcripts" / f"t{number}.csv", rows)
    frames(tmp_path / "videos", tmp_path / "transcripts", tmp_path / "store", num_workers=1, skip_bad_transcripts=True)
    with (tmp_path / "store.frames.csv").open(newline="") as file:
        told = {row["transcript"]: row["problem"] for row in csv.DictReader(file)}
    assert set(told.values()) == {"", "video missing"}
    assert [name for name, problem in told.items() if not problem] == ["good.csv"]


def test_memory_stays_under_a_gigabyte(tmp_path, whole):
    """All at once in one process: bad files, and a sound one of 4K pictures, as a GoPro makes."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, (make, _) in BAD_BYTES.items():
        (videos / f"{name}.mp4").write_bytes(make(whole, videos / "good.mp4"))
    grows_on_the_way(videos / "huge.mp4")
    write_video(videos / "large.mp4", 12, size=(3840, 2160))
    said = [["0:00", "M", "", "a"], ["0:01", "M", "", "b"]]
    for path in videos.iterdir():
        write_transcript(tmp_path / "transcripts" / f"{path.stem}.csv", said)
    code = (
        "import re, sys; from pathlib import Path; from babyvlm.curation.ingest.frames import frames\n"
        "root = Path(sys.argv[1])\n"
        "frames(root / 'videos', root / 'transcripts', root / 'store', num_workers=1)\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout
    assert {"large_001", "large_002"} <= set(PairStore(tmp_path / "store").columns("group")["group"].to_pylist())
    assert int(out.splitlines()[-1]) < 1_000_000  # KiB
