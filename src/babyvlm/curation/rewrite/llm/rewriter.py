"""A store rewritten by a language model: every caption ends as said, dropped or failed, and is paid for once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.llm import checks
from babyvlm.curation.rewrite.llm.batch import MAX_REQUESTS, Batches
from babyvlm.curation.rewrite.llm.calls import Calls
from babyvlm.curation.rewrite.llm.client import Server, open_server
from babyvlm.curation.rewrite.llm.ledger import Call, Ledger
from babyvlm.curation.rewrite.llm.prices import Purse, estimate, read_price
from babyvlm.curation.rewrite.llm.prompt import Answer, clean, digest, prompt_id
from babyvlm.curation.rewrite.rules.rewriter import ORIGINAL
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import write_csv

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Options:
    """How a store is rewritten; each is an argument of ``curate rewrite`` and told there."""

    model: str
    base_url: str
    key_file: Path | None
    batch: bool
    requests_per_batch: int
    concurrent_requests: int
    timeout: float
    poll_seconds: float
    prices: Path | None
    max_cost: float | None
    retry_failed: bool

    def check(self) -> None:
        """Refuse what cannot work."""
        if not self.model:
            raise UserError("--model: name the model, as the server at --base_url calls it")
        if self.concurrent_requests < 1 or not 1 <= self.requests_per_batch <= MAX_REQUESTS:
            raise UserError(
                f"--concurrent_requests must be at least 1, --requests_per_batch between 1 and {MAX_REQUESTS:,}"
            )
        if self.timeout <= 0 or self.poll_seconds <= 0:
            raise UserError("--timeout and --poll_seconds must be above 0")
        if self.max_cost is not None and (self.prices is None or not self.max_cost >= 0):
            raise UserError("--max_cost needs --prices, a price list, and must be 0 or more")


@dataclass(frozen=True)
class Outcome:
    """What became of a caption; ``text`` is the utterance or the reason."""

    kind: Literal["ok", "dropped", "failed"]
    text: str


@artifacts.one_at_a_time
def rewrite_by_llm(store: Path, out: Path, ledger_path: Path, options: Options) -> None:
    """Ask for every caption of a store that was not asked for before; then write the store."""
    options.check()
    source = PairStore(store)
    arguments = {
        "command": "rewrite",
        "store": source.fingerprint,
        "rewriter": f"llm {options.model}",
        "prompt": prompt_id(),
        "checks": checks.RULES,
    }
    if artifacts.is_complete(out, "store", arguments):
        failed = sum(
            n for reason, n in PairStore(out).manifest["funnel"]["dropped"].items() if reason.startswith("failed: ")
        )
        if options.retry_failed and failed:
            raise UserError(f"{out}: is whole, with {failed} failed captions left out; remove it to try them again")
        print(f"{out}: already complete, skipping")
        return
    if ORIGINAL in source.extra_fields:
        raise UserError(f"{source.path}: already has the field {ORIGINAL}. Rewrite the store that it was created from")
    licensed = source.path if source.licensed else None
    server = open_server(options.base_url, options.key_file, options.timeout, options.concurrent_requests, licensed)
    captions = _captions(source)
    with Ledger(ledger_path, prompt_id(), options.model) as ledger:
        if ledger.crashed:
            print(
                f"{ledger.crashed} calls were in flight when a run was killed; they may have been paid, and are "
                "asked again only with --retry_failed true"
            )
        purse = _ask(captions, ledger, server, options)
        funnel = Funnel("rewrite", unit="captions")
        listed = out.with_name(f"{out.name}.left_out.csv")
        made = write_store(
            out,
            _rows(source, ledger, funnel, listed),
            arguments=arguments,
            funnel=funnel,
            licensed=source.licensed,
            extra_fields={**source.extra_fields, ORIGINAL: pa.string()},
            ancestors=source.lineage,
        )
    print(f"{funnel}\n{out}: {len(made):,} pairs; what was left out is listed in {listed}; spent in all: {purse}")


def print_estimate(store: Path, ledger_path: Path, options: Options) -> None:
    """Say what the captions that are not asked for yet would cost and take. Nothing is sent."""
    options.check()
    price = read_price(options.prices, options.model) if options.prices else None
    captions = _captions(PairStore(store))
    if not ledger_path.exists():
        print(estimate(captions.values(), None, price, options.concurrent_requests))
        return
    with Ledger(ledger_path, prompt_id(), options.model) as ledger:
        names = _to_ask(captions, ledger, retry_failed=options.retry_failed)
        print(estimate((captions[name] for name in names), ledger, price, options.concurrent_requests))


def _captions(source: PairStore) -> dict[str, str]:
    """Cleaned captions by digest, each once; those without a word are not asked for."""
    cleaned = (clean(text) for text in source.columns("utterance")["utterance"].to_pylist())
    return {digest(caption): caption for caption in cleaned if _has_words(caption)}


def _has_words(cleaned: str) -> bool:
    return any(letter.isalpha() for letter in cleaned)


def _ask(captions: dict[str, str], ledger: Ledger, server: Server, options: Options) -> Purse:
    """Ask for what is missing; returns what it cost.

    Raises:
        UserError: the limit on the cost is reached, or a batch is pending and the batches are not asked for.
    """
    price = read_price(options.prices, options.model) if options.prices else None
    if price and options.batch and not price.has_batches:
        raise UserError(f"{options.prices}: has no price of batches for {options.model}; use --batch false")
    purse = Purse(price, options.max_cost)
    purse.recount(ledger)
    names = _to_ask(captions, ledger, retry_failed=options.retry_failed)
    if not options.batch and ledger.pending_batches():
        raise UserError(f"{ledger.path}: a batch is still to be collected; run with --batch true first")
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        owed = sum(len(ledger.open_in(batch.number)) for batch in ledger.pending_batches())
        task = progress.add_task("asking", total=len(names) + owed)
        done = partial(progress.advance, task)
        if options.batch:
            batches = Batches(server, ledger, purse, options.requests_per_batch, options.poll_seconds, captions, done)
            whole = batches.ask(names)
        else:
            calls = Calls(server, ledger, purse, options.concurrent_requests, done)
            whole = calls.ask(captions[name] for name in names)
    if not whole:
        missing = len(_to_ask(captions, ledger, retry_failed=False))
        raise UserError(
            f"--max_cost {options.max_cost} reached: {purse} spent, {missing:,} of {len(captions):,} "
            f"captions not asked for; answers are kept in {ledger.path}; raise it to go on"
        )
    return purse


def _to_ask(captions: dict[str, str], ledger: Ledger, *, retry_failed: bool) -> list[str]:
    """Digests of captions without a call or whose call was not paid, and of other failed ones if they are wanted."""
    wanted = []
    for name, caption in captions.items():
        call = ledger.last(name)
        unpaid = call is None or (call.state == "failed" and call.paid == "no")
        if unpaid or (retry_failed and call and call.state != "open" and _outcome(caption, call).kind == "failed"):
            wanted.append(name)
    return wanted


def _outcome(caption: str, call: Call | None) -> Outcome:
    """What a call means for its caption; the rules are applied to the answer here."""
    if call is None or call.state != "answered" or call.content is None:
        return Outcome("failed", call.reason if call else "not asked for")
    answer = Answer.model_validate_json(call.content)
    if not answer.relevant:
        return Outcome("dropped", "no reason given" if answer.reason == "for a baby" else answer.reason)
    flaw = checks.flaw(caption, answer.utterance)
    return Outcome("failed", flaw) if flaw else Outcome("ok", checks.plain(str(answer.utterance)))


def _rows(source: PairStore, ledger: Ledger, funnel: Funnel, listed: Path) -> Iterator[dict[str, Any]]:
    """Rows with an utterance; each row is counted as kept, dropped or failed, and the latter are listed at the end."""
    left_out: list[tuple[str, Outcome]] = []
    for row in source.rows():
        caption = clean(row["utterance"])
        outcome = Outcome("dropped", "no words")
        if _has_words(caption):
            outcome = _outcome(caption, ledger.last(digest(caption)))
        if outcome.kind == "ok":
            funnel.keep()
            yield row | {"utterance": outcome.text, ORIGINAL: row["utterance"]}
        else:
            funnel.drop(f"failed: {outcome.text}" if outcome.kind == "failed" else outcome.text)
            left_out.append((row["key"], outcome))
    reasons = ((key, outcome.kind, outcome.text) for key, outcome in left_out)
    # Before the store is whole, so that none is without its list.
    write_csv(listed, [("key", "outcome", "reason"), *reasons])
