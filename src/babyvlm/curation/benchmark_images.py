"""The images that benchmark lists name."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from babyvlm.errors import UserError
from babyvlm.io.files import file_size, files_below, join_inside, stored_name
from babyvlm.io.images import IMAGE_SUFFIXES
from babyvlm.io.tables import read_complete_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

T = TypeVar("T")
U = TypeVar("U")


def read_each(lists: Iterable[T], read: Callable[[T], U]) -> list[U]:
    """Return ``read`` of each list.

    Raises:
        UserError: reading some of them failed; the message has the problems of all.
    """
    results, problems = [], []
    for one in lists:
        try:
            results.append(read(one))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    return results


def missing_images(
    path: Path, names: Iterable[str], root: Path, *, root_option: str, allow_missing: bool = False, hint: str = ""
) -> set[str]:
    """Return the images that the list ``path`` names but that are missing in ``root``, or empty files.

    Args:
        path: the list.
        names: its images, as paths below ``root``.
        root: the folder of the images.
        root_option: the option that sets another root, for the message.
        allow_missing: return missing images instead of raising an error.
        hint: what to do about missing images, for the message.

    Raises:
        UserError: an image leaves ``root``; some are missing and ``allow_missing`` is not set (the message names all of
            them); or all are missing.
    """
    images = sorted(set(names))
    outside = [image for image in images if join_inside(root, image) is None]
    if outside:
        raise UserError(f"{path}: image {outside[0]} leaves {root}")
    missing = [image for image in images if file_size(root / stored_path(image, root)) <= 0]
    if len(missing) == len(images):
        raise UserError(
            f"{path}: none of its {len(images)} images is in {root}. Set their folder with {root_option} FOLDER"
        )
    if missing and not allow_missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(images)} images are missing or empty in {root}{hint and f' ({hint})'}: "
            + ", ".join(missing)
        )
    return set(missing)


def stored_path(image: str, root: Path) -> str:
    """Return the path below ``root`` under which the image of a list is stored (see ``stored_name``)."""
    return stored_name(image, lambda name: join_inside(root, name) is not None and (root / name).is_file())


def find_benchmark_images(
    trials: Sequence[Path],
    folders: Sequence[Path] = (),
    root: Path | None = None,
    *,
    root_option: str = "--image_root",
    allow_missing: bool = False,
) -> dict[Path, str]:
    """Return the images that benchmark lists name and that folders hold, each with a name for messages.

    Args:
        trials: CSV files with a column ``image``.
        folders: folders of images.
        root: folder that the paths in the lists start from; by default the folder of each list.
        root_option: the option that sets it, for messages.
        allow_missing: ignore images that the lists name but that do not exist.

    Raises:
        UserError: lists are invalid or images are missing (one message has all problems), a folder does not exist, or
            there is no image at all.
    """

    def images_of(path: Path) -> list[tuple[str, Path]]:
        names, base = _image_column(path), root or path.parent
        missing = missing_images(
            path,
            names,
            base,
            root_option=root_option,
            allow_missing=allow_missing,
            hint="allow_missing ignores them",
        )
        return [(f"{path.stem}/{name}", base / stored_path(name, base)) for name in names if name not in missing]

    found: dict[Path, str] = {}
    for name, file in (image for images in read_each(trials, images_of) for image in images):
        found.setdefault(file.resolve(), name)
    for folder in folders:
        for file in sorted(files_below(folder, IMAGE_SUFFIXES)):
            found.setdefault(file.resolve(), f"{folder.name}/{file.relative_to(folder)}")
    if not found:
        raise UserError("--trials, --benchmark_images: there is no benchmark image. Pass a list or a folder of images")
    return found


def _image_column(path: Path) -> list[str]:
    """Return the distinct values of a list's column ``image``, in order."""
    return list(dict.fromkeys(row["image"] for row in read_complete_rows(path, ("image",))))
