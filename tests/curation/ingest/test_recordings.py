"""Child, date and age of recordings: from names, tables and CHAT, into stores, old and new."""

from dataclasses import replace
from datetime import date

import pytest

from babyvlm.cli.main import main
from babyvlm.curation.ingest.profiles import CHAT, PLAYROOM, SAYCAM, Profile
from babyvlm.curation.ingest.recordings import Recording, add_recordings, recording_of
from babyvlm.curation.ingest.transcripts import read_transcript
from babyvlm.curation.store.pair_store import RECORDING_FIELDS, PairStore
from babyvlm.errors import UserError
from support.filming import run_frames, write_corpus

BORN = replace(SAYCAM, birth_dates={"S": "2013-10-20"})
MINE = Profile("mine", (), utterance_column="text", start_column="start", splitter="rules")


@pytest.mark.parametrize(
    ("name", "profile", "expected"),
    [
        ("S_20140420_1803_01", SAYCAM, ("S", "2014-04-20", None)),
        ("S_20140420_1803_01_082_00", BORN, ("S", "2014-04-20", 5.98)),  # 182 days
        ("A_20140420_1803_01", BORN, ("A", "2014-04-20", None)),
        ("S_20140231_1803_01", BORN, ("S", None, None)),  # no such day
        ("holiday", SAYCAM, (None, None, None)),
        ("Y_20130701_0914_01", PLAYROOM, ("Y", "2013-07-01", 6.97)),
        ("day 7.26.2023 of 0036", replace(MINE, recording=r"day (?P<month>\d+).(?P<day>\d+).(?P<year>\d+)"), None),
        ("day 07.26.2023", replace(MINE, recording=r"day (?P<month>\d+).(?P<day>\d+).(?P<year>\d+)"), "2023-07-26"),
        ("k3 9.5 mo", replace(MINE, recording=r"(?P<child>\w+) (?P<age_months>[\d.]+)"), ("k3", None, 9.5)),
    ],
)
def test_recording_of_reads_name(name, profile, expected):
    found = tuple(recording_of(name, profile).columns.values())
    assert found == (expected if isinstance(expected, tuple) else (None, expected, None))


def test_recording_of_prefers_transcript_and_refuses_dates_before_birth():
    stated = Recording("T", date(2015, 1, 2), 20.0)
    assert recording_of("S_20140420_1803_01", BORN, stated) == stated
    with pytest.raises(UserError, match="recorded on 2013-04-20, but the profile says that S was born on 2013-10-20"):
        recording_of("S_20130420_1803_01", BORN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recording": "(?P<kid>.)"}, "recording: no group is called kid. Groups: child, date"),
        ({"recording": "("}, "is not a regular expression"),
        ({"birth_dates": {"S": "May 2013"}}, "birth_dates: S: 'May 2013' is not a date"),
    ],
)
def test_profile_refuses_wrong_description_of_recordings(change, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        replace(SAYCAM, **change)


def read(tmp_path, profile, content, name="v.csv"):
    (tmp_path / name).write_text(content)
    return read_transcript(tmp_path / name, profile).recording


COLUMNS = replace(MINE, child_column="child", date_column="day", age_column="age")


def test_transcript_states_recording_in_columns(tmp_path):
    rows = "start,text,child,day,age\n0,a ball,K,2020-02-01,\n3,a dog,,,14.5\n"
    assert read(tmp_path, COLUMNS, rows) == Recording("K", date(2020, 2, 1), 14.5)
    with pytest.raises(UserError, match="row 3: child is 'L', but 'K' above"):
        read(tmp_path, COLUMNS, rows.replace("3,a dog,", "3,a dog,L"))
    with pytest.raises(UserError, match="date or age cannot be read"):
        read(tmp_path, COLUMNS, rows.replace("14.5", "-1"))
    with pytest.raises(UserError, match="child"):
        read(tmp_path, COLUMNS, rows.replace("child", "name"))


def test_transcript_states_recording_in_header_of_chat(tmp_path):
    text = (
        "@UTF8\n@Begin\n@Participants:\tCHI Eve Target_Child, MOT Sue Mother\n"
        "@ID:\teng|Brown|CHI|1;06.12|female|||Target_Child|||\n@ID:\teng|Brown|MOT|||||Mother|||\n"
        "@Date:\t15-OCT-1962\n*MOT:\tlook at the ball . \x150_900\x15\n@End\n"
    )
    found = read(tmp_path, CHAT, text, "v.cha")
    assert (found.child, found.day, round(found.age_months, 2)) == ("Eve", date(1962, 10, 15), 18.39)
    bare = text.replace(" Eve", "").replace("1;06.12", "").replace("@Date:\t15-OCT-1962\n", "")
    assert read(tmp_path, CHAT, bare, "w.cha") == Recording()


VIDEO = "S_20140420_1803_01"


def test_frames_carry_recording_and_old_stores_get_it(tmp_path, capsys):
    write_corpus(tmp_path, [("0:00", "M", "a red ball."), ("0:02", "M", "a dog.")], VIDEO, count=60)
    store = run_frames(tmp_path, profile="playroom")
    recorded = store.columns(*RECORDING_FIELDS).to_pylist()
    assert recorded == [{"child": "S", "date": "2014-04-20", "age_months": 15.57}] * len(store)
    main(["store", "info", "--store", str(store.path)])
    assert "2014-04-20" in capsys.readouterr().out
    profile = tmp_path / "born.yaml"
    profile.write_text("base: playroom\nbirth_dates: {S: '2013-10-20'}\n")
    add_recordings(store.path, tmp_path / "dated", str(profile))
    dated = PairStore(tmp_path / "dated")
    assert set(dated.columns("age_months")["age_months"].to_pylist()) == {5.98}
    for one, other in zip(store.rows(), dated.rows(), strict=True):
        assert one == other | {"age_months": 15.57}
    with pytest.raises(UserError, match="has no `recording`"):
        add_recordings(store.path, tmp_path / "none", "whisper")


def test_add_recordings_keeps_store_of_earlier_version(tiny_store, tmp_path):
    """Without the columns; with none of the names."""
    store = tiny_store(["a ball"] * 3)
    with pytest.raises(UserError, match="no key begins with a name like"):
        add_recordings(store.path, tmp_path / "out", "saycam")
    assert not (tmp_path / "out").exists()
    profile = tmp_path / "keys.yaml"
    profile.write_text("base: saycam\nrecording: '(?P<child>k)'\n")
    add_recordings(store.path, tmp_path / "out", str(profile))
    found = PairStore(tmp_path / "out")
    assert found.columns("child")["child"].to_pylist() == ["k"] * 3
    assert list(found) == list(store)
