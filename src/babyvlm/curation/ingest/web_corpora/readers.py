"""Captioned images in the four forms that people bring, by one interface."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.curation.ingest.web_corpora.lists import cut_csv, cut_llava
from babyvlm.curation.ingest.web_corpora.lost_links import LostLinks, find_sidecar
from babyvlm.curation.ingest.web_corpora.parquet import cut_parquet
from babyvlm.curation.ingest.web_corpora.samples import Chunk, stem
from babyvlm.curation.ingest.web_corpora.tar import cut_tar
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


class Source(NamedTuple):
    """One thing the user named: its files, how to cut them, and how a key leads back into them.

    ``sidecars`` tell which samples of its archives were lost when they were downloaded.
    """

    name: str
    files: list[Path]
    sidecars: list[Path]
    cut: Callable[[Path], Iterable[Chunk]]
    key: str

    def chunks(self) -> Iterator[Chunk]:
        """What is there, in order."""
        return (chunk for file in self.files for chunk in self.cut(file))

    def lost(self) -> list[LostLinks]:
        """What was listed and is not there, as far as anything tells it."""
        return [LostLinks(path) for path in self.sidecars]


def find_source(path: Path) -> Source:
    """Say what ``path`` is: an archive, a Parquet file, a LLaVA list, a CSV, or a folder of one of these kinds.

    In a folder the first kind present counts, in this order: img2dataset leaves Parquet tables and JSON counts beside
    its tars, which hold no picture but say which links were lost.

    Raises:
        UserError: it is none of these, a folder with several lists, or two of its files have one name.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    for suffixes, cut, key in KINDS:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [file for file in files if file.name.endswith(suffixes) and file.is_file()]
        if len(files) > 1 and cut in (cut_csv, cut_llava):
            raise UserError(f"{path}: holds {len(files)} {suffixes[0]} lists; name the one that is meant")
        names = Counter(stem(file) for file in files)
        if len(names) < len(files):
            twice = names.most_common(1)[0][0]
            raise UserError(f"{path}: two files are named {twice!r} but for their endings; rename one of them")
        if files:
            beside = [find_sidecar(file) for file in files] if cut is cut_tar else []
            sidecars = [sidecar for sidecar in beside if sidecar]
            return Source(path.name if path.is_dir() else stem(path), files, sidecars, cut, key)
    raise UserError(f"{path}: holds no .tar, .parquet, .csv or .json of captioned images")


KINDS: tuple[tuple[tuple[str, ...], Callable[[Path], Iterable[Chunk]], str], ...] = (
    ((".tar", ".tar.gz", ".tgz"), cut_tar, "SOURCE/ARCHIVE/NAME: the members NAME.* of the archive of that name"),
    ((".parquet",), cut_parquet, "SOURCE/FILE/ROW: that row, from 0, of the file of that name"),
    ((".csv",), cut_csv, "SOURCE/ROW: that row, from 0, below the heading"),
    (
        (".json",),
        cut_llava,
        "SOURCE/ID: the first entry with that id, or the entry of that number, from 0, if it has none",
    ),
)
