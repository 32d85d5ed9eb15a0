"""Baby Winoground (BabyVLM): match two images with two phrases."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from babyvlm.benchmarks.base import Judgement, Measure, ScoreBenchmark, with_compositions
from babyvlm.benchmarks.trials import Row, Trial, composition_of, group_rows, read_rows, same_in, split_of
from babyvlm.benchmarks.word_classes import reviewed_class
from babyvlm.errors import UserError

COLUMNS = ("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag")
TAGS = ["positive", "negative"]


class BabyWinoground(ScoreBenchmark):
    """Correct if both images choose their phrase and both phrases choose their image; ties are wrong. Chance: 1/6.

    The measures, with images i+, i- and phrases p+, p- (Thrush et al. 2022; the strict measures of the positive and the
    negative context are those of babylmms-eval, ``tasks/baby_winoground/utils.py``):

    =====================  ==================================================  ======
    measure                correct if                                          chance
    =====================  ==================================================  ======
    overall                text and image are correct                          1/6
    text                   s(i+,p+) > s(i+,p-) and s(i-,p-) > s(i-,p+)         1/4
    image                  s(i+,p+) > s(i-,p+) and s(i-,p-) > s(i+,p-)         1/4
    positive               s(i+,p+) > s(i+,p-)                                 1/2
    positive_strict        and s(i+,p+) > s(i-,p+)                             1/3
    negative               s(i-,p-) > s(i-,p+)                                 1/2
    negative_strict        and s(i-,p-) > s(i+,p-)                             1/3
    =====================  ==================================================  ======

    The list has the authors' columns ``instance_id,positive_phrase,negative_phrase,image,image_tag``, two rows per
    instance, one tagged ``positive`` and one ``negative``. A list without a column ``word_class`` has the classes of
    ``word_classes``. With a column ``composition`` (``seen``, ``unseen``: whether an image's phrase occurs in
    training), ``overall`` is also given for instances of two seen phrases, and for those with an unseen one.

    Args:
        trials: CSV list.
        images: folder of the images; or two folders, of the positive and of the negative images, as babylmms-eval has
            them (``positive_images``, ``negative_images``).
        dev_fraction: as in ``Benchmark``.
        allow_missing: as in ``Benchmark``.
        variant: as in ``Benchmark``.

    Raises:
        UserError: there are more than two folders.
    """

    name = "baby_winoground"
    title = "Baby Winoground"
    order = 20
    measures: Mapping[str, Measure] = with_compositions(
        {
            "overall": Measure(chance=1 / 6),
            "text": Measure("text", 1 / 4, main=False),
            "image": Measure("image", 1 / 4, main=False),
            "positive": Measure("positive", 1 / 2, main=False),
            "positive_strict": Measure("positive strict", 1 / 3, main=False),
            "negative": Measure("negative", 1 / 2, main=False),
            "negative_strict": Measure("negative strict", 1 / 3, main=False),
        }
    )
    category = "word class"

    def __init__(
        self,
        trials: Path | str,
        images: Path | str | list[Path] | None = None,
        dev_fraction: float | None = None,
        allow_missing: bool = False,
        variant: str = "",
    ) -> None:
        self.folder_of = dict.fromkeys(TAGS, "")  # below `images`
        if isinstance(images, list):
            if len(images) != len(TAGS):
                raise UserError(f"images: {len(images)} folders; pass one, or those of positive and negative images")
            folders = [str(Path(folder).absolute()) for folder in images]
            images = os.path.commonpath(folders)
            self.folder_of = {
                tag: os.path.relpath(folder, images) + "/" if folder != images else ""
                for tag, folder in zip(TAGS, folders, strict=True)
            }
        super().__init__(trials, images, dev_fraction, allow_missing, variant)

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each ``instance_id``; its options are (i+,p+), (i+,p-), (i-,p+), (i-,p-).

        Instances with the same two phrases are one group: their results are not independent.

        Raises:
            UserError: an instance does not have exactly one row of each tag, or its rows disagree.
        """
        groups = group_rows(read_rows(path, COLUMNS), "instance_id")
        return [self._trial(item, rows, path) for item, rows in groups.items()]

    def _trial(self, item: str, rows: Sequence[Row], path: Path) -> Trial:
        by_tag = {row["image_tag"]: row for row in rows}
        if len(rows) != 2 or set(by_tag) != set(TAGS):
            tags = ", ".join(row["image_tag"] for row in rows)
            raise UserError(f"{path}: instance {item} has rows tagged {tags}; it needs one positive, one negative")
        if not same_in(rows, ("positive_phrase", "negative_phrase", "half")):
            raise UserError(f"{path}: instance {item}: its rows differ in a phrase or half; they must agree")
        phrases = [rows[0][f"{tag}_phrase"] for tag in TAGS]
        image_of = {tag: self.folder_of[tag] + by_tag[tag]["image"] for tag in TAGS}
        pairs = tuple((image_of[tag], phrase) for tag in TAGS for phrase in phrases)
        split = split_of(rows[0], item, self.dev_fraction, path)
        word_class = rows[0].cells.get("word_class") or reviewed_class(*phrases) or ""
        group = " / ".join(sorted(phrases))
        return Trial(item, split, word_class, pairs, group=group, composition=composition_of(rows, path))

    def judge(self, trial: Trial, scores: tuple[float, ...]) -> list[Judgement]:
        """Return the credit by each measure; every comparison is strict."""
        pos_pos, pos_neg, neg_pos, neg_neg = scores
        positive, negative = pos_pos > pos_neg, neg_neg > neg_pos
        positive_image, negative_image = pos_pos > neg_pos, neg_neg > pos_neg
        text, image = positive and negative, positive_image and negative_image
        correct = {
            "overall": text and image,
            "text": text,
            "image": image,
            "positive": positive,
            "positive_strict": positive and positive_image,
            "negative": negative,
            "negative_strict": negative and negative_image,
        }
        return [Judgement(measure, float(credit)) for measure, credit in correct.items()]
