"""Asking one caption at a time, several under way."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from babyvlm.contracts import UserError
from babyvlm.curation.llm.client import Server, TroubleError
from babyvlm.curation.llm.prompt import MAX_OUTPUT_TOKENS, Reply, digest, most_input_tokens, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from babyvlm.curation.llm.ledger import Ledger
    from babyvlm.curation.llm.prices import Purse

MAX_STREAK = 20  # calls in a row without a reply, after which the server is taken to be down. Our choice.


@dataclass
class Calls:
    """Asks captions, each written down before it is sent and when it is answered. Only this thread uses the ledger.

    Attributes:
        server: whom to ask.
        ledger: where it is written down.
        purse: what may be spent.
        concurrency: how many calls are under way at a time.
        done: called after each caption.
    """

    server: Server
    ledger: Ledger
    purse: Purse
    concurrency: int
    done: Callable[[], None]
    _running: dict[Future[Reply], str] = field(default_factory=dict)
    _streak: list[str] = field(default_factory=list)

    def ask(self, captions: Iterable[str]) -> bool:
        """Ask for each caption; False if the purse did not allow for all.

        An interruption waits for the replies that are under way and keeps them.

        Args:
            captions: cleaned captions.

        Raises:
            UserError: the server refuses every call, or does not answer.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                for caption in captions:
                    if not self._afford(caption):
                        self._settle(all_of_them=True)
                        return False
                    key = self.ledger.open(digest(caption), most_input_tokens(caption), MAX_OUTPUT_TOKENS)
                    body = request(self.ledger.model, caption)
                    self._running[pool.submit(self.server.ask, body, key)] = caption
                    self._settle(all_of_them=False)
                self._settle(all_of_them=True)
            except BaseException:
                self.server.stopped.set()  # nobody waits to try again
                self._keep_what_comes()
                raise
        return True

    def _afford(self, caption: str) -> bool:
        """Set the price of a call aside; if it is not there, wait for what running calls give back."""
        if self.purse.take(caption, batch=False):
            return True
        self._settle(all_of_them=True)
        return self.purse.take(caption, batch=False)

    def _settle(self, *, all_of_them: bool) -> None:
        """Write down replies until there is room for a call, or until none is under way."""
        while self._running and (all_of_them or len(self._running) >= self.concurrency):
            for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                self._write_down(future)

    def _write_down(self, future: Future[Reply]) -> None:
        caption = self._running[future]
        try:
            reply = future.result()
        except TroubleError as trouble:
            del self._running[future]
            self.ledger.forget(digest(caption))
            raise UserError(f"{self.server.base_url}: {trouble.reason}; it says: {trouble.detail}") from None
        self.ledger.close(digest(caption), reply)
        del self._running[future]  # not before: an interruption writes down what is left here
        self.purse.settle(caption, reply)
        self.done()
        self._streak = [*self._streak, caption] if reply.paid != "yes" else []
        if len(self._streak) >= MAX_STREAK:
            for unasked in self._streak:
                self.ledger.forget(digest(unasked))
            raise UserError(
                f"{self.server.base_url}: {MAX_STREAK} calls in a row without a reply ({reply.reason}); all answers "
                f"so far are in {self.ledger.path}; run again when the server is well"
            )

    def _keep_what_comes(self) -> None:
        """Write down the calls that are under way; those that were certainly not made may be made by the next run."""
        for future in list(self._running):
            name = digest(self._running.pop(future))
            error = future.exception()
            if error is None:
                self.ledger.close(name, future.result())
            if error is not None or future.result().paid == "no":
                self.ledger.forget(name)
