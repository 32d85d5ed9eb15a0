"""Generate text: child-directed speech and web captions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from babyvlm.playroom.modifiers import NUMBERS

if TYPE_CHECKING:
    import random

    from babyvlm.playroom.topics import Topic

_SINGULAR = (
    "look at the {x}",
    "look at that {x}",
    "do you see the {x}?",
    "see the {x}?",
    "where's the {x}?",
    "there's the {x}",
    "that's {ax}",
    "this is {ax}",
    "it's {ax}",
    "here's the {x}",
    "here's your {x}",
    "you want the {x}?",
    "do you want the {x}?",
    "can you say {x}?",
    "is that your {x}?",
    "is that {ax}?",
    "can you get the {x}?",
    "give mommy the {x}",
    "you found the {x}",
    "I see {ax}",
    "what a nice {x}",
    "the {x}",
    "{ax}",
    "{x}",
    "yes {ax}",
    "you like the {x}",
    "let's find the {x}",
    "that's your {x}",
    "where did the {x} go?",
    "we have {ax}",
)
_PLURAL = (
    "look at the {x}",
    "do you see the {x}?",
    "see {x}?",
    "where are the {x}?",
    "there are the {x}",
    "those are {x}",
    "here are {x}",
    "you have {x}",
    "I see {x}",
    "{x}",
    "look {x}",
    "we have {x}",
    "you want {x}?",
    "yes {x}",
    "let's find {x}",
    "can you say {x}?",
)
_PROPERTY = ("the {n} is {a}", "your {n} is {a}", "see how {a} the {n} is?")
_FORMAL = {"little": ("small", "little", "tiny"), "big": ("big", "large"), "huge": ("huge", "giant")}
_ACTION = (
    "let's {v} the {n}",
    "{v} the {n}",
    "we're {ing} the {n}",
    "are you {ing} the {n}?",
    "mommy is {ing} the {n}",
    "can you {v} the {n}?",
    "do you want to {v} the {n}?",
    "you {v} the {n}",
    "we {v} the {n}",
    "time to {v} the {n}",
    "do we {v} the {n}?",
    "I'm going to {v} the {n}",
    "you like {ing} the {n}",
    "go {v} the {n}",
    "{v} {n}",
)
_OPENERS = ("oh ", "okay ", "look ", "hey ", "so ", "and ", "now ", "yeah ", "well ")
_CLOSERS = (" sweetie", " buddy", " huh", " okay", " right", " my love")
# Speech that names no thing; its share is set in home.py.
_SMALL_TALK = (
    "okay",
    "oh no",
    "good job",
    "are you tired?",
    "hi sweetie",
    "what's that?",
    "come here",
    "all done",
    "uh oh",
    "yeah",
    "what are you doing?",
    "no no no",
    "are you ready?",
    "here you go",
    "thank you",
    "wow",
    "you're so silly",
    "peekaboo",
    "I love you",
    "let's go",
    "one more time",
    "almost",
    "shall we go outside?",
    "is that yummy?",
    "do you need help?",
    "up we go",
    "be careful",
    "it's hot",
    "what else?",
    "there you go",
    "good morning",
    "are you hungry?",
    "hold on",
    "it's okay",
    "where are we going?",
    "I don't know",
    "that's right",
    "again?",
    "daddy's coming home",
    "say bye bye",
    "you did it",
    "don't cry",
    "one two three go",
    "is it big?",
    "so soft",
)
_BABBLE = ("baba", "da", "mmm", "ah", "gaga", "uh", "no", "mama", "ba ba ba", "eh", "dis", "*cries*", "[babbling]")

_WEB = (
    "{np}",
    "{Np}",
    "Vector illustration of {np}, isolated on white background",
    "{Np} - stock photo {id}",
    "Stock photo: {np}",
    "{Np} royalty free image #{id}",
    "cute cartoon {bare} clip art",
    "{Bare} icon {px}x{px}",
    "Close-up of {np} against a plain backdrop",
    "Hand drawn {bare}, sticker design EPS 10",
    "Illustration of {np}",
    "{np} isolated on white",
    "{Bare} vector art ({id})",
    "Flat {bare} design, {px}px",
    "{bare} {id}.jpg",
    "{Np} | premium download",
    "Simple drawing showing {np}",
    "Picture of {np} for print and web use",
    "{Np} high resolution {px} x {px}",
    "Colourful {bare} graphic",
)
_BUSINESS = (
    "{Np} concept for business presentation",
    "{Bare} symbol, corporate brochure template",
    "{Np}, industry and trade",
    "Infographic with {np} and quarterly figures",
    "{Np} - professional supplies catalogue item {id}",
)
_JUNK = (
    "IMG_{id}.JPG",
    "Click image to enlarge",
    "Free shipping on orders over $50",
    "Photo taken on 12/03/2014",
    "3 bedroom house for sale with parking",
    "Quarterly results beat analyst expectations",
    "untitled-{id}",
    "Top 10 tips to grow your online business",
    "Members of the committee meet in the capital",
    "Copyright {id} all rights reserved",
    "The minister answers questions about the new tax law",
    "Related posts: mortgage rates this week",
    "Add to cart",
    "page {id} of the annual report",
)


def article(words: str, counted: bool = True) -> str:
    """Put ``a``, ``an``, or for what is not counted ``some`` before words, or nothing if they start with a number."""
    if not counted:
        return f"some {words}"
    first = words.split(" ", 1)[0]
    if first in NUMBERS:
        return words
    vowel = first[0] in "aeio" or (first[0] == "u" and not first.startswith("uni"))
    return f"an {words}" if vowel else f"a {words}"


def child_directed_sentence(topic: Topic, rng: random.Random) -> str:
    """Return a parent's sentence about a topic, in lower case, with a question mark if it is a question."""
    if topic.verb:
        text = rng.choice(_ACTION).format(v=topic.verb.name, ing=topic.verb.ing, n=topic.noun.name)
    elif topic.modifier and topic.count == 1 and rng.random() < 0.2:
        text = rng.choice(_PROPERTY).format(n=topic.noun.name, a=topic.modifier.name)
    else:
        many = topic.count > 1
        # Parents often use the plural without a number.
        x = topic.noun_form if many and rng.random() < 0.4 else topic.phrase
        text = rng.choice(_PLURAL if many else _SINGULAR).format(x=x, ax=article(x, topic.noun.counted))
    if rng.random() < 0.15:
        text = rng.choice(_OPENERS) + text
    if rng.random() < 0.08 and not text.endswith("?"):
        text += rng.choice(_CLOSERS)
    return text


def written_sentence(topic: Topic, rng: random.Random) -> str:
    """Return a parent's sentence about a topic, with its final sign."""
    text = child_directed_sentence(topic, rng)
    return text if text.endswith("?") else f"{text}."


def small_talk(rng: random.Random) -> str:
    """Return a parent's sentence that names no thing."""
    return rng.choice(_SMALL_TALK)


def babble(rng: random.Random) -> str:
    """Return a turn of the child."""
    return rng.choice(_BABBLE)


def noun_phrase(topic: Topic) -> str:
    """Return a topic as a noun phrase."""
    if topic.verb:
        return f"{topic.verb.ing} {article(topic.noun.name, topic.noun.counted)}"
    return article(topic.phrase, topic.noun.counted)


def web_caption(topic: Topic, rng: random.Random) -> str:
    """Return a caption in the style of the web that describes the topic."""
    phrase = noun_phrase(topic)
    formal = _FORMAL.get(topic.word)
    if formal:
        phrase = re.sub(rf"\b{topic.word}\b", rng.choice(formal), phrase)
    if topic.verb:
        phrase = f"{rng.choice(('someone', 'woman', 'man', 'person', 'child'))} {phrase}"
    patterns = _WEB if topic.noun.home else _WEB + _BUSINESS * 2
    return _fill_template(rng.choice(patterns), phrase, rng)


def junk_caption(rng: random.Random) -> str:
    """Return a caption that is unrelated to its image."""
    return _fill_template(rng.choice(_JUNK), "", rng)


def _fill_template(pattern: str, phrase: str, rng: random.Random) -> str:
    bare = re.sub(r"^(an?|some) ", "", phrase)
    words = {"np": phrase, "Np": _capitalize(phrase), "bare": bare, "Bare": _capitalize(bare)}
    return pattern.format(id=rng.randint(1000, 99999), px=rng.choice((64, 128, 256, 512, 1024)), **words)


def _capitalize(words: str) -> str:
    return words[:1].upper() + words[1:]
