"""N-way trials over object categories: from a list, from CVCL's JSON, or drawn from folders of pictures."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from babyvlm.benchmarks.base import ForcedChoice, Measure
from babyvlm.benchmarks.trials import Row, Trial, group_rows, read_rows, same_in, split_of
from babyvlm.errors import UserError, first_line
from babyvlm.io.files import files_below, read_bounded
from babyvlm.io.images import IMAGE_SUFFIXES
from babyvlm.io.limits import MAX_LIST_BYTES, load_json
from babyvlm.ranges import require_in_range

OPTIONS = 4  # pictures of a trial (Orhan et al. 2020; CVCL)
PER_CATEGORY = 100  # trials of a category (Labeled-S: 2,200 of 22 categories)
COLUMNS = ("trial_id", "target_category", "real_category", "image")
# Fields of a trial in CVCL's JSON files; Konkle's objects have the same (wkvong/multimodal-baby @d64c1bb,
# `multimodal_saycam_data_module.py` and `object_categories_data_module.py`).
JSON_FIELDS = ("target_category", "target_img_filename", "foil_categories", "foil_img_filenames")


class ObjectTrials(ForcedChoice):
    """Correct if the picture of the named category scores highest. Chance: one over the number of pictures.

    This is CVCL's test of generalization to Konkle's 64 object categories, which occur in the vocabulary but whose
    pictures the model has never seen (Vong et al. 2024; Konkle et al. 2010). It reads any of the following:

    - a folder with one subfolder of pictures for each category. Trials are drawn: every category is the target equally
      often and a distractor equally often;
    - a JSON file of CVCL, ``{"data": [...]}`` with ``trial_num, target_category, target_img_filename, foil_categories,
      foil_img_filenames``. Of an absolute path, the folder and the file count: ``.../object_categories/ball/1.jpg`` is
      ``ball/1.jpg`` in ``images``;
    - a CSV list with the columns ``trial_id,target_category,real_category,image``.

    Args:
        trials: folder, JSON file, or CSV list.
        images: folder that image paths in the list start from; by default that of the list, or the folder itself.
        dev_fraction: as in ``Benchmark``.
        allow_missing: as in ``Benchmark``.
        choose: ``image``: one word, several pictures. ``word``: the target's picture and the words of all categories.
        options: number of pictures of a trial drawn from a folder.
        per_category: number of trials of a category drawn from a folder.
        seed: of the draw.
        categories: leave out trials with other categories, such as words that are not in the vocabulary. By default,
            all are used.
        variant: as in ``Benchmark``.

    Raises:
        UserError: a number is out of range.
    """

    name = "objects"
    title = "Objects"
    suite = "CVCL"
    order = 100
    category = "object category"
    fixed_options: ClassVar[int | None] = None  # a trial has this number of pictures; None: as many as the list says

    def __init__(
        self,
        trials: Path | str,
        images: Path | str | None = None,
        dev_fraction: float | None = None,
        allow_missing: bool = False,
        choose: Literal["image", "word"] = "image",
        options: int = OPTIONS,
        per_category: int = PER_CATEGORY,
        seed: int = 0,
        categories: list[str] | None = None,
        variant: str = "",
    ) -> None:
        if images is None and Path(trials).is_dir():
            images = trials
        super().__init__(trials, images, dev_fraction, allow_missing, variant)
        require_in_range(seed=seed, per_category=per_category)
        if options < 2:
            raise UserError(f"options {options}: a trial needs at least 2 pictures")
        self.choose, self.options, self.per_category, self.seed = choose, options, per_category, seed
        self.categories = None if categories is None else frozenset(categories)
        self.measures = {"accuracy": Measure(chance=1 / options)}

    def read(self, path: Path) -> list[Trial]:
        """Return the trials of a list, or drawn from a folder.

        Raises:
            UserError: a trial does not have one picture of its target, trials have different numbers of pictures, or
                no trial is left.
        """
        rows = self.rows(path)
        trials = [self._trial(item, options, path) for item, options in group_rows(rows, "trial_id").items()]
        sizes = sorted({len(trial.options) for trial in trials})
        if len(sizes) > 1:
            raise UserError(f"{path}: trials have {sizes[0]} to {sizes[-1]} pictures, but all need the same number")
        self.measures = {"accuracy": Measure(chance=1 / sizes[0])}
        return trials

    def rows(self, path: Path) -> list[Row]:
        """Return the rows of the trials, in the form of the CSV list."""
        if path.is_dir():
            rows = self._drawn(path)
        else:
            rows = _json_rows(path) if path.suffix == ".json" else read_rows(path, COLUMNS)
        if self.categories is None:
            return rows
        others = {row["trial_id"] for row in rows if row["real_category"] not in self.categories}
        kept = [row for row in rows if row["trial_id"] not in others]
        if not kept:
            raise UserError(f"{path}: no trial has only the categories {', '.join(sorted(self.categories))}")
        return kept

    def _drawn(self, path: Path) -> list[Row]:
        images = self.pictures(path)
        if self.categories is not None:
            images = {name: files for name, files in images.items() if name in self.categories}
        if len(images) < self.options:
            raise UserError(
                f"{path}: has {len(images)} categories with pictures; a trial of {self.options} pictures needs as many"
            )
        drawn = sample_trials(images, self.per_category, self.seed, self.options)
        return [Row(line, dict(zip(COLUMNS, cells, strict=True))) for line, cells in enumerate(drawn)]

    def pictures(self, path: Path) -> dict[str, list[str]]:
        """Return the pictures of each category in a folder, as sorted paths below ``path``."""
        found = {
            folder.name: [file.relative_to(path).as_posix() for file in sorted(files_below(folder, IMAGE_SUFFIXES))]
            for folder in sorted(path.iterdir())
            if folder.is_dir()
        }
        return {category: files for category, files in found.items() if files}

    def labeled_pictures(self, path: Path) -> dict[str, tuple[str, set[str]]]:
        """Return the category of each picture of a list or folder, and the splits of the trials that show it.

        The splits are those of the list's column ``half``; a picture of another list, or of a folder, has none.

        Raises:
            UserError: the list is malformed, or a picture has two categories.
        """
        if path.is_dir():
            kept = self.categories
            pictures = self.pictures(path).items()
            return {one: (name, set()) for name, images in pictures if kept is None or name in kept for one in images}
        found: dict[str, tuple[str, set[str]]] = {}
        for row in self.rows(path):
            name, splits = found.setdefault(row["image"], (row["real_category"], set()))
            if name != row["real_category"]:
                raise UserError(f"{path}: image {row['image']} has two categories")
            if "half" in row.cells:
                splits.add(split_of(row, row["trial_id"], 0.0, path))
        return found

    def _trial(self, item: str, options: Sequence[Row], path: Path) -> Trial:
        target, wanted = options[0]["target_category"], self.fixed_options
        right = [index for index, row in enumerate(options) if row["real_category"] == target]
        if len(options) < 2 or len(right) != 1 or len(options) != (wanted or len(options)):
            found = f"{len(options)} rows, {len(right)} of its target {target!r}"
            needed = wanted or "at least 2"
            raise UserError(f"{path}: trial {item} has {found}; it needs {needed} rows, one of its target")
        if not same_in(options, ("target_category", "half")):
            raise UserError(f"{path}: trial {item}: its rows differ in target_category or half; they must agree")
        split = split_of(options[0], item, self.dev_fraction, path)
        return Trial(item, split, target, self._pairs(options, right[0]), right[0])

    def _pairs(self, options: Sequence[Row], right: int) -> tuple[tuple[str, str], ...]:
        target = self.word(options[right])
        if self.choose == "image":
            return tuple((row["image"], target) for row in options)
        return tuple(
            (options[right]["image"], target if index == right else row["real_category"].replace("_", " "))
            for index, row in enumerate(options)
        )

    def word(self, target: Row) -> str:
        """Return the word that a trial asks for, given the row of its target."""
        return target["target_category"].replace("_", " ")

    def facts(self) -> dict[str, str]:
        """Return the options that are not the default."""
        return {"options": ", ".join(chosen)} if (chosen := list(self.chosen_options())) else {}

    def chosen_options(self) -> Iterator[str]:
        """Yield what is not the default, in words."""
        if self.choose == "word":
            yield "one image and several words"
        if self.categories is not None:
            yield f"{len(self.categories)} categories"


def sample_trials(
    images: Mapping[str, Sequence[str]], per_category: int, seed: int, options: int = OPTIONS
) -> Iterator[tuple[str, str, str, str]]:
    """Yield rows of trials: trial, target category, category and name of one of its images.

    In every round each category is the target once and a distractor of ``options - 1`` others: the categories are
    shuffled into a circle, and the distractors of a target are those at some distances, the same for all targets. The
    images of a category are drawn without replacement until all of them have been used.

    Args:
        images: Names of the images of each category; at least ``options`` categories, none empty.
        per_category: Number of rounds.
        seed: Random seed.
        options: Number of images of a trial.
    """
    rng = random.Random(seed)
    circle = sorted(images)
    targets = {category: _shuffled_forever(images[category], rng) for category in circle}
    distractors = {category: _shuffled_forever(images[category], rng) for category in circle}
    for turn in range(per_category):
        rng.shuffle(circle)
        distances = rng.sample(range(1, len(circle)), options - 1)
        for place, target in enumerate(circle):
            others = [circle[(place + distance) % len(circle)] for distance in distances]
            shown = [(target, next(targets[target])), *((other, next(distractors[other])) for other in others)]
            rng.shuffle(shown)
            trial = str(turn * len(circle) + place)
            yield from ((trial, target, category, image) for category, image in shown)


def _shuffled_forever(names: Sequence[str], rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(names, len(names))


def _json_rows(path: Path) -> list[Row]:
    """Return a JSON file of CVCL as rows of the CSV list; trials are numbered, since ``trial_num`` may repeat."""
    content = read_json(path)
    trials = content.get("data") if isinstance(content, dict) else None
    if not isinstance(trials, list) or not trials:
        raise UserError(f"{path}: has no trials (a list called data)")
    rows = []
    for number, trial in enumerate(trials):
        missing = [field for field in JSON_FIELDS if not isinstance(trial, dict) or field not in trial]
        if missing:
            raise UserError(f"{path}: trial {number} has no {missing[0]}")
        target, image, foils, foil_images = (trial[field] for field in JSON_FIELDS)
        if not (isinstance(foils, list) and isinstance(foil_images, list) and len(foils) == len(foil_images)):
            raise UserError(f"{path}: trial {number}: its foil_categories and foil_img_filenames do not match")
        texts = [target, image, *foils, *foil_images]
        if wrong := [text for text in texts if not isinstance(text, str) or not text.strip()]:
            raise UserError(f"{path}: trial {number}: {json.dumps(wrong[0])} is no category or file name")
        for category, name in zip([target, *foils], [image, *foil_images], strict=True):
            place = PurePosixPath(name)
            kept = PurePosixPath(*place.parts[-2:]) if place.is_absolute() else place
            cells = {"trial_id": str(number), "target_category": target, "real_category": category}
            rows.append(Row(number, cells | {"image": str(kept)}))
    return rows


def read_json(path: Path) -> object:
    """Return the content of a JSON file.

    Raises:
        UserError: it cannot be read, or contains a lone surrogate (half of a character), which no result can hold.
    """
    try:
        content = load_json(read_bounded(path, MAX_LIST_BYTES), MAX_LIST_BYTES)
        json.dumps(content, ensure_ascii=False).encode()  # results are written in UTF-8, which has no lone surrogates
        return content
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({first_line(error)})") from None
