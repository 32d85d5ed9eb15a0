"""DevCV Toolbox (BabyVLM-V2, arXiv 2512.10932): the tasks that a model of single images can do.

The format is that of the public samples (BabyVLM/babyvlm.github.io @b5155fc, ``data/*_sample``) and of the data set
``wsashawn/devcv_toolbox_ego4d``: a JSON list of conversations with ``<image>`` marks. A generative model of many images
answers with a letter. Here each option is scored by itself, as in the other benchmarks, so that a contrastive model and
a model of one image take part; the numbers are therefore not those of the Toolbox's own evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from babyvlm.benchmarks.base import ForcedChoice, Measure
from babyvlm.benchmarks.image_choice import ImageChoice
from babyvlm.benchmarks.object_trials import read_json
from babyvlm.benchmarks.trials import QUADRANTS, ImageText, Row, Trial, part_of, split_of
from babyvlm.errors import UserError

SUITE = "DevCV Toolbox"
NUMBERS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
LETTERS = "ABCDEFGH"

TextTask = Literal["picture_vocabulary", "localization", "counting", "comparison"]
ImageTask = Literal["left_right", "spatial_details"]


@dataclass(frozen=True, eq=False)
class Item:
    """One question of a list: its images, the number of its options, its text, and the index of the right answer."""

    name: str
    question: str
    answer: str
    images: tuple[str, ...]
    row: Row


@dataclass(frozen=True)
class _Task:
    """How questions of a task are put, and how they are asked of a scorer.

    Attributes:
        title: in tables.
        question: pattern of the human's turn; its group is what the question is about.
        template: the text that is scored, by our choice the words of the question.
    """

    title: str
    question: re.Pattern[str]
    template: str


_TASKS: Mapping[TextTask, _Task] = {
    "picture_vocabulary": _Task("Picture Vocabulary", re.compile(r"Touch the image of '(.+?)'", re.I), "{word}"),
    "localization": _Task("Localization", re.compile(r"Point at the (.+?)\. Is it in", re.I), "{word}"),
    "counting": _Task("Counting", re.compile(r"How many (.+?) do you see", re.I), "{number} {word}"),
    "comparison": _Task("Comparison", re.compile(r"Which image has more (.+?)\?", re.I), "more {word}"),
}


class DevCV(ForcedChoice):
    """Correct if the right option scores highest.

    ====================  ==============================================  ============================  ===========
    task                  options                                         text (``template``)           chance
    ====================  ==============================================  ============================  ===========
    picture_vocabulary    four images, or the quadrants of one image      ``{word}``                    1/4
    localization          the quadrants of one image                      ``{word}``                    1/4
    counting              one image with each number up to the largest    ``{number} {word}``           1/numbers
    comparison            two images                                      ``more {word}``               1/2
    ====================  ==============================================  ============================  ===========

    ``{word}`` is what the question is about, in lower case, for counting in the singular with ``one``. A localization
    whose template has ``{place}`` scores the whole image with ``top left`` and so on instead of its quadrants.

    ``floors`` audits a list: ``most frequent answer`` is the share of the most frequent letter or number.

    Args:
        trials: JSON list of a task, such as ``count_test.json`` or ``count/data.json``.
        task: whose questions the list has.
        images: as in ``Benchmark``.
        dev_fraction: as in ``Benchmark``.
        allow_missing: as in ``Benchmark``.
        template: the text that is scored.
        variant: as in ``Benchmark``: ``real`` and ``synthetic``, for example.
    """

    suite = SUITE
    order = 200

    def __init__(
        self,
        trials: Path | str,
        task: TextTask,
        images: Path | str | None = None,
        dev_fraction: float | None = None,
        allow_missing: bool = False,
        template: str | None = None,
        variant: str = "",
    ) -> None:
        self.task, self._rules = task, _TASKS[task]
        self.name, self.title = f"devcv_{task}", self._rules.title
        self.order += list(_TASKS).index(task)
        self.template = template or self._rules.template
        if "{word}" not in self.template:
            raise UserError(f"template {self.template!r}: must contain {{word}}")
        if task == "counting":
            self.category = "number"
        super().__init__(trials, images, dev_fraction, allow_missing, variant)
        self.measures = {"accuracy": Measure(chance=1 / {"comparison": 2, "counting": len(NUMBERS)}.get(task, 4))}

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each question.

        Raises:
            UserError: a question is not one of the task, or its answer is not one of its options.
        """
        words = {item: self._word(item, path) for item in read_items(path)}
        top = max(self._number(item, path) for item in words) if self.task == "counting" else 0
        trials = [self._trial(item, word, path, top) for item, word in words.items()]
        self.measures = {"accuracy": Measure(chance=1 / len(trials[0].options))}
        return trials

    def _number(self, item: Item, path: Path) -> int:
        if not item.answer.isdigit() or not 1 <= int(item.answer) <= len(NUMBERS):
            raise UserError(f"{path}: {item.name}: answer {item.answer!r} is not a number from 1 to {len(NUMBERS)}")
        return int(item.answer)

    def _word(self, item: Item, path: Path) -> str:
        found = self._rules.question.search(item.question)
        if not found:
            raise UserError(f"{path}: {item.name}: not a question of {self.task}: {item.question!r}")
        return found[1].partition("/")[0].strip().lower()  # `rug/carpet`

    def _trial(self, item: Item, word: str, path: Path, top: int) -> Trial:
        if self.task == "counting":
            wanted, options = 1, self._numbers(item, word, top)
        elif self.task == "localization" and "{place}" in self.template:
            wanted = 1
            options = [(item.images[0], self.template.format(word=word, place=place)) for place in QUADRANTS]
        elif self.task != "comparison" and len(item.images) == 1:
            wanted, text = 1, self.template.format(word=word)
            options = [(part_of(item.images[0], place), text) for place in QUADRANTS]
        else:
            wanted, text = (2 if self.task == "comparison" else 4), self.template.format(word=word)
            options = [(image, text) for image in item.images]
        if len(item.images) != wanted:
            raise UserError(f"{path}: {item.name}: has {len(item.images)} images; {self.task} needs {wanted}")
        answer = int(item.answer) - 1 if self.task == "counting" else letter_of(item, len(options), path)
        split = split_of(item.row, item.name, self.dev_fraction, path)
        category = item.answer if self.task == "counting" else ""
        return Trial(item.name, split, category, tuple(options), answer)

    def _numbers(self, item: Item, word: str, top: int) -> list[ImageText]:
        one = singular_of(word)
        return [
            (item.images[0], self.template.format(word=one if number == "one" else word, number=number))
            for number in NUMBERS[:top]
        ]

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return what a constant, and the most frequent answer, reach without an image."""
        return with_most_frequent_answer(super().floors(trials), trials)

    def facts(self) -> dict[str, str]:
        """Return the template, if it is not the default."""
        return {} if self.template == self._rules.template else {"options": f"template {self.template!r}"}


class DevCVMatching(ImageChoice):
    """Correct if the option that is the same as the first image is most similar to it. Chance: 1/3.

    The tasks Left/Right (which option is not mirrored?) and Spatial Details (which option contains this object?). The
    similarity is the cosine of the model's image embeddings; a model without them skips the benchmark. ``pixel match``
    in ``floors`` is the accuracy of comparing pixels, which shows whether the list needs a model at all.

    Args:
        trials: JSON list of a task, such as ``leftright_test.json``.
        task: whose questions the list has.
        images: as in ``Benchmark``.
        dev_fraction: as in ``Benchmark``.
        allow_missing: as in ``Benchmark``.
        variant: as in ``Benchmark``.
    """

    suite = SUITE
    order = 210
    _QUESTION = re.compile(r"Which of the following (is the same as this|contains exactly this object)", re.I)

    def __init__(
        self,
        trials: Path | str,
        task: ImageTask = "left_right",
        images: Path | str | None = None,
        dev_fraction: float | None = None,
        allow_missing: bool = False,
        variant: str = "",
    ) -> None:
        self.name = f"devcv_{task}"
        self.title = {"left_right": "Left/Right", "spatial_details": "Spatial Details"}[task]
        self._wanted = {"left_right": "is the same as this", "spatial_details": "contains exactly this object"}[task]
        super().__init__(trials, images, dev_fraction, allow_missing, variant)
        self.measures = {"accuracy": Measure(chance=1 / 3)}

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each question.

        Raises:
            UserError: a question is not one of the task, or its answer is not one of its options.
        """
        trials = []
        for item in read_items(path):
            found = self._QUESTION.search(item.question)
            if not found or found[1].lower() != self._wanted or len(item.images) < 3:
                raise UserError(f"{path}: {item.name}: not a question of {self.name}: {item.question!r}")
            query, *shown = item.images
            split = split_of(item.row, item.name, self.dev_fraction, path)
            options = tuple((image, query) for image in shown)
            trials.append(Trial(item.name, split, "", options, letter_of(item, len(shown), path)))
        counts = {len(trial.options) for trial in trials}
        if len(counts) > 1:
            raise UserError(f"{path}: questions have {min(counts)} to {max(counts)} options; all need the same number")
        self.measures = {"accuracy": Measure(chance=1 / counts.pop())}
        return trials

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return what a constant, the most frequent answer, and a comparison of pixels reach."""
        return with_most_frequent_answer(super().floors(trials), trials)


def read_items(path: Path) -> list[Item]:
    """Return the questions of a list.

    Raises:
        UserError: the file is not a list of conversations with two turns each.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: is not a list of conversations")
    return [_item(entry, number, path) for number, entry in enumerate(content)]


def _item(entry: Any, number: int, path: Path) -> Item:  # noqa: ANN401 - of a JSON file
    try:
        name = f"{number}:{entry.get('id', '')}"
        turns = entry["conversations"]
        images = entry["image"]
        images = [images] if isinstance(images, str) else images
        if len(turns) != 2:
            raise UserError(
                f"{path}: {name}: a conversation of {len(turns)} turns. Tasks of several turns (Memory) are not "
                "supported: they need a model of many images"
            )
        question, answer = (str(turn["value"]).strip() for turn in turns)
        found = tuple(str(image) for image in images)
        cells = {"image": found[0], **({"half": str(entry["half"])} if "half" in entry else {})}
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: entry {number} has no {first_word(error)}; see docs/how-to/suites.md") from None
    return Item(name, question, answer, found, Row(number, cells))


def first_word(error: Exception) -> str:
    """Return the missing key of an error, or what was expected."""
    return str(error.args[0]) if isinstance(error, KeyError) else "conversations and images"


def letter_of(item: Item, options: int, path: Path) -> int:
    """Return the index of the answer, which is a letter.

    Raises:
        UserError: it is not one of the options.
    """
    letter = item.answer.strip("(). ").upper()
    if len(letter) != 1 or letter not in LETTERS[:options]:
        raise UserError(f"{path}: {item.name}: answer {item.answer!r} is not a letter from A to {LETTERS[options - 1]}")
    return LETTERS.index(letter)


def singular_of(plural: str) -> str:
    """Return the singular of a regular English plural.

    >>> [singular_of(word) for word in ("cups", "boxes", "cherries", "people")]
    ['cup', 'box', 'cherry', 'people']
    """
    if plural.endswith("ies"):
        return f"{plural[:-3]}y"
    if re.search(r"(s|x|z|ch|sh)es$", plural):
        return plural[:-2]
    return plural[:-1] if plural.endswith("s") and not plural.endswith("ss") else plural


def with_most_frequent_answer(
    floors: dict[str, dict[str, float]], trials: Sequence[Trial]
) -> dict[str, dict[str, float]]:
    """Return floors with the share of the most frequent answer, which sees neither image nor question."""
    count = Counter(trial.answer for trial in trials).most_common(1)[0][1]
    floors.setdefault("accuracy", {})["most frequent answer"] = count / len(trials)
    return floors
