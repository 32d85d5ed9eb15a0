"""Caption -> one simple utterance to a two-year-old, or "not for a baby", by rules and a word list.

This rewriter needs no network and no model. It stands in for the paper's GPT-4o, and it is plainer: it says what the
caption is mainly about and leaves the rest away. ``toddler_words.txt`` is all it knows of the world.

How a caption is simplified:

1. Stock-photo talk goes: addresses, numbers of pictures, "vector illustration of", "isolated on white background".
2. The rest is cut into phrases at punctuation, small words and verbs. The last word of a phrase is its head, so
   "dog collar" is about a collar and no dog.
3. The first phrase with a listed head is the subject. Of its other words only a listed number, size or feel, and
   colour stay. A listed verb after it stays ("is running"), with its object; else a listed place ("on the grass").
4. One of a few ways of talking to a child, chosen by a hash of the caption, makes the utterance: lower case, without
   punctuation (as the transcripts' text), at most 15 words, every one of them from the list or ``WAYS``.

What is dropped: captions without words; with a grown-up word (weapons, drink, money, politics, ...); with nothing
listed; and those that are about unlisted things first and mostly.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from dataclasses import dataclass

from babyvlm.curation.rewrite.rules.phrases import Phrase, Reading, read_caption

MAX_WORDS = 15  # the brief of "one simple utterance": our choice, twice the length of a mother's usual sentence
FIELD = "original_caption"  # where a rewritten store keeps the caption as it was, whichever way it was rewritten
RULES = 1  # raise it with any change of what is said, so that stores made before are told from those made after
WAYS = {
    "one": ("look {a}", "see {the}", "here is {a}", "thats {a}", "can you see {the}", "wow {a}"),
    "many": ("look {a}", "see {the}", "here are {a}", "those are {a}", "can you see {the}", "wow {a}"),
    "doing": ("look {the} is {act}", "{the} is {act}", "see {the} {act}", "can you see {the} {act}"),
    "all doing": ("look {the} are {act}", "{the} are {act}", "see {the} {act}", "can you see {the} {act}"),
}
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
class Rewritten:
    """What became of a caption.

    Attributes:
        relevant: whether it has to do with a baby's day.
        utterance: what to say; None if it is not relevant.
        reason: why it is not; empty if it is.
    """

    relevant: bool
    utterance: str | None
    reason: str


def rewrite_caption(caption: str) -> Rewritten:
    """Say a caption to a two-year-old, or say why not. A pure function: the same caption always gives the same."""
    reading = read_caption(strip_noise(caption))
    if reading.subject is None:
        return Rewritten(False, None, reading.reason)
    return Rewritten(
        True, _say(reading, reading.subject, hashlib.sha256(caption.encode("utf-8", "replace")).digest()[0]), ""
    )


def strip_noise(caption: str) -> str:
    """Lower case, without what stock-photo sites add; what is cut out leaves a comma, so that phrases do not join."""
    text = unicodedata.normalize("NFKC", html.unescape(caption)).lower()
    text = re.sub(r"(?<=\w)['’](?=\w)", "", text)
    text = re.sub(r"(?<=\w)-(?=\w)", " ", text)
    for pattern in NOISE:
        text = pattern.sub(" , ", text)
    return text


def _say(reading: Reading, subject: Phrase, choice: int) -> str:
    """The fullest utterance that is not too long: with the place, else with the object, else bare."""
    act, place = reading.action, reading.place
    ways = WAYS[("all doing" if subject.plural else "doing") if act else ("many" if subject.plural else "one")]
    tails = [act]
    if reading.object:
        tails.insert(0, f"{act} {reading.object.with_article()}")
    said = [
        ways[choice % len(ways)].format(a=subject.with_article(), the=subject.with_the(), act=tail) for tail in tails
    ]
    if place:
        said.insert(0, f"{said[0]} {place[0]} the {place[1].name}")
    return next(text for text in said if len(text.split()) <= MAX_WORDS)
