"""Compare utterances, times, frame counts and numbers with the output of the authors' functions.

``tests/data/saycam_text`` has eleven messy transcripts, which we wrote, and in ``expected.json`` what
``_preprocess_transcripts`` of arjunchandra2/multimodal-baby at 2bd8989, run beside this project, made of them.
"""

import json
from pathlib import Path

import pytest

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.caption_lists import read_frame_transcripts
from babyvlm.curation.ingest.frame_numbering import numbered_utterances
from babyvlm.curation.ingest.profiles import SAYCAM
from babyvlm.curation.ingest.sentences import frame_times
from babyvlm.curation.ingest.transcripts import read_transcript
from babyvlm.errors import UserError
from babyvlm.text import normalize

DATA = Path(__file__).parents[2] / "data" / "saycam_text"
EXPECTED = json.loads((DATA / "expected.json").read_text())
TWO_VIDEOS = "S_20130810_1030_01"
# Utterances of theirs that have no token: an empty cell, which their lists of pairs leave out as missing, and a blank.
WITHOUT_WORDS = ("nan", "   ")


@pytest.mark.parametrize("video", sorted(set(EXPECTED) - {TWO_VIDEOS}))
def test_read_transcript_gives_authors_utterances_times_and_numbers(video):
    transcript = read_transcript(DATA / "transcripts" / f"{video}.csv", SAYCAM)
    ours = [(one.number, one.text, frame_times(one, 200, 32)) for one in transcript.utterances]
    theirs = [
        (one["number"], one["utterance"], [round(1000 * time) for time in one["times"]])
        for one in EXPECTED[video]
        if one["utterance"] not in WITHOUT_WORDS
    ]
    assert ours == theirs
    assert transcript.video == video


def test_read_transcript_refuses_two_videos_that_the_authors_skip():
    assert EXPECTED[TWO_VIDEOS] == []
    with pytest.raises(UserError, match="row 3: video 'S_20130810_1030_02'"):
        read_transcript(DATA / "transcripts" / f"{TWO_VIDEOS}.csv", SAYCAM)


def test_numbered_utterances_by_current_rule_are_the_authors():
    for path in sorted((DATA / "transcripts").iterdir()):
        video, numbered = numbered_utterances(path, "current")
        assert numbered == [
            (one["number"], "" if one["utterance"] in WITHOUT_WORDS else one["utterance"], len(one["times"]))
            for one in EXPECTED[path.stem]
        ]
        assert video == (path.stem if EXPECTED[path.stem] else "")


def transcripts():
    return sorted((DATA / "transcripts").iterdir())


def frame_names(rule):
    for path in transcripts():
        video, numbered = numbered_utterances(path, rule)
        for one in numbered:
            yield from (f"{video}_{one.number:03d}_{frame:02d}.jpg" for frame in range(one.frames))


@pytest.mark.parametrize("rule", ["current", "older"])
def test_read_frame_transcripts_finds_the_rule_of_the_frames(rule):
    names = list(frame_names(rule))
    utterances, found = read_frame_transcripts(transcripts(), names, Funnel("x"))
    assert found == rule
    assert {one.text for one in utterances} >= {"do n't touch it .", "it 's hot !", "wave bye bye ."}
    by_group = {one.group: one for one in utterances}
    for path in transcripts():
        video, numbered = numbered_utterances(path, rule)
        for one in numbered:
            group = f"{video}_{one.number:03d}"
            assert (by_group[group].text if group in by_group else "") == one.text
            assert group not in by_group or len(by_group[group].images) == one.frames
    for one in utterances:
        assert one.text.split() == normalize(one.text).split()


def test_read_frame_transcripts_refuses_frames_that_fit_neither_rule():
    shifted = []
    for name in frame_names("current"):
        video, number, frame = name.rsplit("_", 2)
        shifted.append(f"{video}_{int(number) + 1:03d}_{frame}")
    with pytest.raises(UserError, match=r"by the authors' current rule, \d+% by the authors' rule before June 2022"):
        read_frame_transcripts(transcripts(), shifted, Funnel("x"))


def test_rules_number_differently():
    """The choice matters: the older rule gives other numbers on half of these transcripts."""
    different = [p for p in transcripts() if numbered_utterances(p, "current") != numbered_utterances(p, "older")]
    assert len(different) >= 5
