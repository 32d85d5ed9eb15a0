"""Test the readers of transcripts that programs write, each on files in the form of the program."""

import json

import pytest

from babyvlm.curation.ingest.readers import (
    CHAT_CODE,
    chat_texts,
    read_chat,
    read_rttm,
    read_subtitles,
    read_whisper,
)
from babyvlm.curation.ingest.turns import SpeakerSegment, Turn, Word, assign_speakers, split_by_speaker
from babyvlm.errors import UserError


def write(path, content, encoding="utf-8"):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)
    return path


def spoken(turns):
    return [(turn.speaker, turn.text, turn.start_ms, turn.end_ms) for turn in turns]


def word(text, start=None, end=None, speaker=None):
    times = {} if start is None else {"start": start, "end": end, "score": 0.9}
    return {"word": text, **times, **({"speaker": speaker} if speaker else {})}


def test_read_whisper_reads_segments(tmp_path):
    segments = [
        {
            "id": 0,
            "seek": 0,
            "start": 0.0,
            "end": 2.48,
            "text": " Look at the duck.",
            "tokens": [50364],
            "temperature": 0.0,
        },
        {
            "id": 1,
            "seek": 0,
            "start": 2.48,
            "end": 3.0,
            "text": " Yes.",
            "words": [{"word": " Yes.", "start": 2.5, "end": 2.9}],
        },
    ]
    turns = read_whisper(write(tmp_path / "a.json", {"text": "", "segments": segments, "language": "en"}))
    assert spoken(turns) == [("", "Look at the duck.", 0, 2480), ("", "Yes.", 2480, 3000)]


def test_read_whisper_reads_whisper_cpp(tmp_path):
    part = {
        "timestamps": {"from": "00:00:01,000", "to": "00:00:02,500"},
        "offsets": {"from": 1000, "to": 2500},
        "text": " Hi.",
    }
    content = {"systeminfo": "", "params": {}, "result": {"language": "en"}, "transcription": [part]}
    assert spoken(read_whisper(write(tmp_path / "a.json", content))) == [("", "Hi.", 1000, 2500)]


def test_read_whisper_divides_segments_where_speaker_changes(tmp_path):
    words = [
        word("You", 5.0, 5.2, "SPEAKER_00"),
        word("are", 5.2, 5.6, "SPEAKER_00"),
        word("2."),  # WhisperX gives numbers no time
        word("No!", 6.0, 6.3, "SPEAKER_01"),
        word("3"),
        word("ducks.", 6.6, 7.0, "SPEAKER_01"),
    ]
    segments = [
        {
            "start": 1.0,
            "end": 2.0,
            "text": " Bye bye.",
            "words": [word("Bye", 1.0, 1.2), word("bye.", 1.3, 2.0)],
            "speaker": "SPEAKER_01",
        },
        {"start": 5.0, "end": 7.5, "text": " You are 2. No! 3 ducks.", "words": words, "speaker": "SPEAKER_00"},
    ]
    turns = read_whisper(write(tmp_path / "a.json", {"segments": segments, "word_segments": words}))
    assert spoken(turns) == [
        ("SPEAKER_01", "Bye bye.", 1000, 2000),
        ("SPEAKER_00", "You are 2.", 5000, 5600),
        ("SPEAKER_01", "No! 3 ducks.", 6000, 7000),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "contains no segments"),
        ({"text": "a"}, "contains no segments"),
        ({"segments": 3}, "contains no segments"),
        (
            {"segments": [{"start": 0, "end": 1, "text": "a"}, {"start": None, "end": 1, "text": "a"}]},
            "segment 1: not readable",
        ),
        ({"segments": [{"start": 0, "text": "a"}]}, "segment 0: not readable .*KeyError: 'end'"),
        ({"segments": [{"start": 0, "end": 1e400, "text": "a"}]}, "segment 0: not readable"),
        ({"segments": ["a"]}, "segment 0: not readable"),
        ({"segments": [{"start": 0, "end": 1, "text": "a", "words": [3]}]}, "segment 0: not readable"),
    ],
)
def test_read_whisper_rejects_other_files(tmp_path, content, message):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(UserError, match=rf"a\.json.*{message}"):
        read_whisper(path)


SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Look</i> at the duck.

2
00:01:03,250 --> 00:01:04,000
A ball &amp; a dog,
{\\an8}a red one.

"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_read_subtitles_reads_subrip(tmp_path, encoding):
    turns, notes = read_subtitles(write(tmp_path / "a.srt", SRT, encoding))
    assert spoken(turns) == [("", "Look at the duck.", 1000, 2500), ("", "A ball & a dog, a red one.", 63250, 64000)]
    assert not notes
    turns, notes = read_subtitles(write(tmp_path / "a.srt", SRT.replace("duck", "b\u00e9b\u00e9"), "cp1252"))
    assert turns[0].text == "Look at the b\u00e9b\u00e9."
    assert "read as cp1252" in notes[0]


def test_read_subtitles_reads_webvtt_with_voices(tmp_path):
    content = """WEBVTT - made by hand

NOTE a comment
of two lines

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Mom>Look at <c.yellow>the</c> duck.

00:00:03.000 --> 00:00:04.000
<v.loud Anna Maria>Where?</v> <v Mom>There, <00:00:03.500>see?</v>

01:00:05.000 --> 01:00:06.000
\u266a la la \u266a
"""
    turns, _ = read_subtitles(write(tmp_path / "a.vtt", content))
    assert spoken(turns) == [
        ("Mom", "Look at the duck.", 1000, 2500),
        ("Anna Maria", "Where?", 3000, 4000),
        ("Mom", "There, see?", 3000, 4000),
        ("", "la la", 3_605_000, 3_606_000),
    ]


@pytest.mark.parametrize(
    ("said", "caregivers", "expected"),
    [
        (["[SPEAKER_00]: Hi.", "[SPEAKER_01]: Ba: a."], (), [("SPEAKER_00", "Hi."), ("SPEAKER_01", "Ba: a.")]),
        (["Mom: Hi.", "Child: ba.", "No: wait."], ("Mom",), [("Mom", "Hi."), ("Child", "ba."), ("No", "wait.")]),
        (["Look: a duck.", "No: wait."], ("Mom",), [("", "Look: a duck."), ("", "No: wait.")]),
        (["- Hi.\n- Bye.", "(laughs) yes"], (), [("", "Hi. Bye."), ("", "(laughs) yes")]),
    ],
)
def test_read_subtitles_finds_labels_of_speakers(tmp_path, said, caregivers, expected):
    cues = (f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{text}\n" for n, text in enumerate(said, start=1))
    turns, _ = read_subtitles(write(tmp_path / "a.srt", "\n".join(cues)), caregivers)
    assert [(turn.speaker, turn.text) for turn in turns] == expected


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not subtitles",
        SRT.replace("00:01:03,250", "00:0x:03,250"),  # a cue that would become text of the one above
        SRT.replace("--> 00:01:04,000", ""),
        SRT.replace("00:01:03,250 -->", "00:01:03 ->"),
        SRT.replace("\n\n2\n", "\n2\n").replace("00:01:03,250 -->", "63 s -->"),
    ],
)
def test_read_subtitles_rejects_unreadable_cues(tmp_path, content):
    with pytest.raises(UserError, match=r"a\.srt: .* readable|a\.srt: \d+ lines with"):
        read_subtitles(write(tmp_path / "a.srt", content))


CHAT = """@UTF8
@PID:\t11312/c-00001
@Begin
@Languages:\teng
@Participants:\tCHI Target_Child, MOT Mother
@ID:\teng|corpus|CHI|1;06.||||Target_Child|||
@Media:\tclip_01, video
*MOT:\tyou want the <red one> [//] blue one ? \x150_2500\x15
%mor:\tpro|you
*MOT:\t&-um look (be)cause it's
\tbig . \x152500_4000\x15
*CHI:\txxx ball . \x154000_5000\x15
*MOT:\tthat's a doggie@f ! \x155000_6000\x15
*MOT:\t0 [=! laughs] . \x156000_7000\x15
*MOT:\twhere did it +... \x157000_8000\x15
*MOT:\t+< thank_you , honey .
@End
"""


def test_read_chat_reads_words_times_and_video(tmp_path):
    turns = read_chat(write(tmp_path / "a.cha", CHAT))
    assert spoken(turns) == [
        ("MOT", "you want the blue one?", 0, 2500),
        ("MOT", "look because it's big.", 2500, 4000),
        ("CHI", "inaudible ball.", 4000, 5000),
        ("MOT", "that's a doggie!", 5000, 6000),
        ("MOT", "", 6000, 7000),
        ("MOT", "where did it...", 7000, 8000),
        ("MOT", "thank you, honey.", None, None),
    ]
    assert {turn.video for turn in turns} == {"clip_01"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hello",
        CHAT.replace("@Begin\n", ""),
        CHAT.replace("*CHI:\t", "*CHI "),
        CHAT.replace("\x154000_5000\x15", "\x154000-5000\x15"),
        CHAT.replace("\x154000_5000\x15", "\x154000_5000"),
    ],
)
def test_read_chat_rejects_other_files(tmp_path, content):
    with pytest.raises(UserError, match=r"a\.cha: (is not a CHAT|not readable as CHAT)"):
        read_chat(write(tmp_path / "a.cha", content))


CODES = {
    "xxx the ball .": "inaudible the ball.",
    "&-um look (be)cause it's big .": "look because it's big.",
    "you want the <red one> [//] blue one ?": "you want the blue one?",
    "that's a doggie@f !": "that's a doggie!",
    "yyy .": "inaudible.",
    "0 [=! laughs] .": "",
    "where did it +...": "where did it...",
    "+< mhm .": "mhm.",
    "thank_you for the cracker . \x1521200_23100\x15": "thank you for the cracker.",
    "<unk> i see a cat": "inaudible i see a cat",
    "look [x 3] at him [= the dog] +/?": "look at him?",
    "no: [!] www": "no",
    "<xxx xxx> [>] here ?": "inaudible inaudible here?",
    "": "",
}


def test_chat_texts_leaves_words_only():
    assert chat_texts(list(CODES)) == list(CODES.values())


@pytest.mark.parametrize("text", [code for code in CODES if CHAT_CODE.search(code)])
def test_chat_code_finds_codes(text):
    assert CHAT_CODE.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "Look! (laughs) at [points] it.",
        "2 + 2 is 4",
        "Q&A & more",
        "mail me at mom@home.org",
        "it's *big* ... yes",
        "a ball(s)",
    ],
)
def test_chat_code_ignores_plain_text(text):
    assert not CHAT_CODE.search(text)


def test_chat_code_finds_most_kinds():
    assert sum(bool(CHAT_CODE.search(code)) for code in CODES) >= 9


RTTM = """;; made by a voice type classifier
SPKR-INFO a 1 <NA> <NA> <NA> adult_female FEM <NA> <NA>
SPEAKER a 1 0.5 6.0 <NA> <NA> SPEECH <NA> <NA>
SPEAKER a 1 4.0 2.0 <NA> <NA> KCHI <NA> <NA>
SPEAKER a 1 0.500 2.000 <NA> <NA> FEM <NA> <NA>
"""


def test_read_rttm_reads_speakers(tmp_path):
    segments = read_rttm(write(tmp_path / "a.rttm", RTTM))
    assert segments == [SpeakerSegment(500, 2500, "FEM"), SpeakerSegment(4000, 6000, "KCHI")]
    only = "".join(
        line for line in RTTM.splitlines(keepends=True) if "KCHI" not in line and " FEM <NA> <NA>\n" not in line
    )
    assert read_rttm(write(tmp_path / "a.rttm", only)) == [SpeakerSegment(500, 6500, "SPEECH")]


@pytest.mark.parametrize(
    "line", ["SPEAKER a 1 0.5", "SPEAKER a 1 x 1 <NA> <NA> FEM", "SPEAKER a 1 -1 1 <NA> <NA> FEM", "a,b"]
)
def test_read_rttm_rejects_malformed_lines(tmp_path, line):
    with pytest.raises(UserError, match=r"a\.rttm"):
        read_rttm(write(tmp_path / "a.rttm", line + "\n"))


def test_assign_speakers_uses_longest_overlap():
    segments = [SpeakerSegment(0, 1000, "FEM"), SpeakerSegment(900, 3000, "KCHI"), SpeakerSegment(5000, 5200, "FEM")]

    def turn(start, end, *words):
        return Turn(1, "old", " ".join(one.text for one in words) or "hi", "", start, end, words=words)

    def assigned(*turns):
        return [(one.speaker, one.text, one.start_ms, one.end_ms) for one in assign_speakers(turns, segments)]

    assert assigned(turn(0, 1000)) == [("FEM", "hi", 0, 1000)]
    assert assigned(turn(800, 2000)) == [("KCHI", "hi", 800, 2000)]
    assert assigned(turn(3500, 4000)) == [("", "hi", 3500, 4000)]
    assert assigned(turn(None, None)) == [("", "hi", None, None)]
    assert assigned(turn(5100, 5100)) == [("FEM", "hi", 5100, 5100)]
    words = Word("look", 100, 400), Word("2", None, None), Word("ba", 1500, 1900)
    assert assigned(turn(0, 2000, *words)) == [("FEM", "look 2", 100, 400), ("KCHI", "ba", 1500, 1900)]


def test_split_by_speaker_keeps_text_of_one_speaker():
    words = Word("2", None, None), Word("ducks", 10, 20, "A")
    turn = Turn(1, "", "2 ducks!", "0", 0, 30, words=words)
    assert split_by_speaker(turn) == [turn._replace(speaker="A")]
    assert split_by_speaker(turn._replace(words=())) == [turn._replace(words=())]
    first, second = split_by_speaker(turn._replace(words=(Word("a", None, None, "B"), *words)))
    assert spoken([first, second]) == [("B", "a 2", 0, None), ("A", "ducks", 10, 20)]


def test_read_subtitles_counts_lines_that_roll_up_once(tmp_path):
    """YouTube's automatic captions show each line three times, with the times of its words at first."""
    content = """WEBVTT

00:00:00.160 --> 00:00:02.550 align:start position:0%
\x20
look<00:00:00.400><c> at</c><00:00:00.600><c> this</c>

00:00:02.550 --> 00:00:02.560 align:start position:0%
look at this
\x20

00:00:02.560 --> 00:00:05.110 align:start position:0%
look at this
no<00:00:02.800><c> no</c><00:00:03.100><c> no</c>

00:00:05.110 --> 00:00:05.120 align:start position:0%
no no no
\x20

00:00:05.120 --> 00:00:06.110 align:start position:0%
no no no
yes
"""
    turns, _ = read_subtitles(write(tmp_path / "a.vtt", content))
    assert [(turn.text, turn.start_ms) for turn in turns if turn.text] == [
        ("look at this", 160),
        ("no no no", 2560),
        ("yes", 5120),
    ]
