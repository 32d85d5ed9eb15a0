"""The command ``curate rewrite``: captions to child-directed utterances, by rules or with a language model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.rules.lexicon import word_list
from babyvlm.curation.rewrite.rules.rewriter import RULES_VERSION, USUAL_YIELD, rewrite_caption
from babyvlm.curation.stage import Artifact, Stage, parts_folder, stage
from babyvlm.curation.store.chunked_writer import Log, write_parts, write_share
from babyvlm.curation.store.pair_store import ORIGINAL_CAPTION, PairStore
from babyvlm.errors import UserError, require_at_least
from babyvlm.io.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Iterator


def rewrite(  # noqa: PLR0913, PLR0917 - each is an option of the command, with a default
    store: Path,
    out: Path,
    method: Literal["rules", "llm"] = "rules",
    model: str = "",
    base_url: str = "https://api.openai.com/v1",
    key_file: Path | None = None,
    batch: bool = False,
    requests_per_batch: int = 50_000,
    concurrent_requests: int = 8,
    timeout: float = 120.0,
    poll_seconds: float = 60.0,
    prices: Path | None = None,
    max_cost: float | None = None,
    estimate: bool = False,
    retry_failed: bool = False,
    retry_rejected: bool = False,
    response_format: Literal["auto", "json_schema", "json_object", "none"] = "auto",
    token_parameter: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto",
    max_output_tokens: int = 120,
    thinking: bool | None = None,
    reasoning_effort: str = "",
    prompt: Literal["rewrite_v2", "rewrite_v3"] = "rewrite_v3",
    ledger: Path | None = None,
    num_workers: int = 1,
    share: str = "",
) -> None:
    """Rewrite the captions of a store as child-directed utterances and drop those that are not suitable for a toddler.

    Input: a store of web pairs, with their captions as found in the field `original_caption` or, if it is missing, in
    the utterances. Output: a store whose utterances are what a caregiver would say, and the original captions. Method
    `rules` needs no network; method `llm` uses a language model behind any OpenAI-compatible server. Its answers are
    stored in a ledger, so that no caption is paid for twice.

    For example:
        python -m babyvlm curate rewrite --store stores/web --out stores/rewritten

    Args:
        store: pair store of captioned images.
        out: store to create.
        method: `rules` works offline; `llm` calls a server. The options from `model` to `ledger` are for `llm`.
        model: name of the model on the server.
        base_url: URL of the server, ending in `/v1`. The API key is read from $OPENAI_API_KEY; local servers need none.
        key_file: file with the API key, readable by its owner only, instead of the environment variable.
        batch: use the Batch API: half the price, answers within a day.
        requests_per_batch: maximum number of requests in a batch.
        concurrent_requests: number of requests in flight, without batches.
        timeout: seconds to wait for a reply. A reply after that may have been billed and is not requested again.
        poll_seconds: seconds between status checks of a batch.
        prices: price list (TOML) for `estimate` and `max_cost`; see docs/how-to/rewriting.md for an example.
        max_cost: cost limit for all runs with this ledger, in the currency of the price list.
        estimate: estimate the tokens, cost and time of the captions that have no answer yet, and send nothing.
        retry_failed: resend every caption whose call failed and was, or may have been, billed.
        retry_rejected: resend only the captions whose answer arrived and was invalid or violated a rule, for
            example after a change of the server or of the options.
        response_format: how the schema of the answer is requested; `auto` uses the first that the server accepts.
        token_parameter: field of the token limit; `auto` uses the first that the server accepts.
        max_output_tokens: limit on the tokens of an answer, including its reasoning. Reasoning needs 1,000 or more.
        thinking: turn the reasoning of models such as Qwen 3 on or off; by default the server decides.
        reasoning_effort: `low`, `medium` and so on, for models that support it; by default the server decides.
        prompt: version of the prompt. `rewrite_v2`, which asked for no punctuation, uses the answers of older ledgers.
        ledger: file in which answers are stored; by default `rewrites.sqlite` beside `out`.
        num_workers: number of processes, for `rules`.
        share: rewrite only this share of the captions, such as 2/16 for the second of 16 jobs that run at the same
            time. With `llm`, each job has a ledger of its own and its share of `max_cost`. When all shares are
            complete, run the command without it to assemble the store.
    """
    require_at_least(1, num_workers=num_workers)
    if method == "rules":
        _rewrite_by_rules(store, out, num_workers, share)
        return
    with require_extra("llm", "--method llm"):
        from babyvlm.curation.rewrite.llm.rewriter import RewriteOptions, print_estimate, rewrite_by_llm
        from babyvlm.curation.rewrite.llm.settings import RequestSettings
    options = RewriteOptions(
        model=model,
        base_url=base_url,
        key_file=key_file,
        batch=batch,
        requests_per_batch=requests_per_batch,
        concurrent_requests=concurrent_requests,
        timeout=timeout,
        poll_seconds=poll_seconds,
        prices=prices,
        max_cost=max_cost,
        retry_failed=retry_failed,
        retry_rejected=retry_rejected,
        max_output_tokens=max_output_tokens,
        settings=RequestSettings(response_format, token_parameter, thinking, reasoning_effort),
        prompt_version=prompt,
    )
    path = ledger or out.with_name("rewrites.sqlite")
    if estimate:
        print_estimate(store, path, options)
    else:
        rewrite_by_llm(store, out, path, options, share)


@stage
def _rewrite_by_rules(store: Path, out: Path, num_workers: int, share: str) -> Stage:
    source = PairStore(store)
    fingerprint, fields = source.fingerprint, {**source.extra_fields, ORIGINAL_CAPTION: pa.string()}
    words = hashlib.sha256(word_list().encode()).hexdigest()
    parts = [RewritePart(store, number, fingerprint, words) for number in range(len(source.files))]
    if share:
        return write_share(out, parts, share, stage="rewrite", num_workers=num_workers, extra_fields=fields)
    funnel = Funnel("rewrite", unit="captions")
    artifact = Artifact(
        "store",
        {"command": "rewrite", "store": source, "rewriter": f"rules {RULES_VERSION}", "words": words},
        funnel,
        state=parts_folder(out),
        usual_yield=USUAL_YIELD,
    )
    folder = yield artifact
    artifact.manifest |= write_parts(
        folder, parts, funnel=funnel, licensed=source.licensed, num_workers=num_workers, extra_fields=fields
    )
    return f"{funnel.kept:,} pairs"


@dataclass(frozen=True)
class RewritePart:
    """The pairs of one shard of a store, with their captions rewritten by the rules.

    Attributes:
        store: the store.
        number: of the shard.
        fingerprint: of the store.
        words: hash of the word list of the rules.
    """

    store: Path
    number: int
    fingerprint: str
    words: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Everything that determines the rows."""
        return {
            "store": self.fingerprint,
            "shard": self.number,
            "rewriter": f"rules {RULES_VERSION}",
            "words": self.words,
        }

    def rows(self, log: Log) -> Iterator[dict[str, Any]]:
        """Yield the pairs whose caption can be rewritten."""
        for row in PairStore(self.store).shard_rows(self.number):
            original = row.get(ORIGINAL_CAPTION, row["utterance"])
            result = rewrite_caption(original)
            if result.utterance is not None:
                log.funnel.keep()
                yield row | {"utterance": result.utterance, ORIGINAL_CAPTION: original}
            else:
                log.funnel.drop(result.reason)

    def record_failure(self, reason: str, log: Log) -> None:
        """Refuse to go on: no caption can crash the rules."""
        raise UserError(f"{self.store}: shard {self.number}: {reason}. Check it with: python -m babyvlm store check")
