"""A toddler's words: what each is, and how one says one or many of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Kind = Literal["thing", "mass", "people", "action", "colour", "describing", "number", "grown_up"]
SECTIONS: dict[str, Kind] = {
    "things": "thing",
    "mass": "mass",
    "pairs": "thing",
    "people": "people",
    "numbers": "number",
    "colours": "colour",
    "describing": "describing",
    "actions": "action",
    "grown_up": "grown_up",
}


@dataclass(frozen=True)
class Word:
    """One entry.

    Attributes:
        kind: what sort of word it is.
        text: how it is said (for an action, its -ing form).
        plural: whether ``text`` means more than one.
    """

    kind: Kind
    text: str
    plural: bool = False


def plural_of(noun: str) -> str:
    """The regular plural of an English noun."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def ing_of(verb: str) -> str:
    """The -ing form of a listed verb."""
    if verb in listed("doubling"):
        return verb + verb[-1] + "ing"
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    return (verb[:-1] if verb.endswith("e") else verb) + "ing"


def source_text() -> str:
    """The list as shipped."""
    return files("babyvlm.curation.rewrite.rules").joinpath("toddler_words.txt").read_text(encoding="utf-8")


@cache
def listed(section: str) -> frozenset[str]:
    """The items of a section as they stand."""
    return frozenset(item for name, item in sections(source_text()) if name == section)


@cache
def lexicon() -> dict[str, tuple[Word, ...]]:
    """Spelling (words joined by a space) -> what it may be: a name before a describing word before an action."""
    entries: dict[str, list[Word]] = {}
    items = sections(source_text())
    for section, item in items:
        for spelling, word in _spellings(section, item) if section in SECTIONS else []:
            entries.setdefault(spelling, []).append(word)
    plural = {
        pair[0].text: pair[1] for pair in (_forms(*entry) for entry in items if entry[0] in SECTIONS) if len(pair) == 2
    }
    for spelling, said in (item.split("=") for section, item in items if section == "said_as"):
        for word in entries[said.replace("_", " ")]:
            entries.setdefault(spelling.replace("_", " "), []).append(word)
            if word.text in plural:
                entries.setdefault(plural_of(spelling).replace("_", " "), []).append(plural[word.text])
    order = list(dict.fromkeys(SECTIONS.values()))
    return {
        spelling: tuple(sorted(dict.fromkeys(words), key=lambda word: order.index(word.kind)))
        for spelling, words in entries.items()
    }


def sections(text: str) -> list[tuple[str, str]]:
    """(section, item) of a list like ours, in its order: ``[section]`` lines, items between blanks, ``#`` remarks."""
    section, items = "", []
    for line in text.splitlines():
        content = line.partition("#")[0].strip()
        if content.startswith("["):
            section = content.strip("[]")
        else:
            items += [(section, item) for item in content.split()]
    return items


def _forms(section: str, item: str) -> list[Word]:
    """One and many of an entry; a single word if it has no two forms."""
    singular, _, irregular = item.replace("_", " ").partition(":")
    kind = SECTIONS[section]
    many = irregular or plural_of(singular)
    if section not in ("things", "people") or many == singular:
        return [Word(kind, singular, section == "pairs")]
    return [Word(kind, singular), Word(kind, many, plural=True)]


def _spellings(section: str, item: str) -> list[tuple[str, Word]]:
    """Every way an entry may be written, with what it is."""
    words = _forms(section, item)
    base = words[0]
    if base.kind == "action":
        said = Word("action", ing_of(base.text))
        return [(form, said) for form in (base.text, plural_of(base.text), said.text)]
    if base.kind == "grown_up":
        return [(form, base) for form in (base.text, plural_of(base.text))]
    return [(word.text, word) for word in words]
