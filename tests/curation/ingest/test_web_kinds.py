"""Test the forms in which archives and tables of web images are found: names, order, compression, columns."""

import base64
import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from babyvlm.curation.check_data.web import check_web_source
from babyvlm.curation.ingest.web import WebPart, web
from babyvlm.curation.ingest.web_corpora.sources import find_source
from babyvlm.curation.store.chunked_writer import Log
from babyvlm.errors import UserError
from support.hostile_web import add_member


def picture(number=0, kind="JPEG"):
    """Return an image whose gray says its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (10 * number, 10 * number, 10 * number)).save(buffer, kind)
    return buffer.getvalue()


def number_in(content):
    return round(np.asarray(Image.open(io.BytesIO(content)).convert("L")).mean() / 10)


def write_tar(path, members):
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            add_member(tar, name, content)
    return path


def read(source):
    """Return (number in the image, caption) by key, and reasons by key, without writing a store."""
    rows, log = {}, Log()
    found = find_source(source)
    for chunk in found.chunks():
        part = WebPart(found.name, chunk, "", 0, hold_out=False)
        for row in part.rows(log):
            rows[row["key"].partition("/")[2].partition("/")[2]] = number_in(row["image"]), row["original_caption"]
    return rows, {key.partition("/")[2].partition("/")[2]: reason for key, reason in log.lines}


def pair(name, number, image=".jpg", text=".txt"):
    return [(f"{name}{image}", picture(number)), (f"{name}{text}", f"house {number}".encode())]


DOTTED = {
    "numbers": ([pair(f"photo.{n}", n) for n in range(5)], {f"photo.{n}": n for n in range(5)}),
    "fields": ([pair(f"s{n}", n, ".input.jpg", ".outputs.txt") for n in range(5)], {f"s{n}": n for n in range(5)}),
    "words": ([pair("tom.a", 1), pair("tom.b", 2), pair("mary", 3)], {"tom.a": 1, "tom.b": 2, "mary": 3}),
    "dates": ([pair(f"IMG_2024.01.0{n}", n) for n in range(1, 4)], {f"IMG_2024.01.0{n}": n for n in range(1, 4)}),
    "versions": ([pair(f"v1.2/a{n}", n) for n in range(3)], {f"v1.2/a{n}": n for n in range(3)}),
    "masks": ([[*pair(f"x{n}", n), (f"x{n}.mask.png", picture(9))] for n in range(3)], {f"x{n}": n for n in range(3)}),
    "one field": ([pair(f"s{n}", n, ".jpg", ".en.txt") for n in range(3)], {f"s{n}": n for n in range(3)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", DOTTED)
def test_web_reads_names_with_dots(tmp_path, kind):
    groups, expected = DOTTED[kind]
    rows, reasons = read(write_tar(tmp_path / "a.tar", [member for group in groups for member in group]))
    assert rows == {name: (number, f"house {number}") for name, number in expected.items()}
    assert not reasons


def test_web_does_not_choose_among_captions(tmp_path):
    members = [("a.jpg", picture(1)), ("a.question.txt", b"what is it?"), ("a.answer.txt", b"a house")]
    members += [("b.alt.txt", b"DSC_01"), *pair("b", 2)]
    members += [("c.jpg", picture(3)), ("c.caption.txt", b"house 3"), ("c.meta.json", b'{"caption": "other"}')]
    rows, reasons = read(write_tar(tmp_path / "00000.tar", members))
    assert rows == {"b": (2, "house 2"), "c": (3, "house 3")}
    assert reasons == {"a": "several captions, none of which has the name of its image"}


def test_web_does_not_pair_image_with_caption_of_other_number(tmp_path):
    members = [("photo.0.txt", b"house 0"), *pair("photo.1", 1), ("photo.2.jpg", picture(2)), *pair("photo.3", 3)]
    rows, reasons = read(write_tar(tmp_path / "a.tar", members))
    assert rows == {"photo.1": (1, "house 1"), "photo.3": (3, "house 3")}
    assert reasons == {"photo.0": "image missing", "photo.2": "no caption"}


@pytest.mark.parametrize("order", ["images first", "captions first", "random", "one late", "nested"])
def test_web_rejects_unsorted_archive_with_fix(tmp_path, order):
    names = [f"{'d/' * (order == 'nested')}{number:05}" for number in range(9)]
    images = [(f"{name}.jpg", picture(1)) for name in names]
    texts = [(f"{name}.txt", b"a house") for name in names]
    mixed = [images[number // 2] if number % 2 == 0 else texts[number // 2] for number in range(18)]
    members = {
        "images first": images + texts,
        "captions first": texts + images,
        "random": [mixed[number] for number in np.random.default_rng(0).permutation(18)],
        "one late": [*mixed[:5], *mixed[6:], mixed[5]],
        "nested": images + texts,
    }[order]
    path = write_tar(tmp_path / "00000.tar", members)
    with pytest.raises(UserError, match=r"00000\.tar: image and caption of '.*' are not next to each other\. Sort the"):
        web([path], tmp_path / "store", num_workers=1)
    assert not (tmp_path / "store").exists()
    (tmp_path / "sorted").mkdir()
    with tarfile.open(path) as tar, tarfile.open(tmp_path / "sorted" / "00000.tar", "w") as fixed:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            fixed.addfile(member, tar.extractfile(member))
    assert len(read(tmp_path / "sorted" / "00000.tar")[0]) == 9


MEMBERS = {
    "gif": ({"gif": picture(3, "GIF"), "txt": b"a house"}, "a house"),
    "avif": ({"avif": picture(3, "AVIF"), "txt": b"a house"}, "a house"),
    "webp": ({"webp": picture(3, "WEBP"), "txt": b"a house"}, "a house"),
    "gif as jpg": ({"jpg": picture(3, "GIF"), "txt": b"a house"}, "a house"),
    "bmp": ({"bmp": picture(3, "BMP"), "txt": b"a house"}, "a house"),
    "tiff": ({"tiff": picture(3, "TIFF"), "txt": b"a house"}, "a house"),
    "upper": ({"JPG": picture(3), "TXT": b"a house"}, "a house"),
    "caption": ({"jpg": picture(3), "caption": b"a house"}, "a house"),
    "text": ({"jpg": picture(3), "text": b"a house"}, "a house"),
    "json text": ({"jpg": picture(3), "json": b'{"text": "a house"}'}, "a house"),
    "json TEXT": ({"jpg": picture(3), "json": b'{"TEXT": "a house", "URL": "http://x"}'}, "a house"),
    "json list": ({"jpg": picture(3), "json": b'{"caption": ["a house", "a hill"]}'}, "a house"),
    "empty txt": ({"jpg": picture(3), "txt": b"", "json": b'{"caption": "a house"}'}, "a house"),
    "utf-16": ({"jpg": picture(3), "txt": "ein Häuschen".encode("utf-16")}, "ein Häuschen"),
    "utf-16 without mark": ({"jpg": picture(3), "txt": "a house".encode("utf-16-le")}, "caption is not valid text"),
    "utf-32": ({"jpg": picture(3), "txt": "a house".encode("utf-32")}, "caption is not valid text"),
    "bom": ({"jpg": picture(3), "txt": "\ufeffa house".encode()}, "a house"),
    "label": ({"jpg": picture(3), "cls": b"3"}, "no caption"),
    "latin-1": ({"jpg": picture(3), "txt": "un bébé".encode("latin-1")}, "caption is not valid text"),
    "heic": ({"heic": b"0000ftypheic", "txt": b"a house"}, "image format is not supported (.heic)"),
    "heic as jpg": ({"jpg": b"0000ftypheic", "txt": b"a house"}, "image format is not supported (HEIC)"),
    "jxl as jpg": ({"jpg": b"\xff\x0a0000", "txt": b"a house"}, "image format is not supported (JPEG XL)"),
    "psd as png": ({"png": b"8BPS0000", "txt": b"a house"}, "image format is not supported (Photoshop)"),
    "empty jpg": ({"jpg": b"", "txt": b"a house"}, "image file is empty"),
    "video": ({"mp4": b"0000ftypisom", "txt": b"a house"}, "image missing"),
}  # fmt: skip


def test_web_reads_members_of_all_kinds(tmp_path):
    members = [
        (f"{number:03}.{suffix}", content)
        for number, (found, _) in enumerate(MEMBERS.values())
        for suffix, content in found.items()
    ]
    rows, reasons = read(write_tar(tmp_path / "a.tar", members))
    names = {f"{number:03}": name for number, name in enumerate(MEMBERS)}
    found = {names[key]: caption for key, (_, caption) in rows.items()}
    found |= {names[key]: reason for key, reason in reasons.items()}
    assert found == {name: expected for name, (_, expected) in MEMBERS.items()}
    assert {number for number, _ in rows.values()} == {3}


def tar_bytes(tmp_path):
    return write_tar(tmp_path / "plain.tar", [member for n in range(4) for member in pair(f"{n:05}", n)]).read_bytes()


@pytest.mark.parametrize("name", ["X.TAR", "x.Tar.Gz", "x.TGZ", "x.tar"])
def test_web_reads_archives_by_suffix_in_any_case(tmp_path, name):
    content = tar_bytes(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content if name.lower().endswith("tar") else gzip.compress(content))
    for source in (tmp_path / "in", tmp_path / "in" / name):
        assert len(read(source)[0]) == 4


@pytest.mark.parametrize(
    ("name", "compress", "message"),
    [
        (
            "x.tar.bz2",
            bz2.compress,
            r"with bzip2, which is not supported\. Unpack it \(bzip2 --decompress x",
        ),
        ("x.tar.xz", lzma.compress, "compressed with xz, which is"),
        ("x.tar", lzma.compress, "compressed with xz, which is"),
        ("x.tar", bz2.compress, "compressed with bzip2, which is"),
        (
            "x.TAR.ZST",
            lambda content: pa.compress(content, "zstd", asbytes=True),
            "compressed with Zstandard",
        ),
        ("x.tar", lambda content: pa.compress(content, "zstd", asbytes=True), "compressed with Zstandard"),
        ("x.zip", None, r"compressed with zip, .* mkdir unpacked && unzip x\.zip"),
        ("sub/x.tar", bytes, r"with captioned images\. Pass its subfolders, such as .*/in/sub"),
    ],
)
def test_web_names_unsupported_archives(tmp_path, name, compress, message):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    if compress:
        path.write_bytes(compress(tar_bytes(tmp_path)))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.jpg", picture())
    for source in (tmp_path / "in", *([path] if path.parent.name == "in" else [])):
        with pytest.raises(UserError, match=message):
            web([source], tmp_path / "store", num_workers=1)


IMAGES = [picture(number) for number in range(4)]
STRUCTS = [{"bytes": image, "path": "x.jpg"} for image in IMAGES]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PATHS = pa.array([{"bytes": None, "path": f"{number}.jpg"} for number in range(4)], STRUCT)
CAPTIONS = [f"house {number}" for number in range(4)]
TABLES = {
    "struct": {"image": STRUCTS, "text": CAPTIONS},
    "list of struct": {"image": [[struct] for struct in STRUCTS], "text": CAPTIONS},
    "images": {"images": [[struct] for struct in STRUCTS], "text": CAPTIONS},
    "txt": {"jpg": IMAGES, "txt": CAPTIONS},
    "large": {"image": pa.array(IMAGES, pa.large_binary()), "caption": CAPTIONS},
    "dictionary": {"image": IMAGES, "caption": pa.array(CAPTIONS).dictionary_encode()},
    "base64": {"image": [base64.b64encode(image).decode() for image in IMAGES], "caption": CAPTIONS},
    "integers": {"image": pa.array([list(image) for image in IMAGES], pa.list_(pa.uint8())), "caption": CAPTIONS},
    "several captions": {"image": IMAGES, "caption": [[caption, f"{caption} again"] for caption in CAPTIONS]},
    "upper case": {"IMAGE": IMAGES, "TEXT": CAPTIONS},
    "views": {"image": pa.array(IMAGES, pa.binary_view()), "caption": pa.array(CAPTIONS, pa.string_view())},
    "png": {"png": [picture(number, "PNG") for number in range(4)], "caption": CAPTIONS},
    "paths": {"image": PATHS, "text": CAPTIONS},
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_web_reads_tables_of_all_kinds(tmp_path, kind):
    pq.write_table(pa.table(TABLES[kind]), tmp_path / "t.parquet")
    for number, image in enumerate(IMAGES):
        (tmp_path / f"{number}.jpg").write_bytes(image)
    rows, reasons = read(tmp_path / "t.parquet")
    assert list(rows.values()) == [(number, f"house {number}") for number in range(4)]
    assert not reasons


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"image": PATHS, "text": CAPTIONS}, "image missing"),
        ({"image": ["http://x/a.jpg"] * 4, "text": CAPTIONS}, "image is a path or URL, not bytes"),
        ({"image": [[IMAGES[0], IMAGES[1]]] * 4, "text": CAPTIONS}, "several images in one row"),
        ({"image": [{"bytes": None, "path": "../x.jpg"}] * 4, "text": CAPTIONS}, "unsafe path"),
        ({"image": pa.array([None] * 4, pa.binary()), "text": CAPTIONS}, "image missing"),
        ({"image": IMAGES, "text": pa.array([None] * 4, pa.string())}, "no caption"),
        ({"image": [b"0000ftypheic"] * 4, "text": CAPTIONS}, "image format is not supported (HEIC)"),
    ],
)
def test_web_gives_reason_for_rows_without_image(tmp_path, columns, reason):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    rows, reasons = read(tmp_path / "t.parquet")
    assert not rows
    assert set(reasons.values()) == {reason}
    assert len(reasons) == 4


def test_web_reads_folder_of_hugging_face_by_hint(tmp_path):
    (tmp_path / "hf" / "data").mkdir(parents=True)
    pq.write_table(pa.table(TABLES["struct"]), tmp_path / "hf" / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"Pass its subfolders, such as .*hf/data"):
        find_source(tmp_path / "hf")
    (tmp_path / "hf" / "dataset_infos.json").write_text(json.dumps({}))
    assert len(read(tmp_path / "hf" / "data")[0]) == 4


@pytest.mark.parametrize("kind", ["captions", "unsorted", "scans", "zip"])
def test_check_data_judges_web_samples_as_web_does(tmp_path, kind):
    members = [member for number in range(5) for member in pair(f"{number}", number)]
    if kind == "captions":
        members = [(name, b" " if name.endswith("txt") else content) for name, content in members]
    elif kind == "unsorted":
        members = [*members[::2], *members[1::2]]
    elif kind == "scans":
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32)).save(buffer, "JPEG", progressive=True)
        scan = b"\xff\xda" + bytes(10)
        members = [(name, buffer.getvalue() + 99 * scan if name.endswith("jpg") else b"x") for name, _ in members]
    path = write_tar(tmp_path / "a.tar", members)
    expected = {
        "captions": ("invalid: no caption", "5"),
        "scans": ("invalid: JPEG has too many scans", "5"),
    }.get(kind)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.jpg", picture())
        path = tmp_path / "a.zip"
    findings = check_web_source(path)
    if expected:
        assert expected in findings.facts
        assert f"{path}: about 0 of 5 samples are valid" in findings.missing[0]
    else:
        assert {"unsorted": "are not next to each other", "zip": "is compressed with zip"}[kind] in findings.missing[0]
