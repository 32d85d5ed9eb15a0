"""What a caption is about: its phrases with a toddler's word at their head, and who does what where."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from babyvlm.curation.rewrite.rules.lexicon import Word, lexicon, listed

PLACES = frozenset(("in", "on", "under", "near", "behind", "by", "at", "beside", "inside"))
DETERMINERS = ("a", "an", "the", "this", "that", "some", "his", "her", "its", "their", "my", "your", "our")
TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
NAMES = ("thing", "mass", "people")


@dataclass(frozen=True)
class Phrase:
    """A name a child knows, with at most a number, a describing word and a colour before it.

    Attributes:
        name: the thing, in its singular or plural.
        before: the words that stay, in the order in which they are said.
        plural: more than one.
        mass: cannot be counted.
        counted: a number is among ``before``.
    """

    name: str
    before: tuple[str, ...] = ()
    plural: bool = False
    mass: bool = False
    counted: bool = False

    @property
    def _words(self) -> str:
        return " ".join((*self.before, self.name))

    def with_article(self) -> str:
        """``a red ball``, ``some milk``, ``two cats``, ``some cats``."""
        if self.counted or self.name == "somebody":
            return self._words
        if self.plural or self.mass:
            return f"some {self._words}"
        vowel = self._words[0] in "aeiou" and not self._words.startswith("uni")
        return f"{'an' if vowel else 'a'} {self._words}"

    def with_the(self) -> str:
        """``the red ball``."""
        return self._words if self.name == "somebody" else f"the {self._words}"


@dataclass
class Reading:
    """What was understood of a caption; without a subject, ``reason`` says why."""

    subject: Phrase | None = None
    action: str = ""
    object: Phrase | None = None
    place: tuple[str, Phrase] | None = None
    reason: str = ""


@dataclass
class _Pieces:
    """A caption cut up: each piece is (what it is, the small word before it, its phrase or -ing form)."""

    found: list[tuple[str, str, Phrase | str | None]] = field(default_factory=list)
    run: list[str] = field(default_factory=list)
    small: str = ""

    def end_run(self) -> None:
        if self.run:
            self.found.append(("phrase", self.small, _phrase(self.run)))
            self.run, self.small = [], ""


def read_caption(text: str) -> Reading:
    """Understand a caption from which the noise is stripped."""
    tokens = _tokens(text)
    if not any(token[0].isalpha() for token in tokens):
        return Reading(reason="no words")
    if any(word.kind == "grown_up" for token in tokens for word in lexicon().get(token, ())):
        return Reading(reason="grown-up matter")
    pieces = _cut(tokens)
    phrases = [phrase for kind, _, phrase in pieces if kind == "phrase"]
    known = sum(phrase is not None for phrase in phrases)
    if not known:
        return Reading(reason="nothing a toddler knows")
    if phrases[0] is None and 2 * known <= len(phrases):
        return Reading(reason="mostly about other things")
    return _relate(pieces)


def _tokens(text: str) -> list[str]:
    """Words, numbers and signs; a listed name of several words is one token."""
    single = TOKEN.findall(text)
    tokens = []
    start = 0
    while start < len(single):
        spans = (single[start : start + length] for length in (3, 2))
        span = next(
            (span for span in spans if len(span) > 1 and " ".join(span) in lexicon()), single[start : start + 1]
        )
        tokens.append(" ".join(span))
        start += len(span)
    return tokens


def _cut(tokens: list[str]) -> list[tuple[str, str, Phrase | str | None]]:
    pieces = _Pieces()
    for token in tokens:
        kinds = lexicon().get(token, ())
        if not token[0].isalnum():
            pieces.end_run()
            pieces.found.append(("stop", "", None))
        elif token in listed("small"):
            pieces.end_run()
            pieces.small = token if token in PLACES or not pieces.small else pieces.small
        elif kinds and kinds[0].kind == "action" and token not in listed("afterthoughts"):
            pieces.end_run()
            pieces.found.append(("action", pieces.small, kinds[0].text))
            pieces.small = ""
        else:
            pieces.run.append(token)
    pieces.end_run()
    return pieces.found


def _phrase(run: list[str]) -> Phrase | None:
    """The phrase of a run of words, or None if its head is not listed."""
    while len(run) > 1 and run[-1] in listed("afterthoughts"):
        run = run[:-1]
    if any(_kind(word) in NAMES for word in run):
        while _kind(run[-1]) in ("colour", "describing"):  # "ball blue" is "blue ball"
            run = [run[-1], *run[:-1]]
    head = next((word for word in lexicon().get(run[-1], ()) if word.kind in NAMES), None)
    return _describe(head, run[:-1]) if head else None


def _describe(head: Word, before: list[str]) -> Phrase:
    kept = {}
    for kind in ("number", "describing", "colour"):
        kept[kind] = next((word.text for token in before for word in lexicon().get(token, ()) if word.kind == kind), "")
    number = kept["number"]
    if head.kind == "mass" or (number == "one") == head.plural:
        number = ""  # "two milk", "one cats": the number counts something else
    words = tuple(word for word in (number, kept["describing"], kept["colour"]) if word)
    return Phrase(head.text, words, head.plural, head.kind == "mass", counted=bool(number))


def _relate(pieces: list[tuple[str, str, Phrase | str | None]]) -> Reading:
    """Subject, then an action with its object right after it, or a place."""
    start = next(i for i, (_, _, piece) in enumerate(pieces) if isinstance(piece, Phrase))
    reading = Reading(subject=pieces[start][2])  # type: ignore[arg-type]  # a Phrase: the line above found it
    rest = pieces[start + 1 :]
    if rest and rest[0][0] == "action":
        reading.action = str(rest[0][2])
        rest = rest[1:]
        if rest and isinstance(rest[0][2], Phrase) and rest[0][1] not in PLACES:
            reading.object = rest[0][2] if rest[0][1] in ("", *DETERMINERS) else None
            rest = rest[1:]
    if rest and isinstance(rest[0][2], Phrase) and rest[0][1] in PLACES:
        reading.place = (rest[0][1], rest[0][2])
    return reading


def _kind(token: str) -> str:
    found = lexicon().get(token, ())
    return found[0].kind if found else ""
