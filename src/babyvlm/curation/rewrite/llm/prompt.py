"""The question about a caption, and the form of its answer."""

from __future__ import annotations

import hashlib
import html
import json
import unicodedata
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Callable

PromptVersion = Literal["rewrite_v2", "rewrite_v3"]
# rewrite_v2 asked for utterances without punctuation. It is kept for ledgers whose answers were paid for.
VERSION: PromptVersion = "rewrite_v3"
MAX_CAPTION = 600  # characters sent, six times the usual caption. Our choice.
MAX_OUTPUT_TOKENS = 120  # default; the longest valid answer takes about 60. Our choice.
# An estimate assumes 4 bytes of English per token (OpenAI's rule of thumb). A cost limit needs an upper bound: one
# token per byte of a caption, which may be any text, and one per 2 bytes of the prompt, which is plain English.
BYTES_PER_TOKEN = 4
MIN_BYTES_PER_TOKEN = 2
MESSAGE_TOKENS = 16  # roles and separators of two messages
TYPICAL_OUTPUT_TOKENS = 35  # of {"relevant": true, "utterance": "Look, a red ball!", "reason": "suitable"}, rounded up

Paid = Literal["yes", "no", "maybe"]

# Not generated from ``Answer``: another version of pydantic might write it differently, and the ledger reuses answers
# only for identical requests.
REASONS = ("suitable", "adult topic", "unfamiliar to a child", "nothing concrete", "unreadable")
SCHEMA = {
    "type": "object",
    "properties": {
        "relevant": {"type": "boolean"},
        "utterance": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "reason": {"type": "string", "enum": list(REASONS)},
    },
    "required": ["relevant", "utterance", "reason"],
    "additionalProperties": False,
}


class Answer(BaseModel):
    """A model's answer for a caption, as in ``SCHEMA``, but with any reason: not every server enforces the schema."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    relevant: bool
    utterance: str | None
    reason: str


@dataclass(frozen=True)
class Prompt:
    """The question asked about each item (a text) of a job.

    Attributes:
        name: name of the schema.
        messages: returns the messages of the chat completion for an item.
        schema: JSON schema of an answer.
        max_input_tokens: returns an upper bound on the input tokens for an item.
        max_output_tokens: limit on the output tokens of an answer.
        answer: pydantic model of a valid answer.
    """

    name: str
    messages: Callable[[str], list[dict[str, Any]]]
    schema: dict[str, Any]
    max_input_tokens: Callable[[str], int]
    max_output_tokens: int
    answer: type[BaseModel]


@dataclass(frozen=True)
class Reply:
    """Result of a call.

    Attributes:
        content: text of the model, or of the server's error; the answer as JSON, valid by the schema, if ``reason`` is
            empty.
        reason: why it is not a valid answer; empty if it is.
        paid: whether the call was billed, as far as the client can know.
        input_tokens: as counted by the server; None if not reported.
        output_tokens: as counted by the server; None if not reported.
    """

    content: str | None = None
    reason: str = ""
    paid: Paid = "yes"
    input_tokens: int | None = None
    output_tokens: int | None = None


@cache
def system_prompt(version: PromptVersion = VERSION) -> str:
    """Return the text of the prompt file."""
    return files("babyvlm.curation.rewrite.llm").joinpath(f"{version}.md").read_text(encoding="utf-8")


@cache
def prompt_id(version: PromptVersion = VERSION) -> str:
    """Return the prompt version with a hash of everything sent besides the caption: any edit gives new ledger keys."""
    return f"{version}-{hashlib.sha256(json.dumps([messages('', version), SCHEMA]).encode()).hexdigest()[:12]}"


def clean(caption: str) -> str:
    """Return the caption as sent: one line, no control characters, and () for <>, so that it cannot close its tag."""
    text = unicodedata.normalize("NFKC", html.unescape(caption)).replace("<", "(").replace(">", ")")
    spaced = "".join(" " if letter.isspace() else letter for letter in text)
    return " ".join("".join(c for c in spaced if unicodedata.category(c)[0] != "C").split())[:MAX_CAPTION].strip()


def digest(cleaned: str) -> str:
    """Return the hash of a cleaned caption, its key in the ledger and in batches."""
    return hashlib.sha256(cleaned.encode()).hexdigest()


def messages(cleaned: str, version: PromptVersion = VERSION) -> list[dict[str, Any]]:
    """Return the messages of the chat completion for a cleaned caption."""
    return [
        {"role": "system", "content": system_prompt(version)},
        {"role": "user", "content": f"<caption>\n{cleaned}\n</caption>"},
    ]


@cache
def _fixed_bytes(version: PromptVersion) -> int:
    return len(json.dumps([messages("", version), SCHEMA]).encode())


def max_input_tokens(cleaned: str, version: PromptVersion = VERSION) -> int:
    """Return an upper bound on the input tokens of a request."""
    return MESSAGE_TOKENS + _fixed_bytes(version) // MIN_BYTES_PER_TOKEN + len(cleaned.encode())


def typical_input_tokens(cleaned: str, version: PromptVersion = VERSION) -> float:
    """Estimate the input tokens of a request."""
    return MESSAGE_TOKENS + (_fixed_bytes(version) + len(cleaned.encode())) / BYTES_PER_TOKEN


def rewrite_prompt(version: PromptVersion = VERSION, max_output_tokens: int = MAX_OUTPUT_TOKENS) -> Prompt:
    """Return the question of a version."""
    ask, bound = partial(messages, version=version), partial(max_input_tokens, version=version)
    return Prompt("rewrite", ask, SCHEMA, bound, max_output_tokens, Answer)


REWRITE_PROMPT = rewrite_prompt()
