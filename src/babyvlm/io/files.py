"""Reading and writing users' files: paths, hashes, atomic writes, tables."""

from __future__ import annotations

import csv
import hashlib
import os
import unicodedata
from contextlib import contextmanager
from itertools import chain
from pathlib import Path, PurePosixPath
from threading import get_ident
from typing import TYPE_CHECKING, TextIO

from babyvlm.errors import UserError
from babyvlm.io.printing import printable, spreadsheet_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_NAME_BYTES = 200  # file systems allow 255, and suffixes are added
EDGE_BYTES = 1 << 20  # hashed at either end of a large file; our choice, since a video corpus is half a terabyte


def as_list(paths: list[Path] | Path | None) -> list[Path]:
    """Return one path, several paths or None as a list."""
    if paths is None:
        return []
    return [paths] if isinstance(paths, Path) else paths


def safe_name(name: str, where: str) -> str:
    """Return a name that is read from data or given for a new file or folder, if it can be used as such.

    Args:
        name: becomes part of a path.
        where: names the option, or the file and row, in the message.

    Raises:
        UserError: it is empty, longer than 200 bytes, begins with a dot, or contains a separator or a character that
            cannot be printed.
    """
    usable = name.isprintable() and not name.startswith(".") and not {"/", "\\"} & set(name)
    if not name or not usable or len(name.encode()) > MAX_NAME_BYTES:
        raise UserError(
            f"{where}: {name[:MAX_NAME_BYTES]!r} is not a valid name. Use at most {MAX_NAME_BYTES} bytes, without `/` "
            "or `\\`, and no dot at the start"
        )
    return name


def resolve_inside(root: Path, name: str) -> Path | None:
    """Return the file that ``name``, read from data, refers to below ``root``; None if it may lie elsewhere.

    That is so if it is empty, absolute, contains ``..`` or a NUL, or passes a symbolic link that leads out of ``root``.
    The same name is then also safe below another folder that contains no links.
    """
    if join_inside(root, name) is None:
        return None
    try:
        path = (root / name).resolve()
        return path if path.is_relative_to(root.resolve()) else None
    except (OSError, ValueError, RuntimeError):  # a NUL in the name, or a loop of links
        return None


def require_outside(out: Path, *sources: Path) -> None:
    """Check that an output does not lie inside an input folder, where the next call would read it as input.

    Raises:
        UserError: ``out`` is inside one of the folders.
    """
    for source in sources:
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise UserError(f"--out {out}: is inside the input folder {source}. Choose another folder")


def join_inside(root: Path, name: str) -> Path | None:
    """Return ``root/name``, or None if the name itself leaves ``root``.

    Symbolic links are followed, so use this only for folders that the user created. For untrusted data, use
    ``resolve_inside``.
    """
    parts = PurePosixPath(name)
    return None if not name or "\0" in name or parts.is_absolute() or ".." in parts.parts else root / name


def files_below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders that have one of the suffixes, in any case; no hidden files.

    Linked folders are searched too. Each folder is searched once, and none above ``folder``, because links may form
    cycles.

    Raises:
        UserError: the folder does not exist, or a folder cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    seen = {_identity(parent) for parent in folder.resolve().parents}
    waiting = [folder]
    while waiting:
        links: list[Path] = []
        for parent, folders, names in chain.from_iterable(os.walk(top, onerror=_unreadable) for top in waiting):
            if _identity(Path(parent)) in seen:
                folders.clear()
                continue
            seen.add(_identity(Path(parent)))
            links += [path for path in (Path(parent, name) for name in sorted(folders)) if path.is_symlink()]
            for name in names:
                if name.lower().endswith(suffixes) and not name.startswith("."):  # "._x.mp4" is created by macOS
                    yield Path(parent, name)
        waiting = links


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror})") from None


def stored_name(name: str, exists: Callable[[str], bool]) -> str:
    r"""Return the spelling of a listed path under which its file is stored; ``name`` itself if there is none.

    A list and its files may come from different systems: Windows writes ``\\`` for ``/``, macOS decomposes accented
    letters, and both ignore the case of a suffix.

    Args:
        name: the path as listed.
        exists: whether a file has this path.
    """
    if exists(name):
        return name
    stem, dot, suffix = name.replace("\\", "/").rpartition(".")
    for form in ("NFC", "NFD"):
        for ending in (suffix, suffix.lower(), suffix.upper()):
            spelling = unicodedata.normalize(form, f"{stem}{dot}{ending}")
            if exists(spelling):
                return spelling
    return name


def file_size(path: Path) -> int:
    """Return the size of a file in bytes; -1 if it does not exist, or is not a file."""
    return path.stat().st_size if path.is_file() else -1


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it cannot be read, is not a regular file, or is longer than ``max_bytes``.
    """
    size = path.stat().st_size
    problem = "" if path.is_file() else "is not a file"  # reading a pipe would wait forever
    if size > max_bytes:
        problem = f"is longer than {max_bytes >> 20} MiB"
    if problem:
        error = OSError(f"{path} {problem}")
        error.strerror = problem
        raise error
    return path.read_bytes()


def fingerprint_files(paths: Iterable[Path]) -> str:
    """Return a hash of the names and contents of files, in the order given.

    Only the length and the first and last MiB of a file over 2 MiB are hashed, so a change inside it that keeps the
    length is not noticed. A missing file changes the hash too.
    """
    digest = hashlib.sha256()
    for path in paths:
        size = file_size(path)
        digest.update(f"{path.name}\0{size}\0".encode("utf-8", "surrogateescape"))
        if size < 0:
            continue
        with path.open("rb") as file:
            digest.update(file.read(EDGE_BYTES))
            file.seek(max(EDGE_BYTES, size - EDGE_BYTES))
            digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def combine_hashes(hashes: Iterable[str]) -> str:
    """Return a hash of hashes, in the order given."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def require_replaceable(path: Path, beginning: str) -> None:
    """Check that the file that a command is about to write does not exist, or begins as the command writes it.

    Raises:
        UserError: the file is another one, probably the user's own.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = file.read(len(beginning))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # reported when it is written
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if found != beginning:
        raise UserError(
            f"{path}: already exists and was not written by this command. Move it or pass a different --out"
        )


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Write a text file completely or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder. Pass the path of a file")
    # Of this process and thread: others may write the same file at the same time.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = temporary.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.filename}: {error.strerror})") from None
    try:
        with opened as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write rows, heading first, completely or not at all, exactly as they are: for lists that are read back."""
    with atomic_write(path) as file:
        csv.writer(file).writerows(rows)


def write_list(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write rows, heading first, for people: no cell is a formula or has control characters."""
    write_csv(path, ([printable(spreadsheet_cell(cell)) for cell in row] for row in rows))
