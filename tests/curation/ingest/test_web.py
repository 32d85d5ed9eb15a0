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

from babyvlm.curation.check_data.lists import check_web
from babyvlm.curation.ingest import web as module
from babyvlm.curation.ingest.web import sound_image, web
from babyvlm.curation.ingest.web_corpora.readers import find_source
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError


def picture(shade=90, size=(40, 30), kind="JPEG", mode="RGB"):
    buffer = io.BytesIO()
    noise = np.random.default_rng(shade).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def bomb():
    """A PNG that claims 30,000 x 30,000 pixels."""
    content = bytearray(picture(kind="PNG"))
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


def run(tmp_path, *sources, **options):
    out = tmp_path / "store"
    web(list(sources), out, **options)
    with (tmp_path / "store.quarantine.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["key", "reason"]
    store = PairStore(out)
    funnel = store.manifest["funnel"]
    assert (funnel["kept"], funnel["in"]) == (len(store), len(store) + len(rows) - 1)
    return list(store.rows()), dict(rows[1:])


def test_tars(tmp_path):
    write_tar(
        tmp_path / "t" / "00000.tar",
        [
            ("000.jpg", picture(1)),
            ("000.txt", b"  A red\n ball "),
            ("000.json", b'{"caption": "other"}'),
            ("001.png", picture(2, kind="PNG")),
            ("001.json", b'{"caption": "A cup"}'),
            ("002.jpg", picture(3)[:-200]),
            ("002.txt", b"cut"),
            ("003.jpg", picture(4)),
            ("003.txt", b"  "),
            ("004.txt", b"no image"),
            ("005.jpg", picture(5)),
            ("005.txt", b"\xff"),
            ("006.jpg", bomb()),
            ("006.txt", b"b"),
            ("../007.jpg", picture(6)),
            ("/008.jpg", picture(6)),
            ("009.jpg", (tarfile.SYMTYPE, "/etc/passwd")),
            ("010.jpg", (tarfile.CHRTYPE, "")),
            ("sub", (tarfile.DIRTYPE, "")),
            ("sub/a.b.jpg", picture(7)),
            ("011.jpg", picture(8, kind="GIF")),
            ("011.txt", b"gif"),
            ("012.jpg", picture(8, (9, 40))),
            ("012.txt", b"s"),
        ],
    )
    write_tar(tmp_path / "t" / "00001.tar", [("000.jpg", picture(1)), ("000.txt", "café".encode())])
    rows, left_out = run(tmp_path, tmp_path / "t", min_fraction=0.1)
    assert [(row["key"], row["utterance"]) for row in rows] == [
        ("t/00000/000", "A red ball"),
        ("t/00000/001", "A cup"),
        ("t/00001/000", "café"),
    ]
    assert rows[0]["image"] == picture(1)
    assert all((row["split"], row["group"], row["source"]) == ("train", row["key"], "t") for row in rows)
    unsafe = dict.fromkeys(("../007.jpg", "/008.jpg", "009.jpg", "010.jpg"), "unsafe member")
    reasons = {
        "002": "image broken",
        "003": "no caption",
        "004": "image missing",
        "005": "caption not readable",
        "006": "image has too many pixels",
        "011": "not a JPEG, PNG or WebP image",
        "012": "image under 16 pixels",
        "sub/a": "image missing",
        **unsafe,
    }
    assert left_out == {f"t/00000/{name}": reason for name, reason in reasons.items()}


@pytest.mark.parametrize("hurt", ["truncate", "header"])
def test_a_damaged_tar_gives_what_comes_before_the_damage(tmp_path, hurt):
    members = [(f"{i:03}.{kind}", picture(i) if kind == "jpg" else b"cat") for i in range(9) for kind in ("jpg", "txt")]
    path = tmp_path / "d.tar"
    write_tar(path, members)
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[10].offset
    path.write_bytes(
        content[: offset + 700] if hurt == "truncate" else content[:offset] + b"x" * 512 + content[offset:]
    )
    rows, left_out = run(tmp_path, path)
    assert len(rows) >= 4
    assert left_out == {"d/d": "archive damaged: the rest of it is not read"}


def write_list(folder, entries):
    folder.mkdir(exist_ok=True)
    (folder / "blip.json").write_text(json.dumps(entries))
    return folder / "blip.json"


def entry(id_, image, caption="A dog."):
    return {"id": id_, "image": image, "conversations": [{"value": "<image>\nWhat?"}, {"value": caption}]}


@pytest.mark.parametrize("images", ["images", "."])
def test_llava_list(tmp_path, images):
    folder = tmp_path / "l"
    (folder / images / "00").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(picture())
    (folder / images / "00" / "a.jpg").write_bytes(picture())
    (folder / images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    path = write_list(
        folder,
        [
            entry("1", "00/a.jpg", "A\tdog."),
            entry("2", "gone.jpg"),
            entry("3", "../../secret.jpg"),
            entry("4", str(tmp_path / "secret.jpg")),
            entry("5", "link.jpg"),
            {"id": "6"},
            7,
            entry("1", "00/a.jpg"),
            entry("8", "00/a.jpg", None),
            entry("9", "00/a.jpg", "\ud800"),
            entry("10", "a\0.jpg"),
            entry(11, "00/a.jpg"),
        ],
    )
    rows, left_out = run(tmp_path, path, min_fraction=0)
    assert [(row["key"], row["utterance"]) for row in rows] == [("blip/1", "A dog."), ("blip/11", "A dog.")]
    unsafe = dict.fromkeys(("3", "4", "5", "10"), "unsafe path")
    reasons = {
        "2": "image missing",
        "entry 5": "malformed entry",
        "entry 6": "malformed entry",
        "1": "id came before",
        "8": "no caption",
        "9": "caption not readable",
        **unsafe,
    }
    assert left_out == {f"blip/{name}": reason for name, reason in reasons.items()}


@pytest.mark.parametrize(("image", "caption", "struct"), [("image", "caption", False), ("jpg", "text", True)])
def test_parquet(tmp_path, image, caption, struct):
    cells = [picture(1), None, picture(2)]
    cells = [{"bytes": cell, "path": "x"} if cell else None for cell in cells] if struct else cells
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table({image: cells, caption: ["a", "b", None], "url": ["u"] * 3}), tmp_path / "p/a.parquet")
    (tmp_path / "p" / "b.parquet").write_bytes(b"PAR1 no table at all PAR1")
    rows, left_out = run(tmp_path, tmp_path / "p", min_fraction=0.2)
    assert [(row["key"], row["image"]) for row in rows] == [("p/a/000000000", picture(1))]
    assert left_out.pop("p/a/000000001") == "image missing"
    assert left_out.pop("p/a/000000002") == "no caption"
    assert left_out.popitem()[1].startswith("file damaged")


def test_csv_beside_images(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(kind="PNG"))
    (folder / "list.csv").write_text("image,caption\na.png,a ball\na.png,one more\n../x.png,b\nb.png,c\n,d\n")
    rows, left_out = run(tmp_path, folder, min_fraction=0.4)
    assert [row["utterance"] for row in rows] == ["a ball", "one more"]
    assert list(left_out.values()) == ["unsafe path", "image missing", "image missing"]


def test_too_many_broken_is_an_error_and_leaves_no_store(tmp_path):
    write_tar(tmp_path / "a.tar", [(f"{i}.{k}", b"x") for i in range(3) for k in ("jpg", "txt")])
    with pytest.raises(UserError, match=r"only 0 of 3 samples are sound \(3 not a JPEG.*a?quarantine\.csv"):
        web([tmp_path / "a.tar"], tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert len((tmp_path / "store.quarantine.csv").read_text().splitlines()) == 4


def test_same_call_same_bytes_other_call_refused(tmp_path, capsys):
    write_tar(tmp_path / "a.tar", [("0.jpg", picture(size=(90, 60))), ("0.txt", b"x")])
    prints = []
    for name in ("one", "two"):
        web([tmp_path / "a.tar"], tmp_path / name, image_size=32)
        prints.append(PairStore(tmp_path / name).fingerprint)
    assert prints[0] == prints[1]
    row = next(PairStore(tmp_path / "one").rows())
    assert Image.open(io.BytesIO(row["image"])).size == (48, 32)
    web([tmp_path / "a.tar"], tmp_path / "one", image_size=32)
    assert "nothing to do" in capsys.readouterr().out
    write_tar(tmp_path / "a.tar", [("0.jpg", picture(size=(90, 60))), ("0.txt", b"y")])
    with pytest.raises(UserError, match="other sources"):
        web([tmp_path / "a.tar"], tmp_path / "one", image_size=32)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one"),
        (["gone"], "no such file"),
        (["x.txt"], "holds no .tar"),
        (["two"], "holds 2 .csv"),
        (["a/t.tar", "b/t.tar"], "two sources are named 't'"),
        (["bad.json"], "not readable as JSON"),
        (["object.json"], "not a JSON list"),
        (["columns.csv"], "no column 'caption' or 'text'"),
        (["one"], "two files are named 'a' but for"),
        (["columns.parquet"], "no column 'image' or 'jpg'"),
    ],
)
def test_wrong_sources(tmp_path, names, message):
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
def test_mutilated_images_are_refused_or_sound_but_never_raise(data, kind):
    content = bytearray(picture(kind=kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert sound_image(content) == content
    except module.UnsoundError:
        return
    Image.open(io.BytesIO(content)).load()


def test_transparent_images_shrink_onto_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (100, 80), (255, 0, 0, 0)).save(buffer, "PNG")
    small = Image.open(io.BytesIO(sound_image(buffer.getvalue(), 40)))
    assert small.size == (50, 40)
    assert np.asarray(small).min() > 250


def four_forms(folder):
    """Three pictures each in every form; the sources, and how their docs say that a key leads to the raw bytes."""
    content = [picture(shade) for shade in range(3)]
    write_tar(
        folder / "tars" / "00.tar",
        [(f"a/{i}.{k}", c if k == "jpg" else b"a cup") for i, c in enumerate(content) for k in ("jpg", "txt")],
    )
    (folder / "table").mkdir()
    pq.write_table(pa.table({"image": content, "caption": ["a cup"] * 3}), folder / "table" / "x.parquet")
    for name in ("listed", "llava"):
        (folder / name).mkdir()
        for number, picture_ in enumerate(content):
            (folder / name / f"{number}.jpg").write_bytes(picture_)
    (folder / "listed" / "list.csv").write_text("image,caption\n0.jpg,a cup\n1.jpg,a cup\n2.jpg,a cup\n")
    write_list(folder / "llava", [entry(f"id{number}", f"{number}.jpg") for number in range(3)])

    def raw(key):
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

    return [folder / name for name in ("tars", "table", "listed", "llava")], raw


def test_a_key_leads_back_to_the_raw_file(tmp_path):
    sources, raw = four_forms(tmp_path)
    rows, _ = run(tmp_path, *sources)
    assert len(rows) == 12
    assert all(raw(row["key"]) == row["image"] for row in rows)
    told = PairStore(tmp_path / "store").manifest["raw"]
    assert {name: one["files"] for name, one in told.items()} == {
        "tars": ["00.tar"],
        "table": ["x.parquet"],
        "listed": ["list.csv"],
        "llava": ["blip.json"],
    }
    assert all(one["key"].startswith("SOURCE/") for one in told.values())


def test_chunks_are_read_by_themselves_and_in_order(tmp_path, monkeypatch):
    sources, _ = four_forms(tmp_path)
    for module_ in ("lists", "parquet"):
        monkeypatch.setattr(f"babyvlm.curation.ingest.web_corpora.{module_}.CHUNK_SAMPLES", 2)
    pq.write_table(pq.read_table(tmp_path / "table/x.parquet"), tmp_path / "table/x.parquet", row_group_size=1)
    chunks = [chunk for source in map(find_source, sources) for file in source.files for chunk in source.cut(file)]
    assert [len(list(chunk.samples())) for chunk in chunks] == [3, 2, 1, 2, 1, 2, 1]
    assert len({chunk.hash for chunk in chunks}) == 7
    web(sources, tmp_path / "small", num_workers=1)
    monkeypatch.undo()
    for workers in (1, 2):
        web(sources, tmp_path / f"by{workers}", num_workers=workers)
    made = [PairStore(tmp_path / name).fingerprint for name in ("small", "by1", "by2")]
    assert len(set(made)) == 1


def test_what_is_read_is_not_read_again(tmp_path, monkeypatch):
    sources, _ = four_forms(tmp_path)
    web(sources, tmp_path / "whole", num_workers=1)
    done = []
    real = module.WebPart.rows

    def rows(part, log):
        if len(done) == 3:
            raise KeyboardInterrupt
        yield from real(part, log)
        done.append(part.source)

    monkeypatch.setattr(module.WebPart, "rows", rows)
    with pytest.raises(KeyboardInterrupt):
        web(sources, tmp_path / "store", num_workers=1)
    assert not (tmp_path / "store").exists()
    done.remove("table")
    web(sources, tmp_path / "store", num_workers=1)
    assert done == ["tars", "listed", "llava"]
    assert PairStore(tmp_path / "store").fingerprint == PairStore(tmp_path / "whole").fingerprint
    assert not (tmp_path / "store.parts").exists()


def test_a_lower_bound_does_not_read_again(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", [("0.jpg", picture()), ("0.txt", b"x"), ("1.jpg", b"no"), ("1.txt", b"x")])
    with pytest.raises(UserError, match="only 1 of 2"):
        web([tmp_path / "a.tar"], tmp_path / "store", min_fraction=0.9)
    monkeypatch.setattr(module.WebPart, "rows", lambda *_: pytest.fail("read again"))
    web([tmp_path / "a.tar"], tmp_path / "store", min_fraction=0.5, num_workers=1)
    assert len(PairStore(tmp_path / "store")) == 1


def test_large_images_are_made_smaller_and_what_stays_large_is_left_out():
    noise = np.random.default_rng(0).integers(0, 256, (900, 800, 3), np.uint8)
    long = np.random.default_rng(0).integers(0, 256, (510, 9000, 3), np.uint8)
    contents = []
    for pixels in (noise, noise[:500], long):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        contents.append(buffer.getvalue())
    assert all(len(content) > 1 << 20 for content in contents)
    for content, size in zip(contents, ((512, 576), (800, 500)), strict=False):
        small = sound_image(content)
        assert len(small) <= 1 << 20
        assert Image.open(io.BytesIO(small)).size == size
    with pytest.raises(module.UnsoundError, match="over 1 MiB even when made smaller"):
        sound_image(contents[2])


def downloaded(folder, statuses):
    """img2dataset's output of some links: the survivors in a tar, a table of all of them and their counts."""
    names = [f"{number:09d}" for number in range(len(statuses))]
    came = [name for name, (status, _) in zip(names, statuses, strict=True) if status == "success"]
    write_tar(
        folder / "00000.tar",
        [(f"{name}.{kind}", picture() if kind == "jpg" else b"a cup") for name in came for kind in ("jpg", "txt")],
    )
    columns = {"key": names, "status": [one for one, _ in statuses], "error_message": [one for _, one in statuses]}
    pq.write_table(pa.table(columns), folder / "00000.parquet")
    counts = {
        f"failed_to_{verb}": sum(status == f"failed_to_{verb}" for status, _ in statuses)
        for verb in ("download", "resize")
    }
    (folder / "00000_stats.json").write_text(json.dumps({"count": len(names), "successes": len(came), **counts}))
    return folder


LOST = [
    ("success", None),
    ("failed_to_download", "HTTP Error 404: Not Found"),
    ("failed_to_resize", "not an image"),
    ("failed_to_download", "<urlopen error no host a.example>"),
    ("success", None),
]


@pytest.mark.parametrize("told_by", ["table", "counts"])
def test_lost_links_are_counted_and_listed(tmp_path, told_by):
    folder = downloaded(tmp_path / "i2d", LOST)
    if told_by == "counts":
        (folder / "00000.parquet").unlink()
    rows, left_out = run(tmp_path, folder, min_fraction=0.4)
    assert [row["key"] for row in rows] == ["i2d/00000/000000000", "i2d/00000/000000004"]
    named = {"000000001": "HTTP Error 404", "000000002": "failed to resize", "000000003": "failed to download"}
    counted = {
        "failed_to_download 0": "failed to download",
        "failed_to_download 1": "failed to download",
        "failed_to_resize 0": "failed to resize",
    }
    lost = named if told_by == "table" else counted
    assert left_out == {f"i2d/00000/{name}": f"link lost: {reason}" for name, reason in lost.items()}


def test_a_source_that_lost_most_of_its_links_is_refused(tmp_path):
    folder = downloaded(tmp_path / "i2d", LOST)
    with pytest.raises(UserError, match=r"only 2 of 5 samples are sound \(1 link lost: "):
        web([folder / "00000.tar"], tmp_path / "store")
    found = check_web(folder)
    assert dict(found.facts)["lost links"] == "3 of 5"
    assert "about 2 of 5 samples are sound" in found.missing[0]
    (folder / "00000_stats.json").unlink()
    (folder / "00000.parquet").unlink()
    found = check_web(folder)
    assert found.missing == []
    assert "tells which links were lost" in found.notes[0]


def test_lost_links_are_counted_by_the_length_of_the_list(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.jpg", picture()), ("0.txt", b"x")])
    with pytest.raises(UserError, match=r"only 1 of 3 samples are sound \(2 link lost: listed"):
        web([tmp_path / "a.tar"], tmp_path / "store", expected_count=3)
    web([tmp_path / "a.tar"], tmp_path / "store", expected_count=2)
    assert PairStore(tmp_path / "store").manifest["funnel"]["dropped"] == {
        "link lost: listed, but not in the sources": 1
    }
    with pytest.raises(UserError, match="made with other expected_count"):
        web([tmp_path / "a.tar"], tmp_path / "store")
    write_tar(tmp_path / "b.tar", [(f"{i}.{k}", b"x") for i in range(3) for k in ("jpg", "txt")])
    with pytest.raises(UserError, match="--expected_count 2: the sources hold 3"):
        web([tmp_path / "b.tar"], tmp_path / "other", expected_count=2)


@pytest.mark.parametrize(
    ("name", "content"),
    [("00000.parquet", b"PAR1 no table PAR1"), ("00000_stats.json", b"[1]"), ("00000_stats.json", b"\xff{")],
)
def test_a_record_of_lost_links_that_cannot_be_read_is_named(tmp_path, name, content):
    folder = downloaded(tmp_path / "i2d", LOST)
    (folder / "00000.parquet").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: not readable as img2dataset's record"):
        web([folder], tmp_path / "store", num_workers=1)


def test_a_store_does_not_come_to_lie_in_its_source(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.png").write_bytes(picture(kind="PNG"))
    (tmp_path / "c" / "list.csv").write_text("image,caption\na.png,a ball\n")
    with pytest.raises(UserError, match=r"store: lies in .*c, whose files are only read"):
        web([tmp_path / "c"], tmp_path / "c" / "store")
    web([tmp_path / "c" / "list.csv"], tmp_path / "c" / "store", num_workers=1)  # beside the file that is named
