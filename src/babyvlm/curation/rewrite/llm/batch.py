"""Calls with the Batch API: files of requests that are answered within a day, at a lower price.

A batch and its requests are recorded before anything is sent. After a crash, the batch is looked up on the server by
the tag in its metadata and by its file, and sent only if the server does not have it. No request is made twice.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from dataclasses import dataclass, field
from itertools import islice
from time import sleep
from typing import IO, TYPE_CHECKING, Any, TypeVar

from babyvlm.curation.rewrite.llm.calls import MAX_SHOWN, MAX_UNUSABLE, unusable_answers
from babyvlm.curation.rewrite.llm.client import AMBIGUOUS, RequestError, Server
from babyvlm.curation.rewrite.llm.prompt import REWRITE_PROMPT, Prompt, Reply
from babyvlm.curation.rewrite.llm.replies import error_in_body, read_reply
from babyvlm.errors import UserError
from babyvlm.io.limits import load_json
from babyvlm.io.printing import printable_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import openai.types

    from babyvlm.curation.rewrite.llm.ledger import Ledger, PendingBatch
    from babyvlm.curation.rewrite.llm.prices import Budget

T = TypeVar("T")
MAX_REQUESTS = 50_000  # per file, limit of OpenAI's Batch API
MAX_BYTES = 200_000_000  # per file, likewise
SETTLE_SECONDS = 10.0  # after which the server lists a batch that was being created when a run was killed. Our choice.
MAX_LISTED = 1000  # newest batches of the account that are searched. Our choice.
TRIAL_REQUESTS = 100  # in the first batch of a large job, until the model has given a usable answer. Our choice.
MAX_SUBMISSIONS = 5  # attempts to send a batch. Our choice.
TAG = "babyvlm_batch"
FINISHED = ("completed", "expired", "cancelled")
QUEUE_FULL = "token_limit_exceeded"
NOT_EXECUTED = ("batch_expired", "batch_cancelled")  # codes of requests that were not executed and are not billed
REJECTED = ("server error 400", "server error 422")  # the form of the request, or its content


@dataclass
class BatchRunner:
    """Sends captions in batches and collects the replies.

    Attributes:
        server: server to call.
        ledger: record of all calls.
        budget: limit on the cost.
        requests_per_batch: maximum number of requests in a batch.
        poll_seconds: seconds between status checks.
        captions: all cleaned captions of the store by digest.
        on_replies: called with the number of captions whose replies arrived.
        prompt: question about a caption.
    """

    server: Server
    ledger: Ledger
    budget: Budget
    requests_per_batch: int
    poll_seconds: float
    captions: dict[str, str]
    on_replies: Callable[[int], None]
    prompt: Prompt = REWRITE_PROMPT
    _unsent: dict[str, str] = field(default_factory=dict)
    _queue_full: bool = False
    _budget_exhausted: bool = False
    _is_trial: bool = False
    _forms: dict[int, dict[str, Any]] = field(default_factory=dict)  # of the requests in each batch of this run

    def run(self, digests: list[str]) -> bool:
        """Collect pending batches, and send the given captions.

        Args:
            digests: digests of the captions to send.

        Returns:
            False if the budget did not suffice for all.

        Raises:
            UserError: the server rejects all requests, a batch was cancelled, or one expired without a single reply.
        """
        self._unsent = {name: self.captions[name] for name in digests}
        self._is_trial = len(digests) > TRIAL_REQUESTS and not self.ledger.has_answers()
        other_servers = {batch.base_url for batch in self.ledger.pending_batches()} - {self.server.base_url}
        if other_servers:
            raise UserError(
                f"{self.ledger.path}: a batch is pending on {min(other_servers)}. Collect it with that --base_url first"
            )
        while True:
            for batch in self.ledger.pending_batches():
                if batch.batch_id is None:
                    self._find_or_create(batch)
            while self._unsent and not self._queue_full and not self._budget_exhausted:
                if self._is_trial and self.ledger.pending_batches():
                    break
                self._send_next()
            pending = self.ledger.pending_batches()
            if not pending:
                return not self._unsent
            if not any([self._collect_if_finished(batch) for batch in pending]):
                sleep(self.poll_seconds)

    def _send_next(self) -> None:
        """Record a batch with its maximum cost, and send it."""
        with tempfile.TemporaryFile() as file:
            chosen = list(self._write_requests(file))
            if not chosen:
                self._budget_exhausted = True
                return
            tag = uuid.uuid4().hex
            with self.ledger.transaction():
                number = self.ledger.add_batch(tag, self.server.base_url)
                for name in chosen:
                    max_input = self.prompt.max_input_tokens(self._unsent[name])
                    self.ledger.open(name, max_input, self.prompt.max_output_tokens, number)
            for name in chosen:
                del self._unsent[name]
            self._forms[number] = self._form()
            file.seek(0)
            upload = self._send_free(
                lambda: self.server.client.files.create(
                    file=(f"{tag}.jsonl", file), purpose="batch", extra_headers=self.server.headers
                ),
                "upload of a batch file",
            )
        self.ledger.update_batch(number, "file_id", upload.id)
        batch = next(batch for batch in self.ledger.pending_batches() if batch.number == number)
        self._find_or_create(batch, new=True)

    def _write_requests(self, file: IO[bytes]) -> Iterator[str]:
        """Write as many requests as a file may contain and the budget allows. Yields their digests."""
        limit = min(self.requests_per_batch, TRIAL_REQUESTS) if self._is_trial else self.requests_per_batch
        for name, caption in islice(self._unsent.items(), limit):
            entry = {
                "custom_id": name,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": self.server.settings.body(self.prompt, self.ledger.model, caption),
            }
            line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
            if file.tell() + len(line) > MAX_BYTES or not self.budget.reserve(caption, batch=True):
                return
            file.write(line)
            yield name

    def _find_or_create(self, batch: PendingBatch, *, new: bool = False) -> None:
        """Record the id of a batch: of the one on the server if it exists, otherwise of a new one.

        Raises:
            UserError: the server does not accept the batch.
        """
        if batch.file_id is None:  # a batch is created from an uploaded file, so this one was not created
            self._take_back(batch)
            return
        for attempt in range(MAX_SUBMISSIONS):
            if not new or attempt:
                sleep(SETTLE_SECONDS)
            found = None if new and not attempt else self._find(batch)
            try:
                batch_id = found or self._create(batch.tag, batch.file_id)
                if not isinstance(batch_id, str) or self.server.scrub(batch_id) != batch_id:
                    # the client accepts any JSON as a batch
                    raise RequestError("reply not understood", paid="maybe")
            except RequestError as error:
                if error.fatal:
                    raise self._user_error(error, "creation of a batch") from None
                sleep(error.wait or 0)
                continue
            self.ledger.update_batch(batch.number, "batch_id", batch_id)
            return
        raise UserError(f"{self.server.base_url}: batch submission failed. Run the same command again later")

    def _create(self, tag: str, file_id: str) -> str:
        """Create a batch from an uploaded file, in one attempt: it may exist even after an error."""
        headers = {**self.server.headers, "Idempotency-Key": tag}
        return self.server.send(
            lambda: self.server.client.batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={TAG: tag},
                extra_headers=headers,
            )
        ).id

    def _find(self, batch: PendingBatch) -> str | None:
        """Return the id of a batch on the server, or None."""

        def find() -> str | None:
            listed = self.server.client.batches.list(limit=100, extra_headers=self.server.headers)
            for found in islice(listed, MAX_LISTED):
                if (found.metadata or {}).get(TAG) == batch.tag or found.input_file_id == batch.file_id:
                    return str(found.id)
            return None

        return self._send_free(find, "list of batches")

    def _collect_if_finished(self, batch: PendingBatch) -> bool:
        """Check a batch; if it has finished, record all of its replies at once. Returns whether it has.

        Raises:
            UserError: it was rejected or cancelled, or it expired without a single reply.
        """
        if batch.batch_id is None:
            return False
        batch_id = batch.batch_id
        found = self._send_free(
            lambda: self.server.client.batches.retrieve(batch_id, extra_headers=self.server.headers),
            f"status of batch {batch_id}",
        )
        if found.status == "failed":
            self._handle_rejection(batch, found)
            return True
        if found.status not in FINISHED:
            return False
        replies: dict[str, Reply | None] = {}
        requested = set(self.ledger.open_calls(batch.number))
        for file_id in filter(None, (found.output_file_id, found.error_file_id)):
            for custom_id, reply in read_results(self._download(file_id), self.server.scrub):
                if custom_id in requested:
                    replies.setdefault(custom_id, reply)
        self._adapt(batch, replies)
        answered = self._record(batch, replies)
        arrived = [reply for reply in replies.values() if reply is not None and reply.paid == "yes"]
        if len(arrived) >= MAX_UNUSABLE and all(reply.reason for reply in arrived):
            which = f"all {len(arrived):,} answers of batch {batch_id}"
            raise unusable_answers(which, arrived[0], self.ledger, self.budget, self.prompt)
        failed = [reply for reply in replies.values() if reply is not None and reply.paid == "no"]
        if failed and len(failed) == len(replies):
            raise UserError(
                f"{self.server.base_url}: all {len(failed):,} requests of batch {batch_id} failed, the first with: "
                f"{failed[0].reason} ({printable_line(failed[0].content or '')[:MAX_SHOWN]}). None was billed. Check "
                f"--model {self.ledger.model}, fix the cause and run the same command again"
            )
        self._is_trial = self._is_trial and not any(not reply.reason for reply in arrived)
        if found.status == "cancelled" or (found.status == "expired" and not answered):
            raise UserError(
                f"{self.server.base_url}: batch {batch_id} was {found.status} with {answered} answers, which are in "
                f"{self.ledger.path}. Run the same command again to send the others"
            )
        return True

    def _form(self) -> dict[str, Any]:
        """Return what the present settings make of a request."""
        return self.server.settings.body(self.prompt, self.ledger.model, "")

    def _adapt(self, batch: PendingBatch, replies: dict[str, Reply | None]) -> None:
        """If the server rejects the form of the requests, change it, and treat them as not executed: none was billed.

        So the first batch finds out how the server takes the schema and the token limit.
        """
        rejected = {name: reply for name, reply in replies.items() if reply and reply.reason in REJECTED}
        if not rejected or self.ledger.has_answers() or any(reply and not reply.reason for reply in replies.values()):
            return
        outdated = self._forms.get(batch.number, self._form()) != self._form()  # an earlier batch has changed it
        text = next(iter(rejected.values())).content or ""
        if outdated or self.server.settings.adapt(text):
            replies |= dict.fromkeys(rejected)

    def _download(self, file_id: str) -> bytes:
        headers = self.server.headers
        return self._send_free(
            lambda: self.server.client.files.content(file_id, extra_headers=headers).read(), "download of results"
        )

    def _record(self, batch: PendingBatch, replies: dict[str, Reply | None]) -> int:
        """Close a batch and its requests in one transaction. Returns the number of replies."""
        names = self.ledger.open_calls(batch.number)
        not_executed = {name for name in names if name in replies and replies[name] is None}
        with self.ledger.transaction():
            for name in names:
                reply = replies.get(name, Reply(reason="no reply in the batch", paid="maybe"))
                if reply is None:
                    self.ledger.forget(name)
                else:
                    self.ledger.close(name, reply)
            self.ledger.update_batch(batch.number, "state", "collected")
        self._requeue(not_executed)
        self.on_replies(len(names) - len(not_executed))
        return sum(replies.get(name) is not None for name in names)

    def _requeue(self, names: set[str]) -> None:
        """Return requests that were not executed to the unsent ones, and release their reserved cost."""
        self._unsent |= {name: self.captions[name] for name in names if name in self.captions}
        self._queue_full = self._budget_exhausted = False
        self.budget.recount(self.ledger)

    def _handle_rejection(self, batch: PendingBatch, found: openai.types.Batch) -> None:
        """Take back a batch that the server rejected, which is free. If its queue is full, wait for other batches.

        Raises:
            UserError: it was rejected for another reason, or no other batch is pending.
        """
        self._take_back(batch)
        errors = (found.errors.data if found.errors else None) or []
        self._queue_full = any(error.code == QUEUE_FULL for error in errors)
        if not self._queue_full or not self.ledger.pending_batches():
            message = " ".join((errors[0].message or "").split()) if errors else "no reason given"
            raise UserError(
                f"{self.server.base_url}: batch {batch.batch_id} was rejected ({self.server.scrub(message)[:200]}). "
                f"Fix the cause or lower --requests_per_batch {self.requests_per_batch}, and run the same command again"
            )

    def _take_back(self, batch: PendingBatch) -> None:
        names = self.ledger.open_calls(batch.number)
        with self.ledger.transaction():
            for name in names:
                self.ledger.forget(name)
            self.ledger.update_batch(batch.number, "state", "collected")
        self._requeue(set(names))

    def _send_free(self, call: Callable[[], T], what: str) -> T:
        """Send a request that costs nothing, with retries."""
        try:
            return self.server.send_with_retries(call, free=True)
        except RequestError as error:
            raise self._user_error(error, what) from None

    def _user_error(self, error: RequestError, what: str) -> UserError:
        return UserError(f"{self.server.base_url}: {what} failed: {error.reason} ({error.detail})")


def read_results(content: bytes, scrub: Callable[[str], str]) -> Iterator[tuple[str, Reply | None]]:
    """Yield (custom_id, reply) of each line of a result file; None for a request that was not executed.

    A line that cannot be parsed is skipped, so that its request has no reply in the batch.

    Args:
        content: an output or error file, with one line per request in any order.
        scrub: removes secrets from text written by the server.
    """
    for line in content.decode("utf-8", "replace").split("\n"):
        try:
            entry = load_json(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("custom_id"), str):
            yield entry["custom_id"], _reply(entry, scrub)


def _reply(entry: dict[str, Any], scrub: Callable[[str], str]) -> Reply | None:
    error, response = entry.get("error"), entry.get("response")
    if isinstance(error, dict) and error.get("code") in NOT_EXECUTED:
        return None
    if not isinstance(response, dict) or not isinstance(response.get("status_code"), int):
        return Reply(reason="reply not understood", paid="maybe")
    status, body = response["status_code"], response.get("body")
    text = scrub(json.dumps(body, ensure_ascii=False)) if status != 200 else ""
    if status == 200 and (error_body := error_in_body(body)):
        status, text = error_body[0], scrub(error_body[1])
    if status is None:
        return Reply(text, "server error without a code", "maybe")
    if status != 200:
        return Reply(text, f"server error {status}", "maybe" if status in AMBIGUOUS else "no")
    return read_reply(body, scrub)
