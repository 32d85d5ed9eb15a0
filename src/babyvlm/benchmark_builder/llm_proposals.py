"""Phrase pairs proposed by a language model: one call per frame or utterance, recorded in a ledger, paid once."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from rich.progress import Progress

from babyvlm.benchmarks.phrases import PhrasePair
from babyvlm.curation.rewrite.llm.calls import CallRunner
from babyvlm.curation.rewrite.llm.client import open_server
from babyvlm.curation.rewrite.llm.ledger import Ledger
from babyvlm.curation.rewrite.llm.prices import Budget, read_price
from babyvlm.curation.rewrite.llm.prompt import MESSAGE_TOKENS, MIN_BYTES_PER_TOKEN, Prompt, clean, digest
from babyvlm.errors import UserError
from babyvlm.io.images import image_suffix
from babyvlm.io.printing import Console, echo

Frame = Mapping[str, Any]  # a row of a store
VERSION = "phrase_pairs_v2"
MAX_OUTPUT_TOKENS = 300  # four pairs take about 120. Our choice.
IMAGE_TOKENS = 3000  # above what any known server counts for a small image (OpenAI's gpt-4o-mini: 2,833)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "positive": {"type": "string"},
                    "negative": {"type": "string"},
                    "differs": {"type": "string", "enum": ["noun", "verb", "adjective", "both"]},
                },
                "required": ["positive", "negative", "differs"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["pairs"],
    "additionalProperties": False,
}


class ProposedPair(BaseModel):
    """One pair, as in ``SCHEMA``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    positive: str
    negative: str
    differs: Literal["noun", "verb", "adjective", "both"]


class Proposal(BaseModel):
    """The proposals of a model, as in ``SCHEMA``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    pairs: list[ProposedPair]


@dataclass(frozen=True)
class Options:
    """How to call the model; the options of ``benchmark build phrase-pairs`` with these names."""

    model: str
    base_url: str
    key_file: Path | None
    show: Literal["utterance", "frame", "both"]
    concurrent_requests: int
    timeout: float
    prices: Path | None
    max_cost: float | None

    def check(self) -> None:
        """Raise a ``UserError`` for invalid options."""
        if not self.model:
            raise UserError("--model: pass the name of the model on the server at --base_url")
        if self.concurrent_requests < 1 or self.timeout <= 0:
            raise UserError("--concurrent_requests must be 1 or more, --timeout above 0")
        if self.max_cost is not None and (self.prices is None or not self.max_cost >= 0):
            raise UserError("--max_cost needs --prices, a price list, and must be 0 or more")


def prompt_id(show: str) -> str:
    """Return the version of the prompt with a hash of everything that is sent except the frame."""
    sent = json.dumps([show, _prompt({}, show).messages(""), SCHEMA])
    return f"{VERSION}-{hashlib.sha256(sent.encode()).hexdigest()[:12]}"


def propose_by_llm(
    frames: Mapping[str, Frame], ledger_path: Path, options: Options, licensed: Path | None
) -> dict[str, list[PhrasePair]]:
    """Return a model's proposals for each frame; none for a frame without an answer. Equal requests are sent once.

    Args:
        frames: Rows of a store, by key.
        ledger_path: File where answers are kept.
        options: How to call the model.
        licensed: The store, if its frames and utterances must stay on this machine.

    Raises:
        UserError: the server is not allowed, refuses every call, or the cost limit is reached.
    """
    options.check()
    server = open_server(options.base_url, options.key_file, options.timeout, licensed)
    item_of = {key: _item(frame, options.show) for key, frame in frames.items()}
    shown = {item_of[key]: frame for key, frame in frames.items()}
    prompt = _prompt(shown, options.show)
    price = read_price(options.prices, options.model) if options.prices else None
    with Ledger(ledger_path, prompt_id(options.show), options.model, options.base_url) as ledger:
        budget = Budget(price, options.max_cost, prompt=prompt)
        budget.recount(ledger)
        calls = {item: ledger.last(digest(item)) for item in shown}
        left = [item for item, call in calls.items() if call is None or (call.state == "failed" and call.paid == "no")]
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("requesting proposals", total=len(left))
            done = partial(progress.advance, task)
            complete = CallRunner(server, ledger, budget, options.concurrent_requests, done, prompt).run(left)
        if not complete:
            raise UserError(
                f"--max_cost {options.max_cost} reached: {budget} spent; answers are kept in {ledger_path}; "
                "raise the limit to continue"
            )
        answers = {item: ledger.last(digest(item)) for item in shown}
    failed = sum(call is None or call.state != "answered" for call in answers.values())
    echo(f"{len(shown):,} requests, {failed:,} without a valid answer; total cost: {budget}")
    return {
        key: _phrase_pairs(call.content)
        for key, item in item_of.items()
        if (call := answers[item]) and call.state == "answered"
    }


def _phrase_pairs(content: str | None) -> list[PhrasePair]:
    pairs = Proposal.model_validate_json(content or "").pairs
    return [PhrasePair(pair.positive, pair.negative, pair.differs) for pair in pairs]


def _item(frame: Frame, show: str) -> str:
    """Return the key of a request: everything that is sent of the frame."""
    image = hashlib.sha256(frame["image"]).hexdigest() if show != "utterance" else ""
    return f"{image} {clean(frame['utterance']) if show != 'frame' else ''}"


def _prompt(shown: Mapping[str, Frame], show: str) -> Prompt:
    system = files(__package__).joinpath(f"{VERSION}.md").read_text(encoding="utf-8")

    def messages(item: str) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = []
        if show != "frame":
            content.append({"type": "text", "text": f"<utterance>\n{item.partition(' ')[2]}\n</utterance>"})
        if show != "utterance" and item:
            content.append({"type": "image_url", "image_url": {"url": _data_url(shown[item]["image"])}})
        return [{"role": "system", "content": system}, {"role": "user", "content": content}]

    fixed = len(json.dumps(system + json.dumps(SCHEMA)).encode())

    def max_input_tokens(item: str) -> int:
        image_tokens = IMAGE_TOKENS if show != "utterance" else 0
        return MESSAGE_TOKENS + fixed // MIN_BYTES_PER_TOKEN + len(item.encode()) + image_tokens

    return Prompt("phrase_pairs", messages, SCHEMA, max_input_tokens, MAX_OUTPUT_TOKENS, Proposal)


def _data_url(image: bytes) -> str:
    kind = image_suffix(image).replace("jpg", "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
