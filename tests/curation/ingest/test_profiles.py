"""Profiles: named ones and those that a user brings; what they do to transcripts, names and pictures."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from babyvlm.curation.ingest.cropping import crop_frame
from babyvlm.curation.ingest.profiles import BABYVIEW, PROFILES, SAYCAM, find_profile
from babyvlm.curation.ingest.sentences import Utterance, parse_seconds
from babyvlm.curation.ingest.transcripts import read_transcript
from babyvlm.errors import UserError
from support.filming import WORDS_HEADER, run, write_transcript, write_video


def words(number, text, speaker, *times):
    tokens = zip(text.split(), times[:-1], times[1:], strict=True)
    return [[0, number, text, place, token.lower(), *times, speaker] for place, (token, *times) in enumerate(tokens)]


def test_names():
    assert find_profile("saycam") is SAYCAM
    assert find_profile("babyview") is BABYVIEW
    assert all(name == profile.source for name, profile in PROFILES.items())
    with pytest.raises(UserError, match=r"--profile ego4d: no such profile; use saycam, babyview, or a \.yaml"):
        find_profile("ego4d")


def test_a_profile_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: saycam\nsource: mine\ncaregivers: [Oma, Opa]\nturned: 90\nvideo: ''\n")
    expected = replace(SAYCAM, source="mine", caregivers=("Oma", "Opa"), turned=90, video="")
    assert find_profile(str(path)) == expected
    whole = tmp_path / "whole.json"
    whole.write_text('{"source": "s", "utterance": "u", "speaker": "w", "caregivers": ["A"], "time": "t"}')
    assert find_profile(str(whole)).clock == "seconds"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: x\n", "arguments are required: utterance, speaker, caregivers, time"),
        ("base: saycam\nstep_ms: soon", r"step_ms: .*int"),
        ("base: saycam\nturned: 45", "turned: .*45"),
        ("base: saycam\ncaregivers: Mom", "caregivers: .*Mom"),
        ("base: saycam\nclock: hours", "clock: .*hours"),
        ("base: ego4d", "base: no profile 'ego4d'; use saycam, babyview"),
        ("base: saycam\nstepms: 3", "stepms: no such field"),
        ("base: saycam\nstep_ms: 0", "step_ms: 0 must be at least"),
        ("base: saycam\nnot_a_video: '('", "no regular expression"),
        ("base: saycam\ncropped: 300", "must fit into resized: 256"),
        ("- a", "holds no fields"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system [echo]", "not YAML"),
        (b"\xff\xfe", "not YAML"),
        ("", "holds no fields"),
    ],
)
def test_a_profile_with_a_mistake_is_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        find_profile(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml: No such file"):
        find_profile(str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1.86", 1860),
        ("0", 0),
        (" 12. ", 12_000),
        ("61", 61_000),
        ("1:01.5", 61_500),
        ("01:00:00", 3_600_000),
        ("0.0004", 0),
        ("0.0006", 1),
        ("", None),
        ("NA", None),
        ("-1", None),
        ("1e3", None),
        ("nan", None),
        ("1:2:3:4", None),
        ("1,5", None),
        ("٣", None),
        ("1" * 12, None),
        ("inf", None),
    ],
)
def test_times_of_machines(text, time):
    assert parse_seconds(text) == time


@given(st.integers(0, 10**8))
def test_every_time_of_a_machine_is_read(time):
    seconds, thousandths = divmod(time, 1000)
    assert parse_seconds(f"{seconds}.{thousandths:03}") == time
    assert parse_seconds(f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}.{thousandths:03}") == time


def test_babyview_transcripts_have_a_row_a_word(tmp_path):
    rows = [
        *words(0, "Look here.", "FEM", "0.5", "1.0", "1.86"),
        *words(1, "Ba", "KCHI", "2", "3"),
        *words(2, "A ball! Yes.", "MAL", "00:00:03", "00:00:04", "00:00:05", "0:00:06.5"),
        *words(3, "Hm.", "unknown", "7", "8"),
        *words(4, "Late", "FEM", "NA", "9"),
        *words(5, "Endless", "FEM", "9", ""),
        *words(6, "Mm?", "FEM", "9.2", "9.2"),
    ]
    write_transcript(tmp_path / "0022_GX01_processed.csv", rows, WORDS_HEADER)
    transcript = read_transcript(tmp_path / "0022_GX01_processed.csv", BABYVIEW)
    assert transcript.video == "0022_GX01"
    assert transcript.utterances == (
        Utterance("look here", 500, 1360),
        Utterance("a ball", 3000, 1750),
        Utterance("yes", 4750, 1750),
        Utterance("mm", 9200, 0),
    )
    assert dict(transcript.dropped) == {"not the caregiver speaking": 2, "time not readable": 1, "no end given": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*words(0, "a", "FEM", "5", "6"), *words(1, "b", "FEM", "4.5", "7")], r"row 3: its time \(4\.5 s\) is before"),
        (words(0, "a", "FEM", "5", "4.2"), r"row 2: its end \(4\.2 s\) is before its time \(5 s\)"),
    ],
)
def test_times_that_run_backwards(tmp_path, rows, message):
    write_transcript(tmp_path / "t.csv", rows, WORDS_HEADER)
    with pytest.raises(UserError, match=message):
        read_transcript(tmp_path / "t.csv", BABYVIEW)


def test_babyview_without_speakers_names_the_column(tmp_path):
    write_transcript(tmp_path / "t.csv", [], WORDS_HEADER[:-1])
    with pytest.raises(UserError, match="no column 'speaker'"):
        read_transcript(tmp_path / "t.csv", BABYVIEW)


def test_names_and_folders_as_babyview_has_them(tmp_path):
    (tmp_path / "videos" / "0022_GX01").mkdir(parents=True)
    write_video(tmp_path / "videos" / "0022_GX01" / "0022_GX01_processed.MP4", 30, format="mp4")
    (tmp_path / "videos" / "0022_GX01" / "._0022_GX01.MP4").write_bytes(b"a Mac's leftovers")
    said = words(0, "Hi you", "FEM", "0", "1", "2")
    write_transcript(tmp_path / "transcripts" / "0022" / "0022_GX01.csv", said, WORDS_HEADER)
    store = run(tmp_path, profile="babyview", max_frames=3)
    assert store.columns("key")["key"].to_pylist() == [f"0022_GX01_001_0{index}" for index in range(3)]
    assert set(store.columns("source")["source"].to_pylist()) == {"babyview"}
    assert store.manifest["arguments"]["profile"]["turned"] == 0


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_turned_as_the_profile_says(degrees):
    picture = Image.new("RGB", (100, 100))
    picture.paste((255, 0, 0), (0, 0, 50, 50))
    cut = crop_frame(picture, replace(SAYCAM, turned=degrees, crop_up=0), 64)
    corners = [(10, 10), (10, 54), (54, 54), (54, 10)]  # counter-clockwise from the upper left
    assert [cut.getpixel(corner)[0] > 128 for corner in corners].index(True) == degrees // 90


def test_the_page_tells_the_profiles_as_they_are(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    table = page[page.index("| field |") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.M)))) == {
        field.name for field in fields(SAYCAM)
    }
    for profile, column in ((SAYCAM, 1), (BABYVIEW, 2)):
        cells = {row.split("|")[1].strip(" `"): row.split("|")[column + 1] for row in table.splitlines()[2:]}
        for name in ("source", "utterance", "speaker", "time", "end", "turn", "video", "clock", "not_a_video"):
            value = getattr(profile, name)
            assert (f"`{value}`" if value else "none") in cells[name], name
        assert all(f"`{one}`" in cells["caregivers"] for one in profile.caregivers)
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.S)[1])
    assert find_profile(str(tmp_path / "mine.yaml")).turned == 90
