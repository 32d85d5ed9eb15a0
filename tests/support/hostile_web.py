"""Images, captions, archives and tables that are broken or mean harm; built when a test asks for them."""

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


def encoded(kind="JPEG", mode="RGB", size=(48, 40), seed=0, **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    Image.fromarray(noise).resize(size).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind):
    frames = [Image.new("RGB", (40, 40), shade) for shade in ("red", "blue", "green")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return buffer.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth=8, colour=2, data=None, more=b""):
    """A PNG written by hand, black unless ``data`` is given; ``more`` stands before its pixels."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    if data is None:
        packer, row = zlib.compressobj(9), bytes(1 + (width * depth * channels + 7) // 8)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def grey16():
    ramp = np.linspace(0, 65535, 48 * 40).reshape(40, 48).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    return buffer.getvalue()


def absurd_exif():
    """Exif with an orientation that is none, a loop of directories, and lengths beyond its end."""
    entries = struct.pack(">HHII", 0x0112, 3, 1, 99 << 16) + struct.pack(">HHII", 0x8769, 4, 1, 8)
    entries += struct.pack(">HHII", 0x010E, 2, 0xFFFFFFF0, 0x7FFFFFFF)
    return encoded(exif=b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 3) + entries + struct.pack(">I", 8) + bytes(9000))


def webp_bomb():
    """A lossless WebP whose header claims the largest size: 14 bits each of width - 1 and height - 1."""
    content = bytearray(encoded("WEBP", size=(16, 16), lossless=True))
    content[21:25] = struct.pack("<I", 0x3FFF | 0x3FFF << 14)
    return bytes(content)


def zeros(count):
    """So many zeros, compressed."""
    return zlib.compress(bytes(count), 9)


NOT_ONE, BROKEN, BOMB = "not a JPEG, PNG or WebP image", "image broken", "image has too many pixels"
# What a file named .jpg may hold, and what becomes of it; None: it is sound, and kept byte by byte.
IMAGES = {
    "sound": (encoded, None),
    "empty": (lambda: b"", NOT_ONE),
    "one byte": (lambda: b"\xff", NOT_ONE),
    "html": (lambda: b"<!doctype html><title>404 Not Found</title>" * 20, NOT_ONE),
    "random": (lambda: np.random.default_rng(0).bytes(5000), NOT_ONE),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', NOT_ONE),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", NOT_ONE),
    "pickle": (lambda: b"cos\nsystem\n(S'touch pwned'\ntR.", NOT_ONE),
    "zip": (lambda: b"PK\x03\x04" + bytes(60), NOT_ONE),
    "gif": (lambda: encoded("GIF"), NOT_ONE),
    "bmp": (lambda: encoded("BMP"), NOT_ONE),
    "tiff": (lambda: encoded("TIFF"), NOT_ONE),
    "truncated jpeg": (lambda: encoded()[:-150], BROKEN),
    "jpeg of its header": (lambda: encoded()[:30], BROKEN),
    "truncated png": (lambda: encoded("PNG")[:-300], BROKEN),
    "truncated webp": (lambda: encoded("WEBP")[:-60], BROKEN),
    "png with a wrong checksum": (lambda: encoded("PNG").replace(b"IDAT", b"IDAT\0", 1), BROKEN),
    "png without pixels": (lambda: png(40, 40, data=zeros(100)), BROKEN),
    "png that claims a bomb": (lambda: png(30_000, 30_000, data=zeros(100)), BOMB),
    "bomb of one bit": (lambda: png(20_000, 20_000, depth=1, colour=0), BOMB),
    "bomb under Pillow's limit": (lambda: png(6_000, 6_000, colour=6), BOMB),
    "webp bomb": (webp_bomb, BOMB),
    "too many bytes of pixels": (lambda: png(64, 64, data=zeros(64 << 20)), None),
    "text bomb": (lambda: png(40, 40, more=chunk(b"zTXt", b"k\0\0" + zeros(64 << 20))), BROKEN),
    "profile bomb": (lambda: png(40, 40, more=chunk(b"iCCP", b"k\0\0" + zeros(64 << 20))), BROKEN),
    "tracking dot": (lambda: encoded("PNG", size=(8, 8)), "image under 16 pixels"),
    "thin": (lambda: encoded(size=(60_000, 16)), None),
    "cmyk": (lambda: encoded(mode="CMYK"), None),
    "grey": (lambda: encoded(mode="L"), None),
    "palette": (lambda: encoded("PNG", mode="P"), None),
    "grey 16 bit": (grey16, None),
    "colour 16 bit": (lambda: png(40, 40, depth=16), None),
    "one bit": (lambda: encoded("PNG", mode="1"), None),
    "transparent": (lambda: png(40, 40, colour=6), None),
    "animated png": (lambda: animated("PNG"), None),
    "animated webp": (lambda: animated("WEBP"), None),
    "png named jpg": (lambda: encoded("PNG"), None),
    "absurd exif": (absurd_exif, None),
    "trailing junk": (lambda: encoded() + b"<?php system($_GET[0]); ?>" * 50, None),
    "progressive": (lambda: encoded(progressive=True), None),
}

CAPTIONS = {
    "sound": (b"a red ball", "a red ball"),
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


def add(tar, name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def write_tar(path, samples):
    with tarfile.open(path, "w") as tar:
        for name, image, caption in samples:
            add(tar, f"{name}.jpg", image)
            add(tar, f"{name}.txt", caption)


def _header(name, size, kind):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def gzipped(content, more_zeros=0):
    """Bytes, and mebibytes of zeros after them, in the members of one gzip file: a kilobyte for a mebibyte."""
    return gzip.compress(content) + gzip.compress(bytes(1 << 20)) * more_zeros


REGULAR = tarfile.REGTYPE
BIG = 2 << 30


def sound_tar():
    """One sample, ``a``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "a.jpg", encoded())
        add(tar, "a.txt", b"a ball")
    return buffer.getvalue()


def body():
    """``sound_tar`` without its end."""
    content = sound_tar().rstrip(b"\0")
    return content + bytes(-len(content) % 512)


def many_members():
    """``sound_tar`` and 60,000 empty folders."""
    return gzipped(body() + _header("b" * 99, 0, tarfile.DIRTYPE) * 60_000)


# What an archive may hold, and whether its first sample can be had.
ARCHIVES = {
    "empty": (bytes, 0),
    "text": (lambda: b"<html>404</html>", 0),
    "torn in a header": (lambda: body() + _header("b.jpg", 10, REGULAR)[:200], 1),
    "torn in a file": (lambda: body() + _header("b.jpg", 5000, REGULAR) + b"x" * 900, 1),
    "damaged header": (lambda: body() + b"\x7f" * 512 + body(), 1),
    "negative size": (lambda: body() + _header("b.jpg", -1, REGULAR), 1),
    "endless member": (lambda: body() + _header("b.jpg", BIG, REGULAR), 1),
    "torn gzip": (lambda: gzip.compress(sound_tar())[:-100], 0),
    "gzip of text": (lambda: gzip.compress(b"hello"), 0),
    "bomb in gzip": (lambda: gzipped(body() + _header("b.jpg", BIG, REGULAR), 2048), 1),
    "name that is a bomb": (lambda: gzipped(body() + _header("././@LongLink", BIG, b"L"), 2048), 1),
    "attributes that are a bomb": (lambda: gzipped(body() + _header("p", BIG, b"x"), 2048), 1),
    "many attributes": (lambda: body() + (_header("g", 16, b"g") + b"16 comment=abcd\n".ljust(512, b"\0")) * 3000, 1),
    "chain of names": (lambda: body() + (_header("././@LongLink", 5, b"L") + b"name\0".ljust(512, b"\0")) * 3000, 1),
    "sparse": (lambda: body() + _header("b.jpg", 512, b"S")[:482] + bytes(30), 1),
}


def parquet(**columns):
    """A Parquet file of these columns."""
    return written(pa.table(columns))


def written(table, **options):
    """A Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


def sound_table():
    """Nine samples, their images not compressed."""
    return written(pa.table({"image": [encoded()] * 9, "caption": ["a ball"] * 9}), compression="none")


def hurt_table():
    """``sound_table`` with a hole in its pages."""
    content = sound_table()
    third = len(content) // 3
    return content[:third] + b"\xff" * 400 + content[third + 400 :]


def table_bomb():
    """Forty images of 40 MB, all the same: a dictionary of one."""
    images = pa.DictionaryArray.from_arrays(pa.array([0] * 40), pa.array([bytes(40 << 20)]))
    return written(pa.table({"image": images, "caption": ["a ball"] * 40}), compression="zstd")


# What a Parquet file may hold, and how many of its samples can be had; None: any number.
TABLES = {
    "empty": (bytes, 0),
    "magic only": (lambda: b"PAR1PAR1", 0),
    "torn": (lambda: sound_table()[:-300], 0),
    "footer of garbage": (lambda: sound_table()[:-200] + os.urandom(192) + sound_table()[-8:], 0),
    "footer too long": (lambda: sound_table()[:-8] + b"\xff\xff\xff\x7fPAR1", 0),
    "pages hurt": (hurt_table, None),
    "bomb": (table_bomb, None),
    "images that are text": (lambda: parquet(image=["/etc/passwd"], caption=["a"]), 0),
    "images that are paths": (lambda: parquet(image=[{"bytes": None, "path": "/etc/passwd"}], caption=["a"]), 0),
    "captions that are numbers": (lambda: parquet(image=[encoded()], caption=[7]), 0),
    "captions that are lists": (lambda: parquet(image=[encoded()], caption=[["a"]]), 0),
    "no rows": (lambda: parquet(image=pa.array([], pa.binary()), caption=pa.array([], pa.string())), 0),
}
