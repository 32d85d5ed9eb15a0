"""Test profiles: the named ones and those in files; their effect on transcripts, names and images."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from PIL import Image

from babyvlm.curation.ingest.profiles import BABYVIEW, PLAYROOM, PROFILES, SAYCAM, find_profile
from babyvlm.curation.ingest.sentences import Utterance
from babyvlm.curation.ingest.transcripts import read_transcript
from babyvlm.curation.ingest.video import crop_frame
from babyvlm.errors import UserError
from support.filming import WORDS_HEADER, run_frames, write_transcript, write_video


def word_rows(number, text, speaker, *times):
    tokens = zip(text.split(), times[:-1], times[1:], strict=True)
    return [[0, number, text, place, token.lower(), *times, speaker] for place, (token, *times) in enumerate(tokens)]


def test_find_profile_finds_named_profiles():
    assert find_profile("saycam") is SAYCAM
    assert find_profile("babyview") is BABYVIEW
    assert find_profile("playroom") is PLAYROOM
    assert all(name == profile.source for name, profile in PROFILES.items())
    with pytest.raises(
        UserError,
        match=r"ego4d: no such profile\. Available: saycam, babyview, playroom, whisper, subtitles, chat, or .*\.yaml",
    ):
        find_profile("ego4d")


def test_find_profile_reads_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: saycam\nsource: mine\ncaregivers: [Oma, Opa]\nrotation: 90\nvideo_column: ''\n")
    expected = replace(SAYCAM, source="mine", caregivers=("Oma", "Opa"), rotation=90, video_column="")
    assert find_profile(str(path)) == expected
    complete = tmp_path / "complete.json"
    complete.write_text(
        '{"source": "s", "utterance_column": "u", "speaker_column": "w", "caregivers": ["A"], "start_column": "t"}'
    )
    assert find_profile(str(complete)).time_format == "seconds"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: x\n", "arguments are required: caregivers"),
        ("source: x\ncaregivers: []", "utterance_column: is needed for transcripts that are tables"),
        ("base: saycam\nturn_column: n", "end_column: is needed for tables with a turn_column"),
        ("base: saycam\ntranscript_format: eaf", "transcript_format: .*eaf"),
        ("base: saycam\nframe_interval_ms: soon", r"frame_interval_ms: .*int"),
        ("base: saycam\nrotation: 45", "rotation: .*45"),
        ("base: saycam\ncaregivers: Mom", "caregivers: .*Mom"),
        ("base: saycam\ntime_format: hours", "time_format: .*hours"),
        ("base: ego4d", "base: no profile 'ego4d'. Available: saycam, babyview"),
        ("base: saycam\nstepms: 3", "stepms: no such field"),
        ("base: saycam\nframe_interval_ms: 0", "frame_interval_ms: 0 must be at least"),
        ("base: saycam\nignored_videos: '('", "not a regular expression"),
        ("base: saycam\ncrop_size: 300", "must fit into resize_to: 256"),
        ("- a", "contains no profile fields"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system [echo]", "not valid YAML"),
        (b"\xff\xfe", "not valid YAML"),
        ("", "contains no profile fields"),
    ],
)
def test_find_profile_reports_invalid_file_in_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        find_profile(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_find_profile_reports_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml: No such file"):
        find_profile(str(tmp_path / "gone.yaml"))


def test_read_transcript_reads_one_row_per_word(tmp_path):
    rows = [
        *word_rows(0, "Look here.", "FEM", "0.5", "1.0", "1.86"),
        *word_rows(1, "Ba", "KCHI", "2", "3"),
        *word_rows(2, "A ball! Yes.", "MAL", "00:00:03", "00:00:04", "00:00:05", "0:00:06.5"),
        *word_rows(3, "Hm.", "unknown", "7", "8"),
        *word_rows(4, "Late", "FEM", "", "9"),
        *word_rows(5, "Endless", "FEM", "9", ""),
        *word_rows(6, "Mm?", "FEM", "9.2", "9.2"),
    ]
    write_transcript(tmp_path / "0022_GX01_processed.csv", rows, WORDS_HEADER)
    transcript = read_transcript(tmp_path / "0022_GX01_processed.csv", BABYVIEW)
    assert transcript.video == "0022_GX01"
    assert transcript.utterances == (
        Utterance("look here .", 500, 1360, 1),
        Utterance("a ball !", 3000, 1750, 2),
        Utterance("yes .", 4750, 1750, 3),
        Utterance("mm ?", 9200, 0, 4),
    )
    assert dict(transcript.dropped) == {
        "speaker is not a caregiver": 2,
        "no start time": 1,
        "no end time": 1,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [*word_rows(0, "a", "FEM", "5", "6"), *word_rows(1, "b", "FEM", "4.5", "7")],
            r"row 3: start time 4\.5 s is before",
        ),
        (word_rows(0, "a", "FEM", "5", "4.2"), r"row 2: end time 4\.2 s is before the start time \(5 s\)"),
    ],
)
def test_read_transcript_rejects_decreasing_times(tmp_path, rows, message):
    write_transcript(tmp_path / "t.csv", rows, WORDS_HEADER)
    with pytest.raises(UserError, match=message):
        read_transcript(tmp_path / "t.csv", BABYVIEW)


def test_read_transcript_names_missing_column(tmp_path):
    write_transcript(tmp_path / "t.csv", [], WORDS_HEADER[:-1])
    with pytest.raises(UserError, match="no column 'speaker'"):
        read_transcript(tmp_path / "t.csv", BABYVIEW)


def test_frames_reads_babyview_names_and_folders(tmp_path):
    (tmp_path / "videos" / "0022_GX01").mkdir(parents=True)
    write_video(tmp_path / "videos" / "0022_GX01" / "0022_GX01_processed.MP4", 30, format="mp4")
    (tmp_path / "videos" / "0022_GX01" / "._0022_GX01.MP4").write_bytes(b"a Mac's leftovers")
    rows = word_rows(0, "Hi you", "FEM", "0", "1", "2")
    write_transcript(tmp_path / "transcripts" / "0022" / "0022_GX01.csv", rows, WORDS_HEADER)
    store = run_frames(tmp_path, profile="babyview", max_frames=3)
    assert store.columns("key")["key"].to_pylist() == [f"0022_GX01_001_0{index}" for index in range(3)]
    assert set(store.columns("source")["source"].to_pylist()) == {"babyview"}
    assert store.manifest["arguments"]["profile"]["rotation"] == 0


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_crop_frame_rotates_by_profile(degrees):
    image = Image.new("RGB", (100, 100))
    image.paste((255, 0, 0), (0, 0, 50, 50))
    cropped = crop_frame(image, replace(SAYCAM, rotation=degrees, crop_offset_up=0), 64)
    corners = [(10, 10), (10, 54), (54, 54), (54, 10)]  # counter-clockwise from the upper left
    assert [cropped.getpixel(corner)[0] > 128 for corner in corners].index(True) == degrees // 90


def test_profile_with_a_row_per_turn_needs_no_column_of_words(tmp_path):
    fields = "start_column: start\nend_column: end\nutterance_column: text\nspeaker_column: who\ncaregivers: [Mom]"
    (tmp_path / "mine.yaml").write_text(f'base: babyview\nturn_column: ""\n{fields}\n')
    (tmp_path / "a.csv").write_text("start,end,who,text\n5.0,5.6,Mom,look at the duck\n")
    transcript = read_transcript(tmp_path / "a.csv", find_profile(str(tmp_path / "mine.yaml")))
    assert [(one.text, one.start_ms, one.duration_ms) for one in transcript.utterances] == [
        ("look at the duck", 5000, 600)
    ]


def test_docs_table_matches_profiles(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "data.md").read_text()
    table = page[page.index("| field |") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.M)))) == {
        field.name for field in fields(SAYCAM)
    }
    for profile, column in ((SAYCAM, 1), (BABYVIEW, 2)):
        cells = {row.split("|")[1].strip(" `"): row.split("|")[column + 1] for row in table.splitlines()[2:]}
        for name in (
            "source",
            "utterance_column",
            "speaker_column",
            "start_column",
            "end_column",
            "turn_column",
            "word_column",
            "transcript_format",
            "text_format",
            "video_column",
            "time_format",
            "splitter",
            "ignored_videos",
        ):
            value = getattr(profile, name)
            assert (f"`{value}`" if value else "none") in cells[name], name
        assert all(f"`{one}`" in cells["caregivers"] for one in profile.caregivers)
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.S)[1])
    assert find_profile(str(tmp_path / "mine.yaml")).rotation == 90
