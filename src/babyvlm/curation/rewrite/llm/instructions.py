"""What in a caption describes a picture, and what talks to the model that reads it."""

from __future__ import annotations

import re

CLAUSE = re.compile(r"[.!?;:,\n()\[\]{}|/\\*#=~_…]+|\s[-–—]+\s")
APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
QUOTED = re.compile(r"[\"“”«»„][^\"“”«»„]*(?:[\"“”«»„]|$)|(?<!\w)['‘`][^'‘’`]*(?:['’`]|$)")
# Words of one who talks to a model, anywhere in a clause, and orders at the beginning of one. Stems cover the
# Romance and Germanic spellings (ignorez, instrucciones, Anweisung). Our choice, from common prompt attacks.
TO_A_MODEL = re.compile(
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
ORDER = re.compile(
    r"""^(?:(?:please|now|then|and|but|just|only|also|first|so|simply|always|never|kindly|you|to|system|model|bot|robot)\b|[\W\d])*
    (?:say|tell|reply|respond|output|answer|print|repeat|write|return|translate|act|forget|stop|speak|shout|echo
    | execute|append|insert|decode|complete|continue|obey|swap|replace|switch|report|call\ it|mark\ (?:this|it)|set
    | do\ not|don\ t|dont|never|sag|di|dis|dites|zeg|skriv|schreib\w*|escrib\w*|responde\w*|antwort\w*|repond\w*)\b""",
    re.VERBOSE,
)


def described(cleaned: str) -> tuple[str, bool]:
    """The part of a caption that describes, and whether the caption gives orders.

    Quoted text is something to be read, no description. From the first clause on that talks to a model, nothing counts:
    what follows an order is what it wants said. An order that only shows across clauses leaves nothing.
    """
    kept: list[str] = []
    text = APOSTROPHE.sub(" ", cleaned.lower())
    for clause in CLAUSE.split(QUOTED.sub(" . ", text)):
        if ORDER.search(clause.strip()) or TO_A_MODEL.search(clause):
            return " ".join(kept), True
        kept.append(clause)
    return ("", True) if TO_A_MODEL.search(text) else (" ".join(kept), False)
