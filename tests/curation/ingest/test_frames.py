"""Test `curate frames`: times, sentences, transcripts, video decoding, and the store."""

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
from babyvlm.curation.ingest.frames import frames
from babyvlm.curation.ingest.profiles import SAYCAM
from babyvlm.curation.ingest.sentences import Utterance, divide_turn, frame_times
from babyvlm.curation.ingest.transcripts import read_transcript
from babyvlm.curation.ingest.video import VideoError, crop_frame, encode_jpeg, frames_at
from babyvlm.curation.store.inspection import head
from babyvlm.curation.store.pair_store import split_of
from babyvlm.errors import UserError
from support.filming import (
    HEADER,
    read_full_frame_number,
    read_number,
    run_frames,
    write_corpus,
    write_transcript,
    write_video,
)


def frames_by_time(path, times):
    return dict(frames_at(path, times, encode_jpeg, set()))


@given(st.integers(1, 9), st.integers(0, 4000), st.integers(0, 90))
def test_divide_turn_shares_time_evenly(count, start, length):
    shares = divide_turn(["word"] * count, 1000 * start, 1000 * (start + length), 1000)
    starts = [floor(start + Fraction(length * i, count)) for i in range(count + 1)]
    assert [share.number for share in shares] == list(range(1, count + 1))
    assert [share.start_ms for share in shares] == [1000 * s for s in starts[:-1]]
    assert [share.duration_ms for share in shares] == [1000 * (b - a) for a, b in itertools.pairwise(starts)]


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_frame_times_are_exact(tenths, most):
    times = frame_times(Utterance("x", 3000, tenths * 100), 200, most)
    assert len(times) == max(1, min(most, floor(Fraction(tenths, 10) / Fraction(1, 5))))
    assert times == [3000 + 200 * i for i in range(len(times))]


@pytest.mark.parametrize("fps", [5, 10, 30])
def test_frames_extracts_exact_frames_of_each_utterance(tmp_path, fps):
    rows = [
        ("0:01", "Mom", "One. Two! Three?"),
        ("0:06", "child", "ba"),
        ("0:08-0:10", "M", "Long."),
        ("0:13", "m", "Jump"),
        ("0:14", "C", ""),
        ("0:33", "papa", "Far. Away"),
        ("0:36", "the mom", "The end"),
    ]
    write_corpus(tmp_path, rows, count=40 * fps, fps=fps)
    store = run_frames(tmp_path)
    # (start, count): 5 s in 3 sentences with boundaries at 1, 2, 4, 6; 5 s; 1 s; 3 s with
    # boundaries at 33, 34, 36; one frame.
    expected = {
        "one .": (1, 5),
        "two !": (2, 10),
        "three ?": (4, 10),
        "long .": (8, 25),
        "jump": (13, 5),
        "far .": (33, 5),
        "away": (34, 10),
        "the end": (36, 1),
    }
    numbers = {}
    for row in store.rows():
        image = Image.open(io.BytesIO(row["image"]))
        assert image.size == (224, 224)
        numbers.setdefault(row["utterance"], []).append(read_number(image))
    assert numbers == {text: [start * fps + i * fps // 5 for i in range(n)] for text, (start, n) in expected.items()}


def test_frames_writes_rows_and_funnel(tmp_path):
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
    write_corpus(tmp_path, rows)
    store = run_frames(tmp_path, max_frames=4)
    keys = store.columns("key", "group", "utterance", "split").to_pylist()
    video = "S_20140420_1803_01"
    assert [row["key"] for row in keys[:5]] == [f"{video}_001_0{i}" for i in range(4)] + [f"{video}_002_00"]
    assert all(row["key"].startswith(row["group"]) for row in keys)
    assert {row["utterance"] for row in keys} == {"hi .", "you", "here"}
    assert store.licensed
    assert store.manifest["funnel"] == {
        "stage": "frames",
        "unit": "utterances",
        "in": 9,
        "kept": 3,
        "dropped": {
            "speaker is not a caregiver": 1,
            "utterance without words": 1,
            "no start time": 1,
            "start time cannot be parsed": 1,
            "no start time in the next row": 1,
            "starts after the end of the video": 1,
        },
    }


def test_frames_is_independent_of_workers_and_skips_complete_store(tmp_path, capsys):
    for index in range(5):
        write_corpus(tmp_path, [("0:00", "M", f"video {index}. Yes"), ("0:04", "M", "end")], f"V_{index}", count=50)
    one = run_frames(tmp_path, "one")
    two = run_frames(tmp_path, "two", num_workers=2)
    assert one.fingerprint == two.fingerprint
    assert one.columns("key")["key"].to_pylist() == sorted(one.columns("key")["key"].to_pylist())
    run_frames(tmp_path, "one", num_workers=3)
    assert "already complete, skipping" in capsys.readouterr().out
    with pytest.raises(UserError, match="different arguments: image_size"):
        run_frames(tmp_path, "one", image_size=96)
    write_corpus(tmp_path, [("0:00", "M", "other"), ("0:04", "M", "end")], "V_0", count=50)
    with pytest.raises(UserError, match="different arguments: transcripts"):
        run_frames(tmp_path, "one")


def test_frames_at_handles_nonzero_start(tmp_path):
    write_video(tmp_path / "late.mkv", 200, first=70)
    jpegs = frames_by_time(tmp_path / "late.mkv", [0, 200, 15_000])
    assert [read_full_frame_number(jpeg) for jpeg in jpegs.values()] == [0, 2, 150]


def test_frames_at_rejects_truncated_video(tmp_path):
    write_video(tmp_path / "v.mp4", 30)
    assert list(frames_by_time(tmp_path / "v.mp4", [2900, 2999, 3000, 60_000])) == [2900, 2999]
    write_video(tmp_path / "cut.mp4", 300, options={"movflags": "faststart"})
    with av.open(str(tmp_path / "cut.mp4")) as container:
        ends = [packet.pos for packet in container.demux(video=0) if packet.pos]
    content = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: ends[150]])  # between two packets, so that no decoder complains
    assert list(frames_by_time(tmp_path / "cut.mp4", [0, 5000])) == [0, 5000]
    with pytest.raises(VideoError, match="truncated"):
        frames_by_time(tmp_path / "cut.mp4", [0, 25_000])
    with pytest.raises(VideoError, match="missing"):
        frames_by_time(tmp_path / "w.mp4", [0])


@pytest.mark.parametrize(("size", "source"), [(224, (640, 480)), (224, (480, 640)), (96, (160, 112)), (64, (100, 100))])
def test_crop_frame_moves_crop_up_before_rotation(size, source):
    width, height = source
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None]
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    cropped = np.asarray(crop_frame(Image.fromarray(image), SAYCAM, size)).astype(float)
    assert cropped.shape == (size, size, 3)
    scale = round(size * 256 / 224) / min(source)
    middle = np.array([width * scale / 2, max(size / 2, height * scale / 2 - round(size / 14))])
    assert cropped[..., 0].mean() == pytest.approx(255 * middle[0] / (width * scale), abs=3)
    assert cropped[..., 1].mean() == pytest.approx(255 * middle[1] / (height * scale), abs=2)
    assert cropped[0, :, 0].argmax() < size / 2  # rotated: right is left
    assert cropped[:, 0, 1].argmax() < size / 2  # and bottom is top


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([["0:01", "M", "V", "a"], ["0:00", "M", "V", "b"]], HEADER, r"t\.csv, row 3: start time 0 s"),
        ([["0:01", "M", "V.mp4", "a"], ["", "", "", ""], ["0:02", "M", "W", "b"]], HEADER, r"row 4: video 'W'"),
        ([["0:01", "M", "V", "a"]], ["Time", "Speaker", "Video Name", "Words"], r"row 1: no column 'Utterance'"),
        ([], [], "found no columns"),
    ],
)
def test_read_transcript_rejects_inconsistent_transcript(tmp_path, rows, header, message):
    write_transcript(tmp_path / "t.csv", rows, header)
    with pytest.raises(UserError, match=message):
        read_transcript(tmp_path / "t.csv", SAYCAM)


def test_read_transcript_finds_video_name(tmp_path):
    path = tmp_path / "t.csv"
    names = ["V_1.mp4", "", r"C:\data\V_1.MP4", "V_1", "V_1_part 2"]
    write_transcript(path, [[f"0:0{i + 1}", "M", name, "a"] for i, name in enumerate(names)])
    assert read_transcript(path, SAYCAM).video == "V_1"
    write_transcript(path, [["0:01", "M", "", "a"]])
    assert read_transcript(path, SAYCAM).video == "t"
    path.write_bytes("Time,Speaker,Video Name,Utterance\n0:01,M,V,caf\xe9\n0:02,C,V,\n".encode("latin-1"))
    assert [utterance.text for utterance in read_transcript(path, SAYCAM).utterances] == ["caf\xe9"]


def test_frames_rejects_wrong_options(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        run_frames(tmp_path)
    write_corpus(tmp_path, [("0:00", "M", "a")], "V", count=20)
    with pytest.raises(UserError, match="--image_size 4097: must be at most 4096"):
        run_frames(tmp_path, image_size=4097)
    with pytest.raises(UserError, match="--max_frames 0"):
        run_frames(tmp_path, max_frames=0)
    write_transcript(tmp_path / "transcripts" / "other.csv", [["0:00", "M", "V", "a"]])
    with pytest.raises(UserError, match="video 'V' already has a transcript"):
        run_frames(tmp_path)
    for path in (tmp_path / "transcripts").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"contains no \.csv"):
        run_frames(tmp_path)


def test_frames_checks_that_inputs_match(tmp_path):
    write_corpus(tmp_path, [("0:00", "Dog", "a"), ("0:03", "M", "")], "V", count=20)
    with pytest.raises(UserError, match=r"no caregiver utterance in 1 transcripts .*uses the speakers .* Mom"):
        run_frames(tmp_path)
    write_corpus(tmp_path, [("0:00", "M", "a"), ("0:01", "C", "")], "V", count=20)
    (tmp_path / "videos" / "V.mp4").rename(tmp_path / "videos" / "W.mp4")
    with pytest.raises(UserError, match=r"any of its 1 videos.*V\.csv names video 'V'; .*'W'"):
        run_frames(tmp_path)
    (tmp_path / "videos" / "W.mp4").rename(tmp_path / "videos" / "W.txt")
    with pytest.raises(UserError, match=r"videos: contains no video \(\.mp4, "):
        run_frames(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"videos", "transcripts"}


@pytest.mark.parametrize("out", ["videos/store", "transcripts/store", "link/store"])
def test_frames_refuses_out_inside_input_folder(tmp_path, out):
    write_corpus(tmp_path, [("0:00", "M", "a")], "V", count=20)
    (tmp_path / "link").symlink_to("transcripts")
    with pytest.raises(UserError, match=rf"{out}: is inside the input folder .*"):
        frames(tmp_path / "videos", tmp_path / "transcripts", tmp_path / out)


def test_frames_prints_error_after_progress_bar(tmp_path, monkeypatch, capfd):
    write_corpus(tmp_path, [("0:00", "M", "a"), ("0:01", "C", "")], "V", count=20)

    def refuse(paths):
        if any(path.suffix == ".mp4" for path in paths):
            raise PermissionError(13, "Permission denied", str(paths[0]))
        return ""

    monkeypatch.setattr("babyvlm.curation.ingest.frames.fingerprint_files", refuse)
    command = ["--videos", tmp_path / "videos", "--transcripts", tmp_path / "transcripts", "--out", tmp_path / "out"]
    with pytest.raises(SystemExit, match="2"):
        main(["curate", "frames", *map(str, command)])
    assert capfd.readouterr().err.splitlines()[-1] == f"error: {tmp_path / 'videos' / 'V.mp4'}: Permission denied"


def test_frames_rejects_corpus_of_which_most_is_lost(tmp_path):
    rows = [
        ("0:01", "M", "look"),
        ("0:02", "C", "da"),
        ("0:03", "M", "*cries*"),
        ("0:04", "M", "a ball"),
        ("0:05", "M", ""),
    ]
    for name in ("A", "B", "C"):
        write_corpus(tmp_path, rows, name, count=60)
    for name in ("B", "C"):
        (tmp_path / "videos" / f"{name}.mp4").unlink()
    message = r"only 2 of 6 utterances can be used \(4 video missing; all are listed in .*\.frames\.csv\)\. Fix"
    with pytest.raises(UserError, match=message):
        run_frames(tmp_path, min_fraction=0.5)
    assert not (tmp_path / "store").exists()
    assert len(run_frames(tmp_path, min_fraction=0.33).columns("group")["group"].unique()) == 2


def test_frames_counts_turns_without_time_as_lost(tmp_path):
    rows = [
        ("0:01", "M", "look"),
        *((f"12:0{n}x?", "M", "a ball") for n in range(9)),
        ("0:05", "M", "end"),
        ("0:06", "M", ""),
    ]
    write_corpus(tmp_path, rows, "A", count=60)
    with pytest.raises(
        UserError, match=r"only 1 of 11 utterances can be used \(9 start time cannot be parsed, 1 no start"
    ):
        run_frames(tmp_path, min_fraction=0.5)


def test_frames_records_video_time_and_frame_number(tmp_path, capsys):
    turns = [("0:02", "M", "look"), ("0:03", "C", "da"), ("0:04", "M", "a ball"), ("0:30", "M", "the end")]
    write_corpus(tmp_path, [*turns, ("0:31", "M", "")], "V", count=400)
    (tmp_path / "videos" / "day 1").mkdir()
    (tmp_path / "videos" / "V.mp4").rename(tmp_path / "videos" / "day 1" / "V.mp4")
    store = run_frames(tmp_path, max_frames=2)
    found = store.columns("key", "file", "time_ms", "frame").to_pylist()
    assert [(row["key"], row["time_ms"]) for row in found] == [
        ("V_001_00", 2000),
        ("V_001_01", 2200),
        ("V_002_00", 4000),
        ("V_002_01", 4200),
        ("V_003_00", 30_000),
        ("V_003_01", 30_200),
    ]
    assert {row["file"] for row in found} == {"day 1/V.mp4"}
    numbers = [read_number(Image.open(io.BytesIO(pair.image))) for pair in store]
    assert [row["frame"] for row in found] == numbers
    page = (store.path / "review.html").read_text()
    assert page.count("<figure>") == 6
    assert "→ 0:04.0 a ball" in page
    assert "0:02.0 look · → 0:04.0 a ball<br><small>day 1/V.mp4 at 0:04.2, frame" in page
    assert "→ 0:30.0 the end<br>" in page  # the others are more than ten seconds away
    capsys.readouterr()
    head(store.path)
    printed = capsys.readouterr().out
    assert re.search(r"V_001_01 +look +saycam +V_001 +\w+ +day 1/V.mp4 +2200 +22\b", printed)
    assert "key of saycam: VIDEO_N_I" in printed


def test_frames_splits_by_video_or_child(tmp_path):
    for name in ("A_1", "A_2", "B_1", "C_1"):
        write_corpus(tmp_path, [("0:01", "M", "look. a ball"), ("0:03", "M", "end"), ("0:04", "M", "")], name, count=40)
    splits = {}
    for split_by in ("utterance", "video", "child"):
        store = run_frames(tmp_path, out=split_by, split_by=split_by)
        rows = store.columns("key", "group", "split").to_pylist()
        splits[split_by] = {row["group"]: row["split"] for row in rows}
    assert splits["utterance"] == {group: split_of(group) for group in splits["utterance"]}
    for split_by, length in (("video", 3), ("child", 1)):
        units = {(group[:length], split) for group, split in splits[split_by].items()}
        assert len(units) == len(dict(units))
        assert {split for _, split in units} == {"train", "val", "test"}
    (tmp_path / "videos" / "C_1.mp4").unlink()
    with pytest.raises(UserError, match=r"--split_by child: .* only 2"):
        run_frames(tmp_path, out="two", split_by="child")
