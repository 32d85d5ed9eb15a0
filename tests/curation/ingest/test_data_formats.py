"""Test that the examples on the page of data formats are read as the page says."""

import io
import re

import pytest
from PIL import Image

from babyvlm.benchmarks import VTWT, BabyWinoground, LabeledS, SAYCamCaption
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.caption_lists import read_caption_lists
from babyvlm.curation.ingest.profiles import BABYVIEW, CHAT, PLAYROOM, find_profile
from babyvlm.curation.ingest.readers import read_rttm
from babyvlm.curation.ingest.transcripts import read_transcript
from babyvlm.curation.ingest.web import WebPart
from babyvlm.curation.ingest.web_corpora.sources import find_source
from babyvlm.curation.store.chunked_writer import Log
from support import ROOT

PAGE = (ROOT / "docs" / "reference" / "data-formats.md").read_text()
EXAMPLES = {name: content for name, content in re.findall(r'^```\w+ title="(.*?)"\n(.*?)^```', PAGE, re.M | re.S)}
TRANSCRIPTS = {
    "saycam.csv": (PLAYROOM, ["look , a duck !", "where is it ?"]),
    "babyview.csv": (BABYVIEW, ["you are 2 .", "yes !"]),
    "elan.txt": ("elan.yaml", ["look , a duck !"]),
    "elan-columns.txt": ("elan-columns.yaml", ["look , a duck !"]),
    "datavyu.csv": ("datavyu.yaml", ["look , a duck !"]),
    "whisper.tsv": ("whisper-table.yaml", ["look , a duck !", "where is it ?"]),
    "whisperx.json": ("whisperx.yaml", ["look , a duck !"]),
    "subtitles.srt": ("subtitles.yaml", ["look , a duck !"]),
    "subtitles.vtt": ("subtitles.yaml", ["look , a duck !"]),
    "chat.cha": (CHAT, ["look because it 's a duck !"]),
}
WEB = {
    "llava.json": "a duck on a pond",
    "metadata.jsonl": "a duck on a pond",
    "web.csv": "a duck on a pond , early in the morning",
}
BENCHMARKS = {
    "labeled_s.csv": LabeledS,
    "vtwt.csv": VTWT,
    "baby_winoground.csv": BabyWinoground,
    "SAYCam_caption.csv": SAYCamCaption,
}


def write(folder, name):
    (folder / name).write_text(EXAMPLES[name])
    return folder / name


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_example_of_transcript_is_read(tmp_path, name):
    profile, expected = TRANSCRIPTS[name]
    if isinstance(profile, str):
        profile = find_profile(str(write(tmp_path, profile)))
    transcript = read_transcript(write(tmp_path, name), profile)
    assert [" ".join(one.text.split()) for one in transcript.utterances] == expected


@pytest.mark.parametrize("name", WEB)
def test_example_of_web_list_is_read(tmp_path, name):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "JPEG")
    (tmp_path / "0.jpg").write_bytes(buffer.getvalue())
    (chunk,) = find_source(write(tmp_path, name)).chunks()
    assert [row["utterance"] for row in WebPart("web", chunk, "", 0, hold_out=False).rows(Log())] == [WEB[name]]


@pytest.mark.parametrize("name", ["train.json", "captions.csv"])
def test_example_of_released_list_is_read(tmp_path, name):
    (utterance,) = read_caption_lists([write(tmp_path, name)], Funnel("released", unit="images"), tokenize=False)
    assert utterance[0::2] == ("look at the duck", "train")
    assert len(utterance.images) == 2


@pytest.mark.parametrize("name", BENCHMARKS)
def test_example_of_benchmark_list_is_read(tmp_path, name):
    path = write(tmp_path, name)
    assert BENCHMARKS[name](path).read(path)


def test_every_example_is_tested(tmp_path):
    assert [segment.speaker for segment in read_rttm(write(tmp_path, "speakers.rttm"))] == ["FEM", "KCHI"]
    profiles = {profile for profile, _ in TRANSCRIPTS.values() if isinstance(profile, str)}
    tested = {*TRANSCRIPTS, *profiles, *WEB, *BENCHMARKS, "train.json", "captions.csv", "speakers.rttm"}
    assert tested == set(EXAMPLES)
