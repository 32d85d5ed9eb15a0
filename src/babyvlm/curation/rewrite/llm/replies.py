"""How the replies of a server are read: errors inside a successful response, and answers in the forms that models use.

An answer is accepted only if the reply contains exactly one JSON object, outside of the model's reasoning, and if that
object follows the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from babyvlm.curation.rewrite.llm.prompt import Answer, Reply
from babyvlm.io.limits import is_shallow, load_json

MAX_KEPT = 2000  # characters of a body without an answer. Our choice.
EVENT_FIELDS = ("data:", "event:", "id:", "retry:")  # of a server-sent event
END_OF_EVENTS = "[DONE]"
# Tags that end the reasoning of a model: DeepSeek, Qwen and others, Magistral.
END_OF_REASONING = re.compile(r"</(?:think|thinking|reasoning|thought)>|\[/THINK\]")
START_OF_REASONING = re.compile(r"<(?:think|thinking|reasoning|thought)>|\[THINK\]")
# Names that servers use for an error in place of a status code (OpenAI, OpenRouter, vLLM, Anthropic's gateway).
ERROR_STATUS = {
    "authentication_error": 401,
    "context_length_exceeded": 400,
    "insufficient_quota": 402,
    "internal_server_error": 500,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "model_not_found": 404,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "server_error": 500,
    "timeout": 504,
    "unsupported_parameter": 400,
}


def decode_body(text: str) -> object:
    """Decode the body of a response; a byte order mark, blank lines and comments that keep it alive are skipped.

    A server or gateway that streams although that was not requested sends events, whose parts are joined.

    Raises:
        ValueError: not JSON, or a stream without its end.
        RecursionError: nested too deeply.
    """
    lines = text.removeprefix("\ufeff").lstrip().split("\n")
    while lines and (not lines[0].strip() or lines[0].startswith(":")):  # ": OPENROUTER PROCESSING"
        del lines[0]
    if lines and lines[0].startswith(EVENT_FIELDS):
        return _join_events(lines)
    return load_json("\n".join(lines))


def _join_events(lines: list[str]) -> object:
    """Return the chat completion in the events of a stream, or the first event that is an error."""
    message: dict[str, str] = {}
    finish, usage, ended = None, None, False
    for line in lines:
        content = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        ended = ended or content == END_OF_EVENTS
        if not content or content == END_OF_EVENTS:
            continue
        event = load_json(content)
        if _get(event, "error"):
            return event
        usage = _get(event, "usage") or usage
        choices = _get(event, "choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(_get(choice, "message"), dict):  # the complete answer in one event
            return event
        finish = _get(choice, "finish_reason") or finish
        delta = _get(choice, "delta")
        for name in ("content", "reasoning_content", "reasoning", "refusal"):
            if isinstance(_get(delta, name), str):
                message[name] = message.get(name, "") + delta[name]
    if not ended and finish is None:
        raise ValueError("the stream has no end")
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def error_in_body(body: object) -> tuple[int | None, str] | None:
    """Return the status and text of an error in the body of a successful response; None if it contains no error.

    The status is None if the error has no code that we know.
    """
    error = _get(body, "error") or (body if _get(body, "object") == "error" else None)  # the second is vLLM's
    if not error or _get(body, "choices"):
        return None
    names = [_get(error, name) for name in ("code", "status", "type")]
    for name in names:
        if isinstance(name, int) and 400 <= name <= 599:
            return name, json.dumps(error)
        if isinstance(name, str) and name.isdecimal() and 400 <= int(name[:9]) <= 599:
            return int(name), json.dumps(error)
    known = (ERROR_STATUS[name] for name in names if isinstance(name, str) and name in ERROR_STATUS)
    return next(known, None), json.dumps(error, ensure_ascii=False)


def read_reply(body: object, scrub: Callable[[str], str], answer: type[BaseModel] = Answer) -> Reply:
    """Read the answer in the body of a chat completion. Never raises.

    Args:
        body: decoded JSON of any form.
        scrub: removes secrets from text written by the server.
        answer: pydantic model of a valid answer.
    """
    usage = _get(body, "usage")
    tokens = _count(_get(usage, "prompt_tokens")), _count(_get(usage, "completion_tokens"))
    choices = _get(body, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message, finish = _get(choice, "message"), _get(choice, "finish_reason")
    text = _message_text(message)
    if text is None and not choices:
        said = json.dumps(body) if is_shallow(body) else ""
        return Reply(scrub(said)[:MAX_KEPT], "reply without content", "yes", *tokens)
    if text is not None:
        text = scrub(text.encode("utf-8", "replace").decode())  # a database stores no lone surrogates
    if _get(message, "refusal"):
        reason = "the model refused"
    elif finish == "content_filter":
        reason = "stopped by the server's content filter"
    elif finish == "length":
        reason = "answer truncated"
    elif finish == "error":
        reason = "the server stopped with an error"
    elif text is None:
        reason = "reply without content"
    else:
        found, reason = find_answer(text, answer)
        text = text if found is None else scrub(found)
    return Reply(text, reason, "yes", *tokens)


def find_answer(text: str, answer: type[BaseModel]) -> tuple[str | None, str]:
    """Return the one answer in a model's text as JSON, and the reason if the text has no answer.

    Reasoning up to ``</think>`` or a similar tag, code fences, and prose around the answer are ignored.
    """
    text = text.lstrip().removeprefix("\ufeff").lstrip()
    ends = [found.end() for found in END_OF_REASONING.finditer(text)]
    if not ends and START_OF_REASONING.match(text):
        return None, "answer is not JSON"
    rest = text[ends[-1] :] if ends else text
    objects: set[str] = set()
    decoder, position = json.JSONDecoder(), rest.find("{")
    while position >= 0:
        try:
            value, position = decoder.raw_decode(rest, position)
        except (ValueError, RecursionError):
            return None, "answer is not JSON"
        objects.add(json.dumps(value, ensure_ascii=False))
        position = rest.find("{", position)
    if len(objects) != 1:
        return None, "several answers in one reply" if objects else "answer is not JSON"
    (found,) = objects
    try:
        answer.model_validate_json(found)
    except (ValidationError, UnicodeEncodeError):
        return None, "answer violates the schema"
    return found, ""


def _message_text(message: object) -> str | None:
    """Return the text of a message: its content, otherwise the one tool call, otherwise the reasoning."""
    content = _get(message, "content")
    if isinstance(content, list):
        parts = [_get(part, "text") for part in content if _get(part, "type") in ("text", "output_text")]
        content = "".join(part for part in parts if isinstance(part, str))
    if isinstance(content, str) and content.strip():
        return content
    tools = _get(message, "tool_calls")
    arguments = _get(_get(tools[0], "function"), "arguments") if isinstance(tools, list) and len(tools) == 1 else None
    others = (arguments, _get(message, "reasoning_content"), _get(message, "reasoning"))
    return next((text for text in others if isinstance(text, str) and text.strip()), None)


def _get(value: object, key: str) -> Any:  # noqa: ANN401 - JSON from a server
    return value.get(key) if isinstance(value, dict) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None
