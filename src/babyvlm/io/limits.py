"""Limits on what is read from files that somebody else may have written.

A few kilobytes can describe gigabytes: compressed zeros, a progressive JPEG of thousands of scans, a YAML document of
aliases. Everything that reads images, archives, checkpoints, tables, YAML or JSON keeps the limits of this module, so
that such a file costs at most seconds and some hundred megabytes before it is rejected. All of them are our choices,
far above the needs of the data that the package is made for.
"""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Final

import yaml

from babyvlm.io.files import read_bounded

if TYPE_CHECKING:
    from pathlib import Path

MIB: Final = 1 << 20

# Images
MAX_PIXELS: Final = 1 << 25  # about those of 8K video; decoding takes a quarter of a gigabyte
MAX_IMAGE_BYTES: Final = 64 * MIB
MAX_SCANS: Final = 64  # of a JPEG; encoders write about ten
MAX_SCANNED_PIXELS: Final = 1 << 29  # scans times pixels: some seconds

# Archives
MAX_SAMPLE_BYTES: Final = 96 * MIB  # all members of a sample together
MAX_TEXT_BYTES: Final = 1 * MIB  # a caption, or the metadata of a sample
MAX_UNPACKED_RATIO: Final = 20  # unpacked to packed bytes of a compressed archive; images hardly compress
FREE_UNPACKED_BYTES: Final = 64 * MIB  # that any compressed archive may have, whatever its ratio
FREE_COLUMN_BYTES: Final = 24 * MIB  # likewise, of a column in a row group of a Parquet file
MAX_HEADER_BYTES: Final = 1 * MIB  # names, links and attributes of one member
FREE_MEMBERS: Final = 10_000  # that any archive may have; further ones need 32 packed bytes each

# Tables and lists
MAX_COLUMNS: Final = 1000
MAX_ENTRY_BYTES: Final = 1 * MIB  # of one entry in a JSON list that is read entry by entry
MAX_LIST_BYTES: Final = 256 * MIB  # of a JSON list that is parsed at once
MAX_TEXT_FILE_BYTES: Final = 64 * MIB  # of subtitles, CHAT, or RTTM
MAX_FAILED_DOWNLOADS: Final = 1_000_000  # in the record of one archive; img2dataset's archives have 10,000 samples

# YAML and JSON documents
MAX_YAML_BYTES: Final = 1 * MIB
MAX_YAML_NODES: Final = 20_000  # an alias counts as all nodes that it repeats
MAX_PLAIN_SCALAR: Final = 10_000  # characters without quotes, which YAML may read as a number of any length
MAX_JSON_BYTES: Final = 64 * MIB
MAX_JSON_NODES: Final = 1_000_000
MAX_KEYS: Final = 50_000_000  # commas in a list of the keys of a store
MAX_KEYS_BYTES: Final = 4 << 30
MAX_DEPTH: Final = 64

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, ten times as fast, where PyYAML was built with it


class TooLargeError(yaml.YAMLError, ValueError):
    """A document exceeds a limit. The message is the reason."""


def load_yaml(content: str | bytes) -> object:
    """Parse a YAML document.

    Raises:
        yaml.YAMLError: it is not valid, or exceeds a limit.
    """
    check_yaml_size(content)
    try:
        return yaml.load(content, _LOADER)
    except (ValueError, OverflowError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise yaml.YAMLError(f"a value cannot be read ({error})") from None  # such as the date 2000-99-99


def load_yaml_file(path: Path) -> object:
    """Parse a YAML file.

    Raises:
        yaml.YAMLError: it is not valid, or exceeds a limit.
        OSError: it cannot be read, is not a regular file, or is too long.
        UnicodeDecodeError: it is not UTF-8.
    """
    return load_yaml(read_bounded(path, MAX_YAML_BYTES).decode())


def check_yaml_size(content: str | bytes) -> None:
    """Check a YAML document without building it.

    Raises:
        yaml.YAMLError: it is not valid, or exceeds a limit.
    """
    if len(content) > MAX_YAML_BYTES:
        raise TooLargeError(f"over {MAX_YAML_BYTES // MIB} MiB of YAML")
    counter = _NodeCounter()
    for event in yaml.parse(content, _LOADER):
        counter.add(event)
        if counter.nodes > MAX_YAML_NODES:
            raise TooLargeError(f"over {MAX_YAML_NODES:,} values, those that aliases repeat included")
        if len(counter.open) > MAX_DEPTH:
            raise TooLargeError(f"nested more than {MAX_DEPTH} deep")


class _NodeCounter:
    """Counts the nodes of a YAML document, with all that its aliases repeat."""

    def __init__(self) -> None:
        self.nodes = 0
        self.open: list[tuple[str | None, int]] = []  # anchor of each open collection, and the nodes before it
        self._sizes: dict[str, int] = {}  # nodes of the anchored values that are complete

    def add(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in self.open):
                raise TooLargeError(f"the alias *{event.anchor} contains itself")
            self.nodes += self._sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            if event.implicit[0] and len(event.value) > MAX_PLAIN_SCALAR:
                raise TooLargeError(f"a value without quotes of over {MAX_PLAIN_SCALAR:,} characters")
            self._close(event.anchor, self.nodes, self.nodes + 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            self.open.append((event.anchor, self.nodes))
            self.nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(*self.open.pop(), self.nodes)

    def _close(self, anchor: str | None, before: int, after: int) -> None:
        self.nodes = after
        if anchor:
            self._sizes[anchor] = after - before


def load_json(content: str | bytes, max_bytes: int = MAX_JSON_BYTES, max_nodes: int = MAX_JSON_NODES) -> object:
    """Parse a JSON document.

    Raises:
        ValueError: it is not valid, or exceeds a limit.
    """
    check_json_size(content, max_bytes, max_nodes)
    try:
        value: object = json.loads(content)
    except RecursionError:
        raise TooLargeError(f"nested more than {MAX_DEPTH} deep") from None
    if not is_shallow(value):
        raise TooLargeError(f"nested more than {MAX_DEPTH} deep")
    return value


def check_json_size(content: str | bytes, max_bytes: int = MAX_JSON_BYTES, max_nodes: int = MAX_JSON_NODES) -> None:
    """Check the size of a JSON document, and the number of its values, without parsing it.

    Raises:
        TooLargeError: it exceeds a limit.
    """
    if len(content) > max_bytes:
        raise TooLargeError(f"over {max_bytes // MIB} MiB of JSON")
    # Commas inside of strings are counted too; parsing the document would be the only way to tell them apart.
    if isinstance(content, bytes):
        values = content.count(b",") + content.count(b"[") + content.count(b"{")
    else:
        values = content.count(",") + content.count("[") + content.count("{")
    if values > max_nodes:
        raise TooLargeError(f"over {max_nodes:,} values")


def is_shallow(value: object) -> bool:
    """Return whether lists and mappings are nested at most ``MAX_DEPTH`` deep: later functions may be recursive."""
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return True


def require_uncompressed(path: Path) -> None:
    """Check that a checkpoint does not unpack to more bytes than it has: torch writes archives without compression.

    Raises:
        TooLargeError: it does.
        zipfile.BadZipFile: its directory is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size + MIB:
        raise TooLargeError("unpacks to more bytes than it has")
