"""Baby Winoground: two images, two phrases; which belongs to which?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babyvlm.benchmarks.base import Judgement, ScoreBenchmark
from babyvlm.benchmarks.trials import Row, Trial, agree, group_rows, half_of, read_rows
from babyvlm.errors import UserError

COLUMNS = ("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag")
TAGS = ["positive", "negative"]


class BabyWinoground(ScoreBenchmark):
    """Right when both images choose their phrase and both phrases their image; ties are wrong; chance 1/6.

    The measures, with images i+, i- and phrases p+, p- (Thrush et al. 2022; the contexts are BabyVLM's):

    =====================  ==================================================  ======
    measure                right when                                          chance
    =====================  ==================================================  ======
    overall                text and image are                                  1/6
    text                   s(i+,p+) > s(i+,p-) and s(i-,p-) > s(i-,p+)         1/4
    image                  s(i+,p+) > s(i-,p+) and s(i-,p-) > s(i+,p-)         1/4
    positive               s(i+,p+) > s(i+,p-)                                 1/2
    positive_strict        .. and s(i+,p+) > s(i-,p+), as the authors have it  1/3
    negative               s(i-,p-) > s(i-,p+)                                 1/2
    negative_strict        .. and s(i-,p-) > s(i+,p-)                          1/3
    =====================  ==================================================  ======

    The list has the authors' columns ``instance_id,positive_phrase,negative_phrase,image,image_tag``, two rows an
    instance, one tagged ``positive`` and one ``negative``.
    """

    name = "baby_winoground"
    measure = "overall"

    def read(self, path: Path) -> list[Trial]:
        """Trials, one for each two rows of an ``instance_id``; options are (i+,p+), (i+,p-), (i-,p+), (i-,p-).

        Raises:
            UserError: an instance without exactly one row of each tag, or at odds with itself.
        """
        groups = group_rows(read_rows(path, COLUMNS), "instance_id")
        return [self._trial(item, rows, path) for item, rows in groups.items()]

    def _trial(self, item: str, rows: Sequence[Row], path: Path) -> Trial:
        by_tag = {row["image_tag"]: row for row in rows}
        if len(rows) != 2 or set(by_tag) != set(TAGS):
            tags = ", ".join(row["image_tag"] for row in rows)
            raise UserError(f"{path}: instance {item} has rows tagged {tags}; it needs one positive, one negative")
        if not agree(rows, ("positive_phrase", "negative_phrase", "half")):
            raise UserError(f"{path}: instance {item}: its rows differ in a phrase or half; they must agree")
        phrases = [rows[0][f"{tag}_phrase"] for tag in TAGS]
        pairs = tuple((by_tag[tag]["image"], phrase) for tag in TAGS for phrase in phrases)
        half = half_of(rows[0], item, self.dev_fraction, path)
        return Trial(item, half, rows[0].cells.get("word_class", ""), pairs)

    def judge(self, trial: Trial, scores: tuple[float, ...]) -> list[Judgement]:
        """By each measure; every comparison is strict."""
        pos_pos, pos_neg, neg_pos, neg_neg = scores
        positive, negative = pos_pos > pos_neg, neg_neg > neg_pos
        positive_image, negative_image = pos_pos > neg_pos, neg_neg > pos_neg
        text, image = positive and negative, positive_image and negative_image
        right = {
            "overall": text and image,
            "text": text,
            "image": image,
            "positive": positive,
            "positive_strict": positive and positive_image,
            "negative": negative,
            "negative_strict": negative and negative_image,
        }
        return [(measure, None, float(credit)) for measure, credit in right.items()]
