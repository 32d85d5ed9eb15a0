"""Individual calls to a language model, several at a time."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from babyvlm.curation.rewrite.llm.prompt import REWRITE_PROMPT, Prompt, Reply, digest
from babyvlm.errors import UserError
from babyvlm.io.printing import printable_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from babyvlm.curation.rewrite.llm.client import Server
    from babyvlm.curation.rewrite.llm.ledger import Ledger
    from babyvlm.curation.rewrite.llm.prices import Budget

MAX_UNUSABLE = 5  # billed answers in a row, none of them usable, after which a run stops at its start. Our choice.
MAX_UNUSABLE_LATER = 50  # likewise, once an answer was usable. Our choice.
MAX_SHOWN = 300  # characters of an answer in a message. Our choice.
_ADVICE = {
    "answer truncated": "Raise --max_output_tokens, or shorten the reasoning with --thinking false or "
    "--reasoning_effort low",
    "the model refused": "Use another model",
    "stopped by the server's content filter": "Use another model or change the filter of the server",
    "reply truncated": "Check --base_url, which usually ends in /v1, and the server",
}
_OTHER_ADVICE = (
    "Use a model that follows the schema, request it with another --response_format, or turn off reasoning with "
    "--thinking false"
)
MAX_FAILURES = 20  # calls in a row without a reply after which the server is considered down. Our choice.


@contextmanager
def _deferred_signals(stopped: threading.Event) -> Iterator[None]:
    """Set ``stopped`` at the first Ctrl-C or SIGTERM and interrupt at the end of the block, or at once at a second.

    An exception inside the block could leave a call that is recorded and not sent, or sent and not awaited.
    """
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        stopped.set()

    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])


@dataclass
class CallRunner:
    """Makes one call per caption, recorded before it is sent and when its reply arrives.

    Until the server has given a usable answer, calls are made one at a time, so that few are billed if none is usable.
    Only the calling thread uses the ledger.

    Attributes:
        server: server to call.
        ledger: record of all calls.
        budget: limit on the cost.
        concurrent_requests: number of calls in flight.
        on_reply: called after each caption.
        prompt: question about a caption (or another text).
    """

    server: Server
    ledger: Ledger
    budget: Budget
    concurrent_requests: int
    on_reply: Callable[[], None]
    prompt: Prompt = REWRITE_PROMPT
    _in_flight: dict[Future[Reply], str] = field(default_factory=dict)
    _failures: int = 0  # in a row
    _unusable: int = 0  # billed answers in a row
    _has_usable_answer: bool = False

    def run(self, captions: Iterable[str]) -> bool:
        """Call the model for each caption. An interruption waits for the replies in flight and stores them.

        Args:
            captions: cleaned captions.

        Returns:
            False if the budget did not suffice for all.

        Raises:
            UserError: the server rejects every call, or does not answer.
        """
        self.server.worked_before = self.ledger.has_answers()
        with _deferred_signals(self.server.stopped), ThreadPoolExecutor(self.concurrent_requests) as pool:
            try:
                for caption in captions:
                    if not self._reserve(caption):
                        self._await_replies(all_replies=True)
                        return False
                    if self.server.stopped.is_set():
                        break
                    max_input = self.prompt.max_input_tokens(caption)
                    key = self.ledger.open(digest(caption), max_input, self.prompt.max_output_tokens)
                    call = pool.submit(self.server.complete, self.prompt, self.ledger.model, caption, key)
                    self._in_flight[call] = caption
                    self._await_replies(all_replies=False)
                self._await_replies(all_replies=True)
            finally:
                self.server.stopped.set()  # no more retries
                for future, caption in list(self._in_flight.items()):  # however the run ends, store their replies
                    del self._in_flight[future]
                    self.ledger.close(digest(caption), future.result())
        return True

    @property
    def _max_in_flight(self) -> int:
        return self.concurrent_requests if self._has_usable_answer or self.server.worked_before else 1

    def _reserve(self, caption: str) -> bool:
        """Reserve the maximum cost of a call; if the budget is used up, wait for what calls in flight release."""
        if self.budget.reserve(caption, batch=False):
            return True
        self._await_replies(all_replies=True)
        return self.budget.reserve(caption, batch=False)

    def _await_replies(self, *, all_replies: bool) -> None:
        """Record replies until another call may be sent, or until none is in flight, or until the run is stopped."""
        while (
            self._in_flight
            and not self.server.stopped.is_set()
            and (all_replies or len(self._in_flight) >= self._max_in_flight)
        ):
            for future in wait(self._in_flight, return_when=FIRST_COMPLETED).done:
                self._record(future)

    def _record(self, future: Future[Reply]) -> None:
        caption = self._in_flight.pop(future)
        reply = future.result()
        self.ledger.close(digest(caption), reply)
        self.budget.settle(caption, reply)
        self.on_reply()
        self._failures = 0 if reply.paid == "yes" else self._failures + 1
        if not reply.reason:
            self._has_usable_answer, self._unusable = True, 0
        elif reply.paid == "yes":
            self._unusable += 1
        is_start = not self._has_usable_answer and not self.server.worked_before
        max_failures = MAX_UNUSABLE if is_start else MAX_FAILURES
        if self.server.fatal or self._failures >= max_failures:
            count = "" if self.server.fatal else f"{max_failures} calls in a row failed, the last with: "
            check = f"Check --model {self.ledger.model} and --base_url. " if is_start else ""
            raise UserError(
                f"{self.server.base_url}: {count}{printable_line(self.server.last_error)}. {check}Fix the cause and "
                f"run the same command again; answers so far are stored in {self.ledger.path}"
            )
        if self._unusable >= (MAX_UNUSABLE if is_start else MAX_UNUSABLE_LATER):
            which = f"the first {self._unusable} answers" if is_start else f"{self._unusable} answers in a row"
            raise unusable_answers(which, reply, self.ledger, self.budget, self.prompt)


def unusable_answers(which: str, example: Reply, ledger: Ledger, budget: Budget, prompt: Prompt) -> UserError:
    """Return the error that ends a run whose billed answers cannot be used.

    Args:
        which: the answers, as in "the first 5 answers".
        example: one of them.
        ledger: record of all calls.
        budget: with the total cost.
        prompt: the question.
    """
    advice = "Use a model that follows the schema"
    if prompt.name == REWRITE_PROMPT.name:
        advice = _ADVICE.get(example.reason, _OTHER_ADVICE)
        advice += ". Then run the command again with --retry_rejected true to request these captions again"
    tokens = ledger.tokens().values()
    shown = printable_line(example.content or "")[:MAX_SHOWN]
    return UserError(
        f"{ledger.endpoint}: {which} of {ledger.model} cannot be used ({example.reason}). "
        + (f"The last one: {shown!r}. " if shown else "It contains no text. ")
        + f"Billed so far: {sum(counts[0] for counts in tokens):,} input and {sum(counts[1] for counts in tokens):,} "
        f"output tokens, cost {budget}. {advice}"
    )
