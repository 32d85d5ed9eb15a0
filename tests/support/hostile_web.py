"""Damaged and hostile images, captions, archives and tables; built when a test asks for them."""

import gzip
import io
import os
import struct
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encode(kind="JPEG", mode="RGB", size=(48, 40), seed=0, **options):
    """Return an encoded image of noise."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    Image.fromarray(noise).resize(size).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind):
    """Return an animation of three frames."""
    frames = [Image.new("RGB", (40, 40), shade) for shade in ("red", "blue", "green")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return buffer.getvalue()


def png_chunk(kind, content):
    """Return a PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth=8, colour=2, data=None, more=b""):
    """Return a PNG written by hand: black unless ``data`` is given, with the chunks ``more`` before its pixels."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    if data is None:
        packer, row = zlib.compressobj(9), bytes(1 + (width * depth * channels + 7) // 8)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + more + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def gray16():
    """Return a PNG with 16 bits per pixel."""
    ramp = np.linspace(0, 65535, 48 * 40).reshape(40, 48).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    return buffer.getvalue()


def invalid_exif():
    """Return a JPEG whose Exif has an invalid orientation, a loop of directories, and lengths beyond its end."""
    entries = struct.pack(">HHII", 0x0112, 3, 1, 99 << 16) + struct.pack(">HHII", 0x8769, 4, 1, 8)
    entries += struct.pack(">HHII", 0x010E, 2, 0xFFFFFFF0, 0x7FFFFFFF)
    return encode(exif=b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 3) + entries + struct.pack(">I", 8) + bytes(9000))


def webp_bomb():
    """Return a lossless WebP whose header claims the maximum size: 14 bits each of width - 1 and height - 1."""
    content = bytearray(encode("WEBP", size=(16, 16), lossless=True))
    content[21:25] = struct.pack("<I", 0x3FFF | 0x3FFF << 14)
    return bytes(content)


def zeros(count):
    """Return compressed zeros."""
    return zlib.compress(bytes(count), 9)


UNKNOWN_FORMAT, DAMAGED, TOO_LARGE = (
    "not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image",
    "image cannot be decoded",
    "image has too many pixels",
)
# Contents of a file named .jpg, and the reason why it is left out; None: it is valid.
IMAGES = {
    "valid": (encode, None),
    "empty": (lambda: b"", "image file is empty"),
    "one byte": (lambda: b"\xff", UNKNOWN_FORMAT),
    "html": (lambda: b"<!doctype html><title>404 Not Found</title>" * 20, UNKNOWN_FORMAT),
    "random": (lambda: np.random.default_rng(0).bytes(5000), UNKNOWN_FORMAT),
    "svg": (
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "image format is not supported (SVG)",
    ),
    "postscript": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        UNKNOWN_FORMAT,
    ),
    "pickle": (lambda: b"cos\nsystem\n(S'touch pwned'\ntR.", UNKNOWN_FORMAT),
    "zip": (lambda: b"PK\x03\x04" + bytes(60), UNKNOWN_FORMAT),
    "gif": (lambda: encode("GIF"), None),
    "bmp": (lambda: encode("BMP"), None),
    "tiff": (lambda: encode("TIFF"), None),
    "ppm": (lambda: encode("PPM"), UNKNOWN_FORMAT),
    "truncated jpeg": (lambda: encode()[:-150], DAMAGED),
    "jpeg of its header": (lambda: encode()[:30], DAMAGED),
    "truncated png": (lambda: encode("PNG")[:-300], DAMAGED),
    "truncated webp": (lambda: encode("WEBP")[:-60], DAMAGED),
    "png with a wrong checksum": (lambda: encode("PNG").replace(b"IDAT", b"IDAT\0", 1), DAMAGED),
    "png without pixels": (lambda: png(40, 40, data=zeros(100)), DAMAGED),
    "png that claims a bomb": (lambda: png(30_000, 30_000, data=zeros(100)), TOO_LARGE),
    "bomb of one bit": (lambda: png(20_000, 20_000, depth=1, colour=0), TOO_LARGE),
    "bomb under Pillow's limit": (lambda: png(6_000, 6_000, colour=6), TOO_LARGE),
    "webp bomb": (webp_bomb, TOO_LARGE),
    "too many bytes of pixels": (lambda: png(64, 64, data=zeros(64 << 20)), None),
    "text bomb": (lambda: png(40, 40, more=png_chunk(b"zTXt", b"k\0\0" + zeros(64 << 20))), DAMAGED),
    "profile bomb": (lambda: png(40, 40, more=png_chunk(b"iCCP", b"k\0\0" + zeros(64 << 20))), DAMAGED),
    "tracking dot": (lambda: encode("PNG", size=(8, 8)), "image smaller than 16 pixels"),
    "thin": (lambda: encode(size=(60_000, 16)), None),
    "cmyk": (lambda: encode(mode="CMYK"), None),
    "grey": (lambda: encode(mode="L"), None),
    "palette": (lambda: encode("PNG", mode="P"), None),
    "grey 16 bit": (gray16, None),
    "colour 16 bit": (lambda: png(40, 40, depth=16), None),
    "one bit": (lambda: encode("PNG", mode="1"), None),
    "transparent": (lambda: png(40, 40, colour=6), None),
    "animated png": (lambda: animated("PNG"), None),
    "animated webp": (lambda: animated("WEBP"), None),
    "png named jpg": (lambda: encode("PNG"), None),
    "invalid exif": (invalid_exif, None),
    "trailing junk": (lambda: encode() + b"<?php system($_GET[0]); ?>" * 50, None),
    "progressive": (lambda: encode(progressive=True), None),
}

CAPTIONS = {
    "valid": (b"a red ball", "a red ball"),
    "spaces": (b"\n a \t red\r\n ball ", "a red ball"),
    "nul": (b"a\0red\0\0ball", "a red ball"),
    "empty": (b"", None),
    "blank": (b" \n\t\0 ", None),
    "latin": ("café".encode("latin-1"), None),
    "utf-16": ("a ball".encode("utf-16"), None),
    "surrogate": (b"\xed\xa0\x80", None),
    "overlong": (b"\xc0\xaf\xc0\xae", None),
    "escapes": (b"\x1b[2J\x1b]0;pwned\x07 ball", "\x1b[2J\x1b]0;pwned\x07 ball"),
    "markup": (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
    "specials": (b"<eos> <image> <pad>", "<eos> <image> <pad>"),
    "long": (b"ball " * 200_000, " ".join(["ball"] * 200_000)),
}


def add_member(tar, name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def write_tar(path, samples):
    """Write (name, image, caption) samples as a WebDataset archive."""
    with tarfile.open(path, "w") as tar:
        for name, image, caption in samples:
            add_member(tar, f"{name}.jpg", image)
            add_member(tar, f"{name}.txt", caption)


def _header(name, size, kind):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def gzipped(content, more_zeros=0):
    """Return gzipped content followed by ``more_zeros`` MiB of zeros; each takes about a kilobyte."""
    return gzip.compress(content) + gzip.compress(bytes(1 << 20)) * more_zeros


REGULAR = tarfile.REGTYPE
BIG = 2 << 30


def valid_tar():
    """Return an archive with one sample, ``a``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add_member(tar, "a.jpg", encode())
        add_member(tar, "a.txt", b"a ball")
    return buffer.getvalue()


def valid_members():
    """Return ``valid_tar`` without its end marker."""
    content = valid_tar().rstrip(b"\0")
    return content + bytes(-len(content) % 512)


def many_members():
    """Return ``valid_tar`` followed by 25,000 empty folders."""
    return gzipped(valid_members() + _header("b" * 99, 0, tarfile.DIRTYPE) * 25_000)


# Contents of an archive, and whether its first sample can be read.
ARCHIVES = {
    "empty": (bytes, 0),
    "text": (lambda: b"<html>404</html>", 0),
    "torn in a header": (lambda: valid_members() + _header("b.jpg", 10, REGULAR)[:200], 1),
    "torn in a file": (lambda: valid_members() + _header("b.jpg", 5000, REGULAR) + b"x" * 900, 1),
    "damaged header": (lambda: valid_members() + b"\x7f" * 512 + valid_members(), 1),
    "negative size": (lambda: valid_members() + _header("b.jpg", -1, REGULAR), 1),
    "endless member": (lambda: valid_members() + _header("b.jpg", BIG, REGULAR), 1),
    "torn gzip": (lambda: gzip.compress(valid_tar())[:-100], 0),
    "gzip of text": (lambda: gzip.compress(b"hello"), 0),
    "gzip bomb": (lambda: gzipped(valid_members() + _header("b.jpg", BIG, REGULAR), 2048), 1),
    "name that is a bomb": (lambda: gzipped(valid_members() + _header("././@LongLink", BIG, b"L"), 2048), 1),
    "attributes that are a bomb": (lambda: gzipped(valid_members() + _header("p", BIG, b"x"), 2048), 1),
    "many attributes": (
        lambda: valid_members() + (_header("g", 16, b"g") + b"16 comment=abcd\n".ljust(512, b"\0")) * 3000,
        1,
    ),
    "chain of names": (
        lambda: valid_members() + (_header("././@LongLink", 5, b"L") + b"name\0".ljust(512, b"\0")) * 3000,
        1,
    ),
    "sparse": (lambda: valid_members() + _header("b.jpg", 512, b"S")[:482] + bytes(30), 1),
}


def parquet(**columns):
    """Return a Parquet file with these columns."""
    return write_table(pa.table(columns))


def write_table(table, **options):
    """Return a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


def valid_table():
    """Return nine samples, uncompressed."""
    return write_table(pa.table({"image": [encode()] * 9, "caption": ["a ball"] * 9}), compression="none")


def damaged_table():
    """Return ``valid_table`` with overwritten pages."""
    content = valid_table()
    third = len(content) // 3
    return content[:third] + b"\xff" * 400 + content[third + 400 :]


def table_bomb():
    """Return 40 images of 40 MB, all the same and stored once, in a dictionary."""
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 40), pa.array([bytes(40 << 20)]))
    return write_table(pa.table({"image": images, "caption": ["a ball"] * 40}), compression="zstd")


# Contents of a Parquet file, and how many of its samples can be read; None: any number.
TABLES = {
    "empty": (bytes, 0),
    "magic only": (lambda: b"PAR1PAR1", 0),
    "torn": (lambda: valid_table()[:-300], 0),
    "footer of garbage": (lambda: valid_table()[:-200] + os.urandom(192) + valid_table()[-8:], 0),
    "footer too long": (lambda: valid_table()[:-8] + b"\xff\xff\xff\x7fPAR1", 0),
    "damaged pages": (damaged_table, None),
    "bomb": (table_bomb, None),
    "images that are text": (lambda: parquet(image=["/etc/passwd"], caption=["a"]), 0),
    "images that are paths": (lambda: parquet(image=[{"bytes": None, "path": "/etc/passwd"}], caption=["a"]), 0),
    "captions that are numbers": (lambda: parquet(image=[encode()], caption=[7]), 0),
    "captions that are lists of lists": (lambda: parquet(image=[encode()], caption=[[["a"]]]), 0),
    "no rows": (lambda: parquet(image=pa.array([], pa.binary()), caption=pa.array([], pa.string())), 0),
}
