import io
import itertools
import re
from fractions import Fraction
from math import floor

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.curation.ingest.cropping import as_jpeg, crop_frame
from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.ingest.profiles import SAYCAM
from babyvlm.curation.ingest.sentences import (
    Utterance,
    divide_turn,
    frame_times,
    parse_clock,
    parse_seconds,
    split_sentences,
)
from babyvlm.curation.ingest.transcripts import read_transcript
from babyvlm.curation.ingest.video import VideoError
from babyvlm.curation.ingest.video import frames_at as frames_from
from babyvlm.errors import UserError
from support.filming import HEADER, corpus, number_in, read_number, run, write_transcript, write_video


def frames_at(path, times, prepare=as_jpeg):
    return dict(frames_from(path, times, prepare, set()))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:12", 12),
        ("1:02:33", 3753),
        ("0:12-0:15", 12),
        ("0:12 – 0:15", 12),
        ("12.07", 727),
        ("2;30", 150),
        ("0:3", 30),
        ("0:7", 7),
        (":45", 45),
        ("75:10", 4510),
        ("3", 180),
        ("", None),
        ("  ", None),
        ("-", None),
        ("0.00138", None),
        ("soon", None),
        ("1:2:3:4", None),
        ("0:1x", None),
        ("٣:٤", None),
        ("12:34 PM", None),
    ],
)
def test_time_spellings(text, seconds):
    assert parse_clock(text) == (None if seconds is None else seconds * 1000)


@given(
    st.integers(0, 9),
    st.integers(0, 59),
    st.integers(0, 59),
    st.sampled_from(":.,;"),
    st.sampled_from(["", "-0:1", " — x"]),
)
def test_every_clock_time_is_read(hours, minutes, seconds, colon, rest):
    whole = parse_clock(f" {hours}{colon}{minutes:02}{colon}{seconds:02}{rest}")
    assert whole == (3600 * hours + 60 * minutes + seconds) * 1000
    assert parse_clock(f"{minutes}{colon}{seconds:02}{rest}") == (60 * minutes + seconds) * 1000


@given(st.text())
def test_no_time_text_raises(text):
    for time in (parse_clock(text), parse_seconds(text)):
        assert time is None or time >= 0


@pytest.mark.parametrize(
    ("said", "sentences"),
    [
        ("Look! A [points] ball. *laughs* See the (red) ball?", ["look", "a ball", "see the ball"]),
        ("*a* keep *b* [c] this [d] (e) too (f)", ["keep this too"]),
        ("What Inaudible is that", ["what <unk> is that"]),
        ("(inaudible)", []),
        ("... ! . ?", []),
        ("", []),
        ("don't, uh-oh it's—", ["dont uhoh its—"]),
        ("one--two", ["one two"]),
        ("a ( b", ["a b"]),
    ],
)
def test_sentences(said, sentences):
    assert split_sentences(said) == sentences


@given(st.text(st.sampled_from("aB é.?!*[]()-,'_ 1\n…"), max_size=60))
def test_sentences_are_clean_and_stay_so(text):
    sentences = split_sentences(text)
    for sentence in sentences:
        assert sentence == sentence.lower() == " ".join(sentence.split()) != ""
        assert not re.search(r"[.?!*\[\]()',_…-]", sentence)
    assert split_sentences(". ".join(sentences)) == sentences


@given(st.integers(1, 9), st.integers(0, 4000), st.integers(0, 90))
def test_row_time_is_shared_evenly_to_whole_seconds(count, start, length):
    shares = divide_turn(["word"] * count, 1000 * start, 1000 * (start + length), 1000)
    starts = [floor(start + Fraction(length * i, count)) for i in range(count + 1)]
    assert [share.start_ms for share in shares] == [1000 * s for s in starts[:-1]]
    assert [share.duration_ms for share in shares] == [1000 * (b - a) for a, b in itertools.pairwise(starts)]


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_frame_counts_lose_nothing_to_floats(tenths, most):
    times = frame_times(Utterance("x", 3000, tenths * 100), 200, most)
    assert len(times) == max(1, min(most, floor(Fraction(tenths, 10) / Fraction(1, 5))))
    assert times == [3000 + 200 * i for i in range(len(times))]


@pytest.mark.parametrize("fps", [5, 10, 30])
def test_each_utterance_gets_exactly_its_frames(tmp_path, fps):
    rows = [
        ("0:01", "Mom", "One. Two! Three?"),
        ("0:06", "child", "ba"),
        ("0:08-0:10", "M", "Long."),
        ("0:13", "m", "Jump"),
        ("0:14", "C", ""),
        ("0:33", "papa", "Far. Away"),
        ("0:36", "the mom", "The end"),
    ]
    corpus(tmp_path, rows, count=40 * fps, fps=fps)
    store = run(tmp_path)
    # By hand: 5 s in 3 sentences cut at 1, 2, 4, 6; 5 s capped at 16 frames; 1 s; 3 s cut at 33, 34, 36; one frame.
    wanted = {
        "one": (1, 5),
        "two": (2, 10),
        "three": (4, 10),
        "long": (8, 16),
        "jump": (13, 5),
        "far": (33, 5),
        "away": (34, 10),
        "the end": (36, 1),
    }
    seen = {}
    for row in store.rows():
        picture = Image.open(io.BytesIO(row["image"]))
        assert picture.size == (224, 224)
        seen.setdefault(row["utterance"], []).append(read_number(picture))
    assert seen == {said: [start * fps + i * fps // 5 for i in range(n)] for said, (start, n) in wanted.items()}


def test_rows_of_the_store_and_the_funnel(tmp_path):
    rows = [
        ("0:00", "Mom", "hi. you"),
        ("0:02", "dog", "wuff"),
        ("0:03", "M", "(sings)"),
        ("0:04", "M", "lost"),
        ("", "M", "timeless"),
        ("soon", "M", "when"),
        ("0:07", "M", "here"),
        ("9:00", "M", "past"),
    ]
    corpus(tmp_path, rows)
    store = run(tmp_path, max_frames=4)
    keys = store.columns("key", "group", "utterance", "split").to_pylist()
    video = "S_20140420_1803_01"
    assert [row["key"] for row in keys[:5]] == [f"{video}_001_0{i}" for i in range(4)] + [f"{video}_002_00"]
    assert all(row["key"].startswith(row["group"]) for row in keys)
    assert {row["utterance"] for row in keys} == {"hi", "you", "here"}
    assert store.licensed
    assert store.manifest["funnel"] == {
        "stage": "frames",
        "unit": "utterances",
        "in": 9,
        "kept": 3,
        "dropped": {
            "not the caregiver speaking": 1,
            "no words in the turn": 1,
            "no time given": 1,
            "time not readable": 1,
            "no time given in the next row": 1,
            "said after the end of the video": 1,
        },
    }


def test_order_does_not_depend_on_workers_and_a_second_call_does_nothing(tmp_path, capsys):
    for index in range(5):
        corpus(tmp_path, [("0:00", "M", f"video {index}. Yes"), ("0:04", "M", "end")], f"V_{index}", count=50)
    one = run(tmp_path, "one")
    two = run(tmp_path, "two", num_workers=2)
    assert one.fingerprint == two.fingerprint
    assert one.columns("key")["key"].to_pylist() == sorted(one.columns("key")["key"].to_pylist())
    run(tmp_path, "one", num_workers=3)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="other image_size"):
        run(tmp_path, "one", image_size=96)
    corpus(tmp_path, [("0:00", "M", "other"), ("0:04", "M", "end")], "V_0", count=50)
    with pytest.raises(UserError, match="other transcripts"):
        run(tmp_path, "one")


def test_bad_videos_are_reported_and_passed_over(tmp_path, capsys):
    rows = [("0:00", "M", "a. b"), ("0:30", "M", "c")]
    for name in ("good", "gone", "cut", "short", "empty", "raw", "sound"):
        corpus(tmp_path, rows, name, count=350, options={"movflags": "faststart"})
    videos = tmp_path / "videos"
    whole = (videos / "good.mp4").read_bytes()
    (videos / "gone.mp4").unlink()
    (videos / "cut.mp4").write_bytes(whole[:500])
    (videos / "short.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").write_bytes(b"")
    write_video(videos / "raw.mp4", 100, format="h264")
    with av.open(str(videos / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])
    store = run(tmp_path)
    assert {row["group"][:4] for row in store.columns("group").to_pylist()} == {"good"}
    dropped = store.manifest["funnel"]["dropped"]
    assert dropped.pop("video missing") == 3
    assert dropped.pop("video without timestamps") == 3
    assert dropped.pop("no video stream in the file") == 3
    assert dropped.pop("video file is empty") == 3
    assert sum(dropped.values()) == 6
    assert set(dropped) <= {"video cannot be decoded", "video breaks off before its end"}
    assert "gone.csv: gone: video missing; passed over" in capsys.readouterr().err


def test_a_video_that_does_not_begin_at_zero(tmp_path):
    write_video(tmp_path / "late.mkv", 200, first=70)
    found = frames_at(tmp_path / "late.mkv", [0, 200, 15_000])
    assert [number_in(jpeg) for jpeg in found.values()] == [0, 2, 150]


def test_missing_frames_are_left_out_and_a_broken_off_file_is_told(tmp_path):
    write_video(tmp_path / "v.mp4", 30)
    assert list(frames_at(tmp_path / "v.mp4", [2900, 2999, 3000, 60_000])) == [2900, 2999]
    write_video(tmp_path / "cut.mp4", 300, options={"movflags": "faststart"})
    with av.open(str(tmp_path / "cut.mp4")) as container:
        ends = [packet.pos for packet in container.demux(video=0) if packet.pos]
    content = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: ends[150]])  # between two packets, so that no decoder complains
    assert list(frames_at(tmp_path / "cut.mp4", [0, 5000])) == [0, 5000]
    with pytest.raises(VideoError, match="breaks off"):
        frames_at(tmp_path / "cut.mp4", [0, 25_000])
    with pytest.raises(VideoError, match="missing"):
        frames_at(tmp_path / "w.mp4", [0])


@pytest.mark.parametrize(("size", "source"), [(224, (640, 480)), (224, (480, 640)), (96, (160, 112)), (64, (100, 100))])
def test_crop_is_moved_up_before_the_turn(size, source):
    width, height = source
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)[None]
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    cut = np.asarray(crop_frame(Image.fromarray(picture), SAYCAM, size)).astype(float)
    assert cut.shape == (size, size, 3)
    scale = round(size * 256 / 224) / min(source)
    middle = np.array([width * scale / 2, max(size / 2, height * scale / 2 - round(size / 14))])
    assert cut[..., 0].mean() == pytest.approx(255 * middle[0] / (width * scale), abs=3)
    assert cut[..., 1].mean() == pytest.approx(255 * middle[1] / (height * scale), abs=2)
    assert cut[0, :, 0].argmax() < size / 2  # turned: what was right is left
    assert cut[:, 0, 1].argmax() < size / 2  # and what was below is above


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([["0:01", "M", "V", "a"], ["0:00", "M", "V", "b"]], HEADER, r"t\.csv: row 3: its time \(0 s\)"),
        ([["0:01", "M", "V.mp4", "a"], ["", "", "", ""], ["0:02", "M", "W", "b"]], HEADER, r"row 4: names video 'W'"),
        ([["0:01", "M", "V", "a"]], ["Time", "Speaker", "Video Name", "Words"], r"row 1: no column 'Utterance'"),
        ([], [], "found nothing"),
    ],
)
def test_a_transcript_that_cannot_be_trusted(tmp_path, rows, header, message):
    write_transcript(tmp_path / "t.csv", rows, header)
    with pytest.raises(UserError, match=message):
        read_transcript(tmp_path / "t.csv", SAYCAM)


def test_video_names_and_file_troubles(tmp_path):
    path = tmp_path / "t.csv"
    names = ["V_1.mp4", "", r"C:\data\V_1.MP4", "V_1", "V_1_part 2"]
    write_transcript(path, [[f"0:0{i + 1}", "M", name, "a"] for i, name in enumerate(names)])
    assert read_transcript(path, SAYCAM).video == "V_1"
    write_transcript(path, [["0:01", "M", "", "a"]])
    assert read_transcript(path, SAYCAM).video == "t"
    path.write_bytes("Time,Speaker,Video Name,Utterance\n0:01,M,V,caf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        read_transcript(path, SAYCAM)


def test_wrong_folders_and_numbers(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        run(tmp_path)
    corpus(tmp_path, [("0:00", "M", "a")], "V", count=20)
    with pytest.raises(UserError, match="--image_size 4097: must be at most 4096"):
        run(tmp_path, image_size=4097)
    with pytest.raises(UserError, match="--max_frames 0"):
        run(tmp_path, max_frames=0)
    write_transcript(tmp_path / "transcripts" / "other.csv", [["0:00", "M", "V", "a"]])
    with pytest.raises(UserError, match="is of video 'V'"):
        run(tmp_path)
    for path in (tmp_path / "transcripts").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"holds no \.csv"):
        run(tmp_path)


def test_what_cannot_belong_together_is_told_before_any_work(tmp_path):
    corpus(tmp_path, [("0:00", "Dog", "a"), ("0:03", "M", "")], "V", count=20)
    with pytest.raises(UserError, match=r"no utterance of a caregiver in 1 transcripts .*; the profile takes .* Mom"):
        run(tmp_path)
    corpus(tmp_path, [("0:00", "M", "a")], "V", count=20)
    (tmp_path / "videos" / "V.mp4").rename(tmp_path / "videos" / "W.mp4")
    with pytest.raises(UserError, match=r"none of its 1 videos .*V\.csv names 'V', there is 'W'"):
        run(tmp_path)
    (tmp_path / "videos" / "W.mp4").rename(tmp_path / "videos" / "W.txt")
    with pytest.raises(UserError, match=r"videos: holds no \.mp4, .* video"):
        run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"videos", "transcripts"}


@pytest.mark.parametrize("out", ["videos/store", "transcripts/store", "link/store"])
def test_a_store_does_not_come_to_lie_among_raw_files(tmp_path, out):
    corpus(tmp_path, [("0:00", "M", "a")], "V", count=20)
    (tmp_path / "link").symlink_to("transcripts")
    with pytest.raises(UserError, match=rf"{out}: lies in .*, whose files are only read"):
        frames(tmp_path / "videos", tmp_path / "transcripts", tmp_path / out)


def test_a_video_that_may_not_be_read_is_told_last(tmp_path, monkeypatch, capfd):
    corpus(tmp_path, [("0:00", "M", "a")], "V", count=20)

    def refuse(paths):
        if any(path.suffix == ".mp4" for path in paths):
            raise PermissionError(13, "Permission denied", str(paths[0]))
        return ""

    monkeypatch.setattr("babyvlm.curation.ingest.frames.fingerprint_files", refuse)
    command = ["--videos", tmp_path / "videos", "--transcripts", tmp_path / "transcripts", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit, match="2"):
        main(["curate", "frames", *map(str, command)])
    assert capfd.readouterr().err.splitlines()[-1] == f"error: {tmp_path / 'videos' / 'V.mp4'}: Permission denied"
