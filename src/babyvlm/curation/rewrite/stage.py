"""The command ``curate rewrite``: captions to child-directed utterances, by rules or with a language model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from rich.progress import Progress

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.rules.lexicon import word_list
from babyvlm.curation.rewrite.rules.rewriter import RULES_VERSION, USUAL_YIELD, rewrite_caption
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import ORIGINAL_CAPTION, PairStore, write_pairs
from babyvlm.io.extras import require_extra
from babyvlm.io.printing import Console

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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
        method: `rules` works offline; `llm` calls a server. All following options are for `llm`.
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
    """
    if method == "rules":
        _rewrite_by_rules(store, out)
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
        rewrite_by_llm(store, out, path, options)


@stage
def _rewrite_by_rules(store: Path, out: Path) -> Stage:
    source = PairStore(store)
    words = hashlib.sha256(word_list().encode()).hexdigest()
    funnel = Funnel("rewrite", unit="captions")
    artifact = Artifact(
        "store",
        {"command": "rewrite", "store": source, "rewriter": f"rules {RULES_VERSION}", "words": words},
        funnel,
        usual_yield=USUAL_YIELD,
    )
    folder = yield artifact
    with Progress(console=Console(stderr=True)) as bar:
        rows = bar.track(source.rows(), total=len(source), description="rewriting")
        artifact.manifest |= write_pairs(
            folder,
            _rewritten(rows, funnel),
            funnel=funnel,
            licensed=source.licensed,
            extra_fields={**source.extra_fields, ORIGINAL_CAPTION: pa.string()},
        )
    return f"{funnel.kept:,} pairs"


def _rewritten(rows: Iterable[dict[str, Any]], funnel: Funnel) -> Iterator[dict[str, Any]]:
    for row in rows:
        original = row.get(ORIGINAL_CAPTION, row["utterance"])
        result = rewrite_caption(original)
        if result.utterance is not None:
            funnel.keep()
            yield row | {"utterance": result.utterance, ORIGINAL_CAPTION: original}
        else:
            funnel.drop(result.reason)
