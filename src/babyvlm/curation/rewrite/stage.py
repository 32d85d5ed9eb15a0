"""The stage that turns captions into utterances to a child: by rules and a word list, or by a language model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from rich.console import Console
from rich.progress import Progress

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.rules.lexicon import word_list
from babyvlm.curation.rewrite.rules.rewriter import ORIGINAL, RULES_VERSION, rewrite_caption
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.errors import UserError
from babyvlm.io import artifacts

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
    ledger: Path | None = None,
) -> None:
    """Rewrite the captions of a store as utterances to a child, and drop what is nothing to one.

    In goes a store of web pairs, out comes one whose utterances are a caregiver's, with `original_caption` beside. By
    rules and a word list, without a network, or by a language model behind any OpenAI-compatible server. Each caption
    is asked for once: its answer is kept in a ledger, and no run pays for it again.

    For example:
        python -m babyvlm curate rewrite --store stores/web --out stores/rewritten

    Args:
        store: pair store whose utterances are captions.
        out: store to make; it has the caption as written in the new field `original_caption`.
        method: `rules` works offline; `llm` asks a server. What follows belongs to `llm`.
        model: as the server names it.
        base_url: of the server, up to and with `/v1`. The key is read from $OPENAI_API_KEY; a local server needs none.
        key_file: file with the key instead, readable by its owner only.
        batch: use the Batch API: half the price, replies within a day.
        requests_per_batch: most requests of a batch.
        concurrent_requests: calls under way at a time, without batches.
        timeout: seconds to wait for a reply; one that comes later may have been paid and is not asked for again.
        poll_seconds: between two looks at a batch.
        prices: price list (TOML) for `estimate` and `max_cost`; docs/how-to/rewriting.md shows one.
        max_cost: stop before all runs on the ledger together cost more than this.
        estimate: only say what tokens, money and time it would take; sends nothing.
        retry_failed: ask again also for captions that failed although the call was paid, or may have been.
        ledger: where answers are kept; `rewrites.sqlite` beside `out` if not given.
    """
    if method == "rules":
        _rewrite_by_rules(store, out)
        return
    try:
        from babyvlm.curation.rewrite.llm.rewriter import Options, print_estimate, rewrite_by_llm
    except ImportError as error:
        raise UserError(f"--method llm needs {error.name}; pip install 'babyvlm[llm]'") from None
    options = Options(
        model,
        base_url,
        key_file,
        batch,
        requests_per_batch,
        concurrent_requests,
        timeout,
        poll_seconds,
        prices,
        max_cost,
        retry_failed,
    )
    path = ledger or out.with_name("rewrites.sqlite")
    if estimate:
        print_estimate(store, path, options)
    else:
        rewrite_by_llm(store, out, path, options)


@artifacts.one_at_a_time
def _rewrite_by_rules(store: Path, out: Path) -> None:
    source = PairStore(store)
    words = hashlib.sha256(word_list().encode()).hexdigest()
    arguments = {
        "command": "rewrite",
        "store": source.fingerprint,
        "rewriter": f"rules {RULES_VERSION}",
        "words": words,
    }
    if artifacts.is_complete(out, "store", arguments):
        print(f"{out}: already complete, skipping")
        return
    if ORIGINAL in source.extra_fields:
        raise UserError(f"{store}: already has the field {ORIGINAL}. Rewrite the store it was created from")
    funnel = Funnel("rewrite", unit="captions")
    with Progress(console=Console(stderr=True)) as bar:
        rows = bar.track(source.rows(), total=len(source), description="rewriting")
        made = write_store(
            out,
            _rewritten(rows, funnel),
            arguments=arguments,
            funnel=funnel,
            licensed=source.licensed,
            extra_fields={**source.extra_fields, ORIGINAL: pa.string()},
            ancestors=source.lineage,
        )
    print(f"{funnel}\n{out}: {len(made):,} pairs")


def _rewritten(rows: Iterable[dict[str, Any]], funnel: Funnel) -> Iterator[dict[str, Any]]:
    for row in rows:
        result = rewrite_caption(row["utterance"])
        if result.utterance is not None:
            funnel.keep()
            yield row | {"utterance": result.utterance, ORIGINAL: row["utterance"]}
        else:
            funnel.drop(result.reason)
