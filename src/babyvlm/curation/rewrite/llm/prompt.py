"""What is sent for a caption, and what may come back."""

from __future__ import annotations

import hashlib
import html
import json
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "rewrite_v1"
MAX_CAPTION = 600  # characters that are sent: six times the usual caption. Our choice.
MAX_OUTPUT_TOKENS = 120  # the longest sound answer takes about 60. Our choice.
# An estimate takes a token for 4 bytes of English (OpenAI's rule of thumb). A limit on cost needs what tokens cannot
# exceed: a byte each in a caption, which may be any text, and half of that in the prompt, which is plain English.
BYTES_PER_TOKEN = 4
LEAST_BYTES_PER_TOKEN = 2
FRAME_TOKENS = 16  # roles and separators of two messages
USUAL_OUTPUT_TOKENS = 35  # of {"relevant": true, "utterance": "look a red ball", "reason": "for a baby"}, rounded up

Paid = Literal["yes", "no", "maybe"]


# Written out, because a newer pydantic could spell it otherwise, and other requests are other answers in the ledger.
SCHEMA = {
    "type": "object",
    "properties": {
        "relevant": {"type": "boolean"},
        "utterance": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "reason": {
            "type": "string",
            "enum": ["for a baby", "grown-up matter", "nothing a baby meets", "nothing to see", "unreadable"],
        },
    },
    "required": ["relevant", "utterance", "reason"],
    "additionalProperties": False,
}


class Answer(BaseModel):
    """A model's verdict on a caption, as in ``SCHEMA``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    relevant: bool
    utterance: str | None
    reason: Literal["for a baby", "grown-up matter", "nothing a baby meets", "nothing to see", "unreadable"]


@dataclass(frozen=True)
class Prompt:
    """What a job asks about each of its items, which are texts.

    Attributes:
        request: body of the chat completion, by model and item.
        most_input_tokens: what the tokens of an item's request cannot exceed.
        max_output_tokens: of an answer.
        answer: what a sound answer holds.
    """

    request: Callable[[str, str], dict[str, Any]]
    most_input_tokens: Callable[[str], int]
    max_output_tokens: int
    answer: type[BaseModel]


@dataclass(frozen=True)
class Reply:
    """How a call came out.

    Attributes:
        content: what the model wrote; sound by the schema if ``reason`` is empty.
        reason: why it is no answer; empty if it is one.
        paid: whether the call was paid for, as far as anybody on this side can know.
        input_tokens: as the server counted them; None if it did not say.
        output_tokens: likewise.
    """

    content: str | None = None
    reason: str = ""
    paid: Paid = "yes"
    input_tokens: int | None = None
    output_tokens: int | None = None


@cache
def system_prompt() -> str:
    """The versioned prompt file of the package."""
    return files("babyvlm.curation.rewrite.llm").joinpath(f"{VERSION}.md").read_text(encoding="utf-8")


@cache
def prompt_id() -> str:
    """Name of the prompt with a hash of all that is sent besides the caption, so that no edit reuses old answers."""
    return f"{VERSION}-{hashlib.sha256(json.dumps(request('', '')).encode()).hexdigest()[:12]}"


def clean(caption: str) -> str:
    """The caption as it is sent: one line, no control signs, round brackets for <>, so that it cannot end its frame."""
    text = unicodedata.normalize("NFKC", html.unescape(caption)).replace("<", "(").replace(">", ")")
    plain = "".join(" " if letter.isspace() else letter for letter in text)
    return " ".join("".join(c for c in plain if unicodedata.category(c)[0] != "C").split())[:MAX_CAPTION].strip()


def digest(cleaned: str) -> str:
    """Content hash of a cleaned caption: its name in the ledger and in batches."""
    return hashlib.sha256(cleaned.encode()).hexdigest()


def request(model: str, cleaned: str) -> dict[str, Any]:
    """Body of the chat completion for a cleaned caption."""
    schema = {"name": "rewrite", "strict": True, "schema": SCHEMA}
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": system_prompt()},
            {"role": "user", "content": f"<caption>\n{cleaned}\n</caption>"},
        ],
        "temperature": 0,
        "max_tokens": MAX_OUTPUT_TOKENS,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


@cache
def _fixed_bytes() -> int:
    return len(json.dumps(request("", "")).encode())


def most_input_tokens(cleaned: str) -> int:
    """What the tokens of a request cannot exceed."""
    return FRAME_TOKENS + _fixed_bytes() // LEAST_BYTES_PER_TOKEN + len(cleaned.encode())


def usual_input_tokens(cleaned: str) -> float:
    """What the tokens of a request come to by rule of thumb."""
    return FRAME_TOKENS + (_fixed_bytes() + len(cleaned.encode())) / BYTES_PER_TOKEN


def read_reply(body: object, scrub: Callable[[str], str], answer: type[BaseModel] = Answer) -> Reply:
    """Judge the body of a chat completion. Never raises, whatever the body is.

    Args:
        body: decoded JSON, of any shape.
        scrub: takes secrets out of text that a server wrote.
        answer: what a sound answer holds.
    """
    usage = _get(body, "usage")
    tokens = _count(_get(usage, "prompt_tokens")), _count(_get(usage, "completion_tokens"))
    choices = _get(body, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message, finish = _get(choice, "message"), _get(choice, "finish_reason")
    content = _get(message, "content")
    text = scrub(content) if isinstance(content, str) else None
    if _get(message, "refusal"):
        reason = "the model refused"
    elif finish == "content_filter":
        reason = "stopped by the server's content filter"
    elif finish == "length":
        reason = "answer cut short"
    elif text is None:
        reason = "reply without an answer"
    else:
        reason = _flaw(text, answer)
    return Reply(text, reason, "yes", *tokens)


def _flaw(text: str, answer: type[BaseModel]) -> str:
    try:
        answer.model_validate_json(text)
    except ValidationError as error:
        return "answer is not JSON" if error.errors()[0]["type"] == "json_invalid" else "answer breaks the schema"
    return ""


def _get(value: object, key: str) -> Any:  # noqa: ANN401 - it is whatever a server sent
    return value.get(key) if isinstance(value, dict) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


REWRITE = Prompt(request, most_input_tokens, MAX_OUTPUT_TOKENS, Answer)
