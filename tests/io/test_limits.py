"""Small files that would take gigabytes or minutes are rejected in one line, within two seconds and 300 MB.

Each input is read in a process of its own, forked from one that has imported everything.
"""

import gzip
import io
import json
import multiprocessing
import struct
import tarfile
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from babyvlm.ablations.matrix import read_matrix
from babyvlm.cli.main import main
from babyvlm.config import read_yaml
from babyvlm.curation.ingest.caption_lists import read_caption_lists
from babyvlm.curation.ingest.profiles import find_profile
from babyvlm.curation.ingest.released import released
from babyvlm.curation.ingest.web import web
from babyvlm.errors import UserError
from babyvlm.io import limits, tables
from babyvlm.io.artifacts import read_manifest
from babyvlm.io.hub import refuse_code
from babyvlm.io.images import BrokenImageError, open_rgb, rgb_pixels
from babyvlm.io.parquet_pages import unpacked_bytes
from babyvlm.models.checkpoints import read_state_dict
from babyvlm.models.hub import load_run
from babyvlm.training.checkpoint_io import AtomicCheckpointIO
from support.hostile_web import add_member, encode, png, png_chunk, webp_bomb, zeros

MAX_SECONDS, MAX_BYTES = 2.0, 300_000_000
MIB = 1 << 20


# Images


def jpeg_of_scans(count, size=(64, 64)):
    """Return a progressive JPEG in which one scan is repeated."""
    content = encode(progressive=True, size=size)
    first = content.index(b"\xff\xda")
    second = content.index(b"\xff\xda", first + 2)
    third = content.index(b"\xff\xda", second + 2)
    return content[:third] + content[second:third] * count + content[third:]


def jpeg_header(width, height):
    """Return a JPEG whose header claims a size."""
    content = bytearray(encode())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def gif_header(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0" + encode("GIF")[13:]


def bmp_header(width, height):
    content = bytearray(encode("BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def eps():
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n%%EOF\n"


def tiff_bomb():
    buffer = io.BytesIO()
    Image.new("L", (12_000, 12_000)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


IMAGES = {
    "10,000 scans": lambda: jpeg_of_scans(10_000),
    "65 scans": lambda: jpeg_of_scans(65),
    "20 scans of a large image": lambda: jpeg_of_scans(20, (5600, 5600)),
    "jpeg of 4 gigapixels": lambda: jpeg_header(65_500, 65_500),
    "jpeg just above the limit": lambda: jpeg_header(8192, 4097),
    "png of 900 megapixels": lambda: png(30_000, 30_000, data=zeros(100)),
    "png of one bit": lambda: png(20_000, 20_000, depth=1, colour=0),
    "png of 36 megapixels": lambda: png(6_000, 6_000, colour=6),
    "png text": lambda: png(40, 40, more=png_chunk(b"zTXt", b"k\0\0" + zeros(64 << 20))),
    "png profile": lambda: png(40, 40, more=png_chunk(b"iCCP", b"k\0\0" + zeros(64 << 20))),
    "webp of 268 megapixels": webp_bomb,
    "gif of 4 gigapixels": lambda: gif_header(65_535, 65_535),
    "bmp of 900 megapixels": lambda: bmp_header(30_000, 30_000),
    "tiff": tiff_bomb,
    "postscript": eps,
    "longer than 64 MiB": lambda: encode() + bytes(64 * MIB),
}


def read_image(path):
    open_rgb(path)


def read_pixels(path):
    rgb_pixels(path.read_bytes())


# YAML


def aliases(levels=9, width=9):
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merges(levels=24):
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, levels)]
    return "\n".join(lines)


YAMLS = {
    "aliases": aliases,
    "aliases in mappings": lambda: (
        "a0: &a0 {x: 1, y: 2}\n" + "\n".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 40))
    ),
    "merge keys": merges,
    "alias to itself": lambda: "a: &a [*a]",
    "mapping with itself": lambda: "a: &a {b: *a}",
    "deep lists": lambda: "a: " + "[" * 50_000,
    "deep mappings": lambda: "a: " + "{a: " * 3_000 + "}" * 3_000,
    "deep blocks": lambda: "\n".join(" " * n + "a:" for n in range(1000)),
    "deep dashes": lambda: "- " * 20_000 + "a",
    "many values": lambda: "a: [" + "1," * 100_000 + "]",
    "many keys": lambda: "\n".join(f"k{n}: 1" for n in range(50_000)),
    "long number": lambda: "a: " + "9" * 500_000,
    "long sexagesimal number": lambda: "a: 1" + ":59" * 300_000,
    "number of 5,000 digits": lambda: "a: " + "9" * 5_000,
    "impossible date": lambda: "a: 2000-99-99",
    "2 MiB": lambda: "a: '" + "x" * (2 * MIB) + "'",
    "list as key": lambda: "{[1]: 2}",
    "unknown tag": lambda: "a: !!python/name:os.system x",
}


# JSON

JSONS = {
    "deep lists": lambda: "[" * 100_000,
    "deep lists, closed": lambda: "[" * 900 + "]" * 900,
    "deep mappings": lambda: '{"a":' * 50_000 + "1" + "}" * 50_000,
    "many lists": lambda: "[" + "[]," * 8_000_000 + "[]]",
    "many mappings": lambda: "[" + "{}," * 8_000_000 + "{}]",
    "many numbers": lambda: "[" + "1," * 16_000_000 + "1]",
    "number of 5,000 digits": lambda: '{"a": ' + "9" * 5_000 + "}",
    "torn": lambda: '{"a": ',
}


def read_json(path):
    try:
        limits.load_json(path.read_bytes())
    except ValueError as error:
        raise UserError(str(error)) from None


def read_store(path):
    folder = path.parent / "store"
    folder.mkdir()
    path.rename(folder / "store.json")
    read_manifest(folder, "store")


# Sources of `curate web` and `curate released`; every sample of them is left out.


def tar(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            add_member(archive, name, content)
    return buffer.getvalue()


def packed(*members):
    return gzip.compress(tar(*members), 9)


def many_members(repeats, images, size):
    """Return an archive of empty-looking images. Some of them are compressed, and their bytes are repeated."""
    block = tar(("b.jpg", bytes(size))).rstrip(b"\0")
    block = (block + bytes(-len(block) % 512 + size)) * images
    compressor = zlib.compressobj(9, wbits=-15)
    repeated = (compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)) * repeats
    checksum = 0
    for _ in range(repeats):
        checksum = zlib.crc32(block, checksum)
    footer = struct.pack("<II", checksum, len(block) * repeats % 2**32)
    return gzip.compress(b"")[:10] + repeated + compressor.flush() + footer


def parquet(rows, **columns):
    sink = pa.BufferOutputStream()
    table = pa.table(
        {
            name: pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))
            for name, value in columns.items()
        }
    )
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def one_cell_parquet(size):
    sink = pa.BufferOutputStream()
    table = pa.table({"image": pa.array([bytes(size)]), "caption": ["a ball"]})
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return bytes(sink.getvalue())


def lying_parquet(size, claimed=1000):
    """Return a Parquet file of one image whose footer claims a small unpacked size."""

    def varint(number, length=0):
        digits = []
        while number or len(digits) < length or not digits:
            digits.append(number & 127)
            number >>= 7
        return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])

    content = one_cell_parquet(size)
    metadata = pq.ParquetFile(pa.BufferReader(content)).metadata.row_group(0)
    start = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    footer = content[start:]
    for true in (metadata.column(0).total_uncompressed_size, metadata.total_byte_size):
        written = varint(2 * true)
        assert written in footer
        footer = footer.replace(written, varint(2 * claimed, len(written)))
    return content[:start] + footer


ARCHIVES = {
    "lists in metadata.tar.gz": lambda: packed(("a.jpg", encode()), ("a.json", b"[" + b"[]," * (20 * MIB) + b"[]]")),
    "mappings in metadata.tar.gz": lambda: packed(("a.jpg", encode()), ("a.json", b"[" + b"{}," * (20 * MIB) + b"{}]")),
    "deep metadata.tar.gz": lambda: packed(("a.jpg", encode()), ("a.json", b"[" * 900_000)),
    "deep metadata, closed.tar.gz": lambda: packed(("a.jpg", encode()), ("a.json", b"[" * 900 + b"]" * 900)),
    "long caption.tar.gz": lambda: packed(("a.jpg", encode()), ("a.txt", bytes(60 * MIB))),
    "many large members.tar.gz": lambda: many_members(12, 1, 63 * MIB),
    "sample of many members.tar.gz": lambda: packed(*((f"a.x{n}", bytes(20 * MIB)) for n in range(6))),
    "many small members.tar.gz": lambda: many_members(60, 1000, 512),
    "scans.tar": lambda: tar(("a.jpg", jpeg_of_scans(10_000)), ("a.txt", b"a ball")),
    "large cell.parquet": lambda: one_cell_parquet(400_000_000),
    "lying footer.parquet": lambda: lying_parquet(200_000_000),
    "lying footer, small cell.parquet": lambda: lying_parquet(60_000_000),
    "large dictionary.parquet": lambda: parquet(4, image=bytes(60 * MIB), caption="a ball"),
    "large cell in every row.parquet": lambda: parquet(16, image=bytes(40 * MIB), caption="a ball"),
    "large captions.parquet": lambda: parquet(16, image=encode(), caption="x" * (40 * MIB)),
    "rows.parquet": lambda: parquet(2_000_000, image=b"x", caption="a ball"),
}  # fmt: skip


def read_archive(path):
    web([path], path.with_name("store"), num_workers=1, min_fraction=0)


def read_llava(path):
    folder = path.parent / "llava"
    folder.mkdir()
    path.rename(folder / "chat.json")
    web([folder], path.with_name("store"), num_workers=1, min_fraction=0)


def read_counts(path):
    folder = path.parent / "downloads"
    folder.mkdir()
    (folder / "00000.tar").write_bytes(tar(("a.txt", b"a ball")))
    path.rename(folder / "00000_stats.json")
    web([folder], path.with_name("store"), num_workers=1, min_fraction=0)


def read_frames(path):
    frames = path.parent / "frames"
    frames.mkdir()
    path.rename(frames / "a.jpg")
    (path.parent / "list.csv").write_text("image,utterance\na.jpg,a ball\n")
    released(frames, path.with_name("store"), captions=path.with_name("list.csv"), num_workers=1)


def read_captions(path):
    read_caption_lists([path], None)


def read_table(path):
    tables.read_table(path)


def read_run(path):
    load_run(path.parent)


def resume_run(path):
    try:
        main(["resume", str(path.parent)])
    except SystemExit as end:
        raise UserError(f"exit code {end.code}") from None


def read_config(path):
    read_yaml(path)


def read_profile(path):
    find_profile(str(path))


def read_hub_config(path):
    refuse_code(path.parent)


def compressed_checkpoint():
    """Return a checkpoint of 80 MB of zeros, compressed."""
    saved, packed_again = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(20_000_000)}}, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(packed_again, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return packed_again.getvalue()


def read_weights(path):
    read_state_dict(path, "weights")


def read_own_checkpoint(path):
    AtomicCheckpointIO().load_checkpoint(path)


def fit(path):
    try:
        main(["fit", f"--config={path}"])
    except SystemExit as end:
        if end.code == 2:
            raise UserError("rejected") from None
        raise


# Every input, the name of its file, and the function that reads it.
CASES = {
    **{f"image: {name}": ("a.jpg", make, read_image) for name, make in IMAGES.items()},
    "pixels: 10,000 scans": ("a.jpg", IMAGES["10,000 scans"], read_pixels),
    "frames: 10,000 scans": ("a.jpg", IMAGES["10,000 scans"], read_frames),
    **{f"config: {name}": ("config.yaml", make, read_config) for name, make in YAMLS.items()},
    "run: aliases": ("config.yaml", aliases, read_run),
    "run: deep": ("config.yaml", YAMLS["deep lists"], read_run),
    "resume: aliases": ("config.yaml", aliases, resume_run),
    "fit: aliases": ("config.yaml", aliases, fit),
    "fit: deep": ("config.yaml", YAMLS["deep lists"], fit),
    "checkpoint: compressed weights": ("a.ckpt", compressed_checkpoint, read_weights),
    "checkpoint: compressed state": ("a.ckpt", compressed_checkpoint, read_own_checkpoint),
    "matrix: aliases": ("matrix.yaml", aliases, read_matrix),
    "matrix: deep": ("matrix.yaml", YAMLS["deep mappings"], read_matrix),
    "profile: aliases": ("profile.yaml", aliases, read_profile),
    "profile: date": ("profile.yaml", YAMLS["impossible date"], read_profile),
    **{f"json: {name}": ("a.json", make, read_json) for name, make in JSONS.items()},
    "store: deep lists": ("a.json", JSONS["deep lists"], read_store),
    "store: many lists": ("a.json", JSONS["many lists"], read_store),
    "model: deep lists, closed": ("config.json", JSONS["deep lists, closed"], read_hub_config),
    "captions: many lists": ("train.json", JSONS["many lists"], read_captions),
    "llava: entry of many lists": ("a.json", lambda: "[" + JSONS["many lists"]() + "]", read_llava),
    "llava: deep entry": ("a.json", lambda: "[" + JSONS["deep lists, closed"]() + "]", read_llava),
    "downloads: endless": (
        "a.json", lambda: json.dumps({"failed_to_download": 10**15, "failed_to_resize": 0}), read_counts
    ),
    "table: many columns": ("a.csv", lambda: ",".join(map(str, range(200_000))) + "\n" + "x\n" * 1000, read_table),
    "table: many columns in a quoted heading": ("a.csv", lambda: '"a\n' + '","' * 5_000 + '"\n', read_table),
    **{f"archive: {name}": (name, make, read_archive) for name, make in ARCHIVES.items()},
}  # fmt: skip


def read_measured(read, path, sender):
    """Read a file, and send the error's text, the seconds and the bytes that this took."""
    Path("/proc/self/clear_refs").write_text("5")  # peak memory starts from here
    before = memory()
    start = time.process_time()
    try:
        read(path)
        message = "accepted"
    except (UserError, BrokenImageError) as error:
        message = str(error)
    except BaseException as error:
        message = f"traceback\n{type(error).__name__}: {error}"
    sender.send((message, time.process_time() - start, memory() - before))


def memory():
    """Return the peak resident memory of this process in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([])  # and what `conftest` adds
    return context


# Variants of other cases, which the short form of the tests leaves out.
VARIANTS = {
    "archive: deep metadata, closed.tar.gz",
    "archive: large captions.parquet",
    "archive: lying footer, small cell.parquet",
    "archive: mappings in metadata.tar.gz",
    "archive: sample of many members.tar.gz",
    "checkpoint: compressed state",
    "config: aliases in mappings",
    "config: deep dashes",
    "config: long sexagesimal number",
    "config: many keys",
    "config: mapping with itself",
    "fit: deep",
    "image: bmp of 900 megapixels",
    "image: png of 36 megapixels",
    "image: png profile",
    "image: 20 scans of a large image",
    "json: many mappings",
    "json: many numbers",
    "matrix: deep",
    "pixels: 10,000 scans",
    "run: deep",
    "store: many lists",
}
assert CASES.keys() >= VARIANTS


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name in VARIANTS else []) for name in CASES]
)
def test_hostile_input_is_rejected_in_one_line_with_little_time_and_memory(tmp_path, processes, name):
    file, make, read = CASES[name]
    content = make()
    path = tmp_path / file
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    del content
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=read_measured, args=(read, path, sender))
    process.start()
    sender.close()
    assert receiver.poll(60), "not rejected within a minute"
    message, seconds, used = receiver.recv()
    process.join()
    assert message != "accepted"
    assert "\n" not in message
    assert (seconds < MAX_SECONDS, used < MAX_BYTES) == (True, True), (message, seconds, used / 1e6)


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_pages_of_a_parquet_file_are_counted(tmp_path, compression, version):
    path = tmp_path / "a.parquet"
    columns = {"image": [bytes([n % 256]) * n for n in range(500)], "caption": ["a ball"] * 500, "l": [[1, 2]] * 500}
    how = {"compression": compression, "data_page_version": version}
    pq.write_table(pa.table(columns), path, data_page_size=999, row_group_size=200, **how)
    metadata = pq.ParquetFile(path).metadata
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    with path.open("rb") as file:
        for chunk in (group.column(number) for group in groups for number in range(3)):
            start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            assert unpacked_bytes(file, start, chunk.total_compressed_size) == chunk.total_uncompressed_size
            for damaged in (start + 1, start + 3):
                with suppress(ValueError):  # the only error
                    unpacked_bytes(file, damaged, chunk.total_compressed_size)


def test_cases_are_enough():
    assert len(CASES) - len(VARIANTS) >= 40


def test_usual_documents_are_read():
    settings = {"model": {"class_path": "a", "init_args": {f"k{n}": [n] * 20 for n in range(100)}}}
    assert limits.load_yaml(yaml.safe_dump(settings)) == settings
    assert limits.load_yaml("a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}
    assert limits.load_yaml(b"") is None
    assert limits.load_json(json.dumps(settings)) == settings
    nested = json.loads("[" * limits.MAX_DEPTH + "]" * limits.MAX_DEPTH)
    assert limits.load_json(json.dumps(nested)) == nested


def test_usual_images_are_decoded(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(progressive=True, size=(640, 480)))
    assert open_rgb(tmp_path / "a.jpg").size == (640, 480)
    assert open_rgb(encode("WEBP")).size == open_rgb(encode("GIF")).size == (48, 40)
