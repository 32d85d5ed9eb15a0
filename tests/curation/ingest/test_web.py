"""Test `curate web`: the four formats of web corpora, failed downloads, and images."""

import csv
import io
import json
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from babyvlm.curation.check_data.web import check_web_source
from babyvlm.curation.ingest.image_validation import InvalidSampleError, validate_image
from babyvlm.curation.ingest.web import WebPart, web
from babyvlm.curation.ingest.web_corpora.sources import find_source
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.text import normalize


def encode_noise(seed=90, size=(40, 30), kind="JPEG", mode="RGB"):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def png_bomb():
    """Return a PNG that claims 30,000 x 30,000 pixels."""
    content = bytearray(encode_noise(kind="PNG"))
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


def write_tar(path, members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)


def run_web(tmp_path, *sources, **options):
    out = tmp_path / "store"
    web(list(sources), out, **options)
    with (tmp_path / "store.quarantine.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["key", "reason"]
    store = PairStore(out)
    funnel = store.manifest["funnel"]
    assert (funnel["kept"], funnel["in"]) == (len(store), len(store) + len(rows) - 1)
    return list(store.rows()), dict(rows[1:])


def test_web_reads_tars(tmp_path):
    write_tar(
        tmp_path / "t" / "00000.tar",
        [
            ("000.jpg", encode_noise(1)),
            ("000.txt", b"  A red\n ball "),
            ("000.json", b'{"caption": "other"}'),
            ("001.png", encode_noise(2, kind="PNG")),
            ("001.json", b'{"caption": "A cup"}'),
            ("002.jpg", encode_noise(3)[:-200]),
            ("002.txt", b"cut"),
            ("003.jpg", encode_noise(4)),
            ("003.txt", b"  "),
            ("004.txt", b"no image"),
            ("005.jpg", encode_noise(5)),
            ("005.txt", b"\xff"),
            ("006.jpg", png_bomb()),
            ("006.txt", b"b"),
            ("../007.jpg", encode_noise(6)),
            ("/008.jpg", encode_noise(6)),
            ("009.jpg", (tarfile.SYMTYPE, "/etc/passwd")),
            ("010.jpg", (tarfile.CHRTYPE, "")),
            ("sub", (tarfile.DIRTYPE, "")),
            ("sub/a.b.jpg", encode_noise(7)),
            ("011.jpg", encode_noise(8, kind="PPM")),
            ("011.txt", b"ppm"),
            ("012.jpg", encode_noise(8, (9, 40))),
            ("012.txt", b"s"),
        ],
    )
    write_tar(tmp_path / "t" / "00001.tar", [("000.jpg", encode_noise(1)), ("000.txt", "café".encode())])
    rows, left_out = run_web(tmp_path, tmp_path / "t", min_fraction=0.1)
    assert [row["utterance"] for row in rows] == [normalize(row["original_caption"]) for row in rows]
    assert [(row["key"], row["original_caption"]) for row in rows] == [
        ("t/00000/000", "A red ball"),
        ("t/00000/001", "A cup"),
        ("t/00001/000", "café"),
    ]
    assert rows[0]["image"] == encode_noise(1)
    assert all((row["split"], row["group"], row["source"]) == ("train", row["key"], "t") for row in rows)
    unsafe = dict.fromkeys(("../007.jpg", "/008.jpg", "009.jpg", "010.jpg"), "unsafe archive member")
    reasons = {
        "002": "image cannot be decoded",
        "003": "no caption",
        "004": "image missing",
        "005": "caption is not valid text",
        "006": "image has too many pixels",
        "011": "not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image",
        "012": "image smaller than 16 pixels",
        "sub/a.b": "no caption",
        **unsafe,
    }
    assert left_out == {f"t/00000/{name}": reason for name, reason in reasons.items()}


@pytest.mark.parametrize("damage", ["truncate", "header"])
def test_web_reads_damaged_tar_up_to_damage(tmp_path, damage):
    members = [
        (f"{i:03}.{kind}", encode_noise(i) if kind == "jpg" else b"cat") for i in range(9) for kind in ("jpg", "txt")
    ]
    path = tmp_path / "d.tar"
    write_tar(path, members)
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[10].offset
    path.write_bytes(
        content[: offset + 700] if damage == "truncate" else content[:offset] + b"x" * 512 + content[offset:]
    )
    rows, left_out = run_web(tmp_path, path)
    assert len(rows) >= 4
    assert left_out == {"d/d": "archive is damaged; the rest was not read"}


def write_list(folder, entries):
    folder.mkdir(exist_ok=True)
    (folder / "blip.json").write_text(json.dumps(entries))
    return folder / "blip.json"


def turn(role, text):
    return {"from": role, "value": text}


def llava_entry(id_, image, caption="A dog."):
    return {"id": id_, "image": image, "conversations": [turn("human", "<image>\nWhat?"), turn("gpt", caption)]}


@pytest.mark.parametrize("images", ["images", "."])
def test_web_reads_llava_list(tmp_path, images):
    folder = tmp_path / "l"
    (folder / images / "00").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(encode_noise())
    (folder / images / "00" / "a.jpg").write_bytes(encode_noise())
    (folder / images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    path = write_list(
        folder,
        [
            llava_entry("1", "00/a.jpg", "A\tdog."),
            llava_entry("2", "gone.jpg"),
            llava_entry("3", "../../secret.jpg"),
            llava_entry("4", str(tmp_path / "secret.jpg")),
            llava_entry("5", "link.jpg"),
            {"id": "6"},
            7,
            llava_entry("1", "00/a.jpg"),
            llava_entry("8", "00/a.jpg", None),
            llava_entry("9", "00/a.jpg", "\ud800"),
            llava_entry("10", "a\0.jpg"),
            llava_entry(11, "00/a.jpg"),
        ],
    )
    rows, left_out = run_web(tmp_path, path, min_fraction=0)
    assert [(row["key"], row["original_caption"]) for row in rows] == [("blip/1", "A dog."), ("blip/11", "A dog.")]
    assert [row["utterance"] for row in rows] == ["a dog ."] * 2
    unsafe = dict.fromkeys(("3", "4", "5", "10"), "unsafe path")
    reasons = {
        "2": "image missing",
        "6": "no image named",
        "entry 6": "malformed entry",
        "1": "duplicate id",
        "8": "no caption",
        "9": "caption is not valid text",
        **unsafe,
    }
    assert left_out == {f"blip/{name}": reason for name, reason in reasons.items()}


@pytest.mark.parametrize(("image", "caption", "struct"), [("image", "caption", False), ("jpg", "text", True)])
def test_web_reads_parquet(tmp_path, image, caption, struct):
    cells = [encode_noise(1), None, encode_noise(2)]
    cells = [{"bytes": cell, "path": "x"} if cell else None for cell in cells] if struct else cells
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table({image: cells, caption: ["a", "b", None], "url": ["u"] * 3}), tmp_path / "p/a.parquet")
    (tmp_path / "p" / "b.parquet").write_bytes(b"PAR1 no table at all PAR1")
    rows, left_out = run_web(tmp_path, tmp_path / "p", min_fraction=0.2)
    assert [(row["key"], row["image"]) for row in rows] == [("p/a/000000000", encode_noise(1))]
    assert left_out.pop("p/a/000000001") == "image missing"
    assert left_out.pop("p/a/000000002") == "no caption"
    assert left_out.popitem()[1].startswith("file is damaged")


def test_web_reads_csv(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode_noise(kind="PNG"))
    (folder / "list.csv").write_text("image,caption\na.png,a ball\na.png,one more\n../x.png,b\nb.png,c\n,d\n")
    rows, left_out = run_web(tmp_path, folder, min_fraction=0.4)
    assert [row["utterance"] for row in rows] == ["a ball", "one more"]
    assert list(left_out.values()) == ["unsafe path", "image missing", "no image named"]


def test_web_rejects_source_with_few_valid_samples(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"{i}.{k}", b"x") for i in range(3) for k in ("jpg", "txt")])
    with pytest.raises(UserError, match=r"no pair is left.* 3  not a JPEG"):
        web([tmp_path / "a.tar"], tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert len((tmp_path / "store.quarantine.csv").read_text().splitlines()) == 4


def test_web_is_deterministic_and_skips_complete_store(tmp_path, capsys):
    write_tar(tmp_path / "a.tar", [("0.jpg", encode_noise(size=(90, 60))), ("0.txt", b"x")])
    prints = []
    for name in ("one", "two"):
        web([tmp_path / "a.tar"], tmp_path / name, image_size=32)
        prints.append(PairStore(tmp_path / name).fingerprint)
    assert prints[0] == prints[1]
    row = next(PairStore(tmp_path / "one").rows())
    assert Image.open(io.BytesIO(row["image"])).size == (48, 32)
    web([tmp_path / "a.tar"], tmp_path / "one", image_size=32)
    assert "already complete, skipping" in capsys.readouterr().out
    write_tar(tmp_path / "a.tar", [("0.jpg", encode_noise(size=(90, 60))), ("0.txt", b"y")])
    with pytest.raises(UserError, match="different arguments: sources"):
        web([tmp_path / "a.tar"], tmp_path / "one", image_size=32)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one"),
        (["gone"], "no such file"),
        (["x.txt"], "contains no .tar"),
        (["two"], "contains 2 .csv"),
        (["a/t.tar", "b/t.tar"], "two sources are named 't'"),
        (["bad.json"], "not readable as JSON"),
        (["object.json"], "not a JSON list"),
        (["columns.csv"], "no column 'caption' or 'text' or"),
        (["one"], "two files are named 'a', with different suffixes"),
        (["columns.parquet"], "no column 'image' or 'jpg' or "),
    ],
)
def test_web_rejects_wrong_sources(tmp_path, names, message):
    for name in ("x.txt", "two/a.csv", "two/b.csv", "a/t.tar", "b/t.tar", "one/a.tar", "one/a.tar.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "bad.json").write_text("[")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "columns.csv").write_text("image,words\n")
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "columns.parquet")
    with pytest.raises(UserError, match=message):
        web([tmp_path / name for name in names], tmp_path / "store")


@given(st.data(), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_validate_image_never_crashes_on_damaged_images(data, kind):
    content = bytearray(encode_noise(kind=kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert validate_image(content) == content
    except InvalidSampleError:
        return
    Image.open(io.BytesIO(content)).load()


def test_validate_image_resizes_transparent_images_onto_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (100, 80), (255, 0, 0, 0)).save(buffer, "PNG")
    small = Image.open(io.BytesIO(validate_image(buffer.getvalue(), 40)))
    assert small.size == (50, 40)
    assert np.asarray(small).min() > 250


def write_four_formats(folder):
    """Write three images in every format. Return the sources, and a function from a key to the raw bytes."""
    content = [encode_noise(seed) for seed in range(3)]
    write_tar(
        folder / "tars" / "00.tar",
        [(f"a/{i}.{k}", c if k == "jpg" else b"a cup") for i, c in enumerate(content) for k in ("jpg", "txt")],
    )
    (folder / "table").mkdir()
    pq.write_table(pa.table({"image": content, "caption": ["a cup"] * 3}), folder / "table" / "x.parquet")
    for name in ("listed", "llava"):
        (folder / name).mkdir()
        for number, image in enumerate(content):
            (folder / name / f"{number}.jpg").write_bytes(image)
    (folder / "listed" / "list.csv").write_text("image,caption\n0.jpg,a cup\n1.jpg,a cup\n2.jpg,a cup\n")
    write_list(folder / "llava", [llava_entry(f"id{number}", f"{number}.jpg") for number in range(3)])

    def raw_image(key):
        source, _, rest = key.partition("/")
        if source == "tars":  # SOURCE/ARCHIVE/NAME
            archive, _, name = rest.partition("/")
            with tarfile.open(folder / source / f"{archive}.tar") as tar:
                return tar.extractfile(f"{name}.jpg").read()
        if source == "table":  # SOURCE/FILE/ROW
            file, _, row = rest.partition("/")
            return pq.read_table(folder / source / f"{file}.parquet")["image"][int(row)].as_py()
        if source == "listed":  # SOURCE/ROW
            with (folder / source / "list.csv").open() as file:
                return (folder / source / list(csv.DictReader(file))[int(rest)]["image"]).read_bytes()
        entries = json.loads((folder / source / "blip.json").read_text())  # SOURCE/ID
        return (folder / source / next(one["image"] for one in entries if one["id"] == rest)).read_bytes()

    return [folder / name for name in ("tars", "table", "listed", "llava")], raw_image


def test_web_key_leads_to_raw_file(tmp_path):
    sources, raw_image = write_four_formats(tmp_path)
    rows, _ = run_web(tmp_path, *sources)
    assert len(rows) == 12
    assert all(raw_image(row["key"]) == row["image"] for row in rows)
    raw = PairStore(tmp_path / "store").manifest["raw"]
    assert {name: one["files"] for name, one in raw.items()} == {
        "tars": ["00.tar"],
        "table": ["x.parquet"],
        "listed": ["list.csv"],
        "llava": ["blip.json"],
    }
    assert all(one["key"].startswith("SOURCE/") for one in raw.values())


def test_web_is_independent_of_chunks_and_workers(tmp_path, monkeypatch):
    sources, _ = write_four_formats(tmp_path)
    for module_ in ("lists", "parquet"):
        monkeypatch.setattr(f"babyvlm.curation.ingest.web_corpora.{module_}.CHUNK_SAMPLES", 2)
    pq.write_table(pq.read_table(tmp_path / "table/x.parquet"), tmp_path / "table/x.parquet", row_group_size=1)
    chunks = [chunk for source in map(find_source, sources) for chunk in source.chunks()]
    assert [len(list(chunk.samples())) for chunk in chunks] == [3, 2, 1, 2, 1, 2, 1]
    assert len({chunk.hash for chunk in chunks}) == 7
    web(sources, tmp_path / "small", num_workers=1)
    monkeypatch.undo()
    for workers in (1, 2):
        web(sources, tmp_path / f"by{workers}", num_workers=workers)
    fingerprints = [PairStore(tmp_path / name).fingerprint for name in ("small", "by1", "by2")]
    assert len(set(fingerprints)) == 1


def test_web_resumes_after_completed_chunks(tmp_path, monkeypatch):
    sources, _ = write_four_formats(tmp_path)
    web(sources, tmp_path / "complete", num_workers=1)
    done = []
    original_rows = WebPart.rows

    def rows(part, log):
        if len(done) == 3:
            raise KeyboardInterrupt
        yield from original_rows(part, log)
        done.append(part.source)

    monkeypatch.setattr(WebPart, "rows", rows)
    with pytest.raises(KeyboardInterrupt):
        web(sources, tmp_path / "store", num_workers=1)
    assert not (tmp_path / "store").exists()
    done.remove("table")
    web(sources, tmp_path / "store", num_workers=1)
    assert done == ["tars", "listed", "llava"]
    assert PairStore(tmp_path / "store").fingerprint == PairStore(tmp_path / "complete").fingerprint
    assert not (tmp_path / "store.parts").exists()


def test_web_reuses_chunks_with_lower_min_fraction(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", [("0.jpg", encode_noise()), ("0.txt", b"x"), ("1.jpg", b"no"), ("1.txt", b"x")])
    with pytest.raises(UserError, match="only 1 of 2"):
        web([tmp_path / "a.tar"], tmp_path / "store", min_fraction=0.9)
    monkeypatch.setattr(WebPart, "rows", lambda *_: pytest.fail("read again"))
    web([tmp_path / "a.tar"], tmp_path / "store", min_fraction=0.5, num_workers=1)
    assert len(PairStore(tmp_path / "store")) == 1


def test_validate_image_resizes_large_images():
    noise = np.random.default_rng(0).integers(0, 256, (900, 800, 3), np.uint8)
    long = np.random.default_rng(0).integers(0, 256, (510, 9000, 3), np.uint8)
    contents = []
    for pixels in (noise, noise[:500], long):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        contents.append(buffer.getvalue())
    assert all(len(content) > 1 << 20 for content in contents)
    for content, size in zip(contents, ((512, 576), (800, 500)), strict=False):
        small = validate_image(content)
        assert len(small) <= 1 << 20
        assert Image.open(io.BytesIO(small)).size == size
    with pytest.raises(InvalidSampleError, match="over 1 MiB even after resizing"):
        validate_image(contents[2])


def write_img2dataset_output(folder, statuses):
    """Write img2dataset's output: a tar of the downloaded images, a table of all links, and their counts."""
    names = [f"{number:09d}" for number in range(len(statuses))]
    downloaded = [name for name, (status, _) in zip(names, statuses, strict=True) if status == "success"]
    write_tar(
        folder / "00000.tar",
        [
            (f"{name}.{kind}", encode_noise() if kind == "jpg" else b"a cup")
            for name in downloaded
            for kind in ("jpg", "txt")
        ],
    )
    columns = {"key": names, "status": [one for one, _ in statuses], "error_message": [one for _, one in statuses]}
    pq.write_table(pa.table(columns), folder / "00000.parquet")
    counts = {
        f"failed_to_{verb}": sum(status == f"failed_to_{verb}" for status, _ in statuses)
        for verb in ("download", "resize")
    }
    (folder / "00000_stats.json").write_text(json.dumps({"count": len(names), "successes": len(downloaded), **counts}))
    return folder


STATUSES = [
    ("success", None),
    ("failed_to_download", "HTTP Error 404: Not Found"),
    ("failed_to_resize", "not an image"),
    ("failed_to_download", "<urlopen error no host a.example>"),
    ("success", None),
]


@pytest.mark.parametrize("record", ["table", "counts"])
def test_web_counts_failed_downloads(tmp_path, record):
    folder = write_img2dataset_output(tmp_path / "i2d", STATUSES)
    if record == "counts":
        (folder / "00000.parquet").unlink()
    rows, left_out = run_web(tmp_path, folder, min_fraction=0.4)
    assert [row["key"] for row in rows] == ["i2d/00000/000000000", "i2d/00000/000000004"]
    named = {"000000001": "HTTP Error 404", "000000002": "not an image", "000000003": "other error"}
    counted = {
        "failed_to_download 0": "other error",
        "failed_to_download 1": "other error",
        "failed_to_resize 0": "not an image",
    }
    failed = named if record == "table" else counted
    assert left_out == {f"i2d/00000/{name}": f"download failed: {reason}" for name, reason in failed.items()}


def test_web_rejects_source_with_most_downloads_failed(tmp_path):
    folder = write_img2dataset_output(tmp_path / "i2d", STATUSES)
    with pytest.raises(UserError, match=r"only 2 of 5 samples can be used \(1 download failed: "):
        web([folder / "00000.tar"], tmp_path / "store")
    findings = check_web_source(folder)
    assert dict(findings.facts)["failed downloads"] == "3 of 5"
    assert "about 2 of 5 samples are valid" in findings.missing[0]
    (folder / "00000_stats.json").unlink()
    (folder / "00000.parquet").unlink()
    findings = check_web_source(folder)
    assert findings.missing == []
    assert "no record of failed downloads" in findings.notes[0]


def test_web_counts_failed_downloads_by_expected_count(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.jpg", encode_noise()), ("0.txt", b"x")])
    with pytest.raises(UserError, match=r"only 1 of 3 samples can be used \(2 download failed: expected"):
        web([tmp_path / "a.tar"], tmp_path / "store", expected_count=3)
    web([tmp_path / "a.tar"], tmp_path / "store", expected_count=2)
    assert PairStore(tmp_path / "store").manifest["funnel"]["dropped"] == {
        "download failed: expected, but not in the sources": 1
    }
    with pytest.raises(UserError, match="built with different arguments: expected_count"):
        web([tmp_path / "a.tar"], tmp_path / "store")
    write_tar(
        tmp_path / "b.tar", [(f"{i}.{k}", c) for i in range(3) for k, c in (("jpg", encode_noise()), ("txt", b"x"))]
    )
    with pytest.raises(UserError, match="--expected_count 2: the sources contain 3"):
        web([tmp_path / "b.tar"], tmp_path / "other", expected_count=2)


@pytest.mark.parametrize(
    ("name", "content"),
    [("00000.parquet", b"PAR1 no table PAR1"), ("00000_stats.json", b"[1]"), ("00000_stats.json", b"\xff{")],
)
def test_web_reports_unreadable_download_record(tmp_path, name, content):
    folder = write_img2dataset_output(tmp_path / "i2d", STATUSES)
    (folder / "00000.parquet").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: not readable as img2dataset's record"):
        web([folder], tmp_path / "store", num_workers=1)


def test_web_refuses_out_inside_source(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.png").write_bytes(encode_noise(kind="PNG"))
    (tmp_path / "c" / "list.csv").write_text("image,caption\na.png,a ball\n")
    with pytest.raises(UserError, match=r"store: is inside the input folder .*c"):
        web([tmp_path / "c"], tmp_path / "c" / "store")
    web([tmp_path / "c" / "list.csv"], tmp_path / "c" / "store", num_workers=1)  # beside the named file is allowed
