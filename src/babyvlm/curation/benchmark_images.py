"""The images that benchmark lists name: which are there, which are not."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, TypeVar

from babyvlm.errors import UserError
from babyvlm.io.files import file_size, files_below, join_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

T = TypeVar("T")
U = TypeVar("U")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LEFT_OUT = "allow_missing leaves them out"


def of_all(lists: Iterable[T], read: Callable[[T], U]) -> list[U]:
    """What is read of each list.

    Raises:
        UserError: what is wrong with any of them, in one complaint.
    """
    found, wrong = [], []
    for one in lists:
        try:
            found.append(read(one))
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError("; ".join(wrong))
    return found


def absent_images(
    path: Path, names: Iterable[str], root: Path, *, where: str, allow_missing: bool = False, hint: str = ""
) -> set[str]:
    """Those of the images that the list ``path`` names which are missing in ``root``, or empty files.

    Args:
        path: the list.
        names: its images, as paths below ``root``.
        root: where they should be.
        where: the option that says another root.
        allow_missing: give back what is missing; else it is an error.
        hint: what to do about it.

    Raises:
        UserError: an image leaves ``root``; some are missing and must not: the message names them all; or all are.
    """
    images = sorted(set(names))
    outside = [image for image in images if join_inside(root, image) is None]
    if outside:
        raise UserError(f"{path}: image {outside[0]} leaves {root}")
    absent = [image for image in images if file_size(root / image) <= 0]
    if len(absent) == len(images):
        raise UserError(f"{path}: none of its {len(images)} images is in {root}; say where they are ({where} FOLDER)")
    if absent and not allow_missing:
        raise UserError(
            f"{path}: {len(absent)} of {len(images)} images are missing or empty in {root}{hint and f' ({hint})'}: "
            + ", ".join(absent)
        )
    return set(absent)


def benchmark_images(
    trials: Sequence[Path],
    folders: Sequence[Path] = (),
    root: Path | None = None,
    *,
    where: str = "--root",
    allow_missing: bool = False,
) -> dict[Path, str]:
    """Images that benchmark lists name and folders hold, and what to call each.

    Args:
        trials: CSVs with a column ``image``.
        folders: all images in them count.
        root: folder that the lists' paths start from; each list's own by default.
        where: the option that says it.
        allow_missing: leave out what the lists name and is not there.

    Raises:
        UserError: lists are bad or images are missing, all of it in one complaint; a folder is not there; or there is
            no image at all.
    """

    def listed(path: Path) -> list[tuple[str, Path]]:
        names, base = _named_in(path), root or path.parent
        absent = absent_images(path, names, base, where=where, allow_missing=allow_missing, hint=LEFT_OUT)
        return [(f"{path.stem}/{name}", base / name) for name in names if name not in absent]

    found: dict[Path, str] = {}
    for name, file in (image for images in of_all(trials, listed) for image in images):
        found.setdefault(file.resolve(), name)
    for folder in folders:
        for file in sorted(files_below(folder, IMAGE_SUFFIXES)):
            found.setdefault(file.resolve(), f"{folder.name}/{file.relative_to(folder)}")
    if not found:
        raise UserError("--trials, --images: no benchmark image is named")
    return found


def _named_in(path: Path) -> list[str]:
    """What a list has in its column ``image``, in its order."""
    names = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "image" not in (reader.fieldnames or ()):
                raise UserError(f"{path}: no column 'image'; it is no list of a benchmark")
            for row in reader:
                if not row.get("image"):
                    raise UserError(f"{path}: row {reader.line_num}: names no image")
                names.append(row["image"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read as a CSV ({reason})") from None
    if not names:
        raise UserError(f"{path}: holds no row")
    return list(dict.fromkeys(names))
