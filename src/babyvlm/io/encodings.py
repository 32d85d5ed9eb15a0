"""Find out the encoding of text files that users bring."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

from babyvlm.errors import UserError
from babyvlm.io.limits import MAX_TEXT_FILE_BYTES, MIB

if TYPE_CHECKING:
    from pathlib import Path

CHUNK_BYTES = 1 << 20
MAX_SHOWN = 200  # characters of a file that a message shows
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Encodings of one byte per character that programs write in Western Europe and America. Latin-1 is part of cp1252.
LEGACY_ENCODINGS = ("cp1252", "mac_roman", "cp850")
_TYPOGRAPHY = "‘’“”–—…«»°€£\xa0"
_LOWER, _UPPER = "àáâãäåæçèéêëìíîïñòóôõöøœùúûüýß", "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜÝ"
# Text as people write it: no capital inside of a word of small letters, no three accented letters in a row.
_PLAUSIBLE = re.compile(rf"(?:[\x00-\x7f{_TYPOGRAPHY}]|[¿¡](?=\w)|[{_LOWER}]|(?<![a-z{_LOWER}])[{_UPPER}])*")
_ACCENTS = re.compile(f"[{_LOWER}{_UPPER}]")
_MANY_ACCENTS = re.compile(f"[{_LOWER}{_UPPER}]{{3}}")


def detect_encoding(path: Path, *, strict: bool = True) -> tuple[str, tuple[str, ...]]:
    """Return the encoding of a text file, and a note if it is not Unicode.

    Args:
        path: the file.
        strict: raise an error instead of returning UTF-8 if the encoding is unclear.

    Raises:
        OSError: the file cannot be read.
        UserError: it is not text, or its content does not show its encoding.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a file")  # reading a pipe would wait forever
    with path.open("rb") as file:
        beginning = file.read(CHUNK_BYTES)
        for mark, encoding in BYTE_ORDER_MARKS.items():
            if beginning.startswith(mark):
                return encoding, ()
        if b"\0" in beginning:
            return _detect_utf16(path, beginning, strict=strict), ()
        decoder = codecs.getincrementaldecoder("utf-8")()
        chunk = beginning
        try:
            while chunk:
                decoder.decode(chunk)
                chunk = file.read(CHUNK_BYTES)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            file.seek(0)
            return _detect_legacy(path, file.read(), strict=strict)
    return "utf-8", ()


def read_text(path: Path, encoding: str = "") -> tuple[str, tuple[str, ...]]:
    """Return the content of a text file, and notes on its encoding.

    Args:
        path: the file.
        encoding: its encoding; "" to detect it.

    Raises:
        UserError: it cannot be read, is not text, or its encoding is unclear.
    """
    notes: tuple[str, ...] = ()
    try:
        if path.is_file() and path.stat().st_size > MAX_TEXT_FILE_BYTES:
            raise UserError(f"{path}: over {MAX_TEXT_FILE_BYTES // MIB} MiB. Is it a transcript?")
        if not encoding:
            encoding, notes = detect_encoding(path)
        return path.read_text(encoding), notes
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (UnicodeError, LookupError) as error:
        raise UserError(f"{path}: not readable as {encoding} ({error}). Save it in UTF-8") from None


def shorten(text: str) -> str:
    """Return text for a message: on one line, at most ``MAX_SHOWN`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _detect_utf16(path: Path, beginning: bytes, *, strict: bool) -> str:
    for encoding, zeros in (("utf-16-le", beginning[1::2]), ("utf-16-be", beginning[::2])):
        if zeros.count(0) > len(zeros) / 2:  # English text without a byte order mark
            return encoding
    if not strict:
        return "utf-8"
    kind = "a spreadsheet or archive" if beginning.startswith(b"PK") else "not text"
    raise UserError(f"{path}: is {kind}. Save it as text (a table as CSV) in UTF-8")


def _detect_legacy(path: Path, content: bytes, *, strict: bool) -> tuple[str, tuple[str, ...]]:
    """Return the encoding in which the text looks as people write it, and a note.

    Statistical detectors need more than the few accented letters of a transcript: charset-normalizer 3.5 reads ``un
    bébé`` in cp1252 as mac_latin2.
    """
    readings = {encoding: content.decode(encoding, errors="replace") for encoding in LEGACY_ENCODINGS}
    plausible = [
        encoding for encoding, text in readings.items() if _PLAUSIBLE.fullmatch(text) and not _MANY_ACCENTS.search(text)
    ]
    if "cp1252" in plausible and not _ACCENTS.search(readings["cp1252"]):
        plausible = ["cp1252"]  # its quotation marks and dashes are accented letters in the others
    if len(plausible) != 1:
        if not strict:
            return "utf-8", ()
        line = next(number for number, line in enumerate(content.splitlines(), 1) if not line.isascii())
        raise UserError(
            f"{path}, line {line}: is not UTF-8, and the text does not show which encoding it has. Save the file in"
            " UTF-8"
        )
    (encoding,) = plausible
    sample = next(line for line in readings[encoding].splitlines() if not line.isascii())
    return encoding, (f"read as {encoding}, because it is not UTF-8: {shorten(sample)}",)
