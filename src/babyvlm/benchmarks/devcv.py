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
from string import Formatter
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
MOST = 12  # the largest number of things in the public samples

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
        fields: what a template may contain.
    """

    title: str
    question: re.Pattern[str]
    template: str
    fields: tuple[str, ...] = ("word",)

    def word(self, question: str) -> str:
        """Return what a question is about; empty if it is no question of the task."""
        found = self.question.search(question)
        return found[1].partition("/")[0].strip().lower() if found else ""  # `rug/carpet`


_TASKS: Mapping[TextTask, _Task] = {
    "picture_vocabulary": _Task(
        # The quotation mark that closes is the one before the options: `'rubik's cube' (A)`.
        "Picture Vocabulary",
        re.compile(r"Touch the image of '(.+?)'(?=[\s.?!]*(?:\(A\)|$))", re.I),
        "{word}",
    ),
    "localization": _Task(
        "Localization", re.compile(r"Point at the (.+?)\. Is it in", re.I), "{word}", ("word", "place")
    ),
    "counting": _Task(
        "Counting", re.compile(r"How many (.+?) do you see", re.I), "{number} {word}", ("word", "number")
    ),
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

    Raises:
        UserError: the template lacks ``{word}``, or contains something else than the fields above.
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
        self._check_template()
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

    def _check_template(self) -> None:
        allowed = self._rules.fields
        try:
            found = [part[1:] for part in Formatter().parse(self.template) if part[1] is not None]
        except ValueError as error:
            raise UserError(f"template {self.template!r}: {error}") from None
        if wrong := [name for name, *others in found if name not in allowed or any(others)]:
            names = " and ".join(f"{{{name}}}" for name in allowed)
            raise UserError(f"template {self.template!r}: {wrong[0]!r} is not a field of {self.task}; there is {names}")
        if "word" not in {name for name, *_ in found}:
            raise UserError(f"template {self.template!r}: must contain {{word}}")

    def _number(self, item: Item, path: Path) -> int:
        if not item.answer.isdecimal() or not 1 <= int(item.answer) <= len(NUMBERS):
            raise UserError(f"{path}: {item.name}: answer {item.answer!r} is not a number from 1 to {len(NUMBERS)}")
        return int(item.answer)

    def _word(self, item: Item, path: Path) -> str:
        word = self._rules.word(item.question)
        if not word:
            raise UserError(f"{path}: {item.name}: not a question of {self.task}: {item.question!r}")
        return word

    def _trial(self, item: Item, word: str, path: Path, top: int) -> Trial:
        wanted = self.images_of_question(len(item.images))
        if len(item.images) != wanted:
            raise UserError(f"{path}: {item.name}: has {len(item.images)} images; {self.task} needs {wanted}")
        options = self.options(word, item.images, top)
        answer = int(item.answer) - 1 if self.task == "counting" else letter_of(item, len(options), path)
        split = split_of(item.row, item.name, self.dev_fraction, path)
        category = item.answer if self.task == "counting" else ""
        return Trial(item.name, split, category, tuple(options), answer)

    def images_of_question(self, shown: int) -> int:
        """Return how many images a question needs, given how many it shows."""
        if self.task == "comparison":
            return 2
        return 4 if self.task == "picture_vocabulary" and shown != 1 else 1

    def options(self, word: str, images: Sequence[str], top: int = MOST) -> list[ImageText]:
        """Return what is scored for each answer, in the order of the letters or numbers.

        Args:
            word: what the question is about.
            images: as many as ``images_of_question``.
            top: largest number, for counting.
        """
        if self.task == "counting":
            one = singular_of(word)
            return [
                (images[0], self.template.format(word=one if number == "one" else word, number=number))
                for number in NUMBERS[:top]
            ]
        if self.task == "localization" and "{place}" in self.template:
            return [(images[0], self.template.format(word=word, place=place)) for place in QUADRANTS]
        text = self.template.format(word=word)
        parts = [part_of(images[0], place) for place in QUADRANTS] if len(images) == 1 else images
        return [(image, text) for image in parts]

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return what a constant, and the most frequent answer, reach without an image."""
        return with_most_frequent_answer(super().floors(trials), trials)

    def facts(self) -> dict[str, str]:
        """Return the template, if it is not the default."""
        return {} if self.template == self._rules.template else {"options": f"template {self.template!r}"}


class DevCVMatching(ImageChoice):
    """Correct if the option that is the same as the first image is most similar to it.

    Chance is 1/3 for three options. Questions may have different numbers of options, as those of the public sample of
    the NIH Toolbox do; chance is then the mean over the questions.

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
    QUESTION = re.compile(r"Which of the following (is the same as this|contains exactly this object)", re.I)

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
            found = self.QUESTION.search(item.question)
            if not found or found[1].lower() != self._wanted or not 3 <= len(item.images) <= len(LETTERS) + 1:
                raise UserError(f"{path}: {item.name}: not a question of {self.name}: {item.question!r}")
            split = split_of(item.row, item.name, self.dev_fraction, path)
            options = self.options(item.images)
            trials.append(Trial(item.name, split, "", tuple(options), letter_of(item, len(options), path)))
        self.measures = {"accuracy": Measure(chance=sum(1 / len(one.options) for one in trials) / len(trials))}
        return trials

    @staticmethod
    def options(images: Sequence[str]) -> list[ImageText]:
        """Return pairs of each option with the first image, which is the query."""
        query, *shown = images
        return [(image, query) for image in shown]

    def floors(self, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
        """Return what a constant, the most frequent answer, and a comparison of pixels reach."""
        return with_most_frequent_answer(super().floors(trials), trials)


@dataclass(frozen=True)
class Question:
    """A question of the Toolbox that a model of single images can answer, without the right answer.

    Attributes:
        answers: letters or numbers.
        options: what is scored for each answer: an image and a text, or two images.
        compares_images: whether it is two images.
    """

    answers: tuple[str, ...]
    options: tuple[ImageText, ...]
    compares_images: bool = False


def question_of(text: str, images: Sequence[str]) -> Question | None:
    """Return the question that a prompt asks about some images; None if it is of no task here.

    >>> question_of("<image> How many cups do you see?", ["a.jpg"]).options[1]
    ('a.jpg', 'two cups')
    """
    for task, rules in _TASKS.items():
        word, benchmark = rules.word(text), DevCV("", task)
        if word and len(images) == benchmark.images_of_question(len(images)):
            options = tuple(benchmark.options(word, images))
            letters = LETTERS if task != "counting" else [str(number + 1) for number in range(len(options))]
            return Question(tuple(letters[: len(options)]), options)
    if DevCVMatching.QUESTION.search(text) and 3 <= len(images) <= len(LETTERS) + 1:
        return Question(tuple(LETTERS[: len(images) - 1]), tuple(DevCVMatching.options(images)), compares_images=True)
    return None


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
