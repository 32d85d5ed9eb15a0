"""Labeled-S trials out of category folders: one word, four images of four categories."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from babyvlm.benchmark_builder.items import LABELED_COLUMNS
from babyvlm.benchmarks.results import world_of
from babyvlm.curation.funnel import Funnel
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import write_csv
from babyvlm.io.images import BrokenImageError, open_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

OPTIONS = 4  # images a trial (Orhan et al. 2020; CVCL)
UNUSED = ("carseat", "couch", "greenery", "plushanimal")  # folders of Labeled-S that the authors' trials leave out
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LIST = "labeled_s.csv"


@artifacts.one_at_a_time
def labeled_s(
    images: Path,
    out: Path,
    per_category: int = 100,
    exclude: tuple[str, ...] = UNUSED,
    seed: int = 0,
    licensed: bool = True,
) -> None:
    """Sample Labeled-S trials from a folder of category folders.

    Out comes a folder with the list of trials. Every category is the target of as many trials, and a foil as often as
    any other. Images that cannot be opened or that stand in two categories are left out; of equal files in one category
    one is used.

    For example:
        python -m babyvlm benchmark build labeled-s --images labeled_s --out build/labeled-s

    Args:
        images: folder with a folder of images a category.
        out: folder to make: `labeled_s.csv` in the authors' columns, and the images.
        per_category: trials with a category as the target; 22 x 100 in the paper.
        exclude: categories that are not used.
        seed: all chance comes from it.
        licensed: whether the images may never leave this machine.

    Raises:
        UserError: fewer than four categories, or one without a usable image.
    """
    if per_category < 1:
        raise UserError(f"--per_category {per_category}: must be 1 or more")
    digests = _digests(images, exclude)
    arguments = {
        "command": "labeled-s",
        "images": digests,
        "per_category": per_category,
        "seed": seed,
        "licensed": licensed,
    }
    if artifacts.is_complete(out, "labeled-s", arguments):
        print(f"{out}: already complete, skipping")
        return
    funnel = Funnel("labeled-s", unit="images")
    usable = _usable(images, digests, funnel)
    rows = list(sample_trials(usable, per_category, seed))
    manifest: artifacts.Manifest = {
        "arguments": arguments,
        "licensed": licensed,
        "funnel": funnel.as_dict(),
        "categories": sorted(usable),
        "trials": len(rows) // OPTIONS,
        "world": world_of(images / "any"),
    }
    with artifacts.create(out, "labeled-s", manifest) as partial:
        for image in sorted({row[-1] for row in rows}):
            (partial / "labeled_s" / image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(images / image, partial / "labeled_s" / image)
        write_csv(partial / LIST, [LABELED_COLUMNS, *((*row[:-1], f"labeled_s/{row[-1]}") for row in rows)])
    print(f"{funnel}\n{out}: {len(rows) // OPTIONS:,} trials of {len(usable)} categories")


def sample_trials(
    images: Mapping[str, Sequence[str]], per_category: int, seed: int
) -> Iterator[tuple[str, str, str, str]]:
    """Rows of trials: trial, target category, category and name of one of its four images.

    In every round each category is the target once and a foil three times, beside others each time: by categories in
    a shuffled circle, of which the foils are those at three distances, the same for all. Images are dealt like cards,
    so that all are used before one is used again.

    Args:
        images: names of the images of each category; at least four categories, none empty.
        per_category: rounds.
        seed: all chance comes from it.
    """
    rng = random.Random(seed)
    circle = sorted(images)
    targets = {category: _dealt(images[category], rng) for category in circle}
    foils = {category: _dealt(images[category], rng) for category in circle}
    for turn in range(per_category):
        rng.shuffle(circle)
        distances = rng.sample(range(1, len(circle)), OPTIONS - 1)
        for place, target in enumerate(circle):
            others = [circle[(place + distance) % len(circle)] for distance in distances]
            options = [(target, next(targets[target])), *((other, next(foils[other])) for other in others)]
            rng.shuffle(options)
            trial = str(turn * len(circle) + place)
            yield from ((trial, target, category, image) for category, image in options)


def _dealt(cards: Sequence[str], rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(cards, len(cards))


def _digests(root: Path, exclude: Sequence[str]) -> dict[str, dict[str, str]]:
    """Category -> name of the image below ``root`` -> hash of its bytes."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give one with a folder of images a category")
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and folder.name not in exclude]
    found = {
        folder.name: {
            path.relative_to(root).as_posix(): artifacts.sha256_file(path)
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES
        }
        for folder in folders
    }
    found = {category: names for category, names in found.items() if names}
    if len(found) < OPTIONS:
        raise UserError(f"{root}: holds {len(found)} categories with images; a trial needs {OPTIONS}")
    return found


def _usable(root: Path, digests: Mapping[str, Mapping[str, str]], funnel: Funnel) -> dict[str, list[str]]:
    """Names of the images that stand for one category, each content once."""
    homes: dict[str, set[str]] = {}
    for category, names in digests.items():
        for digest in names.values():
            homes.setdefault(digest, set()).add(category)
    usable: dict[str, list[str]] = {}
    for category, names in digests.items():
        seen: set[str] = set()
        usable[category] = []
        for name, digest in names.items():
            reason = _flaw(root / name, categories=len(homes[digest]), again=digest in seen)
            seen.add(digest)
            if reason:
                funnel.drop(reason)
            else:
                funnel.keep()
                usable[category].append(name)
        if not usable[category]:
            raise UserError(f"{root / category}: no usable image is left; mend the folder or --exclude it")
    return usable


def _flaw(path: Path, *, categories: int, again: bool) -> str:
    if categories > 1:
        return "stands in two categories"
    if again:
        return "the same file again"
    try:
        open_rgb(path)
    except BrokenImageError:
        return "cannot be opened"
    return ""
