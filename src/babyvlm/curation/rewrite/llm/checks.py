"""Rules that an answer must pass, whatever model wrote it and whatever the caption told that model.

They are applied to the kept answers each time a store is made, so a change of them costs no call.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from babyvlm.curation.rewrite.llm.instructions import described
from babyvlm.curation.rewrite.rules.lexicon import lexicon, read_sections, words_in
from babyvlm.curation.rewrite.rules.rewriter import MAX_WORDS

RULES = 1  # raise it with any change of what passes, so that stores made before are told from those made after
# wordfreq's Zipf scale; 4.0 is ten times in a million words. 7,223 English words reach it: somewhat more than the 5,176
# that SAYCam and the transferred data have at least three times. A toddler's own words (toddler_words.txt) are rarer.
COMMON = 4.0
CODE = re.compile(r"https?:|www\.|\w\.(?:com|net|org|io|ru|xyz)\b|[\\{}<>=`|$%^~@#&*_/\[\]]|\(\)|\w\(|--|;\s*\w+\s*\(")
PUNCTUATION = re.compile(r"[.,!?:;\"“”()…-]+")
APOSTROPHE = re.compile(r"(?<=[a-z])['’](?=[a-z])")
PLAIN = re.compile(r"[a-z]+(?: [a-z]+)*")
ENDINGS = (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""))


def flaw(cleaned: str, utterance: str | None) -> str:
    """Why an utterance cannot be said for a caption; empty if it can.

    Args:
        cleaned: the caption as it was sent.
        utterance: what the model would say.
    """
    if not utterance or not utterance.strip():
        return "nothing said"
    if CODE.search(utterance) or "\n" in utterance.strip():
        return "a URL or code"
    said = plain(utterance)
    if not PLAIN.fullmatch(said):
        return "not plain words"
    return _flaw_of_words(said.split()) or _unsupported(cleaned, said.split())


def plain(utterance: str) -> str:
    """As the transcripts' text: lower case, no punctuation, ``that's`` as ``thats``."""
    return " ".join(PUNCTUATION.sub(" ", APOSTROPHE.sub("", utterance.lower())).split())


def _flaw_of_words(words: list[str]) -> str:
    if len(words) > MAX_WORDS:
        return f"over {MAX_WORDS} words"
    if any(_is_unfit(word) for word in words):
        return "a word that is not for a child"
    return "" if all(_is_usual(word) for word in words) else "a word that no caregiver uses"


def _unsupported(cleaned: str, words: list[str]) -> str:
    """An honest caption supports half of what is said; one that gives orders must support all of it."""
    source, ordered = described(cleaned)
    supporting = frozenset().union(*(_roots(word) for word in re.findall(r"[^\W\d_]+", source)))
    content = [
        word
        for word in words
        if word not in words_in("function_words") and (word not in _words("talk") or root(word) in supporting)
    ]
    supported = sum(root(word) in supporting for word in content)
    if ordered and (not content or supported < len(content)):
        return "the caption gives orders"
    return "" if content and 2 * supported >= len(content) else "not about the caption"


@cache
def _roots(word: str) -> frozenset[str]:
    """What a word of a caption supports: its own root, and those of a name of several words (hotdog -> hot, dog)."""
    parts = (part for entry in lexicon().get(word, ()) for part in entry.text.split())
    return frozenset(root(part) for part in (word, *parts))


@cache
def root(word: str) -> str:
    """One spelling for a word's forms and names: dogs, doggy, puppies -> dog; running -> run."""
    named = next((entry.text for entry in lexicon().get(word, ()) if " " not in entry.text), word)
    return _stem(next((_same()[form] for form in (named, _singular(named)) if form in _same()), named))


def _singular(word: str) -> str:
    return word[:-3] + "y" if word.endswith("ies") else word.removesuffix("s")


def _stem(word: str) -> str:
    for ending, instead in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + instead
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


@cache
def _is_unfit(word: str) -> bool:
    return word in _words("unkind") or any(entry.kind == "adult" for entry in lexicon().get(word, ()))


@cache
def _is_usual(word: str) -> bool:
    from wordfreq import zipf_frequency

    if word in _words("talk") or word in _parts():
        return True
    if len(word) == 1:
        return word in ("a", "i", "o")
    return bool(zipf_frequency(word, "en") >= COMMON)


@cache
def _parts() -> frozenset[str]:
    """Every word in a toddler's names, with the other names of a thing."""
    return frozenset(part for spelling in lexicon() for part in spelling.split()) | frozenset(_same())


@cache
def _same() -> dict[str, str]:
    return dict(item.split("=") for item in _words("same"))


@cache
def _words(section: str) -> frozenset[str]:
    text = files("babyvlm.curation.rewrite.llm").joinpath("caregiver_words.txt").read_text(encoding="utf-8")
    return frozenset(item for name, item in read_sections(text) if name == section)
