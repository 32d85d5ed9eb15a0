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

from babyvlm.contracts import UserError
from babyvlm.curation import web as module
from babyvlm.curation.store import Store
from babyvlm.curation.web import sound_image, web


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
    store = Store(out)
    funnel = store.manifest["funnel"]
    assert (funnel["kept"], funnel["in"]) == (len(store), len(store) + len(rows) - 1)
    return list(store.rows()), dict(rows[1:])


def test_tars(tmp_path):
    write_tar(tmp_path / "t" / "00000.tar", [
        ("000.jpg", picture(1)), ("000.txt", b"  A red\n ball "), ("000.json", b'{"caption": "other"}'),
        ("001.png", picture(2, kind="PNG")), ("001.json", b'{"caption": "A cup"}'),
        ("002.jpg", picture(3)[:-200]), ("002.txt", b"cut"), ("003.jpg", picture(4)), ("003.txt", b"  "),
        ("004.txt", b"no image"), ("005.jpg", picture(5)), ("005.txt", b"\xff"), ("006.jpg", bomb()), ("006.txt", b"b"),
        ("../007.jpg", picture(6)), ("/008.jpg", picture(6)), ("009.jpg", (tarfile.SYMTYPE, "/etc/passwd")),
        ("010.jpg", (tarfile.CHRTYPE, "")), ("sub", (tarfile.DIRTYPE, "")), ("sub/a.b.jpg", picture(7)),
        ("011.jpg", picture(8, kind="GIF")), ("011.txt", b"gif"), ("012.jpg", picture(8, (9, 40))), ("012.txt", b"s"),
    ])  # fmt: skip
    write_tar(tmp_path / "t" / "00001.tar", [("000.jpg", picture(1)), ("000.txt", "café".encode())])
    rows, left_out = run(tmp_path, tmp_path / "t", min_fraction=0.1)
    assert [(row["key"], row["utterance"]) for row in rows] == [
        ("t/00000/000", "A red ball"), ("t/00000/001", "A cup"), ("t/00001/000", "café")]  # fmt: skip
    assert rows[0]["image"] == picture(1)
    assert all((row["split"], row["group"], row["source"]) == ("train", row["key"], "t") for row in rows)
    unsafe = dict.fromkeys(("../007.jpg", "/008.jpg", "009.jpg", "010.jpg"), "unsafe member")
    reasons = {"002": "image broken", "003": "no caption", "004": "image missing", "005": "caption not readable",
               "006": "image has too many pixels", "011": "not a JPEG, PNG or WebP image",
               "012": "image under 16 pixels", "sub/a": "image missing", **unsafe}  # fmt: skip
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
    path = write_list(folder, [
        entry("1", "00/a.jpg", "A\tdog."), entry("2", "gone.jpg"), entry("3", "../../secret.jpg"),
        entry("4", str(tmp_path / "secret.jpg")), entry("5", "link.jpg"), {"id": "6"}, 7, entry("1", "00/a.jpg"),
        entry("8", "00/a.jpg", None), entry("9", "00/a.jpg", "\ud800"), entry("10", "a\0.jpg"), entry(11, "00/a.jpg"),
    ])  # fmt: skip
    rows, left_out = run(tmp_path, path, min_fraction=0)
    assert [(row["key"], row["utterance"]) for row in rows] == [("blip/1", "A dog."), ("blip/11", "A dog.")]
    unsafe = dict.fromkeys(("3", "4", "5", "10"), "unsafe path")
    reasons = {"2": "image missing", "entry 5": "malformed entry", "entry 6": "malformed entry", "1": "id came before",
               "8": "no caption", "9": "caption not readable", **unsafe}  # fmt: skip
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
        prints.append(Store(tmp_path / name).fingerprint)
    assert prints[0] == prints[1]
    row = next(Store(tmp_path / "one").rows())
    assert Image.open(io.BytesIO(row["image"])).size == (48, 32)
    web([tmp_path / "a.tar"], tmp_path / "one", image_size=32)
    assert "nothing to do" in capsys.readouterr().out
    write_tar(tmp_path / "a.tar", [("0.jpg", picture(size=(90, 60))), ("0.txt", b"y")])
    with pytest.raises(UserError, match="other sources"):
        web([tmp_path / "a.tar"], tmp_path / "one", image_size=32)


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "at least one"), (["gone"], "no such file"), (["x.txt"], "holds no .tar"), (["two"], "holds 2 .csv"),
     (["a/t.tar", "b/t.tar"], "two sources are named 't'"), (["bad.json"], "not readable as JSON"),
     (["object.json"], "not a list"), (["columns.csv"], "no column 'caption' or 'text'"),
     (["latin.csv"], "UTF-8"), (["columns.parquet"], "no column 'image' or 'jpg'")],
)  # fmt: skip
def test_wrong_sources(tmp_path, names, message):
    for name in ("x.txt", "two/a.csv", "two/b.csv", "a/t.tar", "b/t.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "bad.json").write_text("[")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "columns.csv").write_text("image,words\n")
    (tmp_path / "latin.csv").write_bytes(b"image,caption\na.jpg,caf\xe9\n")
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
