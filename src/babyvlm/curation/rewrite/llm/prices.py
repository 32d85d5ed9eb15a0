"""Price lists, estimates of cost and time, and a budget that is never exceeded."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from babyvlm.curation.rewrite.llm.prompt import (
    MAX_OUTPUT_TOKENS,
    REWRITE_PROMPT,
    TYPICAL_OUTPUT_TOKENS,
    VERSION,
    Prompt,
    PromptVersion,
    max_input_tokens,
    typical_input_tokens,
)
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from babyvlm.curation.rewrite.llm.ledger import Ledger
    from babyvlm.curation.rewrite.llm.prompt import Reply

MILLION = 1_000_000
DIVISORS = ("requests_per_minute", "tokens_per_minute", "batch_queue_tokens")
MIN_ANSWERS = 20  # answers from which their mean replaces the rule of thumb. Our choice.


@dataclass(frozen=True)
class Price:
    """Price of a model and limits of the account.

    Attributes:
        input: price per million input tokens.
        output: price per million output tokens.
        seconds_per_call: typical latency.
        requests_per_minute: rate limit.
        tokens_per_minute: rate limit, input plus output.
        batch_input: price per million input tokens in batches. Omit this and the following if there are no batches.
        batch_output: price per million output tokens in batches.
        batch_queue_tokens: limit on input tokens in pending batches.
        batch_hours: completion window of a batch.
        currency: of all prices.
    """

    input: float
    output: float
    seconds_per_call: float
    requests_per_minute: float
    tokens_per_minute: float
    batch_input: float = math.nan
    batch_output: float = math.nan
    batch_queue_tokens: float = math.nan
    batch_hours: float = math.nan
    currency: str = "USD"

    @property
    def has_batches(self) -> bool:
        """Whether the price list has prices for batches."""
        return not math.isnan(self.batch_input)

    def cost(self, tokens: tuple[float, float], *, batch: bool) -> float:
        """Return the cost of (input, output) tokens."""
        prices = (self.batch_input, self.batch_output) if batch else (self.input, self.output)
        return (tokens[0] * prices[0] + tokens[1] * prices[1]) / MILLION


def read_price(path: Path, model: str) -> Price:
    """Read the price of a model from a TOML list with ``currency`` and a table ``[models."name"]`` per model.

    Raises:
        UserError: the list cannot be read, or lacks the model or a number.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a valid TOML price list ({error})") from None
    models = content.get("models", {})
    table = models.get(model) if isinstance(models, dict) else None
    if not isinstance(table, dict):
        raise UserError(f'{path}: table [models."{model}"] not found')
    known = {field.name for field in fields(Price)} - {"currency"}
    required = {name for name in known if not name.startswith("batch_") or "batch_input" in table}
    for name in sorted(table.keys() | required):
        if name not in known:
            raise UserError(f'{path}: [models."{model}"] has an unknown field {name}')
        if not _is_amount(table.get(name)) or (name in DIVISORS and not table[name]):
            raise UserError(f'{path}: [models."{model}"] needs a number {name}')
    return Price(**table, currency=str(content.get("currency", "USD")))


@dataclass
class Budget:
    """A limit on the cost: every call counts with its maximum cost until its actual cost is known.

    Attributes:
        price: None if no price list is given; then everything costs 0.
        limit: None for no limit.
        spent: cost of all calls on the ledger so far, by this and earlier runs.
        prompt: question whose calls are counted.
    """

    price: Price | None
    limit: float | None
    spent: float = 0.0
    prompt: Prompt = REWRITE_PROMPT

    def recount(self, ledger: Ledger) -> None:
        """Set ``spent`` to the cost of all calls on the ledger."""
        if self.price is not None:
            self.spent = sum(self.price.cost(tokens, batch=batch) for batch, tokens in ledger.tokens().items())

    def reserve(self, cleaned: str, *, batch: bool) -> bool:
        """Reserve the maximum cost of a call; return False if that would exceed the limit."""
        cost = self._max_cost(cleaned, batch=batch)
        if self.limit is not None and self.spent + cost > self.limit:
            return False
        self.spent += cost
        return True

    def settle(self, cleaned: str, reply: Reply) -> None:
        """Replace the reserved cost of a call outside of a batch by its actual cost."""
        if self.price is None:
            return
        counts = (reply.input_tokens, reply.output_tokens)
        bounds = (self.prompt.max_input_tokens(cleaned), self.prompt.max_output_tokens)
        used = [bound if count is None else count for count, bound in zip(counts, bounds, strict=True)]
        cost = 0.0 if reply.paid == "no" else self.price.cost((used[0], used[1]), batch=False)
        self.spent += cost - self._max_cost(cleaned, batch=False)

    def _max_cost(self, cleaned: str, *, batch: bool) -> float:
        tokens = (self.prompt.max_input_tokens(cleaned), self.prompt.max_output_tokens)
        return self.price.cost(tokens, batch=batch) if self.price else 0.0

    def __str__(self) -> str:
        return f"{self.spent:,.2f} {self.price.currency}" if self.price else "unknown (no --prices given)"


def estimate(
    captions: Iterable[str],
    ledger: Ledger | None,
    price: Price | None,
    concurrent_requests: int,
    max_output_tokens: int = MAX_OUTPUT_TOKENS,
    version: PromptVersion = VERSION,
) -> str:
    """Describe the tokens, cost and time of the calls for these captions, individually and in batches.

    Args:
        captions: cleaned captions without an answer.
        ledger: its answers, if there are enough, give the tokens per call.
        price: of the model.
        concurrent_requests: number of calls in flight.
        max_output_tokens: limit on the output tokens of an answer.
        version: of the prompt.
    """
    count, typical, bound = 0, 0.0, 0
    for caption in captions:
        typical += typical_input_tokens(caption, version)
        count, bound = count + 1, bound + max_input_tokens(caption, version)
    answers, mean_input, mean_output = ledger.mean_tokens() if ledger else (0, 0.0, 0.0)
    measured = answers >= MIN_ANSWERS
    tokens = (count * mean_input, count * mean_output) if measured else (typical, float(count * TYPICAL_OUTPUT_TOKENS))
    source = f"mean of {answers:,} answers" if measured else "rule of thumb"
    lines = [
        f"estimate: {count:,} captions to send",
        f"  tokens: {tokens[0]:,.0f} input, {tokens[1]:,.0f} output ({source}); "
        f"at most {bound:,} input, {count * max_output_tokens:,} output",
    ]
    if price is None:
        return "\n".join([*lines, "  pass --prices to estimate cost and time"])
    modes = ((False, "individual calls"), (True, "batches"))[: 1 + price.has_batches]
    for batch, name in modes:
        cost, max_cost = price.cost(tokens, batch=batch), price.cost((bound, count * max_output_tokens), batch=batch)
        time = _batch_hours(price, tokens) if batch else _hours(price, count, tokens, concurrent_requests)
        lines.append(f"  {name}: {cost:,.2f} {price.currency} (at most {max_cost:,.2f}), {time}")
    return "\n".join(lines)


def _hours(price: Price, count: int, tokens: tuple[float, float], concurrent_requests: int) -> str:
    minutes = {
        f"{concurrent_requests} concurrent requests": count * price.seconds_per_call / concurrent_requests / 60,
        "requests per minute": count / price.requests_per_minute,
        "tokens per minute": sum(tokens) / price.tokens_per_minute,
    }
    slowest = max(minutes, key=lambda name: minutes[name])
    return f"{minutes[slowest] / 60:,.1f} hours (limited by {slowest})"


def _batch_hours(price: Price, tokens: tuple[float, float]) -> str:
    rounds = math.ceil(tokens[0] / price.batch_queue_tokens)
    return f"at most {rounds * price.batch_hours:,.0f} hours ({rounds} times the batch queue)"


def _is_amount(value: Any) -> bool:  # noqa: ANN401 - a TOML value
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
