"""The words a toddler knows (``toddler_words.txt``), with their word class and their forms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Kind = Literal["thing", "mass", "people", "verb", "color", "adjective", "number", "adult"]
SECTIONS: dict[str, Kind] = {
    "things": "thing",
    "mass": "mass",
    "pairs": "thing",
    "people": "people",
    "numbers": "number",
    "colors": "color",
    "adjectives": "adjective",
    "verbs": "verb",
    "adult_topics": "adult",
}


@dataclass(frozen=True)
class Word:
    """One entry of the lexicon.

    Attributes:
        kind: word class.
        text: the form used in utterances (for a verb, its -ing form).
        plural: whether ``text`` is a plural.
    """

    kind: Kind
    text: str
    plural: bool = False


def plural_of(noun: str) -> str:
    """Return the regular plural of an English noun."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def ing_of(verb: str) -> str:
    """Return the -ing form of a listed verb."""
    if verb in words_in("doubled_consonants"):
        return verb + verb[-1] + "ing"
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    return (verb[:-1] if verb.endswith("e") else verb) + "ing"


def word_list() -> str:
    """Return the text of ``toddler_words.txt``."""
    return files("babyvlm.curation.rewrite.rules").joinpath("toddler_words.txt").read_text(encoding="utf-8")


def read_sections(text: str) -> list[tuple[str, str]]:
    """Return (section, item) of a word list in order: ``[section]`` lines, items between blanks, ``#`` comments."""
    section, items = "", []
    for line in text.splitlines():
        content = line.partition("#")[0].strip()
        if content.startswith("["):
            section = content.strip("[]")
        else:
            items += [(section, item) for item in content.split()]
    return items


@cache
def words_in(section: str) -> frozenset[str]:
    """Return the items of a section of ``toddler_words.txt`` as written."""
    return frozenset(item for name, item in read_sections(word_list()) if name == section)


@cache
def lexicon() -> dict[str, tuple[Word, ...]]:
    """Map each spelling (words joined by blanks) to its entries, in the order of ``SECTIONS``: nouns come first."""
    entries: dict[str, list[Word]] = {}
    items = read_sections(word_list())
    for section, item in items:
        for spelling, word in _spellings(section, item) if section in SECTIONS else []:
            entries.setdefault(spelling, []).append(word)
    plurals = {
        forms[0].text: forms[1] for forms in (_forms(*item) for item in items if item[0] in SECTIONS) if len(forms) == 2
    }
    for synonym, known in (item.replace("_", " ").split("=") for section, item in items if section == "synonyms"):
        for word in entries[known]:
            entries.setdefault(synonym, []).append(word)
            if word.text in plurals:
                entries.setdefault(plural_of(synonym), []).append(plurals[word.text])
    order = list(dict.fromkeys(SECTIONS.values()))
    return {
        spelling: tuple(sorted(dict.fromkeys(words), key=lambda word: order.index(word.kind)))
        for spelling, words in entries.items()
    }


def _forms(section: str, item: str) -> list[Word]:
    """Return the singular and plural of an entry, or one word if they do not differ."""
    singular, _, irregular = item.replace("_", " ").partition(":")
    kind = SECTIONS[section]
    plural = irregular or plural_of(singular)
    if section not in ("things", "people") or plural == singular:
        return [Word(kind, singular, section == "pairs")]
    return [Word(kind, singular), Word(kind, plural, plural=True)]


def _spellings(section: str, item: str) -> list[tuple[str, Word]]:
    """Return every spelling of an entry with its word."""
    words = _forms(section, item)
    base = words[0]
    if base.kind == "verb":
        participle = Word("verb", ing_of(base.text))
        return [(form, participle) for form in (base.text, plural_of(base.text), participle.text)]
    if base.kind == "adult":
        return [(form, base) for form in (base.text, plural_of(base.text))]
    return [(word.text, word) for word in words]
