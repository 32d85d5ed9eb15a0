"""Sample Labeled-S trials from category folders: one word, four images of four categories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from babyvlm.benchmark_builder.items import LABELED_COLUMNS
from babyvlm.benchmarks.object_trials import OPTIONS, sample_trials
from babyvlm.benchmarks.results import world_of
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.image_validation import InvalidSampleError, clean_image
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import read_bounded, write_csv
from babyvlm.io.images import IMAGE_SUFFIXES
from babyvlm.io.limits import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNUSED = ("carseat", "couch", "greenery", "plushanimal")  # folders of Labeled-S that the authors' trials do not use
LIST = "labeled_s.csv"


@stage
def labeled_s(
    category_folders: Path,
    out: Path,
    per_category: int = 100,
    exclude: tuple[str, ...] = UNUSED,
    seed: int = 0,
    licensed: bool = True,
) -> Stage:
    """Sample Labeled-S trials from folders of images, one per category.

    Every category is the target of equally many trials and a distractor as often as any other. Images that cannot be
    opened or that occur in two categories are left out; identical files within a category count once.

    For example:
        python -m babyvlm benchmark build labeled-s --category_folders labeled_s --out build/labeled-s

    Args:
        category_folders: folder with one subfolder of images per category.
        out: folder to create: `labeled_s.csv`, with the columns of the authors' list, and the images.
        per_category: number of trials per target category; the paper has 22 categories with 100 trials each.
        exclude: categories to leave out.
        seed: random seed.
        licensed: mark the images as licensed, so that they never leave this machine.

    Raises:
        UserError: there are fewer than four categories, or a category has no usable image.
    """
    if per_category < 1:
        raise UserError(f"--per_category {per_category}: must be 1 or more")
    digests = image_digests(category_folders, exclude)
    funnel = Funnel("labeled-s", unit="images")
    arguments = {
        "command": "labeled-s",
        "images": digests,
        "per_category": per_category,
        "seed": seed,
        "licensed": licensed,
    }
    artifact = Artifact("labeled-s", arguments, funnel)
    folder = yield artifact
    usable = usable_images(category_folders, digests, funnel)
    rows = list(sample_trials(usable, per_category, seed))
    for image in sorted({row[-1] for row in rows}):
        (folder / "labeled_s" / image).parent.mkdir(parents=True, exist_ok=True)
        # Photos contain the place where they were taken.
        (folder / "labeled_s" / image).write_bytes(clean_image((category_folders / image).read_bytes()))
    write_csv(folder / LIST, [LABELED_COLUMNS, *((*row[:-1], f"labeled_s/{row[-1]}") for row in rows)])
    count = len(rows) // OPTIONS
    artifact.manifest |= {
        "licensed": licensed,
        "categories": sorted(usable),
        "trials": count,
        "world": world_of(category_folders / "any"),
    }
    return f"{count:,} trials of {len(usable)} categories"


def image_digests(root: Path, exclude: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return category -> name of the image below ``root`` -> hash of its bytes."""
    if not root.is_dir():
        raise UserError(f"--category_folders {root}: not a folder. It needs one subfolder of images per category")
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and folder.name not in exclude]
    found = {
        folder.name: {
            path.relative_to(root).as_posix(): artifacts.sha256_file(path)
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES
        }
        for folder in folders
    }
    found = {category: names for category, names in found.items() if names}
    if len(found) < OPTIONS:
        raise UserError(f"{root}: contains {len(found)} categories with images; a trial needs {OPTIONS}")
    return found


def usable_images(root: Path, digests: Mapping[str, Mapping[str, str]], funnel: Funnel) -> dict[str, list[str]]:
    """Return the usable images of each category; identical files count once."""
    categories_of: dict[str, set[str]] = {}
    for category, names in digests.items():
        for digest in names.values():
            categories_of.setdefault(digest, set()).add(category)
    usable: dict[str, list[str]] = {}
    for category, names in digests.items():
        seen: set[str] = set()
        usable[category] = []
        for name, digest in names.items():
            reason = _rejection(root / name, categories=len(categories_of[digest]), duplicate=digest in seen)
            seen.add(digest)
            if reason:
                funnel.drop(reason)
            else:
                funnel.keep()
                usable[category].append(name)
        if not usable[category]:
            raise UserError(f"{root / category}: no usable image. Fix the folder or pass it to --exclude")
    return usable


def _rejection(path: Path, *, categories: int, duplicate: bool) -> str:
    if categories > 1:
        return "occurs in two categories"
    if duplicate:
        return "identical file"
    try:
        clean_image(read_bounded(path, MAX_IMAGE_BYTES))
    except (OSError, InvalidSampleError):
        return "cannot be opened"
    return ""
