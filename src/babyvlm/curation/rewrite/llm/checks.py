"""Rules that every answer must satisfy, whatever the model wrote and whatever the caption told the model to write.

They are applied to the stored answers each time a store is written, so changing them costs no call.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from babyvlm.curation.rewrite.rules.lexicon import lexicon, read_sections, words_in
from babyvlm.curation.rewrite.rules.rewriter import MAX_WORDS, rewrite_caption

RULES_VERSION = 4  # recorded in each store; increase it with any change of what is accepted
# On wordfreq's Zipf scale; 4.0 is 10 occurrences per million words. 7,223 English words reach it, somewhat more than
# the 5,176 that SAYCam and the transferred data have at least three times. Words in toddler_words.txt may be rarer.
COMMON_WORD = 4.0
CODE = re.compile(r"https?:|www\.|\w\.(?:com|net|org|io|ru|xyz)\b|[\\{}<>=`|$%^~@#&*_/\[\]]|\(\)|\w\(|--|;\s*\w+\s*\(")
PUNCTUATION = re.compile(r"[.,!?:;\"“”'’()…–—-]+")
# An apostrophe inside of a word, and the blank before a clitic in tokenized text (`babyvlm.text`).
CLITIC = re.compile(r"(?<=[a-z])['’](?=[a-z])|(?<=[a-z]) (?=n['’]t\b)|(?<=[a-z]) ['’](?=(?:s|m|d|re|ve|ll)\b)")
APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
PLAIN_WORDS = re.compile(r"[a-z]+(?: [a-z]+)*")
OTHER_SUBJECT = "does not name the subject of the caption"
CONTAINER = re.compile(r"(\w+) of (?:(?:a|an|the|some)\s)?(\w+)")  # "jar of honey": either word names the subject
SUFFIXES = (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""))

CLAUSE_END = re.compile(r"[.!?;:,\n()\[\]{}|/\\*#=~_…]+|\s[-–—]+\s")
QUOTED = re.compile(r"[\"“”«»„][^\"“”«»„]*(?:[\"“”«»„]|$)|(?<!\w)['‘`][^'‘’`]*(?:['’`]|$)")
# Words addressed to a model, anywhere in a clause, and commands at the beginning of a clause. Stems cover Romance and
# Germanic spellings (ignorez, instrucciones, Anweisung). Our choice, from common prompt injections.
ADDRESSES_MODEL = re.compile(
    r"""\b(?:
    ignor\w* | disregard\w* | overrid\w* | bypass\w* | instru[ckz]\w* | anweisung\w* | istruzion\w* | prompts?
    | assistant\w* | chat\ ?bots? | language\ models? | llms? | gpt\w* | ai | jailbr\w* | role\ ?play\w* | pretend\w*
    | utteranc\w* | json | irrelevant | relevant | user | instead
    | system\ (?:message|update|override|mode|note) | (?:developer|admin|debug|god)\ mode
    | you\ (?:are|re|must|should|will|shall|have\ to|need\ to|may|can)
    | your\ (?:new\ |real\ |only\ )?
      (?:task|job|role|goal|orders?|output|answer|reply|response|rules?|name|guidelines)
    | new\ (?:task|rules?|orders?)
    | (?:previous|above|earlier|prior|following|next)\ (?:text|rules?|orders?|message|words?|sentences?|line|task)
    | end\ of\ (?:the\ )?(?:caption|text|input|data) | models?\ (?:must|should|has\ to)
    | (?:the|correct|right|final|expected|only)\ (?:answer|output|reply|response)
    )\b""",
    re.VERBOSE,
)
COMMAND = re.compile(
    r"""^(?:(?:please|now|then|and|but|just|only|also|first|so|simply|always|never|kindly|you|to|system|model|bot|robot)\b|[\W\d])*
    (?:say|tell|reply|respond|output|answer|print|repeat|write|return|translate|act|forget|stop|speak|shout|echo
    | execute|append|insert|decode|complete|continue|obey|swap|replace|switch|report|call\ it|mark\ (?:this|it)|set
    | do\ not|don\ t|dont|never|sag|di|dis|dites|zeg|skriv|schreib\w*|escrib\w*|responde\w*|antwort\w*|repond\w*)\b""",
    re.VERBOSE,
)


def rejection_reason(cleaned: str, utterance: str | None) -> str:  # noqa: PLR0911 - one rule after the other
    """Return why an utterance is not acceptable for a caption; empty if it is.

    Args:
        cleaned: the caption as sent.
        utterance: the model's utterance.
    """
    if not utterance or not utterance.strip():
        return "empty utterance"
    if CODE.search(utterance) or "\n" in utterance.strip():
        return "contains a URL or code"
    text = plain_words(utterance)
    if not PLAIN_WORDS.fullmatch(text):
        return "not plain words"
    words = text.split()
    if len(words) > MAX_WORDS:
        return f"longer than {MAX_WORDS} words"
    if any(_is_unsuitable(word) for word in words):
        return "unsuitable word"
    if not all(_is_familiar(word) for word in words):
        return "uncommon word"
    return _unsupported(cleaned, words) or ("" if _names_subject(cleaned, words) else OTHER_SUBJECT)


def plain_words(utterance: str) -> str:
    """Return the words of an utterance: lower case, no punctuation, "that's" and "that 's" as "thats".

    >>> plain_words("Look — that's the kids' ball!")
    'look thats the kids ball'
    """
    return " ".join(PUNCTUATION.sub(" ", CLITIC.sub("", utterance.lower())).split())


def description_of(cleaned: str) -> tuple[str, bool]:
    """Return the descriptive part of a caption, and whether the caption contains instructions.

    Quoted text is text in the image, not a description of it. From the first clause that addresses a model, nothing
    counts: the words after an instruction are those it wants in the answer. An instruction that is recognized only
    across clauses leaves nothing.
    """
    kept: list[str] = []
    text = APOSTROPHE.sub(" ", cleaned.lower())
    for clause in CLAUSE_END.split(QUOTED.sub(" . ", text)):
        if COMMAND.search(clause.strip()) or ADDRESSES_MODEL.search(clause):
            return " ".join(kept), True
        kept.append(clause)
    return ("", True) if ADDRESSES_MODEL.search(text) else (" ".join(kept), False)


def _unsupported(cleaned: str, words: list[str]) -> str:
    """Require that the caption supports half of the content words, or all of them if it contains instructions."""
    description, has_instructions = description_of(cleaned)
    supporting = _roots(description)
    content = _content(words, supporting)
    supported = sum(word_root(word) in supporting for word in content)
    if has_instructions and (not content or supported < len(content)):
        return "caption contains instructions"
    return "" if content and 2 * supported >= len(content) else "not supported by the caption"


def _names_subject(cleaned: str, words: list[str]) -> bool:
    """Return whether an utterance names what the offline rewriter takes for the subject of the caption.

    An instruction follows the description in most injections, and the words that it dictates are not the subject. If
    the rewriter finds no subject, the utterance must be about the first clause that has content words: half of its
    content words must come from it. docs/how-to/rewriting.md has the measured effect.
    """
    caption = QUOTED.sub(" . ", APOSTROPHE.sub(" ", cleaned.lower()))
    utterance = rewrite_caption(caption).utterance
    if utterance is None:
        clauses = (_roots(clause) for clause in CLAUSE_END.split(caption) if _content(clause.split(), frozenset()))
        first = next(clauses, frozenset())
        content = _content(words, first)
        return 2 * sum(word_root(word) in first for word in content) >= len(content) > 0
    supporting = _roots(caption)
    subject = {word_root(word) for word in _content(utterance.split(), supporting)} & supporting
    contents = {word_root(held) for holder, held in CONTAINER.findall(caption) if word_root(holder) in subject}
    return not (subject | contents).isdisjoint(map(word_root, words))


def _roots(text: str) -> frozenset[str]:
    return frozenset().union(*(_caption_roots(word) for word in re.findall(r"[^\W\d_]+", text)))


def _content(words: list[str], supporting: frozenset[str]) -> list[str]:
    """Return the content words; words of conversation count only if the caption supports them."""
    return [
        word
        for word in words
        if word not in words_in("function_words")
        and (word not in _words("conversation") or word_root(word) in supporting)
    ]


@cache
def _caption_roots(word: str) -> frozenset[str]:
    """Return the roots that a caption's word supports: its own, and those of a compound name (hotdog -> hot, dog)."""
    parts = (part for entry in lexicon().get(word, ()) for part in entry.text.split())
    return frozenset(word_root(part) for part in (word, *parts))


@cache
def word_root(word: str) -> str:
    """Return one spelling for the forms and synonyms of a word: dogs, doggy, puppies -> dog; running -> run."""
    known = next((entry.text for entry in lexicon().get(word, ()) if " " not in entry.text), word)
    singular = known[:-3] + "y" if known.endswith("ies") else known.removesuffix("s")
    return _stem(next((_synonyms()[form] for form in (known, singular) if form in _synonyms()), known))


def _stem(word: str) -> str:
    for suffix, replacement in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)] + replacement
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


@cache
def _is_unsuitable(word: str) -> bool:
    return word in _words("unsuitable") or any(entry.kind == "adult" for entry in lexicon().get(word, ()))


@cache
def _is_familiar(word: str) -> bool:
    from wordfreq import zipf_frequency

    if word in _words("conversation") or word in _toddler_words():
        return True
    if len(word) == 1:
        return word in ("a", "i", "o")
    return bool(zipf_frequency(word, "en") >= COMMON_WORD)


@cache
def _toddler_words() -> frozenset[str]:
    """Return every single word of the toddler's lexicon, with the synonyms."""
    return frozenset(part for spelling in lexicon() for part in spelling.split()) | frozenset(_synonyms())


@cache
def _synonyms() -> dict[str, str]:
    return dict(item.split("=") for item in _words("synonyms"))


@cache
def _words(section: str) -> frozenset[str]:
    text = files("babyvlm.curation.rewrite.llm").joinpath("caregiver_words.txt").read_text(encoding="utf-8")
    return frozenset(item for name, item in read_sections(text) if name == section)
