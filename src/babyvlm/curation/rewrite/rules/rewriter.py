"""Rewrite a caption as one simple utterance to a two-year-old, or reject it, by rules and a word list.

This rewriter needs no network and no model. It replaces the paper's GPT-4o and is simpler: it names the main
subject of the caption and omits the rest. Its only knowledge of the world is ``toddler_words.txt``.

1. Stock-photo phrases are removed: URLs, image numbers, "vector illustration of", "isolated on white background".
2. The rest is split into phrases at punctuation, function words and verbs. The last word of a phrase is its head, so
   that "dog collar" is about a collar and not about a dog.
3. The first phrase with a listed head is the subject. Of its other words only a listed number, adjective and color
   stay. A listed verb after it stays ("is running"), with its object; otherwise a listed place ("on the grass").
4. One of a few templates, selected by a hash of the caption, gives the utterance: lower-case tokens (``babyvlm.text``),
   at most 15 words and punctuation marks, all of them from the word list or the templates.

Rejected are captions without words; with a word for an adult topic (weapons, alcohol, money, politics, ...); without a
listed noun; and those that are first and mostly about unlisted things.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from dataclasses import dataclass, field

from babyvlm.curation.rewrite.rules.lexicon import Word, lexicon, words_in
from babyvlm.curation.stage import UsualYield

MAX_WORDS = 15  # of "one simple utterance": our choice, twice the length of a mother's usual sentence
USUAL_YIELD = UsualYield(0.05, 0.98, "Look at some captions and utterances: store sample --store OUT")  # our choice
RULES_VERSION = 3  # recorded in each store; increase it with any change of the utterances
MAX_CAPTION = 2000  # characters that are read: the time that NOISE takes grows with their square. Our choice.
TEMPLATES = {
    "singular": ("look {a} !", "see {the} ?", "here is {a} .", "that 's {a} .", "can you see {the} ?", "wow {a} !"),
    "plural": ("look {a} !", "see {the} ?", "here are {a} .", "those are {a} .", "can you see {the} ?", "wow {a} !"),
    "singular verb": (
        "look {the} is {verb} .",
        "{the} is {verb} .",
        "see {the} {verb} !",
        "can you see {the} {verb} ?",
    ),
    "plural verb": (
        "look {the} are {verb} .",
        "{the} are {verb} .",
        "see {the} {verb} !",
        "can you see {the} {verb} ?",
    ),
}
PLACES = frozenset(("in", "on", "under", "near", "behind", "by", "at", "beside", "inside"))
DETERMINERS = ("a", "an", "the", "this", "that", "some", "his", "her", "its", "their", "my", "your", "our")
NOUN_KINDS = ("thing", "mass", "people")
TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")

_KINDS = (
    r"(?:photos?|photographs?|photography|images?|pictures?|pics?|illustrations?|drawings?|vectors?|icons?|"
    r"clip ?arts?|wallpapers?|render(?:ing)?s?|sketch(?:es)?|paintings?|designs?|prints?|posters?|stickers?|emojis?|"
    r"silhouettes?|portraits?|views?|shots?|close ?ups?|footage|artworks?|cartoons?|graphics?|snapshots?)"
)
_STYLES = (
    r"(?:stock|royalty free|free|premium|hd|4k|vector|cartoon|cute|watercolou?r|hand drawn|3d|2d|digital|flat|"
    r"line|simple|macro|aerial|(?:top|side|front|rear)(?= views?)|detailed|high quality|high resolution|original|"
    r"aged|old|black and white|colou?r(?:ful)?|editorial|image|isolated)"
)
_SCENES = (
    r"(?:plain |solid |pure |bright |light |dark |blurred |abstract |transparent |white |black |gr[ae]y |blue |"
    r"colou?red |pastel |studio )*(?:background|backdrop|backgrounds)"
)
NOISE = tuple(
    re.compile(pattern)
    for pattern in (
        r"https?:\S+|www\.\S+|\S+@\S+|\S+\.(?:com|net|org|jpe?g|png|gif|webp)\b|<[^>]*>|#\S+",
        r"\b(?:photo|image|picture|illustration|courtesy) (?:by|credit|courtesy)\b.*$",
        rf"\b(?:(?:{_STYLES}) )*{_KINDS} (?:of|showing|depicting|featuring|with)\b",
        rf"\b(?:isolated )?(?:on|over|against|with|in) (?:an? |the )?{_SCENES}\b",
        r"\bisolated(?: on (?:white|black|transparent))?\b|\bon (?:white|transparent)\b(?! [a-z])|\broyalty free\b",
        rf"\b(?:(?:{_STYLES}) )*{_KINDS}(?: ?(?:no |id )?\d+)?\b",
        r"\b(?:free download|download|for sale|buy now|high (?:resolution|quality)|full hd|eps ?\d*|svg|psd|"
        r"shutterstock|getty images?|istock|alamy|dreamstime|pinterest|etsy|ebay|amazon)\b",
        r"\b\d+ ?(?:px|x ?\d+|mm|cm|mp|k)\b|\b\d{2,}\b",
    )
)


@dataclass(frozen=True)
class Rewrite:
    """Result of rewriting a caption.

    Attributes:
        utterance: the utterance; None if the caption is rejected.
        reason: why the caption is rejected; empty if it is not.
    """

    utterance: str | None
    reason: str


@dataclass(frozen=True)
class NounPhrase:
    """A listed noun with at most a number, an adjective and a color before it.

    Attributes:
        noun: in its singular or plural.
        modifiers: the words before it, in order.
        plural: whether the noun is a plural.
        mass: whether the noun is uncountable.
        counted: whether ``modifiers`` include a number.
    """

    noun: str
    modifiers: tuple[str, ...] = ()
    plural: bool = False
    mass: bool = False
    counted: bool = False

    def with_article(self) -> str:
        """Return the phrase with an indefinite article: "a red ball", "some milk", "two cats", "some cats"."""
        words = " ".join((*self.modifiers, self.noun))
        if self.counted or self.noun == "somebody":
            return words
        if self.plural or self.mass:
            return f"some {words}"
        vowel = words[0] in "aeiou" and not words.startswith("uni")
        return f"{'an' if vowel else 'a'} {words}"

    def with_the(self) -> str:
        """Return the phrase with a definite article: "the red ball"."""
        words = " ".join((*self.modifiers, self.noun))
        return words if self.noun == "somebody" else f"the {words}"


@dataclass
class Parse:
    """The parts of a caption that an utterance can express.

    Attributes:
        subject: None if the caption is rejected.
        verb: -ing form; empty if the caption has no verb.
        object: of the verb.
        place: preposition and noun phrase.
        reason: why the caption is rejected.
    """

    subject: NounPhrase | None = None
    verb: str = ""
    object: NounPhrase | None = None
    place: tuple[str, NounPhrase] | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Chunk:
    """A noun phrase (None if its head is not listed), a verb, or punctuation.

    Attributes:
        kind: ``phrase``, ``verb`` or ``stop``.
        function_word: the function word before it.
        phrase: for a noun phrase.
        verb: -ing form, for a verb.
    """

    kind: str
    function_word: str = ""
    phrase: NounPhrase | None = None
    verb: str = ""


@dataclass
class _Chunker:
    chunks: list[_Chunk] = field(default_factory=list)
    run: list[str] = field(default_factory=list)  # words of the phrase that has not ended yet
    function_word: str = ""

    def end_phrase(self) -> None:
        if self.run:
            self.chunks.append(_Chunk("phrase", self.function_word, _noun_phrase(self.run)))
            self.run, self.function_word = [], ""


def rewrite_caption(caption: str) -> Rewrite:
    """Rewrite a caption, or reject it. A pure function of the caption.

    >>> rewrite_caption("Vector illustration of a red ball, isolated on white background").utterance
    "that 's a red ball ."
    >>> rewrite_caption("A glass of wine").reason
    'adult topic'
    """
    parse = parse_caption(strip_noise(caption))
    if parse.subject is None:
        return Rewrite(None, parse.reason)
    choice = hashlib.sha256(caption.encode("utf-8", "replace")).digest()[0]
    return Rewrite(_compose(parse, parse.subject, choice), "")


def strip_noise(caption: str) -> str:
    """Return the caption in lower case without stock-photo phrases; commas replace them so that phrases do not join."""
    text = unicodedata.normalize("NFKC", html.unescape(caption))[:MAX_CAPTION].lower()
    text = re.sub(r"(?<=\w)['’](?=\w)", "", text)
    text = re.sub(r"(?<=\w)-(?=\w)", " ", text)
    for pattern in NOISE:
        text = pattern.sub(" , ", text)
    return text


def parse_caption(text: str) -> Parse:
    """Parse a caption without noise."""
    tokens = _tokenize(text)
    if not any(token[0].isalpha() for token in tokens):
        return Parse(reason="no words")
    if any(word.kind == "adult" for token in tokens for word in lexicon().get(token, ())):
        return Parse(reason="adult topic")
    chunks = _chunk(tokens)
    phrases = [chunk.phrase for chunk in chunks if chunk.kind == "phrase"]
    listed = sum(phrase is not None for phrase in phrases)
    if not listed:
        return Parse(reason="no word a toddler knows")
    if phrases[0] is None and 2 * listed <= len(phrases):
        return Parse(reason="mostly about other things")
    return _relate(chunks)


def _tokenize(text: str) -> list[str]:
    """Split into words, numbers and punctuation; a listed name of several words is one token."""
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


def _chunk(tokens: list[str]) -> list[_Chunk]:
    chunker = _Chunker()
    for token in tokens:
        entries = lexicon().get(token, ())
        if not token[0].isalnum():
            chunker.end_phrase()
            chunker.chunks.append(_Chunk("stop"))
        elif token in words_in("function_words"):
            chunker.end_phrase()
            if token in PLACES or not chunker.function_word:
                chunker.function_word = token
        elif entries and entries[0].kind == "verb" and token not in words_in("trailing_words"):
            chunker.end_phrase()
            chunker.chunks.append(_Chunk("verb", chunker.function_word, verb=entries[0].text))
            chunker.function_word = ""
        else:
            chunker.run.append(token)
    chunker.end_phrase()
    return chunker.chunks


def _noun_phrase(run: list[str]) -> NounPhrase | None:
    """Return the noun phrase of a run of words, or None if its head is not listed."""
    while len(run) > 1 and run[-1] in words_in("trailing_words"):
        run = run[:-1]
    if any(_kind(word) in NOUN_KINDS for word in run):
        while _kind(run[-1]) in ("color", "adjective"):  # "ball blue" means "blue ball"
            run = [run[-1], *run[:-1]]
    head = next((word for word in lexicon().get(run[-1], ()) if word.kind in NOUN_KINDS), None)
    return _with_modifiers(head, run[:-1]) if head else None


def _with_modifiers(head: Word, before: list[str]) -> NounPhrase:
    number, adjective, color = (
        next((word.text for token in before for word in lexicon().get(token, ()) if word.kind == kind), "")
        for kind in ("number", "adjective", "color")
    )
    if head.kind == "mass" or (number == "one") == head.plural:
        number = ""  # "two milk", "one cats": the number counts something else
    modifiers = tuple(word for word in (number, adjective, color) if word)
    return NounPhrase(head.text, modifiers, head.plural, head.kind == "mass", counted=bool(number))


def _relate(chunks: list[_Chunk]) -> Parse:
    """Find the subject, a verb right after it with its object, and a place."""
    start = next(i for i, chunk in enumerate(chunks) if chunk.phrase)
    parse = Parse(subject=chunks[start].phrase)
    rest = chunks[start + 1 :]
    if rest and rest[0].kind == "verb":
        parse.verb = rest[0].verb
        rest = rest[1:]
        if rest and rest[0].phrase and rest[0].function_word not in PLACES:
            parse.object = rest[0].phrase if rest[0].function_word in ("", *DETERMINERS) else None
            rest = rest[1:]
    if rest and rest[0].phrase and rest[0].function_word in PLACES:
        parse.place = (rest[0].function_word, rest[0].phrase)
    return parse


def _kind(token: str) -> str:
    entries = lexicon().get(token, ())
    return entries[0].kind if entries else ""


def _compose(parse: Parse, subject: NounPhrase, choice: int) -> str:
    """Return the most complete utterance that is not too long: with the place, else with the object, else without."""
    number = "plural" if subject.plural else "singular"
    templates = TEMPLATES[f"{number} verb" if parse.verb else number]
    verbs = [parse.verb]
    if parse.object:
        verbs.insert(0, f"{parse.verb} {parse.object.with_article()}")
    template, sign = templates[choice % len(templates)].rsplit(" ", 1)
    utterances = [template.format(a=subject.with_article(), the=subject.with_the(), verb=verb) for verb in verbs]
    if parse.place:
        preposition, place = parse.place
        utterances.insert(0, f"{utterances[0]} {preposition} the {place.noun}")
    return next(f"{utterance} {sign}" for utterance in utterances if len(utterance.split()) < MAX_WORDS)
