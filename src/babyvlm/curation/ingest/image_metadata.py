"""Remove metadata (EXIF, XMP, IPTC, comments, appended files) from encoded images without decoding their pixels.

Photos of phones contain the place where they were taken, in any of these. What determines the colors is kept.
"""

from __future__ import annotations

import struct

# JPEG segments that are kept besides those of the image itself: JFIF, ICC profile, Adobe's color transform.
JPEG_APP0, JPEG_ICC, JPEG_ADOBE = 0xE0, (0xE2, b"ICC_PROFILE\0"), (0xEE, b"Adobe")
JPEG_SCAN, JPEG_END, JPEG_COMMENT = 0xDA, 0xD9, 0xFE
PNG_CHUNKS = {
    b"IHDR",
    b"PLTE",
    b"IDAT",
    b"IEND",
    b"tRNS",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"iCCP",
    b"cICP",
    b"sBIT",
    b"pHYs",
}
WEBP_CHUNKS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"}
WEBP_EXIF_XMP = 0b1100  # bits of the VP8X header that announce EXIF and XMP


def strip_metadata(content: bytes, image_format: str) -> bytes:
    """Return a decodable image without its metadata; the same bytes if it has none.

    Args:
        content: encoded image.
        image_format: its format as Pillow names it: JPEG, MPO, PNG or WEBP.
    """
    if image_format == "PNG":
        return _strip_png(content)
    return _strip_webp(content) if image_format == "WEBP" else _strip_jpeg(content)


def _strip_jpeg(content: bytes) -> bytes:
    kept = [content[:2]]
    position = 2
    while position + 4 <= len(content):
        marker = content[position + 1]
        if content[position] != 0xFF or marker == JPEG_END:
            break
        if marker == 0xFF or 0xD0 <= marker <= 0xD7 or marker == 0x01:  # fill byte, or a marker without length
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == JPEG_SCAN:
            end = _end_of_scan(content, end)
        start = content[position + 4 : position + 16]
        is_metadata = (0xE0 <= marker <= 0xEF or marker == JPEG_COMMENT) and marker != JPEG_APP0
        if not is_metadata or any(marker == code and start.startswith(name) for code, name in (JPEG_ICC, JPEG_ADOBE)):
            kept.append(content[position:end])
        position = end
    return b"".join((*kept, b"\xff\xd9"))


def _end_of_scan(content: bytes, position: int) -> int:
    """Return where the entropy-coded data end that start at ``position``: at a marker that is not part of them."""
    while (position := content.find(b"\xff", position)) >= 0 and position + 1 < len(content):
        if content[position + 1] == 0 or 0xD0 <= content[position + 1] <= 0xD7:
            position += 2
        elif content[position + 1] == 0xFF:
            position += 1
        else:
            return position
    return len(content)


def _strip_png(content: bytes) -> bytes:
    kept = [content[:8]]
    position = 8
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        name, end = content[position + 4 : position + 8], position + 12 + length
        if name in PNG_CHUNKS:
            kept.append(content[position:end])
        if name == b"IEND":
            break
        position = end
    return b"".join(kept)


def _strip_webp(content: bytes) -> bytes:
    kept = []
    position = 12
    file_end = min(len(content), 8 + int.from_bytes(content[4:8], "little"))
    while position + 8 <= file_end:
        name, length = content[position : position + 4], int.from_bytes(content[position + 4 : position + 8], "little")
        end = position + 8 + length + length % 2
        chunk = content[position:end]
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~WEBP_EXIF_XMP]) + chunk[9:]
        if name in WEBP_CHUNKS:
            kept.append(chunk)
        position = end
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
