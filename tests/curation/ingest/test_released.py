"""Test `curate released`: the authors' lists, other lists, and the authors' numbering of transcripts."""

import csv
import json
import os
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babyvlm.curation.ingest.frame_numbering import numbered_utterances
from babyvlm.curation.ingest.released import released
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from support.filming import HEADER, write_transcript

VIDEO = "S_20140420_1803_01"


@pytest.fixture
def images(tmp_path, draw_jpeg):
    """Return a function that draws an image file for each name and returns the folder."""
    folder = tmp_path / "images"

    def draw(names):
        for seed, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(draw_jpeg(seed, 32))
        return folder

    return draw


def list_entry(utterance, number, frames):
    names = [f"{VIDEO}_{number:03}_{frame:02}.jpg" for frame in range(frames)]
    return {
        "utterance": utterance,
        "video_filename": f"{VIDEO}.mp4",
        "utterance_num": number,
        "num_frames": frames,
        "timestamps": [0.2 * frame for frame in range(frames)],
        "frame_filenames": names,
    }


def write_json(path, entries):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"data": entries}))


def write_csv(path, *rows):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def run_released(images, out, **options):
    released(images, out, **{"num_workers": 1, "min_fraction": 0, **options})
    return PairStore(out)


def left_out(store):
    with store.path.with_name(f"{store.path.name}.released.csv").open() as file:
        return list(csv.reader(file))[1:]


def test_released_reads_authors_lists(tmp_path, images):
    lists = {
        "train": [list_entry("look at the ball .", 1, 3), list_entry("  <unk>  it's--", 12, 1)],
        "val": [list_entry("yeah", 2, 2)],
        "test": [list_entry("a dog", 3, 1)],
    }
    names = [name for entries in lists.values() for one in entries for name in one["frame_filenames"]]
    folder = images([*names, f"{VIDEO}_099_00.jpg"])
    for split, entries in lists.items():
        write_json(tmp_path / "lists" / f"{split}.json", entries)
    write_json(tmp_path / "lists" / "test.json", [*lists["test"], {"utterance": 3}, "x", list_entry("nan", 4, 2)])
    store = run_released(folder, tmp_path / "store", captions=[tmp_path / "lists"])
    rows = {row["key"]: row for row in store.rows()}
    assert rows.keys() == {name.removesuffix(".jpg") for name in names}
    for key, row in rows.items():
        assert row["image"] == (folder / f"{key}.jpg").read_bytes()
        assert row["group"] == key[:-3]
        assert row["source"] == "saycam"
    assert {row["group"][-3:]: (row["utterance"], row["split"]) for row in rows.values()} == {
        "001": ("look at the ball .", "train"),
        "012": ("  <unk>  it's--", "train"),
        "002": ("yeah", "val"),
        "003": ("a dog", "test"),
    }
    assert store.licensed
    # Entry 4 has neither frames nor words: it is counted once, as an entry of the list.
    assert store.manifest["funnel"]["dropped"] == {
        "not in any caption list": 1,
        "malformed entry": 2,
        "caption without words": 2,
    }


def test_released_reads_babyvlms_mixed_lists(tmp_path, images):
    """The forms that arjunchandra2/multimodal-baby (`_process_json`, `_process_csv`) and phase1.sh read."""
    frames = [f"SAYCam/{VIDEO}_{number:03}_00.jpg" for number in (1, 2, 3)]
    folder = images([*frames, "llava_pretrain/00453/004539375.jpg", f"SAYCam/{VIDEO}_004_00.jpg"])

    def talk(image, text):
        human, answer = {"from": "human", "value": "<image>\n"}, {"from": "gpt", "value": text}
        return {"image": image, "conversations": [human, answer]}

    mixed = [
        talk(frames[0], "look at the ball ."),
        talk(["llava_pretrain/00453/004539375.jpg"], "a red dog !"),
        {"image": frames[1], "conversations": []},
    ]
    (tmp_path / "train.json").write_text(json.dumps(mixed))
    write_csv(tmp_path / "val.csv", ("image", "text"), (f"/projectnb/x/{frames[1]}", "a cup"))
    write_csv(tmp_path / "test.csv", ("image", "text"), (frames[2], "the dog"))
    lists = [tmp_path / name for name in ("train.json", "val.csv", "test.csv")]
    rows = {row["key"]: row for row in run_released(folder, tmp_path / "store", captions=lists, source="").rows()}
    assert {key: (row["utterance"].split()[:3], row["split"], row["source"]) for key, row in rows.items()} == {
        frames[0][:-4]: (["look", "at", "the"], "train", "SAYCam"),
        "llava_pretrain/00453/004539375": (["a", "red", "dog"], "train", "llava_pretrain"),
        frames[1][:-4]: (["a", "cup"], "val", "SAYCam"),
        frames[2][:-4]: (["the", "dog"], "test", "SAYCam"),
    }


def test_released_reads_csv_with_groups_and_splits(tmp_path, images):
    folder = images(["a/1.jpg", "a/2.JPG", "3.png", "4.jpg", "5.jpg"])
    write_csv(
        tmp_path / "captions.csv",
        ("image", "utterance", "group", "split"),
        ("a/1.jpg", "Hi, you!", "g", "val"),
        ("a/2.JPG", "hi , you !", "g", "val"),
        ("3.png", "x", "", ""),
        ("4.jpg", "", "", ""),
    )
    store = run_released(
        folder, tmp_path / "store", captions=[tmp_path / "captions.csv"], source="mine", licensed=False, tokenize=True
    )
    rows = [(row["key"], row["utterance"], row["group"], row["source"]) for row in store.rows()]
    assert rows == [("a/1", "hi , you !", "g", "mine"), ("a/2", "hi , you !", "g", "mine"), ("3", "x", "3", "mine")]
    assert store.columns("split")["split"].to_pylist()[:2] == ["val", "val"]
    assert not store.licensed
    assert store.manifest["funnel"]["dropped"] == {"caption without words": 1, "not in any caption list": 2}


def test_released_reads_authors_preprocessed_transcripts(tmp_path, images):
    names = [f"{VIDEO}_001_00.jpg", f"{VIDEO}_001_01.jpg", f"{VIDEO}_002_00.jpg"]
    heading = (
        "transcript_filename",
        "video_filename",
        "utterance",
        "timestamp",
        "utterance_num",
        "frame_num",
        "frame_filename",
    )
    rows = [(f"{VIDEO}.csv", f"{VIDEO}.mp4", f"word {name[-8]}", 0, name[-8], name[-5], name) for name in names]
    write_csv(tmp_path / "lists" / f"{VIDEO}.csv", heading, *rows)
    store = run_released(images(names), tmp_path / "store", captions=[tmp_path / "lists"])
    assert store.columns("group")["group"].to_pylist() == [f"{VIDEO}_001", f"{VIDEO}_001", f"{VIDEO}_002"]


def test_released_leaves_out_damaged_images_with_reason(tmp_path, images, draw_jpeg):
    good = [f"good{number}.jpg" for number in range(4)]
    folder = images(good)
    valid = draw_jpeg(7, 64)
    noise = np.random.default_rng(0).integers(0, 256, 500, np.uint8).tobytes()
    tiff = b"II*\0" + bytes(100)
    files = {
        "cut.jpg": valid[: len(valid) // 2],
        "empty.jpg": b"",
        "noise.jpg": noise,
        "text.jpg": b"<html>404",
        "gif.jpg": b"GIF89a" + bytes(50),
        "tiff.jpg": tiff,
        "head.jpg": valid[:30],
        "tiny.jpg": draw_jpeg(1, 8),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (tmp_path / "outside.jpg").write_bytes(valid)
    (folder / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    bad = [
        *files,
        "folder.jpg",
        "pipe.jpg",
        "link.jpg",
        "loop.jpg",
        "gone.jpg",
        "../outside.jpg",
        str(tmp_path / "outside.jpg"),
        "x\0.jpg",
        "x" * 300 + ".jpg",
    ]
    write_json(tmp_path / "lists.json", [{"utterance": name, "frame_filenames": [name]} for name in [*good, *bad]])
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    store = run_released(folder, tmp_path / "store", captions=[tmp_path / "lists.json"])
    good.append("link.jpg")  # links of the user are followed
    bad.remove("link.jpg")
    assert [row["key"] for row in store.rows()] == [name.removesuffix(".jpg") for name in good]
    reasons = dict(left_out(store))
    assert list(reasons) == [name.replace("\0", "\\x00") for name in bad]  # control characters are written out
    leaves, missing, kind = (
        "path is outside the image folder",
        "image missing",
        "not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image",
    )
    expected = {
        "cut.jpg": "image cannot be decoded",
        "empty.jpg": "image file is empty",
        "text.jpg": kind,
        "gif.jpg": kind,
        "tiff.jpg": kind,
        "tiny.jpg": "image smaller than 16 pixels",
        "folder.jpg": missing,
        "pipe.jpg": missing,
        "loop.jpg": missing,
        "gone.jpg": missing,
        "../outside.jpg": leaves,
        bad[-3]: leaves,
        "x\\x00.jpg": leaves,
    }
    assert {name: reasons[name] for name in expected} == expected
    created = {
        path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.relative_to(tmp_path) not in before
    }
    assert created == {"store", "store.released.csv"}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"a.csv": "image,utterance\n1.jpg,a\n1.jpg,a\n"},
            r"a\.csv, row 3: image '1\.jpg' occurs twice, first in .*row 2",
        ),
        ({"a.csv": "image,utterance,group\n1.jpg,a,g\n2.jpg,b,g\n"}, r"row 3: group 'g' has the utterance 'b' here"),
        ({"a.csv": "image,utterance,split\n1.jpg,a,dev\n"}, r"row 2: split is 'dev'"),
        ({"a.csv": "image,words\n"}, r"no column 'utterance' or 'caption' or 'text' \(found image, words\)"),
        ({"a.csv": ",".join(HEADER) + "\n"}, "raw transcript: pass its folder as --transcripts"),
        ({"a.csv": b"image,utterance\n1.jpg,caf\xc3\xa9\n2.jpg,caf\xe9\n"}, r"a\.csv, line 2: is not UTF-8"),
        ({"a.csv": 'image,utterance\n1.jpg,"a\n2.jpg,b\n'}, r"a\.csv, row 2: quotation marks do not match"),
        ({"a.csv": "image,utterance\n1.jpg,a house, a hill\n"}, r"a\.csv, row 2: 3 cells"),
        ({"a.json": "{"}, "not readable as JSON"),
        ({"a.json": "[" * 100_000}, "not readable as JSON"),
        ({"a.json": '{"data": 3}'}, "not a list of utterances"),
        ({"a.txt": ""}, r"contains no \.csv, \.json or"),
        ({"a.csv": "image,utterance\n"}, "no pair is left"),
    ],
)
def test_released_rejects_inconsistent_lists(tmp_path, images, lists, message):
    folder = images(["1.jpg", "2.jpg"])
    (tmp_path / "lists").mkdir()
    for name, content in lists.items():
        (tmp_path / "lists" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        run_released(folder, tmp_path / "store", captions=[tmp_path / "lists"])
    assert not (tmp_path / "store").exists()


def test_released_rejects_wrong_options(tmp_path, images):
    folder = images(["1.jpg"])
    for options, message in (({}, "either --captions or --transcripts"), ({"num_workers": 0}, "--num_workers 0")):
        with pytest.raises(UserError, match=message):
            run_released(folder, tmp_path / "store", **({"captions": [folder]} if options else {}), **options)
    with pytest.raises(UserError, match="No such file"):
        run_released(folder, tmp_path / "store", captions=[tmp_path / "gone.csv"])
    with pytest.raises(UserError, match="no such folder"):
        run_released(tmp_path / "gone", tmp_path / "store", captions=[])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no image"):
        run_released(tmp_path / "empty", tmp_path / "store", captions=[])


def authors_numbering(path):
    """Reproduce the authors' older preprocessing with pandas, independently of ``frame_numbering``: without texts."""
    table = pd.read_csv(path)
    seconds = []
    for text in table["Time"].astype(object).fillna("").astype(str):
        start = text.split("-")[0]
        minutes, *rest = re.split("[:.,;]", start)
        rest = rest[0] if rest else "0"
        rest = f"{rest}0" if rest in list("12345") else rest
        seconds.append(int(minutes or 0) * 60 + int(rest) if start and len(rest.strip()) <= 2 else None)
    names = {name for name in table["Video Name"].dropna() if "part" not in name}
    counted = []
    if len(names) != 1 or len(table) < 2:
        return counted
    for index, (speaker, raw_text) in enumerate(zip(table["Speaker"], table["Utterance"].fillna("nan"), strict=True)):
        start, end = seconds[index], seconds[min(index + 1, len(seconds) - 1)]
        if speaker not in {"M", "Mom", "mom", "m", "mother", "Mother", "papa", "the mom"} or None in (start, end):
            continue
        text = re.sub(r"\([^)]*\)", "", re.sub(r"\[[^)]*\]", "", re.sub(r"\*[^)]*\*", "", raw_text)))
        text = re.sub(" +", " ", text).replace("--", " ")
        text = "".join(letter for letter in text if letter not in "-'*_,…").lower().strip()
        pieces = [piece for piece in re.split("[.?!]", text) if piece]
        cuts = [int(cut) for cut in np.linspace(start, end, len(pieces) + 1)]
        for piece, begin, stop in zip(pieces, cuts[:-1], cuts[1:], strict=True):
            has_words = piece.strip() not in ("", "nan")
            counted.append((len(counted) + 1, has_words, min(32, max(1, int((stop - begin) / 0.2)))))
    return counted


TEXTS = st.text(st.sampled_from("aB.?!*[]()-,'_ …"), max_size=20) | st.sampled_from(
    ["Hello. . you", "(a) b [c] d (e)", "*x* y *z*", "NA", "nan", "", "inaudible", "one--two", "a.b.c.d.e.f"]
)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 3, 7, 10]),
            st.sampled_from(["{m}:{s:02}", "{m}.{s:02}", "{m}:{s:02}-9:99", "{m};{s:02}", "1:{m:02}:{s:02}", "", "NA"]),
            st.sampled_from(["M", "Mom", "papa", "C", "", "mom "]),
            TEXTS,
        ),
        max_size=8,
    )
)
def test_numbered_utterances_matches_authors_numbering(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / f"{VIDEO}.csv"
    clock, lines = 0, []
    for gap, time, speaker, text in rows:
        clock += gap
        lines.append([time.format(m=clock // 60, s=clock % 60), speaker, f"{VIDEO}.mp4", text])
    lines.append(["9:00", "C", VIDEO + ".mp4", "end."])  # so that pandas reads the times as text
    write_transcript(path, lines)
    numbered = numbered_utterances(path, "older")[1]
    assert [(one.number, bool(one.text), one.frames) for one in numbered] == authors_numbering(path)


def write_frames(images, utterances):
    return images([f"{VIDEO}_{one.number:03}_{frame:02}.jpg" for one in utterances for frame in range(one.frames)])


ROWS = [
    ["0:00", "Mom", VIDEO, "One. . two"],
    ["0:03", "M", VIDEO, ""],
    ["0:06", "C", VIDEO, "no"],
    *([f"0:{10 + 3 * i}", "mom", VIDEO, f"word {i}! Yes"] for i in range(12)),
    ["1:00", "m", VIDEO, "last"],
]


def test_released_matches_frames_to_raw_transcripts(tmp_path, images, capsys):
    write_transcript(tmp_path / "transcripts" / f"{VIDEO}.csv", ROWS)
    video, utterances = numbered_utterances(tmp_path / "transcripts" / f"{VIDEO}.csv", "older")
    assert video == VIDEO
    assert [(one.number, one.text) for one in utterances[:4]] == [(1, "one ."), (2, ""), (3, "two"), (4, "")]
    folder = write_frames(images, utterances)
    folder = images(
        [f"{VIDEO}_005_50.jpg", "S_20150101_0000_01_001_00.jpg", "unrelated.jpg"]
    )  # one too many, and unrelated files
    store = run_released(folder, tmp_path / "store", transcripts=tmp_path / "transcripts")
    assert "numbered by the authors' rule before June 2022" in capsys.readouterr().out
    assert store.manifest["raw"]["saycam"]["numbering"] == "the authors' rule before June 2022"
    texts = {row["group"]: row["utterance"] for row in store.rows()}
    assert texts == {f"{VIDEO}_{one.number:03}": one.text for one in utterances if one.number not in (2, 4, 5)}
    assert store.manifest["funnel"]["dropped"] == {
        "utterance without words": sum(one.frames for one in utterances if one.number in (2, 4)),
        "number of frames does not match the duration": utterances[4].frames + 1,
        "video has no transcript": 1,
        "name is not VIDEO_UTTERANCE_FRAME": 1,
    }


def test_released_drops_video_with_shifted_numbers(tmp_path, images):
    write_transcript(tmp_path / "transcripts" / f"{VIDEO}.csv", ROWS)
    _, utterances = numbered_utterances(tmp_path / "transcripts" / f"{VIDEO}.csv", "older")
    folder = write_frames(images, [one._replace(number=one.number + 1) for one in utterances])
    with pytest.raises(UserError, match=r"no pair is left.*does not match the frames"):
        run_released(folder, tmp_path / "store", transcripts=tmp_path / "transcripts")


def test_released_refuses_captions_that_are_not_tokenized(tmp_path, images):
    folder = images(["1.jpg", "2.jpg"])
    write_csv(tmp_path / "captions.csv", ("image", "text"), ("1.jpg", "a ball"), ("2.jpg", "Where's the ball?"))
    message = r"captions\.csv, row 3: \"Where's the ball\?\" is not lower-case tokens .*; so are 1 of 2 captions"
    with pytest.raises(UserError, match=message):
        run_released(folder, tmp_path / "store", captions=[tmp_path / "captions.csv"])
    for tokenize, expected in ((True, "where 's the ball ?"), (False, "Where's the ball?")):
        store = run_released(folder, tmp_path / str(tokenize), captions=[tmp_path / "captions.csv"], tokenize=tokenize)
        assert [row["utterance"] for row in store.rows()] == ["a ball", expected]


def test_released_is_independent_of_workers_and_chunks(tmp_path, images, monkeypatch):
    names = [f"{VIDEO}_{number:03}_{frame:02}.jpg" for number in range(1, 31) for frame in range(2)]
    folder = images(names)
    write_csv(tmp_path / "captions.csv", ("image", "utterance"), *((name, f"word {name[-10:-7]}") for name in names))
    one = run_released(folder, tmp_path / "one", captions=[tmp_path / "captions.csv"])
    monkeypatch.setattr("babyvlm.curation.ingest.released.CHUNK_IMAGES", 7)
    two = run_released(folder, tmp_path / "two", captions=[tmp_path / "captions.csv"], num_workers=3)
    assert [shard["sha256"] for shard in one.manifest["shards"]] == [
        shard["sha256"] for shard in two.manifest["shards"]
    ]


def test_released_refuses_out_inside_image_folder(tmp_path, images):
    folder = images(["a.jpg"])
    write_json(tmp_path / "list.json", [{"utterance": "a", "frame_filenames": ["a.jpg"]}])
    with pytest.raises(UserError, match=r"store: is inside the input folder .*"):
        run_released(folder, folder / "store", captions=[tmp_path / "list.json"])


def test_released_rejects_frames_of_which_most_are_lost(tmp_path, images):
    folder = images([f"{number}.jpg" for number in range(20)])
    for number in range(3, 9):
        (folder / f"{number}.jpg").write_bytes(b"")
    rows = (f"{number}.jpg,look {number}\n" for number in range(10))
    (tmp_path / "list.csv").write_text("image,utterance\n" + "".join(rows))
    with pytest.raises(UserError, match=r"only 4 of 10 images can be used \(6 image file is empty; all are listed in"):
        run_released(folder, tmp_path / "store", captions=[tmp_path / "list.csv"], min_fraction=0.5)
    assert len(run_released(folder, tmp_path / "store", captions=[tmp_path / "list.csv"], min_fraction=0.4)) == 4


def test_released_splits_by_video(tmp_path, images):
    names = [f"{video}_{number:03}_00.jpg" for video in ("A_1", "A_2", "B_1") for number in range(4)]
    folder = images(names)
    rows = (f"{name},look,{name[:-7]},train\n" for name in names)
    (tmp_path / "list.csv").write_text("image,utterance,group,split\n" + "".join(rows))
    store = run_released(folder, tmp_path / "store", captions=[tmp_path / "list.csv"])
    assert set(store.columns("split")["split"].to_pylist()) == {"train"}  # as the list says
    store = run_released(folder, tmp_path / "by_video", captions=[tmp_path / "list.csv"], split_by="video")
    splits = {(row["key"][:3], row["split"]) for row in store.rows()}
    assert len(splits) == 3
    assert {split for _, split in splits} == {"train", "val", "test"}


def test_released_reads_json_lines(tmp_path, images):
    folder = images([f"{VIDEO}_001_00.jpg"])
    line = json.dumps(list_entry("look at the ball .", 1, 1))
    (tmp_path / "val.JSONL").write_text(f"{line}\n\n")
    rows = list(run_released(folder, tmp_path / "store", captions=[tmp_path / "val.JSONL"]).rows())
    assert [(row["utterance"], row["split"]) for row in rows] == [("look at the ball .", "val")]


def test_released_carries_recordings_of_corpora(tmp_path, images):
    """By the profile of the corpus, or by one of the user's own."""
    folder = images(["saycam/S_20140420_1803_01_001_00.jpg", "cc3m/1.jpg", "saycam/other.jpg"])
    rows = [[str(path.relative_to(folder)), "a ball"] for path in sorted(folder.rglob("*.jpg"))]
    write_csv(tmp_path / "list.csv", ["image", "utterance"], *rows)
    mixed = run_released(folder, tmp_path / "mixed", captions=[tmp_path / "list.csv"], source="")
    expected = {"cc3m/1": None, "saycam/S_20140420_1803_01_001_00": "2014-04-20", "saycam/other": None}
    assert {row["key"]: row["date"] for row in mixed.columns("key", "date").to_pylist()} == expected
    (tmp_path / "mine.yaml").write_text("base: saycam\nbirth_dates: {S: '2013-04-20'}\n")
    options = {"captions": [tmp_path / "list.csv"], "profile": str(tmp_path / "mine.yaml")}
    dated = run_released(folder, tmp_path / "dated", **options)
    assert [age for age in dated.columns("age_months")["age_months"].to_pylist() if age is not None] == [11.99]
    (tmp_path / "mine.yaml").write_text("base: saycam\nbirth_dates: {S: '2015-04-20'}\n")
    with pytest.raises(UserError, match="S was born on 2015-04-20"):
        run_released(folder, tmp_path / "early", **options)
