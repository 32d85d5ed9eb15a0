"""Labeled-S (Orhan et al. 2020; CVCL): one word, four images; which image shows it?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from babyvlm.benchmarks.object_trials import OPTIONS, ObjectTrials
from babyvlm.benchmarks.trials import Row, Trial
from babyvlm.errors import UserError, first_line
from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_LIST_BYTES


class LabeledS(ObjectTrials):
    """Correct if the target's image scores highest with the name of the category. Chance: 1/4.

    The list has the authors' columns ``trial_id,target_category,real_category,image``, four rows per trial, and is a
    test set as a whole unless it has a column ``half``. Or it is a JSON file of CVCL, or a folder of images for each
    category, as ``ObjectTrials`` reads them.

    The options are those of CVCL's ``eval.py`` (wkvong/multimodal-baby @d64c1bb); results name them.

    Args:
        trials: CSV list, JSON file, or folder.
        images: as in ``ObjectTrials``.
        dev_fraction: as in ``Benchmark``.
        allow_missing: as in ``Benchmark``.
        use_kitty_label: ask for ``kitty`` where the target is ``cat``.
        choose: ``image``: one word, four images. ``word``: the target's image and the words of all four categories;
            only the target's word becomes ``kitty``.
        subset: a folder of images, such as CVCL's filtered frames, or a text file with a name per line; trials with an
            image whose file name is not among them are left out.
        categories: leave out trials with other categories.
        variant: as in ``Benchmark``.

    Raises:
        UserError: ``subset`` does not exist.
    """

    name = "labeled_s"
    title = "Labeled-S"
    suite = ""
    order = 0
    fixed_options = OPTIONS

    def __init__(
        self,
        trials: Path | str,
        images: Path | str | None = None,
        dev_fraction: float | None = None,
        allow_missing: bool = False,
        use_kitty_label: bool = False,
        choose: Literal["image", "word"] = "image",
        subset: Path | str | None = None,
        categories: list[str] | None = None,
        variant: str = "",
    ) -> None:
        super().__init__(
            trials, images, dev_fraction, allow_missing, choose=choose, categories=categories, variant=variant
        )
        self.use_kitty_label = use_kitty_label
        self.subset = None if subset is None else _names(Path(subset))

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each ``trial_id``, or for each trial of a JSON file.

        Raises:
            UserError: a trial does not have four rows with exactly one image of its target, or its rows disagree; or no
                trial is in the subset.
        """
        kept = [trial for trial in super().read(path) if self._in_subset(trial)]
        if not kept:
            raise UserError(f"{path}: no trial has all of its images in the subset")
        return kept

    def word(self, target: Row) -> str:
        """Return the word that a trial asks for, given the row of its target."""
        return "kitty" if self.use_kitty_label and target["target_category"] == "cat" else super().word(target)

    def _in_subset(self, trial: Trial) -> bool:
        return self.subset is None or all(PurePosixPath(image).name in self.subset for image, _ in trial.options)

    def chosen_options(self) -> Iterator[str]:
        """Yield what is not the default, in words."""
        if self.use_kitty_label:
            yield "kitty for cat"
        if self.choose == "word":
            yield "one image and four words"
        if self.subset is not None:
            yield "subset of the trials"
        if self.categories is not None:
            yield f"{len(self.categories)} categories"


def _names(source: Path) -> frozenset[str]:
    """Return the file names in a folder, at any depth, or in a text file."""
    if source.is_dir():
        return frozenset(file.name for file in source.rglob("*") if file.is_file())
    try:
        lines = read_bounded(source, MAX_LIST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"subset {source}: cannot be read ({first_line(error)})") from None
    return frozenset(PurePosixPath(line.strip()).name for line in lines if line.strip())
