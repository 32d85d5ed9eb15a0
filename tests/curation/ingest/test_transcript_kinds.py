"""Test kinds of transcripts that are well-formed but unusual: they are read right, or rejected in one line."""

import json
import re
import unicodedata
from dataclasses import replace

import pytest

from babyvlm.curation.check_data.corpus import check_videos
from babyvlm.curation.check_data.device import find_device
from babyvlm.curation.ingest.profiles import BABYVIEW, CHAT, PLAYROOM, SAYCAM, SUBTITLES, WHISPER
from babyvlm.curation.ingest.sentences import Utterance
from babyvlm.curation.ingest.transcripts import find_transcripts, read_transcript
from babyvlm.errors import UserError
from support.filming import HEADER, WORDS_HEADER, run_frames, write_transcript, write_video

RULES = replace(SAYCAM, splitter="rules")  # SAYCam's columns and times; its sentences need no model here


def words(*spoken):
    """Return rows of BabyView's layout, sorted by time. Each turn is (id, speaker, text, start, step)."""
    rows = []
    for number, speaker, text, start, step in spoken:
        for place, token in enumerate(text.split()):
            time = round(start + step * place, 2)
            rows.append([number, text, place, token, time, round(time + 0.9 * step, 2), speaker])
    return [[place, *row] for place, row in enumerate(sorted(rows, key=lambda row: row[4]))]


def read_words(folder, rows, profile=BABYVIEW):
    write_transcript(folder / "a.csv", rows, WORDS_HEADER)
    return read_transcript(folder / "a.csv", profile)


def timed(transcript):
    return [(one.text, one.start_ms, one.start_ms + one.duration_ms) for one in transcript.utterances]


def test_words_of_overlapping_speakers_are_grouped_by_turn(tmp_path):
    rows = words((0, "FEM", "look at the big yellow duck", 1.0, 0.4), (1, "MAL", "yes what a duck", 1.3, 0.4))
    assert timed(read_words(tmp_path, rows)) == [
        ("look at the big yellow duck", 1000, 3360),
        ("yes what a duck", 1300, 2860),
    ]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_words_of_several_speakers_alternate_at_any_pace(tmp_path, count):
    spoken = [(n, "FEM", f"a b c d{n}", 1 + 0.1 * n, 0.5 + 0.1 * n) for n in range(count)]
    assert [text for text, _, _ in timed(read_words(tmp_path, words(*spoken)))] == [turn[2] for turn in spoken]


def test_words_of_one_turn_with_two_speakers_are_divided(tmp_path):
    rows = words((0, "FEM", "Look! a duck.", 1.0, 0.5))
    rows[2][-1] = "KCHI"
    assert timed(read_words(tmp_path, rows)) == [("look !", 1000, 1475), ("a", 1475, 1950)]
    with pytest.raises(UserError, match=r"row 2: the words of turn '0' have several speakers\. Set word_column"):
        read_words(tmp_path, rows, replace(BABYVIEW, word_column=""))


def test_words_of_a_turn_may_be_all_that_the_table_has(tmp_path):
    rows = [
        [*row[:2], "", *row[3:]] for row in words((0, "FEM", "look at this", 1, 0.5), (1, "MAL", "bye bye", 9, 0.5))
    ]
    transcript = read_words(tmp_path, rows, replace(BABYVIEW, utterance_column="token"))
    assert timed(transcript) == [("look at this", 1000, 2450), ("bye bye", 9000, 9950)]


def test_turn_that_continues_long_after_others_is_rejected(tmp_path):
    rows = words((0, "FEM", "bye", 1.0, 0.5), (1, "MAL", "yes", 4.0, 0.5), (0, "FEM", "bye", 9.0, 0.5))
    with pytest.raises(UserError, match=r"row 4: turn '0' goes on 7\.55 s after its last word \(row 2\)"):
        read_words(tmp_path, rows)
    with pytest.raises(UserError, match=r"row 3: turn '0' goes on 298\.55 s after its last word"):
        read_words(tmp_path, words((0, "FEM", "bye", 1.0, 0.5), (0, "FEM", "bye", 300.0, 0.5)))
    other = words((0, "FEM", "bye", 1.0, 0.5), (1, "MAL", "yes", 4.0, 0.5), (0, "FEM", "hello", 9.0, 0.5))
    assert [text for text, _, _ in timed(read_words(tmp_path, other))] == ["bye", "yes", "hello"]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((), (1000, 2950)),
        ((3,), (1000, 2450)),
        ((0,), (1500, 2950)),
        ((1, 2), (1000, 2950)),
        ((0, 1, 3), (2000, 2450)),
    ],
)
def test_words_without_times_keep_their_turn(tmp_path, missing, expected):
    rows = words((0, "FEM", "you are 2 today", 1.0, 0.5))
    for place in missing:
        rows[place][5:7] = ["", ""] if place % 2 else ["NA", "NaN"]
    assert timed(read_words(tmp_path, rows)) == [("you are 2 today", *expected)]


def test_turn_without_any_time_is_dropped(tmp_path):
    rows = words((0, "FEM", "no", 1.0, 0.5), (1, "FEM", "yes", 2.0, 0.5))
    rows[0][5:7] = ["", ""]
    transcript = read_words(tmp_path, rows)
    assert timed(transcript) == [("yes", 2000, 2450)]
    assert dict(transcript.dropped) == {"no start time": 1}


def read_rows(folder, rows, profile=RULES, header=HEADER):
    write_transcript(folder / "a.csv", rows, header)
    return read_transcript(folder / "a.csv", profile)


CHAT_TEXTS = {
    "xxx the ball .": "<unk> the ball .",
    "&-um look (be)cause it's big .": "look because it 's big .",
    "you want the <red one> [//] blue one ?": "you want the blue one ?",
    "that's a doggie@f !": "that 's a doggie !",
    "yyy .": "<unk> .",
    "where did it +...": "where did it ...",
    "+< mhm .": "mhm .",
    "thank_you for the cracker . \x1521200_23100\x15": "thank you for the cracker .",
}


def test_chat_codes_are_read_if_declared(tmp_path):
    rows = [[f"0:{2 + 4 * n:02}", "M", "a", text] for n, text in enumerate(CHAT_TEXTS)] + [["0:50", "M", "a", "end"]]
    transcript = read_rows(tmp_path, rows, replace(RULES, text_format="chat"))
    assert [one.text for one in transcript.utterances] == [*CHAT_TEXTS.values(), "end"]
    with pytest.raises(
        UserError, match=r"a\.csv, row 3: '&-u' is a code of CHAT, not a word\. Declare text_format: chat"
    ):
        read_rows(tmp_path, rows)


@pytest.mark.parametrize("text", [text for text in CHAT_TEXTS if text[0] not in "xy"])
def test_undeclared_chat_code_is_rejected(tmp_path, text):
    with pytest.raises(UserError, match=r"row 2: .* is a code of CHAT"):
        read_rows(tmp_path, [["0:02", "M", "a", text], ["0:50", "M", "a", "end"]])


def test_undeclared_unintelligible_speech_is_noted(tmp_path):
    transcript = read_rows(tmp_path, [["0:02", "M", "a", "xxx the ball"], ["0:50", "C", "a", "xxx"]])
    assert transcript.notes == (
        "xxx, yyy or www in 1 turns are read as words; if they are CHAT's, declare text_format: chat",
    )


def test_table_of_r_has_row_numbers_and_missing_values(tmp_path):
    (tmp_path / "a.csv").write_text(
        '"","Time","Speaker","Video Name","Utterance"\n"1","0:02","M","a","look at the duck"\n"2","0:06","M","a",NA\n'
        '"3","0:10",NA,"a","ba"\n"4",NA,"M","a","where is it"\n"5","0:20","M",NA,"a red ball"\n'
        '"6","0:30","M","a","end"\n'
    )
    transcript = read_transcript(tmp_path / "a.csv", RULES)
    assert timed(transcript) == [
        ("look at the duck", 2000, 6000),
        ("a red ball", 20_000, 30_000),
        ("end", 30_000, 30_000),
    ]
    assert dict(transcript.dropped) == {
        "utterance without words": 1,
        "turn has no speaker": 1,
        "no start time": 1,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ['0:05,M,a,"moo says the cow', "0:10,M,a,a ball", '0:25,M,a,"meow says the cat', "0:30,M,a,end"],
            "row 3: quot",
        ),
        (['0:05,M,a,"moo says the cow', "0:10,M,a,a ball", "0:30,M,a,end"], "row 3: quotation marks do not match"),
        (['0:05,M,a,"moo', "0:10,M,a,a ball", '0:30,M,a,"', "0:40,M,a,end"], "row 3: a cell contains another row"),
        (["0:05,M,a,look, a ball", "0:30,M,a,end"], "row 3: 5 cells in a table of 4 columns"),
        (["0:05,M,a,look", "at the ball", "0:30,M,a,end"], "row 4: 1 cells in a table of 4 columns"),
    ],
)
def test_stray_quotes_and_commas_are_rejected(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text("\n".join([",".join(HEADER), "0:02,M,a,look", *rows]) + "\n")
    with pytest.raises(UserError, match=rf"a\.csv, {message}"):
        read_transcript(tmp_path / "a.csv", RULES)


def test_turns_at_the_same_time_and_the_last_turn(tmp_path):
    rows = [["0:02", "M", "a", "look at the duck"], ["0:02", "CHI", "a", "duck"], ["0:10", "M", "a", "bye"]]
    assert read_rows(tmp_path, rows).utterances == (
        Utterance("look at the duck", 2000, 0, 1),
        Utterance("bye", 10_000, 0, 2),
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("0:02", "M", "a"), ("0:02", "CHI", "b"), ("0:02", "M", "c"), ("0:05", "M", "d")], [(2, 0), (2, 3), (5, 0)]),
        ([("0:02", "CHI", "a"), ("0:02", "M", "b"), ("0:09", "CHI", "c")], [(2, 7)]),
        ([("0:02", "M", "a"), ("0:04", "M", "b"), ("0:04", "CHI", "c")], [(2, 2), (4, 0)]),
        ([("0:02", "M", "a"), ("", "CHI", "b"), ("0:04", "M", "c"), ("0:06", "M", "d")], [(4, 2), (6, 0)]),
    ],
)
def test_turn_of_saycam_ends_where_the_next_row_begins(tmp_path, rows, expected):
    transcript = read_rows(tmp_path, [[time, speaker, "a", text] for time, speaker, text in rows])
    assert [(one.start_ms // 1000, one.duration_ms // 1000) for one in transcript.utterances] == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252", "mac_roman"])
def test_transcripts_in_other_encodings_are_read_and_noted(tmp_path, encoding):
    text = f"{';'.join(HEADER)}\r\n0:02;M;a;le b\u00e9b\u00e9 est l\u00e0\r\n0:05;M;a;\u2019tis\r\n"
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    transcript = read_transcript(tmp_path / "a.csv", RULES)
    assert transcript.utterances[0].text == "le b\u00e9b\u00e9 est l\u00e0"
    assert any(f"read as {encoding}" in note for note in transcript.notes) == (not encoding.startswith("utf"))
    declared = replace(RULES, encoding=encoding)
    assert read_transcript(tmp_path / "a.csv", declared).utterances == transcript.utterances


def test_characters_without_width_are_removed(tmp_path):
    rows = [
        ["0:02", "M", "a", "look at the du\u200bck\ufeff"],
        ["0:05", "M", "a", "\u200b\u2060"],
        ["0:09", "M", "a", "end"],
    ]
    transcript = read_rows(tmp_path, rows)
    assert [one.text for one in transcript.utterances] == ["look at the duck", "end"]
    assert dict(transcript.dropped) == {"utterance without words": 1}


def test_speakers_come_from_rttm(tmp_path):
    rows = [["1.0", "2.0", "look"], ["3.0", "4.0", "ba"], ["5.0", "6.0", "bye"], ["8.0", "9.0", "music"]]
    profile = replace(
        BABYVIEW, turn_column="", word_column="", speaker_column="", start_column="start", end_column="end"
    )
    profile = replace(profile, utterance_column="text")
    write_transcript(tmp_path / "a_processed.csv", rows, ["start", "end", "text"])
    with pytest.raises(UserError, match="the profile names caregivers, but no speaker_column"):
        read_transcript(tmp_path / "a_processed.csv", profile)
    everyone = read_transcript(tmp_path / "a_processed.csv", replace(profile, caregivers=()))
    assert [one.text for one in everyone.utterances] == ["look", "ba", "bye", "music"]
    (tmp_path / "a.rttm").write_text(
        "SPEAKER a 1 0.9 1.3 <NA> <NA> FEM <NA> <NA>\nSPEAKER a 1 2.5 2.7 <NA> <NA> KCHI <NA> <NA>\n"
        "SPEAKER a 1 4.9 1.3 <NA> <NA> MAL <NA> <NA>\n"
    )
    transcript = read_transcript(tmp_path / "a_processed.csv", profile, {"a": tmp_path / "a.rttm"})
    assert [one.text for one in transcript.utterances] == ["look", "bye"]
    assert dict(transcript.dropped) == {"speaker is not a caregiver": 1, "turn has no speaker": 1}
    with pytest.raises(UserError, match=r"no \.rttm file has the name of its video, 'a'"):
        read_transcript(tmp_path / "a_processed.csv", profile, {"b": tmp_path / "a.rttm"})


def test_frames_reads_json_with_speakers_from_rttm(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", 60)
    for name in ("transcripts", "speakers"):
        (tmp_path / name).mkdir()
    said = [{"word": word, "start": 1 + place, "end": 1.9 + place} for place, word in enumerate(("Look!", "Ba."))]
    segment = {"start": 1, "end": 2.9, "text": " Look! Ba.", "words": said}
    (tmp_path / "transcripts" / "a.json").write_text(json.dumps({"segments": [segment]}))
    (tmp_path / "mine.yaml").write_text("base: whisper\nsource: nursery\ncaregivers: [FEM]\n")
    options = {"profile": str(tmp_path / "mine.yaml"), "max_frames": 2}
    with pytest.raises(UserError, match=r"\(turn has no speaker\).*Pass --speakers, or set `caregivers: \[\]`"):
        run_frames(tmp_path, **options)
    rttm = tmp_path / "speakers" / "a.rttm"
    rttm.write_text("SPEAKER a 1 0.9 1.0 <NA> <NA> FEM <NA> <NA>\nSPEAKER a 1 2.0 0.9 <NA> <NA> KCHI <NA> <NA>\n")
    store = run_frames(tmp_path, speakers=tmp_path / "speakers", **options)
    assert [(row["utterance"], row["time_ms"]) for row in store.rows()] == [("look !", 1000), ("look !", 1200)]
    rttm.write_text(rttm.read_text().replace("KCHI", "FEM"))
    with pytest.raises(UserError, match="different arguments: transcripts"):
        run_frames(tmp_path, speakers=tmp_path / "speakers", **options)


SRT = "1\n00:00:01,000 --> 00:00:02,000\n{}\n\n2\n00:00:03,000 --> 00:00:04,500\nBye. Bye!\n"
FILES = {
    "whisper": (
        WHISPER,
        "a.json",
        '{{"segments": [{{"start": 1, "end": 2, "text": " {}"}}, {{"start": 3, "end": 4.5, "text": " Bye. Bye!"}}]}}',
    ),
    "subtitles": (SUBTITLES, "a.srt", SRT),
    "chat": (CHAT, "a.cha", "@UTF8\n@Begin\n*MOT:\t{} \x151000_2000\x15\n*MOT:\tBye . Bye ! \x153000_4500\x15\n@End\n"),
    "ELAN": (
        replace(
            PLAYROOM,
            heading=("tier", "start", "end", "text"),
            speaker_column="tier",
            start_column="start",
            end_column="end",
            utterance_column="text",
            caregivers=("Mother",),
            video_column="",
        ),
        "a.txt",
        "Mother\t00:00:01.000\t00:00:02.000\t{}\nMother\t00:00:03.000\t00:00:04.500\tBye. Bye!\n",
    ),
    "milliseconds": (
        replace(
            BABYVIEW,
            turn_column="",
            word_column="",
            speaker_column="",
            start_column="start",
            end_column="end",
            utterance_column="text",
            caregivers=(),
            time_format="milliseconds",
        ),
        "a.tsv",
        "start\tend\ttext\n1000\t2000\t{}\n3000\t4500\tBye. Bye!\n",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_programs_give_the_same_utterances(tmp_path, kind):
    profile, name, content = FILES[kind]
    (tmp_path / name).write_text(content.format("Look!"))
    (path,) = find_transcripts(tmp_path, profile.transcript_format)
    transcript = read_transcript(path, profile)
    assert transcript.video == "a"
    assert [(one.text, one.start_ms) for one in transcript.utterances] == [
        ("look !", 1000),
        ("bye .", 3000),
        ("bye !", 3750 if profile.boundary_ms == 1 else 3000),
    ]


NAMES = {
    "whisper.cpp": ("clip_02.wav.csv", "clip_02.mp4"),
    "video": ("clip_01.mp4.csv", "clip_01.mp4"),
    "AVCHD": ("00012.csv", "00012.MTS"),
    "decomposed": (unicodedata.normalize("NFD", "caf\u00e9.csv"), "caf\u00e9.mp4"),
    "signs": ("a b, #1 [x]%20?.csv", "a b, #1 [x]%20?.mp4"),
    "line break": ("a\nb.csv", "a\nb.mp4"),
}


def test_names_of_transcripts_lead_to_their_videos(tmp_path):
    """Write one video under all names."""
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "x.mp4", 20)
    write_video(tmp_path / "videos" / "00012.MTS", 20, format="mpegts")
    for transcript, video in NAMES.values():
        if not (tmp_path / "videos" / video).exists():
            (tmp_path / "videos" / video).hardlink_to(tmp_path / "videos" / "x.mp4")
        write_transcript(tmp_path / "transcripts" / transcript, words((0, "FEM", "look", 0.5, 0.5)), WORDS_HEADER)
    (tmp_path / "videos" / "x.mp4").unlink()
    findings = check_videos(tmp_path / "videos", tmp_path / "transcripts", BABYVIEW, 16, 1.0, find_device())
    assert not findings.missing
    assert dict(findings.facts)["transcripts with a readable video"] == str(len(NAMES))
    assert len(run_frames(tmp_path, profile="babyview", max_frames=1)) == len(NAMES)


def test_losses_name_the_true_reason(tmp_path):
    names = {
        "a.mp4": "",
        "B.mp4": "another case",
        "c.rm": r"not read \(\.rm\)",
        "d.wav": "missing",
        "e.jpg": "missing",
    }
    names |= {"f.rmvb": r"not read \(\.rmvb\)"}
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", 20)
    for name in names:
        if name != "a.mp4":
            (tmp_path / "videos" / name).hardlink_to(tmp_path / "videos" / "a.mp4")
        transcript = tmp_path / "transcripts" / f"{name[0].lower()}.csv"
        write_transcript(transcript, words((0, "FEM", "look", 0.5, 0.5)), WORDS_HEADER)
    findings = check_videos(tmp_path / "videos", tmp_path / "transcripts", BABYVIEW, 16, 1.0, find_device())
    lost = [line for line in findings.missing if line.endswith("1 utterances lost")]
    assert len(lost) == len(names) - 1
    assert all(re.search(reason, line) for reason, line in zip([*names.values()][1:], lost, strict=True))
    store = run_frames(tmp_path, profile="babyview", max_frames=1, min_fraction=0)
    assert store.manifest["funnel"]["dropped"] == {
        "video has this name in another case": 1,
        "video format is not read (.rm)": 1,
        "video missing": 2,
        "video format is not read (.rmvb)": 1,
    }
