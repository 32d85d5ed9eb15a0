"""Find out which kind of web corpus a file or folder is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.curation.ingest.web_corpora.failed_downloads import FailedDownloads, find_download_record
from babyvlm.curation.ingest.web_corpora.lists import csv_chunks, llava_chunks
from babyvlm.curation.ingest.web_corpora.parquet import parquet_chunks
from babyvlm.curation.ingest.web_corpora.samples import Chunk, stem
from babyvlm.curation.ingest.web_corpora.tar import UNSUPPORTED, require_supported, tar_chunks
from babyvlm.errors import UserError
from babyvlm.io.files import files_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


class Source(NamedTuple):
    """A web corpus that the user named.

    Attributes:
        name: name of the file or folder.
        files: its archives, tables or lists, in order.
        download_records: img2dataset's records of failed downloads beside its archives.
        chunks_of: divides a file into chunks.
        key: describes how a key leads back to the raw data.
    """

    name: str
    files: list[Path]
    download_records: list[Path]
    chunks_of: Callable[[Path], Iterable[Chunk]]
    key: str

    @property
    def is_tar(self) -> bool:
        """Whether the source consists of WebDataset archives."""
        return self.chunks_of is tar_chunks

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks of all files, in order."""
        return (chunk for file in self.files for chunk in self.chunks_of(file))

    def failed_downloads(self) -> list[FailedDownloads]:
        """Return the samples that were requested but not downloaded, as far as they are recorded."""
        return [FailedDownloads(path) for path in self.download_records]


def find_source(path: Path) -> Source:
    """Recognize an archive, a Parquet file, a LLaVA list, a CSV, or a folder with files of one of these kinds.

    In a folder the first kind that is present is used, in the order of ``KINDS``: img2dataset writes Parquet tables and
    JSON counts beside its tars, which contain no images but record failed downloads.

    Raises:
        UserError: nothing of these kinds is there, a folder contains several lists, or two files have the same name.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    present = [file for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.is_file()]
    for file in present:
        if file.name.lower().endswith(COMPRESSED_TAR_SUFFIXES):
            require_supported(file)
    for suffixes, chunks_of, key in KINDS:
        files = [file for file in present if file.name.lower().endswith(suffixes)]
        if len(files) > 1 and chunks_of in (csv_chunks, llava_chunks):
            raise UserError(f"{path}: contains {len(files)} {suffixes[0]} lists. Name the one to read")
        names = Counter(stem(file) for file in files)
        if len(names) < len(files):
            duplicate = names.most_common(1)[0][0]
            raise UserError(f"{path}: two files are named {duplicate!r}, with different suffixes. Rename one of them")
        if files:
            records = [find_download_record(file) for file in files] if chunks_of is tar_chunks else []
            name = path.name if path.is_dir() else stem(path)
            return Source(name, files, [record for record in records if record], chunks_of, key)
    raise _nothing_found(path, present)


def _nothing_found(path: Path, present: list[Path]) -> UserError:
    """Return the error for a source of no kind."""
    zipped = next((file for file in present if file.name.lower().endswith(".zip")), None)
    if zipped:
        require_supported(zipped)
    suffixes = tuple(suffix for suffixes, _, _ in KINDS for suffix in suffixes)
    below = next((file.parent for file in sorted(files_below(path, suffixes))), None) if path.is_dir() else None
    hint = f". Pass its subfolders, such as {below}" if below else ""
    return UserError(f"{path}: contains no .tar, .parquet, .csv or .json with captioned images{hint}")


COMPRESSED_TAR_SUFFIXES = tuple(suffix for kind in UNSUPPORTED for suffix in kind.suffixes if suffix != ".zip")
KINDS: tuple[tuple[tuple[str, ...], Callable[[Path], Iterable[Chunk]], str], ...] = (
    ((".tar", ".tar.gz", ".tgz"), tar_chunks, "SOURCE/ARCHIVE/NAME: the members NAME.* of this archive"),
    ((".parquet",), parquet_chunks, "SOURCE/FILE/ROW: row ROW, from 0, of this file"),
    ((".csv",), csv_chunks, "SOURCE/ROW: row ROW, from 0, below the header"),
    (
        (".json", ".jsonl"),
        llava_chunks,
        "SOURCE/ID: the first entry with this id, or entry number ID, from 0, if it has no id",
    ),
)
