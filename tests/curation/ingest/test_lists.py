"""Test lists of images in the forms in which people have them: LLaVA's JSON and its relatives, CSV, and file names."""

import csv
import io
import json
import unicodedata

import pytest
from PIL import Image

from babyvlm.benchmarks.trials import Trial, with_images
from babyvlm.curation.check_data.corpus import check_released_frames
from babyvlm.curation.check_data.device import find_device
from babyvlm.curation.ingest.released import released
from babyvlm.curation.ingest.web import WebPart
from babyvlm.curation.ingest.web_corpora.sources import find_source
from babyvlm.curation.store.chunked_writer import Log
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.files import stored_name

COUNT = 4


def picture(number):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (20 * number,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def number_in(content):
    return round(Image.open(io.BytesIO(content)).getpixel((9, 9))[0] / 20)


@pytest.fixture
def images(tmp_path):
    """Return the folder of 0.png to 3.png; each encodes its number."""
    (tmp_path / "images").mkdir()
    for number in range(COUNT):
        (tmp_path / "images" / f"{number}.png").write_bytes(picture(number))
    return tmp_path / "images"


def read_web(path):
    """Return {number in the image: caption} of a list, and its reasons for leaving samples out, by key."""
    log, found = Log(), find_source(path)
    parts = [WebPart(found.name, chunk, "", 0, hold_out=False) for chunk in found.chunks()]
    pairs = {number_in(row["image"]): row["original_caption"] for part in parts for row in part.rows(log)}
    return pairs, {key.partition("/")[2]: reason for key, reason in log.lines}


def entry(number, **fields):
    conversation = [{"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": f"a house {number}"}]
    return {"id": str(number), "image": f"{number}.png", "conversations": conversation} | fields


def turns(*spoken):
    return [{"from": role, "value": text} for role, text in spoken]


# Changes of LLaVA's entries that keep their meaning.
SAME = {
    "answer first": lambda n: entry(n, conversations=turns(("gpt", f"a house {n}"), ("human", "Describe.\n<image>"))),
    "system prompt": lambda n: entry(
        n, conversations=turns(("system", "You help."), ("human", "<image>"), ("gpt", f"a house {n}"))
    ),
    "roles in capitals": lambda n: entry(n, conversations=turns(("Human", "?"), ("GPT", f"a house {n}"))),
    "assistant": lambda n: entry(n, conversations=turns(("user", "?"), ("assistant", f"a house {n}"))),
    "answer alone": lambda n: entry(n, conversations=turns(("gpt", f"a house {n}"))),
    "chat template": lambda n: {
        "image": f"{n}.png",
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": f"a house {n}"}],
    },
    "parts": lambda n: {
        "images": [f"{n}.png"],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": f"a house {n}"}]},
        ],
    },
    "image token in the answer": lambda n: entry(n, conversations=turns(("gpt", f"<image>\na house {n}"))),
    "list of one image": lambda n: entry(n, image=[f"{n}.png"]),
    "number as id": lambda n: entry(n, id=n),
    "float as id": lambda n: entry(n, id=n + 0.0),
    "caption": lambda n: {"image": f"{n}.png", "caption": f"a house {n}"},
    "imagefolder": lambda n: {"file_name": f"images/{n}.png", "text": f"a house {n}"},
    "folder of images named": lambda n: entry(n, image=f"images/{n}.png"),
    "Windows path": lambda n: entry(n, image=f"images\\{n}.png"),
    "suffix in capitals": lambda n: entry(n, image=f"{n}.PNG"),
}
EXPECTED = {number: f"a house {number}" for number in range(COUNT)}


@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
@pytest.mark.parametrize("kind", SAME)
def test_web_reads_lists_by_role_in_json_and_json_lines(images, kind, name):
    entries = [SAME[kind](number) for number in range(COUNT)]
    path = images.parent / name
    path.write_text("".join(json.dumps(one) + "\n" for one in entries))
    assert read_web(path) == (EXPECTED, {})
    path.write_text(json.dumps(entries, indent=1))
    assert read_web(path) == (EXPECTED, {})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"conversations": turns(("human", "Describe."), ("human", "a house"))}, "no answer by gpt or assistant"),
        ({"conversations": turns(("human", "?"), ("gpt", "a"), ("human", "?"), ("gpt", "b"))}, "several answers"),
        ({"conversations": [{"value": "Describe."}, {"value": "a house"}]}, "no answer by gpt or assistant"),
        ({"conversations": turns(("gpt", None))}, "no caption"),
        ({"conversations": turns(("gpt", " \u200b "))}, "no caption"),
        ({"conversations": "a house"}, "malformed entry"),
        ({"image": ["0.png", "1.png"]}, "several images"),
        ({"image": None}, "no image named"),
        ({"image": "gone.png"}, "image missing"),
        ({"image": "..\\..\\x.png"}, "image missing"),
        ({"image": "../images/0.png"}, "unsafe path"),
        ({"id": "1"}, "duplicate id"),
    ],
)
def test_web_names_reason_of_unusable_entry(images, changed, reason):
    entries = [entry(1), entry(0, **changed), entry(2), entry(3)]
    (images.parent / "list.json").write_text(json.dumps(entries))
    pairs, left_out = read_web(images.parent / "list.json")
    assert pairs == {number: EXPECTED[number] for number in (1, 2, 3)}
    assert list(left_out.values()) == [reason]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [1, 2]}', "not a JSON list of samples"),
        ('{"image": "0.png", "text": "a"}\n{"image', "not readable as JSON"),
        ("image: 0.png", "not a JSON list of samples"),
        ('[{"image": "0.png"}', "not readable as JSON"),
    ],
)
def test_web_rejects_other_json(images, content, message):
    (images.parent / "list.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_web(images.parent / "list.json")


@pytest.mark.parametrize(
    ("columns", "separator", "encoding", "name"),
    [
        (("image", "caption"), ",", "utf-8", "{}.png"),
        (("filepath", "title"), "\t", "utf-8", "images/{}.png"),
        (("file_name", "text"), ",", "utf-8-sig", "images/{}.png"),
        (("image", "caption"), ";", "utf-16", "images\\{}.png"),
        (("Image", "Caption"), ",", "cp1252", "images/{}.PNG"),
    ],
)
def test_web_reads_tables_as_people_have_them(images, columns, separator, encoding, name, capsys):
    with (images.parent / "list.csv").open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=separator)
        folder = "images/" if name == "{}.png" else ""
        writer.writerows([columns, *([folder + name.format(n), f"un b\u00e9b\u00e9, {n}"] for n in range(COUNT))])
    assert read_web(images.parent / "list.csv") == ({n: f"un b\u00e9b\u00e9, {n}" for n in range(COUNT)}, {})
    assert ("read as cp1252" in capsys.readouterr().err) == (encoding == "cp1252")


@pytest.mark.parametrize(
    "rows",
    [
        'images/0.png,"a house with a 12" window\nimages/1.png,a hill\nimages/2.png,"a tree\n',
        "images/0.png,a house, a hill and a tree\nimages/1.png,a hill\n",
        "images/0.png,a hill\nimages/2.png\n",
    ],
)
def test_web_rejects_ambiguous_rows(images, rows):
    (images.parent / "list.csv").write_text(f"image,caption\n{rows}")
    with pytest.raises(UserError, match=r"list\.csv, row \d"):
        read_web(images.parent / "list.csv")


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_lists_find_accented_names_in_both_unicode_forms(tmp_path, stored, listed):
    name, on_disk = (unicodedata.normalize(form, "b\u00e9b\u00e9/\u00fcber.png") for form in (listed, stored))
    (tmp_path / "images" / on_disk).parent.mkdir(parents=True)
    (tmp_path / "images" / on_disk).write_bytes(picture(3))
    captions = tmp_path / "images" / "list.csv"
    captions.write_text(f"image,caption\n{name},a ball\n")
    assert read_web(captions) == ({3: "a ball"}, {})
    released(tmp_path / "images", tmp_path / "store", captions=captions, num_workers=1)
    assert [row["utterance"] for row in PairStore(tmp_path / "store").rows()] == ["a ball"]
    assert not check_released_frames(tmp_path / "images", [captions], None, find_device()).missing
    trial = Trial("1", "test", "", ((name, "a ball"),))
    assert with_images([trial], tmp_path / "images", captions)[0].options == ((on_disk, "a ball"),)


def test_stored_name_prefers_name_as_listed():
    stored = {"a.jpg", "a.JPG", "d/b.jpg", "d\\c.jpg"}
    for name, expected in (
        ("a.jpg", "a.jpg"),
        ("a.JPG", "a.JPG"),
        ("a.Jpg", "a.jpg"),
        ("d\\b.jpg", "d/b.jpg"),
        ("d\\c.jpg", "d\\c.jpg"),
        ("A.jpg", "A.jpg"),  # another file: only a suffix has no case
        ("gone", "gone"),
    ):
        assert stored_name(name, stored.__contains__) == expected
