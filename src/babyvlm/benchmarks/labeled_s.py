"""Labeled-S (Orhan et al. 2020; CVCL): one word, four images; which image shows it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from babyvlm.benchmarks.base import ForcedChoice, Measure
from babyvlm.benchmarks.trials import Row, Trial, group_rows, read_rows, same_in, split_of
from babyvlm.errors import UserError, first_line
from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_LIST_BYTES, load_json

OPTIONS = 4  # images per trial (Orhan et al. 2020; CVCL)
COLUMNS = ("trial_id", "target_category", "real_category", "image")
# Fields of a trial in CVCL's JSON files; Konkle's objects have the same (wkvong/multimodal-baby @d64c1bb,
# `multimodal_saycam_data_module.py` and `object_categories_data_module.py`).
JSON_FIELDS = ("target_category", "target_img_filename", "foil_categories", "foil_img_filenames")


class LabeledS(ForcedChoice):
    """Correct if the target's image scores highest with the name of the category. Chance: 1/4.

    The list has the authors' columns ``trial_id,target_category,real_category,image``, four rows per trial, and is a
    test set as a whole unless it has a column ``half``. Or it is a JSON file of CVCL: ``{"data": [...]}`` with
    ``trial_num, target_category, target_img_filename, foil_categories, foil_img_filenames``. Of an absolute path in
    it, the folder and the file count: ``.../test/ball/1.jpeg`` is ``ball/1.jpeg`` in ``images``.

    The options are those of CVCL's ``eval.py`` (wkvong/multimodal-baby @d64c1bb); results name them.

    Args:
        trials: CSV list, or JSON file.
        images: as in ``Benchmark``.
        dev_fraction: as in ``Benchmark``.
        allow_missing: as in ``Benchmark``.
        use_kitty_label: ask for ``kitty`` where the target is ``cat``.
        choose: ``image``: one word, four images. ``word``: the target's image and the words of all four categories;
            only the target's word becomes ``kitty``.
        subset: a folder of images, such as CVCL's filtered frames, or a text file with a name per line; trials with an
            image whose file name is not among them are left out.

    Raises:
        UserError: ``subset`` does not exist.
    """

    name = "labeled_s"
    title = "Labeled-S"
    order = 0
    measures: ClassVar = {"accuracy": Measure(chance=1 / OPTIONS)}
    category = "object category"

    def __init__(
        self,
        trials: Path | str,
        images: Path | str | None = None,
        dev_fraction: float | None = None,
        allow_missing: bool = False,
        use_kitty_label: bool = False,
        choose: Literal["image", "word"] = "image",
        subset: Path | str | None = None,
    ) -> None:
        super().__init__(trials, images, dev_fraction, allow_missing)
        self.use_kitty_label, self.choose = use_kitty_label, choose
        self.subset = None if subset is None else _names(Path(subset))

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each ``trial_id``, or for each trial of a JSON file.

        Raises:
            UserError: a trial does not have four rows with exactly one image of its target, or its rows disagree; or no
                trial is in the subset.
        """
        rows = _json_rows(path) if path.suffix == ".json" else read_rows(path, COLUMNS)
        trials = []
        for item, options in group_rows(rows, "trial_id").items():
            target = options[0]["target_category"]
            right = [index for index, row in enumerate(options) if row["real_category"] == target]
            if len(options) != OPTIONS or len(right) != 1:
                found = f"{len(options)} rows, {len(right)} of its target {target!r}"
                raise UserError(f"{path}: trial {item} has {found}; it needs {OPTIONS} rows, one of its target")
            if not same_in(options, ("target_category", "half")):
                raise UserError(f"{path}: trial {item}: its rows differ in target_category or half; they must agree")
            split = split_of(options[0], item, self.dev_fraction, path)
            trials.append(Trial(item, split, target, self._pairs(options, right[0], target), right[0]))
        kept = [trial for trial in trials if self._in_subset(trial)]
        if not kept:
            raise UserError(f"{path}: no trial has all of its images in the subset")
        return kept

    def _pairs(self, options: Sequence[Row], right: int, target: str) -> tuple[tuple[str, str], ...]:
        word = "kitty" if self.use_kitty_label and target == "cat" else target
        if self.choose == "image":
            return tuple((row["image"], word) for row in options)
        words = (word if index == right else row["real_category"] for index, row in enumerate(options))
        return tuple((options[right]["image"], each) for each in words)

    def _in_subset(self, trial: Trial) -> bool:
        return self.subset is None or all(PurePosixPath(image).name in self.subset for image, _ in trial.options)

    def facts(self) -> dict[str, str]:
        """Return the options that are not the default."""
        named = {
            "kitty for cat": self.use_kitty_label,
            "one image and four words": self.choose == "word",
            "subset of the trials": self.subset is not None,
        }
        chosen = ", ".join(name for name, is_chosen in named.items() if is_chosen)
        return {"options": chosen} if chosen else {}


def _names(source: Path) -> frozenset[str]:
    """Return the file names in a folder, at any depth, or in a text file."""
    if source.is_dir():
        return frozenset(file.name for file in source.rglob("*") if file.is_file())
    try:
        lines = read_bounded(source, MAX_LIST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"subset {source}: cannot be read ({first_line(error)})") from None
    return frozenset(PurePosixPath(line.strip()).name for line in lines if line.strip())


def _json_rows(path: Path) -> list[Row]:
    """Return a JSON file of CVCL as rows of the CSV list; trials are numbered, since ``trial_num`` may repeat."""
    try:
        content = load_json(read_bounded(path, MAX_LIST_BYTES), MAX_LIST_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({first_line(error)})") from None
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
        for category, name in zip([target, *foils], [image, *foil_images], strict=True):
            place = PurePosixPath(str(name))
            kept = PurePosixPath(*place.parts[-2:]) if place.is_absolute() else place
            cells = {"trial_id": str(number), "target_category": str(target), "real_category": str(category)}
            rows.append(Row(number, cells | {"image": str(kept)}))
    return rows
