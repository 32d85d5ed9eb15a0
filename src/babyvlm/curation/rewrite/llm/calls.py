"""Asking one caption at a time, several under way."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from babyvlm.curation.rewrite.llm.client import Server
from babyvlm.curation.rewrite.llm.prompt import REWRITE, Prompt, Reply, digest
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from babyvlm.curation.rewrite.llm.ledger import Ledger
    from babyvlm.curation.rewrite.llm.prices import Purse

MAX_STREAK = 20  # calls in a row without a reply, after which the server is taken to be down. Our choice.


@contextmanager
def _signals_noted(stopped: threading.Event) -> Iterator[None]:
    """Let the block end at its own places on Ctrl-C or SIGTERM, and interrupt it at its end; a second one does at once.

    An exception in the middle would leave a call that is written down and not sent, or sent and not waited for.
    """
    came: list[int] = []

    def note(number: int, _: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        stopped.set()

    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread only
        yield
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt if came[0] == signal.SIGINT else SystemExit(128 + came[0])


@dataclass
class Calls:
    """Asks captions, each written down before it is sent and when it is answered. Only this thread uses the ledger.

    Attributes:
        server: whom to ask.
        ledger: where it is written down.
        purse: what may be spent.
        concurrent_requests: how many calls are under way at a time.
        done: called after each caption.
        prompt: what is asked about a caption (or another item of text).
    """

    server: Server
    ledger: Ledger
    purse: Purse
    concurrent_requests: int
    done: Callable[[], None]
    prompt: Prompt = REWRITE
    _running: dict[Future[Reply], str] = field(default_factory=dict)
    _streak: int = 0

    def ask(self, captions: Iterable[str]) -> bool:
        """Ask for each caption; False if the purse did not allow for all.

        An interruption waits for the replies that are under way and keeps them.

        Args:
            captions: cleaned captions.

        Raises:
            UserError: the server refuses every call, or does not answer.
        """
        with _signals_noted(self.server.stopped), ThreadPoolExecutor(self.concurrent_requests) as pool:
            try:
                for caption in captions:
                    if not self._afford(caption):
                        self._settle(all_of_them=True)
                        return False
                    if self.server.stopped.is_set():
                        break
                    most = self.prompt.most_input_tokens(caption)
                    key = self.ledger.open(digest(caption), most, self.prompt.max_output_tokens)
                    body = self.prompt.request(self.ledger.model, caption)
                    self._running[pool.submit(self.server.ask, body, key, self.prompt.answer)] = caption
                    self._settle(all_of_them=False)
                self._settle(all_of_them=True)
            finally:
                self.server.stopped.set()  # nobody waits to try again
                self._keep_what_comes()
        return True

    def _afford(self, caption: str) -> bool:
        """Set the price of a call aside; if it is not there, wait for what running calls give back."""
        if self.purse.take(caption, batch=False):
            return True
        self._settle(all_of_them=True)
        return self.purse.take(caption, batch=False)

    def _settle(self, *, all_of_them: bool) -> None:
        """Write down replies until there is room for a call, or until none is under way, or the run is to stop."""
        while (
            self._running
            and not self.server.stopped.is_set()
            and (all_of_them or len(self._running) >= self.concurrent_requests)
        ):
            for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                self._write_down(future)

    def _write_down(self, future: Future[Reply]) -> None:
        caption = self._running.pop(future)
        reply = future.result()
        self.ledger.close(digest(caption), reply)
        self.purse.settle(caption, reply)
        self.done()
        self._streak = 0 if reply.paid == "yes" else self._streak + 1
        if self.server.hopeless or self._streak >= MAX_STREAK:
            row = "" if self.server.hopeless else f"{MAX_STREAK} calls in a row without a reply, the last: "
            raise UserError(
                f"{self.server.base_url}: {row}{self.server.complaint}; mend that and run again, answers are kept in "
                f"{self.ledger.path}"
            )

    def _keep_what_comes(self) -> None:
        """Write down the calls that are under way, however the run ends."""
        for future in list(self._running):
            self.ledger.close(digest(self._running.pop(future)), future.result())
