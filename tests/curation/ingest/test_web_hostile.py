"""Test damaged and hostile web corpora.

Every sample is kept or left out with its reason, no file outside the store is written, none outside the sources is
read, and no case takes a gigabyte.
"""

import csv
import io
import json
import multiprocessing
import os
import resource
import sys
import tarfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from babyvlm.curation.ingest.web import web
from babyvlm.curation.store.pair_store import PairStore
from support.hostile_web import (
    ARCHIVES,
    CAPTIONS,
    IMAGES,
    TABLES,
    add_member,
    encode,
    many_members,
    parquet,
    valid_tar,
    write_tar,
)

MEMORY_LIMIT = 900 << 20  # above what the process starts with, which depends on its parent
SECRET = b"root:x:0:0:a secret"


def _folder_of_descriptor(descriptor):
    """Return the folder of an open file descriptor; rmtree names files relative to one."""
    return str(Path(f"/proc/self/fd/{descriptor}").readlink()) if isinstance(descriptor, int) and descriptor > 2 else ""


def _run_audited(folder, source, out, options, sender):
    """Run the stage and send its error, each file that it opens or changes, and its peak memory."""
    touched = []

    def record(event, args):
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            write = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            touched.append((os.fsdecode(args[0]), bool(write)))
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate"):
            touched.append((os.path.join(_folder_of_descriptor(args[-1]), os.fsdecode(args[0])), True))  # noqa: PTH118
        elif event in ("os.rename", "os.link", "os.symlink"):
            touched.extend((os.fsdecode(path), True) for path in args[:2])

    os.chdir(folder)
    sys.addaudithook(record)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = ""
    try:
        web([source], out, min_fraction=0, num_workers=1, **options)
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sender.send((error, list(touched), (peak - before) * 1024))


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["babyvlm.curation.ingest.web", "pytest", "numpy"])
    return context


@pytest.fixture
def run(tmp_path, processes):
    """Return ``run(source, **options)``, which returns rows by key, reasons by key, and the error of an audited run."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jpg").write_bytes(SECRET)
    (tmp_path / "in").mkdir()
    (tmp_path / "output").mkdir()

    def start(source, name="store", **options):
        out = tmp_path / "output" / name
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=_run_audited, args=(tmp_path / "output", source, out, options, sender))
        process.start()
        sender.close()
        error, touched, start.memory_growth = receiver.recv()
        process.join()
        assert start.memory_growth < MEMORY_LIMIT
        written = {path for path, write in touched if write and path != os.devnull}
        assert not [path for path in written if not os.path.abspath(path).startswith(f"{out.parent}")]  # noqa: PTH100
        inside = [path for path, write in touched if not write and str(tmp_path) in path]
        assert not [path for path in inside if "outside" in os.path.realpath(path)]
        assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret.jpg"]
        assert (tmp_path / "outside" / "secret.jpg").read_bytes() == SECRET
        if error:
            return {}, {}, error
        with (tmp_path / "output" / f"{name}.quarantine.csv").open(newline="") as file:
            left_out = dict(list(csv.reader(file))[1:])
        rows = {row["key"].partition("/")[2]: row for row in PairStore(out).rows()}
        assert all(row["image"] != SECRET for row in rows.values())
        return rows, {key.partition("/")[2]: reason for key, reason in left_out.items()}, ""

    return start


@cache
def image_bytes(name):
    return IMAGES[name][0]()


@pytest.mark.parametrize("image_size", [0, 24])
def test_web_handles_hostile_images(tmp_path, run, image_size):
    names = {f"{number:03}": name for number, name in enumerate(IMAGES)}
    write_tar(tmp_path / "in" / "t.tar", [(number, image_bytes(name), b"a ball") for number, name in names.items()])
    rows, left_out, error = run(tmp_path / "in" / "t.tar", image_size=image_size)
    assert not error
    assert {names[key[2:]]: reason for key, reason in left_out.items()} == {
        name: reason for name, (_, reason) in IMAGES.items() if reason
    }
    assert {names[key[2:]] for key in rows} == {name for name, (_, reason) in IMAGES.items() if not reason}
    for key, row in rows.items():
        content = image_bytes(names[key[2:]])
        stored = Image.open(io.BytesIO(row["image"]))
        original = Image.open(io.BytesIO(content))
        is_kept = original.format in ("JPEG", "PNG", "WEBP") and not original.has_transparency_data
        assert stored.format == original.format or not is_kept or image_size
        assert not is_kept or image_size or len(row["image"]) <= len(content)  # metadata are removed
        assert not image_size or min(stored.size) <= image_size
    ramp = Image.open(io.BytesIO(rows[f"t/{list(IMAGES).index('grey 16 bit'):03}"]["image"]))
    assert not image_size or 110 < np.asarray(ramp).mean() < 145  # 16 bits are scaled, not clipped, to 8


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_web_handles_hostile_captions(tmp_path, run, form):
    names = list(CAPTIONS)
    expected = {name: caption for name, (_, caption) in CAPTIONS.items()}
    if form == "tar":
        expected["utf-16"] = "a ball"  # a file has one encoding, a table too
        write_tar(tmp_path / "in" / "t.tar", [(f"{n:03}", encode(), CAPTIONS[k][0]) for n, k in enumerate(names)])
        rows, left_out, error = run(tmp_path / "in" / "t.tar")
        name_of = {f"t/{n:03}": k for n, k in enumerate(names)}
    else:
        names.remove("long")  # over the csv module's field limit
        (tmp_path / "in" / "a.jpg").write_bytes(encode())
        cells = [b'a.jpg,"%s"' % CAPTIONS[k][0] for k in names]
        (tmp_path / "in" / "list.csv").write_bytes(b"\n".join([b"image,caption", *cells]))
        rows, left_out, error = run(tmp_path / "in")
        name_of = {f"{n:09}": k for n, k in enumerate(names)}
    assert not error
    assert {name_of[key]: row["original_caption"] for key, row in rows.items()} == {
        k: expected[k] for k in names if expected[k]
    }
    assert {name_of[key]: reason for key, reason in left_out.items()} == {
        k: "no caption" if k in ("empty", "blank") else "caption is not valid text" for k in names if not expected[k]
    }


JSONS = {
    "garbage": b"{",
    "deep": b"[" * 100_000,
    "list": b"[1]",
    "number": b'{"caption": 7}',
    "none": b"null",
    "nested": b'{"caption": {"en": "a"}}',
    "huge number": b'{"caption": 1' + b"0" * 10_000 + b"}",
    "bytes": b"\xff\xfe",
    "surrogate": b'{"caption": "\\ud800"}',
    "infinite": b'{"caption": Infinity}',
    "valid": b'{"caption": "a ball"}',
}


def test_web_handles_hostile_json_captions(tmp_path, run):
    with tarfile.open(tmp_path / "in" / "t.tar", "w") as tar:
        for number, content in enumerate(JSONS.values()):
            add_member(tar, f"{number:03}.jpg", encode())
            add_member(tar, f"{number:03}.json", content)
    rows, left_out, error = run(tmp_path / "in" / "t.tar")
    assert not error
    assert list(rows) == [f"t/{list(JSONS).index('valid'):03}"]
    assert set(left_out.values()) == {"no caption", "caption is not valid text"}
    assert len(left_out) == len(JSONS) - 1


REGULAR, LINK, HARD, FIFO, CHAR, BLOCK = (
    tarfile.REGTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
)
# Members that would leave the archive or are not regular files; OUT stands for a folder outside.
MEMBERS = {
    "parent": "../pwned.jpg",
    "grandparent": "../../../../../../../../tmp/pwned.jpg",
    "absolute": "/OUT/pwned.jpg",
    "double slash": "//OUT/pwned.jpg",
    "inner": "a/../../pwned.jpg",
    "dot and parent": "./../pwned.jpg",
    "at the end": "a/..",
    "backslash": "..\\..\\pwned.jpg",
    "backslash inside": "a\\..\\..\\pwned.jpg",
    "root backslash": "\\OUT\\pwned.jpg",
    "symlink": ("l.jpg", LINK, "/OUT/secret.jpg"),
    "symlink up": ("l.jpg", LINK, "../outside/secret.jpg"),
    "hard link": ("l.jpg", HARD, "/OUT/secret.jpg"),
    "hard link up": ("l.jpg", HARD, "../outside/secret.jpg"),
    "fifo": ("f.jpg", FIFO, ""),
    "character device": ("z.jpg", CHAR, ""),
    "block device": ("b.jpg", BLOCK, ""),
    "unknown type": ("u.jpg", b"Z", ""),
}
# Unusual names that lead nowhere: no file is ever written to them.
ODD = {
    "home": "~root/pwned.jpg",
    "drive": "C:pwned.jpg",
    "nul": "a\0b.jpg",
    "one dot leader": "\u2024\u2024/pwned.jpg",
    "fullwidth": "\uff0e\uff0e\uff0fpwned.jpg",
    "division slash": "..\u2215..\u2215pwned.jpg",
    "bidi": "gpj.\u202egp.jpg",
    "percent": "%2e%2e%2fpwned.jpg",
    "newline": "a\nb.jpg",
    "long": "x" * 5000 + ".jpg",
    "url": "file:/OUT/secret.jpg",
    "device": "dev/null.jpg",
    "shell": "$(touch pwned).jpg",
    "markup": "<img src=x>.jpg",
    "not utf-8": "\udcff\udcfe.jpg",
}


def test_web_never_reads_unsafe_archive_members(tmp_path, run):
    outside = str(tmp_path / "outside").lstrip("/")
    archives = {f"{number:02}": name for number, name in enumerate(MEMBERS)}
    for archive, name in archives.items():
        member, kind, target = MEMBERS[name] if isinstance(MEMBERS[name], tuple) else (MEMBERS[name], REGULAR, "")
        member, target = member.replace("OUT", outside), target.replace("OUT", outside)
        with tarfile.open(tmp_path / "in" / f"{archive}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            add_member(tar, member, encode() if kind in (REGULAR, b"Z") else b"", type=kind, linkname=target)
            add_member(tar, "good.jpg", encode())
            add_member(tar, "good.txt", b"a ball")
            add_member(tar, "evil.txt", b"pwned")
    rows, left_out, error = run(tmp_path / "in")
    assert not error
    assert list(rows) == [f"{archive}/good" for archive in archives]
    reasons = {name: of_archive(left_out, archive) for archive, name in archives.items()}
    for found in reasons.values():
        assert found.pop("evil") == "image missing"
    assert {name: list(found.values()) for name, found in reasons.items()} == {
        name: ["unsafe archive member"] for name in MEMBERS
    }


def of_archive(left_out, archive):
    """Return the reasons of one archive by the rest of the key; of all of it, by an empty key."""
    found = {key: reason for key, reason in left_out.items() if key.partition("/")[0] == archive}
    return {key.partition("/")[2]: reason for key, reason in found.items()}


def test_web_accepts_unusual_member_names(tmp_path, run):
    with tarfile.open(tmp_path / "in" / "t.tar", "w", errors="surrogateescape") as tar:
        for name in ODD.values():
            add_member(tar, name.replace("OUT", str(tmp_path / "outside")), encode())
            add_member(tar, name.replace("OUT", str(tmp_path / "outside")).replace("jpg", "txt"), b"a ball")
    rows, left_out, error = run(tmp_path / "in" / "t.tar")
    assert not error
    assert len(rows) + len(left_out) >= len(ODD) - 1
    assert not list(tmp_path.rglob("pwned*"))


# Image paths in a list; OUT stands for a folder outside. The folder contains good.jpg and links.
PATHS = {
    "parent": "../outside/secret.jpg",
    "inner parent": "sub/../../outside/secret.jpg",
    "absolute": "OUT/secret.jpg",
    "double slash": "/OUT/secret.jpg",
    "link": "link.jpg",
    "linked folder": "folder/secret.jpg",
    "chain": "chain.jpg",
    "loop": "loop.jpg",
    "to /dev/zero": "zero.jpg",
    "to /proc": "proc.jpg",
    "nul": "good.jpg\0.txt",
}
MISSING = {
    "url": "file://OUT/secret.jpg",
    "web url": "http://127.0.0.1:9/x.jpg",
    "empty": "",
    "folder": "sub",
    "fifo": "fifo.jpg",
    "backslash": "..\\outside\\secret.jpg",
    "home": "~/secret.jpg",
    "percent": "%2e%2e/outside/secret.jpg",
    "one dot leader": "\u2024\u2024/outside/secret.jpg",
    "fullwidth": "\uff0e\uff0e/outside/secret.jpg",
    "glob": "*.jpg",
    "dead link": "dead.jpg",
    "under a file": "good.jpg/x.jpg",
}


TOO_LONG = ["x/" * 4000 + "good.jpg", "x" * 300 + ".jpg"]


@pytest.mark.parametrize("form", ["csv", "llava"])
def test_web_list_reads_only_inside_its_folder(tmp_path, run, form):
    folder, outside = tmp_path / "in", tmp_path / "outside"
    (folder / "sub").mkdir()
    (folder / "good.jpg").write_bytes(encode())
    for name, target in (
        ("link.jpg", outside / "secret.jpg"),
        ("folder", outside),
        ("chain.jpg", "link.jpg"),
        ("loop.jpg", "loop.jpg"),
        ("zero.jpg", "/dev/zero"),
        ("proc.jpg", "/proc/self/environ"),
        ("dead.jpg", "nothing.jpg"),
        ("inner.jpg", "good.jpg"),
    ):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "fifo.jpg")
    names = [*PATHS.values(), *MISSING.values(), *TOO_LONG, "good.jpg", "inner.jpg"]
    listed = [name.replace("OUT", str(outside)) for name in names]
    if form == "csv":
        with (folder / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "caption"), *((name, "a ball") for name in listed)])
        key = "{:09}"
    else:
        conversations = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a ball"}]
        (folder / "list.json").write_text(
            json.dumps([{"image": name, "conversations": conversations} for name in listed])
        )
        key = "{}"
    rows, left_out, error = run(folder)
    assert not error
    missing = ["image missing" if name else "no image named" for name in MISSING.values()]
    reasons = ["unsafe path"] * len(PATHS) + missing + ["image cannot be read"] * 2
    assert left_out == {key.format(number): reason for number, reason in enumerate(reasons)}
    assert list(rows) == [key.format(len(reasons)), key.format(len(reasons) + 1)]


def test_web_handles_hostile_archives(tmp_path, run):
    archives = {f"{number:02}": name for number, name in enumerate(ARCHIVES)}
    for archive, name in archives.items():
        (tmp_path / "in" / f"{archive}.tar").write_bytes(ARCHIVES[name][0]())
    (tmp_path / "in" / "valid.tar").write_bytes(valid_tar())
    rows, left_out, error = run(tmp_path / "in")
    assert not error
    assert list(rows) == [f"{archive}/a" for archive, name in archives.items() if ARCHIVES[name][1]] + ["valid/a"]
    assert {name: len(of_archive(left_out, archive)) in (1, 2) for archive, name in archives.items()} == dict.fromkeys(
        ARCHIVES, True
    )
    (bomb,) = (archive for archive, name in archives.items() if name == "gzip bomb")
    assert of_archive(left_out, bomb).keys() == {"b.jpg", ""}  # the member and the rest, which is not decompressed


def test_web_memory_is_independent_of_number_of_members(tmp_path, run):
    growth = {}
    for name, make in (("few", valid_tar), ("many", many_members)):
        (tmp_path / "in" / f"{name}.tar").write_bytes(make())
        rows, left_out, error = run(tmp_path / "in" / f"{name}.tar", name)
        assert not error
        assert (list(rows), left_out) == ([f"{name}/a"], {})
        growth[name] = run.memory_growth
    assert growth["many"] < growth["few"] + (8 << 20)


def test_web_handles_hostile_parquet(tmp_path, run):
    tables = {f"{number:02}": name for number, name in enumerate(TABLES)}
    for table, name in tables.items():
        (tmp_path / "in" / f"{table}.parquet").write_bytes(TABLES[name][0]())
    (tmp_path / "in" / "valid.parquet").write_bytes(parquet(image=[encode()], caption=["a ball"]))
    rows, left_out, error = run(tmp_path / "in")
    assert not error
    counts = Counter(key.partition("/")[0] for key in rows)
    assert counts["valid"] == 1
    for table, name in tables.items():
        num_valid = TABLES[name][1]
        assert num_valid is None or counts[table] == num_valid, name
        assert of_archive(left_out, table) or name == "no rows", name


LISTS = {
    "empty.json": b"",
    "garbage.json": b"[{]",
    "deep.json": b"[" * 200_000,
    "number.json": b"1",
    "torn.json": b'[{"image": ',
    "no comma.json": b"[1 2]",
    "huge number.json": b"[1" + b"0" * 9000 + b"]",
    "empty.csv": b"",
    "columns.csv": b"a,b\n1,2\n",
    "long cell.csv": b"image,caption\n" + b"x" * 300_000,
}


@pytest.mark.parametrize("name", LISTS)
def test_web_rejects_invalid_lists(tmp_path, run, name):
    (tmp_path / "in" / name).write_bytes(LISTS[name])
    _, _, error = run(tmp_path / "in" / name)
    assert error.startswith("UserError: ")
    assert "\n" not in error


def test_web_handles_malformed_list_entries(tmp_path, run):
    (tmp_path / "in" / "good.jpg").write_bytes(encode())
    conversations = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a ball"}]
    deep = [[]]
    for _ in range(300):
        deep = [deep]
    entries = [
        None,
        7,
        "x",
        [],
        {},
        {"image": "good.jpg"},
        {"image": 7, "conversations": conversations},
        {"image": "good.jpg", "conversations": {}},
        {"image": "good.jpg", "conversations": "ab"},
        {"image": "good.jpg", "conversations": [1, 2]},
        {"image": deep, "conversations": conversations},
        {"image": "good.jpg", "conversations": [{}, {"from": "gpt", "value": deep}]},
        {"id": deep, "image": "good.jpg", "conversations": conversations},
        {"id": "../../x", "image": "good.jpg", "conversations": conversations},
        {"id": "\0\udcff", "image": "good.jpg", "conversations": conversations},
    ]
    (tmp_path / "in" / "list.json").write_text(json.dumps(entries))
    rows, left_out, error = run(tmp_path / "in")
    assert not error
    assert len(rows) == 3
    assert len(left_out) == len(entries) - 3
    assert "../../x" in rows


def test_hostile_cases_are_numerous():
    """Keep at least 20 damaged images (videos are in test_damaged_media.py) and 50 unsafe or unusual paths."""
    assert sum(reason is not None for _, reason in IMAGES.values()) >= 20
    assert len(MEMBERS) + len(ODD) + len(PATHS) + len(MISSING) + len(TOO_LONG) >= 50
