"""Asking by the Batch API: files of requests that come back within a day, at a lower price.

A batch is written down with its requests before anything is sent. After a crash it is looked for on the server, by the
tag in its metadata and by its file; only if the server does not have it, is it sent. So no request is made twice.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from dataclasses import dataclass, field
from itertools import islice
from time import sleep
from typing import IO, TYPE_CHECKING, TypeVar

from babyvlm.curation.rewrite.llm.batch_results import read_results
from babyvlm.curation.rewrite.llm.client import Server, TroubleError
from babyvlm.curation.rewrite.llm.prompt import MAX_OUTPUT_TOKENS, Reply, most_input_tokens, request
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import openai.types

    from babyvlm.curation.rewrite.llm.ledger import Batch, Ledger
    from babyvlm.curation.rewrite.llm.prices import Purse

T = TypeVar("T")
MAX_REQUESTS = 50_000  # of a file, by OpenAI's Batch API
MAX_BYTES = 200_000_000  # of a file, likewise
SETTLE_SECONDS = 10.0  # after which a batch that was on its way when we crashed is in the server's list. Our choice.
LISTED = 1000  # newest batches of the account that are looked through. Our choice.
SUBMISSIONS = 5  # tries to send a batch. Our choice.
TAG = "babyvlm_batch"
FINISHED = ("completed", "expired", "cancelled")
QUEUE_FULL = "token_limit_exceeded"


@dataclass
class Batches:
    """Sends captions in batches and collects the replies.

    Attributes:
        server: whom to ask.
        ledger: where everything is written down.
        purse: what may be spent.
        size: most requests of a batch.
        poll_seconds: between two looks at a batch.
        captions: all cleaned captions of the store by their digest.
        done: called with the number of captions that came back.
    """

    server: Server
    ledger: Ledger
    purse: Purse
    size: int
    poll_seconds: float
    captions: dict[str, str]
    done: Callable[[int], None]
    _left: dict[str, str] = field(default_factory=dict)
    _queue_full: bool = False
    _ran_out: bool = False

    def ask(self, names: list[str]) -> bool:
        """Collect what is pending, and ask for captions; False if the purse did not allow for all.

        Args:
            names: digests of the captions to ask for.

        Raises:
            UserError: the server refuses, a batch was cancelled, or one expired without a single reply.
        """
        self._left = {name: self.captions[name] for name in names}
        elsewhere = {batch.base_url for batch in self.ledger.pending_batches()} - {self.server.base_url}
        if elsewhere:
            raise UserError(
                f"{self.ledger.path}: a batch was sent to {min(elsewhere)}; collect it with that --base_url first"
            )
        while True:
            for batch in self.ledger.pending_batches():
                if batch.batch_id is None:
                    self._find_or_send(batch)
            while self._left and not self._queue_full and not self._ran_out:
                self._send_next()
            pending = self.ledger.pending_batches()
            if not pending:
                return not self._left
            if not any([self._collect_if_finished(batch) for batch in pending]):
                sleep(self.poll_seconds)

    def _send_next(self) -> None:
        """Write a batch down, with all it can cost, and send it."""
        with tempfile.TemporaryFile() as file:
            chosen = list(self._chosen(file))
            if not chosen:
                self._ran_out = True
                return
            tag = uuid.uuid4().hex
            with self.ledger.transaction():
                number = self.ledger.add_batch(tag, self.server.base_url)
                for name in chosen:
                    self.ledger.open(name, most_input_tokens(self._left[name]), MAX_OUTPUT_TOKENS, number)
            for name in chosen:
                del self._left[name]
            file.seek(0)
            upload = self._try(
                lambda: self.server.client.files.create(
                    file=(f"{tag}.jsonl", file), purpose="batch", extra_headers=self.server.headers
                ),
                "upload",
            )
        self.ledger.update_batch(number, "file_id", upload.id)
        self._find_or_send(next(batch for batch in self.ledger.pending_batches() if batch.number == number), new=True)

    def _chosen(self, file: IO[bytes]) -> Iterator[str]:
        """Write as many requests as a file may hold and the purse can pay; yields their digests."""
        for name, caption in islice(self._left.items(), self.size):
            line = {
                "custom_id": name,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": request(self.ledger.model, caption),
            }
            written = json.dumps(line, ensure_ascii=False).encode() + b"\n"
            if file.tell() + len(written) > MAX_BYTES or not self.purse.take(caption, batch=True):
                return
            file.write(written)
            yield name

    def _find_or_send(self, batch: Batch, *, new: bool = False) -> None:
        """Give a batch its id: that of the batch on the server if there is one, else of a new one."""
        if batch.file_id is None:  # a batch is made of an uploaded file: this one was never made
            self._take_back(batch)
            return
        for attempt in range(SUBMISSIONS):
            if not new or attempt:
                sleep(SETTLE_SECONDS)
            found = None if new and not attempt else self._find(batch)
            try:
                made = found or self._create(batch.tag, batch.file_id)
                if not isinstance(made, str):  # the client takes any JSON for a batch
                    raise TroubleError("reply not understood", paid="maybe")
            except TroubleError as trouble:
                if trouble.hopeless:
                    raise self._told(trouble, "sending a batch") from None
                sleep(trouble.wait or 0)
                continue
            self.ledger.update_batch(batch.number, "batch_id", made)
            return
        raise UserError(f"{self.server.base_url}: takes no batch; run again when it is well")

    def _create(self, tag: str, file_id: str) -> str:
        """Make a batch of an uploaded file; tried once, because after any fault it may be there."""
        headers = {**self.server.headers, "Idempotency-Key": tag}
        return self.server.once(
            lambda: self.server.client.batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={TAG: tag},
                extra_headers=headers,
            )
        ).id

    def _find(self, batch: Batch) -> str | None:
        """The id of a batch on the server."""

        def look() -> str | None:
            for found in islice(self.server.client.batches.list(limit=100, extra_headers=self.server.headers), LISTED):
                if (found.metadata or {}).get(TAG) == batch.tag or found.input_file_id == batch.file_id:
                    return str(found.id)
            return None

        return self._try(look, "listing batches")

    def _collect_if_finished(self, batch: Batch) -> bool:
        """Look at a batch; if it has ended, write down all of its replies at once."""
        if batch.batch_id is None:
            return False
        name = batch.batch_id
        found = self._try(
            lambda: self.server.client.batches.retrieve(name, extra_headers=self.server.headers), f"batch {name}"
        )
        if found.status == "failed":
            self._refused(batch, found)
            return True
        if found.status not in FINISHED:
            return False
        replies: dict[str, Reply | None] = {}
        for file_id in filter(None, (found.output_file_id, found.error_file_id)):
            for custom_id, reply in read_results(self._content(file_id), self.server.scrub):
                replies.setdefault(custom_id, reply)
        answered = self._keep(batch, replies)
        if found.status == "cancelled" or (found.status == "expired" and not answered):
            raise UserError(
                f"{self.server.base_url}: batch {name} was {found.status}; {answered} answers of it are "
                f"kept in {self.ledger.path}; run again to ask for the others"
            )
        return True

    def _content(self, file_id: str) -> bytes:
        """What a file of the server holds."""
        headers = self.server.headers
        return self._try(lambda: self.server.client.files.content(file_id, extra_headers=headers).read(), "results")

    def _keep(self, batch: Batch, replies: dict[str, Reply | None]) -> int:
        """Close a batch and its requests in one step; returns how many brought a reply."""
        names = self.ledger.open_in(batch.number)
        not_executed = {name for name in names if name in replies and replies[name] is None}
        with self.ledger.transaction():
            for name in names:
                reply = replies.get(name, Reply(reason="no reply in the batch", paid="maybe"))
                if reply is None:
                    self.ledger.forget(name)
                else:
                    self.ledger.close(name, reply)
            self.ledger.update_batch(batch.number, "state", "collected")
        self._again(not_executed)
        self.done(len(names) - len(not_executed))
        return sum(replies.get(name) is not None for name in names)

    def _again(self, names: set[str]) -> None:
        """Put requests that were not executed back among those to ask for; there may be money for more by now."""
        self._left |= {name: self.captions[name] for name in names if name in self.captions}
        self._queue_full = self._ran_out = False
        self.purse.recount(self.ledger)

    def _refused(self, batch: Batch, found: openai.types.Batch) -> None:
        """The server would not run a batch: nothing of it is paid. Wait for others if its queue is full."""
        self._take_back(batch)
        errors = (found.errors.data if found.errors else None) or []
        self._queue_full = any(error.code == QUEUE_FULL for error in errors)
        if not self._queue_full or not self.ledger.pending_batches():
            why = self.server.scrub(" ".join((errors[0].message or "").split()))[:200] if errors else "no reason given"
            raise UserError(
                f"{self.server.base_url}: batch {batch.batch_id} was refused ({why}); mend that, or lower "
                f"--requests_per_batch {self.size}, and run again"
            )

    def _take_back(self, batch: Batch) -> None:
        names = self.ledger.open_in(batch.number)
        with self.ledger.transaction():
            for name in names:
                self.ledger.forget(name)
            self.ledger.update_batch(batch.number, "state", "collected")
        self._again(set(names))

    def _try(self, call: Callable[[], T], what: str) -> T:
        """Make a request that costs nothing, patiently."""
        try:
            return self.server.patiently(call, free=True)
        except TroubleError as trouble:
            raise self._told(trouble, what) from None

    def _told(self, trouble: TroubleError, what: str) -> UserError:
        return UserError(f"{self.server.base_url}: {what}: {trouble.reason}; it says: {trouble.detail}")
