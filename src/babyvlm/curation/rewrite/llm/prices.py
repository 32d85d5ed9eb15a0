"""Price lists, what a job will cost and take, and a purse that is never overdrawn."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from babyvlm.curation.rewrite.llm.prompt import (
    MAX_OUTPUT_TOKENS,
    REWRITE,
    USUAL_OUTPUT_TOKENS,
    Prompt,
    most_input_tokens,
    usual_input_tokens,
)
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from babyvlm.curation.rewrite.llm.ledger import Ledger
    from babyvlm.curation.rewrite.llm.prompt import Reply

MILLION = 1_000_000
DIVISORS = ("requests_per_minute", "tokens_per_minute", "batch_queue_tokens")
ENOUGH_ANSWERS = 20  # from which on their mean is a better guess than a rule of thumb. Our choice.


@dataclass(frozen=True)
class Price:
    """What a model costs and how fast its server is.

    Attributes:
        input: for a million input tokens.
        output: for a million output tokens.
        seconds_per_call: from question to answer.
        requests_per_minute: limit of the account.
        tokens_per_minute: limit of the account, input and output.
        batch_input: for a million input tokens in batches; this and what follows are left out if there are none.
        batch_output: for a million output tokens in batches.
        batch_queue_tokens: input tokens that may wait in batches at a time.
        batch_hours: in which a batch comes back.
        currency: of the prices.
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
        """Whether the list gives a price for batches."""
        return not math.isnan(self.batch_input)

    def of(self, tokens: tuple[float, float], *, batch: bool) -> float:
        """Cost of (input, output) tokens."""
        each = (self.batch_input, self.batch_output) if batch else (self.input, self.output)
        return (tokens[0] * each[0] + tokens[1] * each[1]) / MILLION


def read_price(path: Path, model: str) -> Price:
    """The price of a model in a TOML list: ``currency`` and a table ``[models."name"]`` with the fields of ``Price``.

    Raises:
        UserError: the list cannot be read, or lacks the model or a number.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as a TOML price list ({error})") from None
    models = content.get("models", {})
    table = models.get(model) if isinstance(models, dict) else None
    if not isinstance(table, dict):
        raise UserError(f'{path}: has no table [models."{model}"]')
    known = {field.name for field in fields(Price)} - {"currency"}
    wanted = {name for name in known if not name.startswith("batch_") or "batch_input" in table}
    for name in sorted(table.keys() | wanted):
        if name not in known:
            raise UserError(f'{path}: [models."{model}"] holds {name}, which nothing reads')
        if not _number(table.get(name)) or (name in DIVISORS and not table[name]):
            raise UserError(f'{path}: [models."{model}"] must hold {name} as a number')
    return Price(**table, currency=str(content.get("currency", "USD")))


@dataclass
class Purse:
    """Keeps a limit: every call is counted at the most it can cost until it is known what it did.

    Attributes:
        price: None where nothing is paid.
        limit: None for none.
        spent: so far, by all runs on the ledger.
        prompt: what is asked.
    """

    price: Price | None
    limit: float | None
    spent: float = 0.0
    prompt: Prompt = REWRITE

    def recount(self, ledger: Ledger) -> None:
        """What all calls on the ledger have cost."""
        if self.price is not None:
            self.spent = sum(self.price.of(tokens, batch=batch) for batch, tokens in ledger.tokens().items())

    def take(self, cleaned: str, *, batch: bool) -> bool:
        """Set aside what a call can cost at most; False if the limit does not allow it."""
        most = self.most(cleaned, batch=batch)
        if self.limit is not None and self.spent + most > self.limit:
            return False
        self.spent += most
        return True

    def most(self, cleaned: str, *, batch: bool) -> float:
        """What a call can cost."""
        tokens = (self.prompt.most_input_tokens(cleaned), self.prompt.max_output_tokens)
        return self.price.of(tokens, batch=batch) if self.price else 0.0

    def settle(self, cleaned: str, reply: Reply, *, batch: bool = False) -> None:
        """Put back what a call did not cost after all."""
        if self.price is None:
            return
        counts = (reply.input_tokens, reply.output_tokens)
        most = (self.prompt.most_input_tokens(cleaned), self.prompt.max_output_tokens)
        used = [bound if count is None else count for count, bound in zip(counts, most, strict=True)]
        cost = 0.0 if reply.paid == "no" else self.price.of((used[0], used[1]), batch=batch)
        self.spent += cost - self.most(cleaned, batch=batch)

    def __str__(self) -> str:
        return f"{self.spent:,.2f} {self.price.currency}" if self.price else "no price list given"


def estimate(captions: Iterable[str], ledger: Ledger | None, price: Price | None, concurrent_requests: int) -> str:
    """What asking for these captions would cost and take, each way.

    Args:
        captions: cleaned captions that would be asked for.
        ledger: its answers, if there are enough, tell the tokens of a call.
        price: of the model.
        concurrent_requests: calls under way at a time.
    """
    count, guess, most = 0, 0.0, 0
    for caption in captions:
        count, guess, most = count + 1, guess + usual_input_tokens(caption), most + most_input_tokens(caption)
    answers, mean_input, mean_output = ledger.mean_tokens() if ledger else (0, 0.0, 0.0)
    known = answers >= ENOUGH_ANSWERS
    tokens = (count * mean_input, count * mean_output) if known else (guess, float(count * USUAL_OUTPUT_TOKENS))
    source = f"the mean of {answers:,} answers" if known else "a rule of thumb"
    lines = [
        f"estimate: {count:,} captions to ask for",
        f"  tokens  {tokens[0]:,.0f} in, {tokens[1]:,.0f} out by {source}; "
        f"at most {most:,} in, {count * MAX_OUTPUT_TOKENS:,} out",
    ]
    if price is None:
        return "\n".join([*lines, "  cost and time need --prices"])
    ways = ((False, "one by one"), (True, "in batches"))[: 1 + price.has_batches]
    for batch, name in ways:
        cost, bound = price.of(tokens, batch=batch), price.of((most, count * MAX_OUTPUT_TOKENS), batch=batch)
        time = _batch_hours(price, tokens) if batch else _hours(price, count, tokens, concurrent_requests)
        lines.append(f"  {name}  {cost:,.2f} {price.currency} (at most {bound:,.2f}), {time}")
    return "\n".join(lines)


def _hours(price: Price, count: int, tokens: tuple[float, float], concurrent_requests: int) -> str:
    minutes = {
        f"{concurrent_requests} at a time": count * price.seconds_per_call / concurrent_requests / 60,
        "requests per minute": count / price.requests_per_minute,
        "tokens per minute": sum(tokens) / price.tokens_per_minute,
    }
    slowest = max(minutes, key=lambda name: minutes[name])
    return f"{minutes[slowest] / 60:,.1f} hours (held back by: {slowest})"


def _batch_hours(price: Price, tokens: tuple[float, float]) -> str:
    rounds = math.ceil(tokens[0] / price.batch_queue_tokens)
    return f"at most {rounds * price.batch_hours:,.0f} hours ({rounds} rounds of the queue)"


def _number(value: Any) -> bool:  # noqa: ANN401 - whatever a TOML file holds
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
