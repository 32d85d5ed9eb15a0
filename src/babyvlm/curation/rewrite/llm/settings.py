"""Fields of a request that servers support differently, in the form that the server accepts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from babyvlm.curation.rewrite.llm.prompt import Prompt

ResponseFormat = Literal["auto", "json_schema", "json_object", "none"]
TokenParameter = Literal["auto", "max_tokens", "max_completion_tokens"]
FORMATS: tuple[ResponseFormat, ...] = ("json_schema", "json_object", "none")  # in the order in which they are tried
FORMAT_NAMES = ("response_format", "json_schema", "json_object", "schema", "response format", "structured output")


@dataclass
class RequestSettings:
    """Settings of a chat completion. What is ``auto`` is adapted when the server rejects the first request.

    Attributes:
        response_format: how the schema of the answer is requested.
        token_parameter: field with the limit on output tokens.
        thinking: passed to the chat template as ``enable_thinking`` (vLLM, SGLang, transformers); None sends nothing.
        reasoning_effort: sent as ``reasoning_effort`` (OpenAI and others); empty sends nothing.
    """

    response_format: ResponseFormat = "auto"
    token_parameter: TokenParameter = "auto"
    thinking: bool | None = None
    reasoning_effort: str = ""
    _formats: list[ResponseFormat] = field(init=False)
    _token_parameters: list[str] = field(init=False)
    _temperature: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        self._formats = list(FORMATS) if self.response_format == "auto" else [self.response_format]
        names = ["max_tokens", "max_completion_tokens"]
        self._token_parameters = names if self.token_parameter == "auto" else [self.token_parameter]
        if self.reasoning_effort and not self.reasoning_effort.isalnum():
            raise UserError("--reasoning_effort: expected a word such as low, medium or high")

    @property
    def key(self) -> str:
        """Return what distinguishes answers with these settings in the ledger; empty for the defaults."""
        thinking = "" if self.thinking is None else f"+thinking={str(self.thinking).lower()}"
        return thinking + (f"+reasoning_effort={self.reasoning_effort}" if self.reasoning_effort else "")

    def body(self, prompt: Prompt, model: str, item: str) -> dict[str, Any]:
        """Return the body of the chat completion for an item."""
        body: dict[str, Any] = {"model": model, "messages": prompt.messages(item)}
        if self._temperature:
            body["temperature"] = 0
        body[self._token_parameters[0]] = prompt.max_output_tokens
        if self._formats[0] == "json_schema":
            schema = {"name": prompt.name, "strict": True, "schema": prompt.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self._formats[0] == "json_object":
            body["response_format"] = {"type": "json_object"}
        if self.thinking is not None:
            body["chat_template_kwargs"] = {"enable_thinking": self.thinking}
        if self.reasoning_effort:
            body["reasoning_effort"] = self.reasoning_effort
        return body

    def adapt(self, rejection: str) -> bool:
        """Replace or omit the field that a server names in its rejection of a request.

        Args:
            rejection: text of the server.

        Returns:
            Whether anything was changed, so that the request is worth another attempt.
        """
        text = rejection.lower()
        if len(self._token_parameters) > 1 and "max_tokens" in text:
            del self._token_parameters[0]
        elif len(self._formats) > 1 and any(name in text for name in FORMAT_NAMES):
            del self._formats[0]
        elif self._temperature and "temperature" in text:
            self._temperature = False
        else:
            return False
        return True
