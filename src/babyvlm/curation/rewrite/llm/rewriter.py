"""Rewriting a store with a language model: each caption is kept, dropped or failed, and paid for once."""

from __future__ import annotations

import glob
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.llm.batch import MAX_REQUESTS, BatchRunner
from babyvlm.curation.rewrite.llm.calls import CallRunner
from babyvlm.curation.rewrite.llm.checks import RULES_VERSION, rejection_reason
from babyvlm.curation.rewrite.llm.client import Server, open_server
from babyvlm.curation.rewrite.llm.ledger import Call, Ledger
from babyvlm.curation.rewrite.llm.prices import Budget, estimate, read_price
from babyvlm.curation.rewrite.llm.prompt import (
    MAX_OUTPUT_TOKENS,
    REASONS,
    VERSION,
    Answer,
    Prompt,
    PromptVersion,
    clean,
    digest,
    prompt_id,
    rewrite_prompt,
)
from babyvlm.curation.rewrite.llm.settings import RequestSettings
from babyvlm.curation.rewrite.rules.rewriter import USUAL_YIELD
from babyvlm.curation.stage import Artifact, Stage, slice_of_share, stage
from babyvlm.curation.store.pair_store import ORIGINAL_CAPTION, PairStore, write_pairs
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import require_replaceable, write_list
from babyvlm.io.printing import Console, echo
from babyvlm.text import normalize

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFT_OUT_COLUMNS = ("key", "outcome", "reason")


MAX_TOKEN_LIMIT = 1_000_000  # more than any model writes; a larger number is a typing error


@dataclass(frozen=True)
class RewriteOptions:
    """Options of ``curate rewrite`` for ``--method llm``; its help describes them."""

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
    retry_rejected: bool = False
    max_output_tokens: int = MAX_OUTPUT_TOKENS
    settings: RequestSettings = field(default_factory=RequestSettings)
    prompt_version: PromptVersion = VERSION

    @property
    def prompt(self) -> Prompt:
        """The question with the limit on its answer."""
        return rewrite_prompt(self.prompt_version, self.max_output_tokens)

    @property
    def prompt_id(self) -> str:
        """What identifies the question in the ledger, with the settings that affect the answer."""
        return prompt_id(self.prompt_version) + self.settings.key

    def check(self) -> None:
        """Check the values.

        Raises:
            UserError: an option is missing or out of range.
        """
        if not self.model:
            raise UserError("--model: missing. Pass the name of the model on the server at --base_url")
        if self.concurrent_requests < 1 or not 1 <= self.requests_per_batch <= MAX_REQUESTS:
            raise UserError(
                f"--concurrent_requests must be at least 1, --requests_per_batch between 1 and {MAX_REQUESTS:,}"
            )
        if not 1 <= self.max_output_tokens <= MAX_TOKEN_LIMIT:
            raise UserError(f"--max_output_tokens must be between 1 and {MAX_TOKEN_LIMIT:,}")
        if self.timeout <= 0 or self.poll_seconds <= 0:
            raise UserError("--timeout and --poll_seconds must be greater than 0")
        if self.max_cost is not None and (self.prices is None or not self.max_cost >= 0):
            raise UserError("--max_cost must be at least 0 and needs a price list (--prices)")


@dataclass(frozen=True)
class Outcome:
    """Result for one caption; ``text`` is the utterance or the reason."""

    kind: Literal["kept", "dropped", "failed"]
    text: str


@stage
def rewrite_by_llm(store: Path, out: Path, ledger_path: Path, options: RewriteOptions, share: str = "") -> Stage:
    """Send every caption of a store that has no answer yet, then write the rewritten store.

    A job with a ``share`` only sends the captions of its share, and stores their answers in a ledger of its own, since
    no two machines can write one; the job without a share collects the ledgers.
    """
    options.check()
    source = PairStore(store)
    if share:
        return _send_share(source, out, ledger_path, options, share)
    funnel = Funnel("rewrite", unit="captions")
    artifact = Artifact(
        "store",
        {
            "command": "rewrite",
            "store": source,
            "rewriter": f"llm {options.model}",
            "prompt": options.prompt_id,
            "checks": RULES_VERSION,
        },
        funnel,
        usual_yield=USUAL_YIELD,
    )
    if (options.retry_failed or options.retry_rejected) and artifacts.is_complete(out, "store", artifact.arguments):
        dropped = PairStore(out).manifest["funnel"]["dropped"]
        if failed := sum(count for reason, count in dropped.items() if reason.startswith("failed: ")):
            raise UserError(f"{out}: already complete, without {failed} failed captions. Delete it to retry them")
    left_out = out.with_name(f"{out.name}.left_out.csv")
    folder = yield artifact
    require_replaceable(left_out, ",".join(LEFT_OUT_COLUMNS))
    licensed = source.path if source.licensed else None
    server = open_server(options.base_url, options.key_file, options.timeout, licensed, options.settings)
    captions = _captions(source)
    with _open_ledger(ledger_path, options) as ledger:
        for path in sorted(ledger_path.parent.glob(f"{glob.escape(ledger_path.name)}.share-*-of-*[0-9]")):
            ledger.copy_calls(path, captions)
        budget = _send_missing(captions, ledger, server, options)
        artifact.manifest |= write_pairs(
            folder,
            _rewritten_rows(source, ledger, funnel, left_out),
            funnel=funnel,
            licensed=source.licensed,
            extra_fields={**source.extra_fields, ORIGINAL_CAPTION: pa.string()},
        )
    return f"{funnel.kept:,} pairs; captions left out: {left_out}; total cost so far: {budget}"


def _send_share(source: PairStore, out: Path, ledger_path: Path, options: RewriteOptions, share: str) -> str:
    own = slice_of_share(share)
    if out.exists():
        return "already complete, skipping"
    if options.batch:
        raise UserError("--share: cannot be used with --batch true, since the server divides the work of a batch")
    captions = _captions(source)
    # A caption that occurs several times belongs to one share, so that it is paid for once.
    mine = {name: captions[name] for name in sorted(captions)[own]}
    count = int(share.partition("/")[2])
    if options.max_cost is not None:
        options = replace(options, max_cost=options.max_cost / count)
    licensed = source.path if source.licensed else None
    server = open_server(options.base_url, options.key_file, options.timeout, licensed, options.settings)
    path = ledger_path.with_name(f"{ledger_path.name}.share-{share.replace('/', '-of-')}")
    with _open_ledger(path, options) as ledger:
        ledger.copy_calls(ledger_path, mine)  # what was paid before the work was shared
        budget = _send_missing(mine, ledger, server, options)
    return f"share {share}: {len(mine):,} of {len(captions):,} captions have an answer; cost so far: {budget}"


@contextmanager
def _open_ledger(path: Path, options: RewriteOptions) -> Iterator[Ledger]:
    with Ledger(path, options.prompt_id, options.model, options.base_url) as ledger:
        if ledger.interrupted:
            echo(
                f"{ledger.interrupted} calls were in flight when a run was killed and may have been billed. They are "
                "repeated only with --retry_failed true"
            )
        _mention_other_prompts(ledger)
        yield ledger


def print_estimate(store: Path, ledger_path: Path, options: RewriteOptions) -> None:
    """Print the cost and time of the captions that have no answer yet. Sends nothing."""
    options.check()
    price = read_price(options.prices, options.model) if options.prices else None
    captions = _captions(PairStore(store))
    settings = (price, options.concurrent_requests, options.max_output_tokens, options.prompt_version)
    if not ledger_path.exists():
        echo(estimate(captions.values(), None, *settings))
        return
    with Ledger(ledger_path, options.prompt_id, options.model, options.base_url) as ledger:
        names = _missing(captions, ledger, options)
        _mention_other_prompts(ledger)
        echo(estimate((captions[name] for name in names), ledger, *settings))


def _mention_other_prompts(ledger: Ledger) -> None:
    """Print which other prompts the ledger has answers to, as they are not used."""
    for version in get_args(PromptVersion):
        count = ledger.count_answers(prompt_id(version))
        if count and not ledger.prompt.startswith(prompt_id(version)):
            echo(
                f"{ledger.path}: {count:,} answers of {ledger.model} to the prompt {version} are not used. Pass "
                f"--prompt {version} to use them instead of requesting new ones"
            )


def _captions(source: PairStore) -> dict[str, str]:
    """Return the distinct cleaned captions by digest, except those without a word."""
    column = ORIGINAL_CAPTION if ORIGINAL_CAPTION in source.extra_fields else "utterance"
    cleaned = (clean(text) for text in source.columns(column)[column].to_pylist())
    return {digest(caption): caption for caption in cleaned if _has_words(caption)}


def _has_words(cleaned: str) -> bool:
    return any(letter.isalpha() for letter in cleaned)


def _send_missing(captions: dict[str, str], ledger: Ledger, server: Server, options: RewriteOptions) -> Budget:
    """Send the captions without an answer.

    Returns:
        The budget with the total cost.

    Raises:
        UserError: the cost limit is reached, or a batch is pending and ``--batch`` is false.
    """
    price = read_price(options.prices, options.model) if options.prices else None
    if price and options.batch and not price.has_batches:
        raise UserError(f"{options.prices}: no batch prices for {options.model}. Add them or pass --batch false")
    budget = Budget(price, options.max_cost, prompt=options.prompt)
    budget.recount(ledger)
    names = _missing(captions, ledger, options)
    if not options.batch and ledger.pending_batches():
        raise UserError(f"{ledger.path}: a batch is pending. Collect it first with --batch true")
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        pending = sum(len(ledger.open_calls(batch.number)) for batch in ledger.pending_batches())
        task = progress.add_task("rewriting", total=len(names) + pending)
        advance = partial(progress.advance, task)
        if options.batch:
            batches = BatchRunner(
                server=server,
                ledger=ledger,
                budget=budget,
                requests_per_batch=options.requests_per_batch,
                poll_seconds=options.poll_seconds,
                captions=captions,
                on_replies=advance,
                prompt=options.prompt,
            )
            complete = batches.run(names)
        else:
            calls = CallRunner(server, ledger, budget, options.concurrent_requests, advance, options.prompt)
            complete = calls.run(captions[name] for name in names)
    if not complete:
        missing = len(_missing(captions, ledger, replace(options, retry_failed=False, retry_rejected=False)))
        raise UserError(
            f"--max_cost {options.max_cost} reached after {budget}, with {missing:,} of {len(captions):,} captions not "
            f"sent. Answers are stored in {ledger.path}; raise the limit to continue"
        )
    return budget


def _missing(captions: dict[str, str], ledger: Ledger, options: RewriteOptions) -> list[str]:
    """Return the digests of captions without a billed call, and of failed or rejected ones if that is requested."""
    missing = []
    for name, caption in captions.items():
        call = ledger.last(name)
        if call is None or (call.state == "failed" and call.paid == "no"):
            missing.append(name)
        elif call.state != "open":
            rejected = call.paid == "yes"  # if it failed: its answer arrived, and cannot be used
            requested = options.retry_failed or (options.retry_rejected and rejected)
            if requested and _outcome(caption, call).kind == "failed":  # judged last, as that is expensive
                missing.append(name)
    return missing


def _outcome(caption: str, call: Call | None) -> Outcome:
    """Return the result for a caption; answers must pass the current rules."""
    if call is None or call.state != "answered" or call.content is None:
        return Outcome("failed", call.reason if call else "not sent")
    answer = Answer.model_validate_json(call.content)
    if not answer.relevant:
        reasons = {reason: reason for reason in REASONS} | {"suitable": "no reason given"}
        return Outcome("dropped", reasons.get(answer.reason, "other reason"))
    reason = rejection_reason(caption, answer.utterance)
    return Outcome("failed", reason) if reason else Outcome("kept", normalize(str(answer.utterance)))


def _rewritten_rows(source: PairStore, ledger: Ledger, funnel: Funnel, left_out: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows with an utterance, count all rows, and list the others in the CSV file ``left_out``."""
    rejected: list[tuple[str, Outcome]] = []
    for row in source.rows():
        original = row.get(ORIGINAL_CAPTION, row["utterance"])
        caption = clean(original)
        outcome = Outcome("dropped", "no words")
        if _has_words(caption):
            outcome = _outcome(caption, ledger.last(digest(caption)))
        if outcome.kind == "kept":
            funnel.keep()
            yield row | {"utterance": outcome.text, ORIGINAL_CAPTION: original}
        else:
            funnel.drop(f"failed: {outcome.text}" if outcome.kind == "failed" else outcome.text)
            rejected.append((row["key"], outcome))
    reasons = ((key, outcome.kind, outcome.text) for key, outcome in rejected)
    # Before the store is complete, so that no complete store lacks its list.
    write_list(left_out, [LEFT_OUT_COLUMNS, *reasons])
