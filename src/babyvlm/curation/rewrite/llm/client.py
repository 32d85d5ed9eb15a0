"""A server that speaks OpenAI's protocol: who may be asked, with which key, and what its faults mean."""

from __future__ import annotations

import ipaddress
import json
import os
import stat
import threading
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

import openai
import tenacity

from babyvlm.curation.rewrite.llm.prompt import Answer, Paid, Reply, read_reply
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import BaseModel

T = TypeVar("T")
KEY_VARIABLE = "OPENAI_API_KEY"
# Our choices: how often a call is tried, the waits between, and the longest that a server may send us away for.
TRIES = 8
FIRST_WAIT = 1.0
MAX_WAIT = 60.0
MAX_RETRY_AFTER = 600.0
BUSY = (408, 409, 429, 500, 502, 503, 529)  # the server says that it did not do it, and may do it later
UNKNOWN = (504, 524)  # a gateway gave up waiting; the model behind it may have answered, and be paid
HOPELESS = (301, 302, 303, 307, 308, 401, 402, 403, 404, 405)  # no other call will fare better
NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError")


@dataclass(frozen=True)
class TroubleError(Exception):
    """A call that brought no reply.

    Attributes:
        reason: in words of our own, so that nothing a server wrote gets into tables.
        paid: whether it may have been paid for all the same.
        again: whether it makes sense to try once more.
        wait: seconds that the server asks for.
        hopeless: no further call will fare better.
        detail: what the server wrote, without secrets, in one line.
    """

    reason: str
    paid: Paid = "no"
    again: bool = False
    wait: float | None = None
    hopeless: bool = False
    detail: str = ""


class Server:
    """An OpenAI-compatible server.

    Args:
        base_url: up to and with ``/v1``.
        key: API key; empty for a server that wants none.
        timeout: seconds to wait for a reply.
        connections: how many calls may be under way.
    """

    def __init__(self, base_url: str, key: str, timeout: float, connections: int) -> None:
        self.base_url, self._key = base_url, key
        self.stopped = threading.Event()
        self.complaint = ""  # its last error, and what it wrote with it
        self.hopeless = False  # whether any further call makes sense
        local = is_loopback(base_url)
        # A loopback server is asked without proxies, and nothing follows a redirection: what is to stay here stays.
        http = openai.DefaultHttpxClient(trust_env=not local, follow_redirects=False)
        self.client = openai.OpenAI(
            base_url=base_url, api_key=key or "none", http_client=http, max_retries=0, timeout=timeout
        )
        self.headers: dict[str, Any] = {} if key else {"Authorization": openai.Omit()}

    def scrub(self, text: str) -> str:
        """Text from the server, without the key if it is echoed there."""
        return text.replace(self._key, "[key]") if self._key else text

    def ask(self, body: dict[str, Any], idempotency_key: str, answer: type[BaseModel] = Answer) -> Reply:
        """Make one call, again as long as it is certain that it was not paid. Sets ``hopeless`` and ``complaint``."""
        headers = {**self.headers, "Idempotency-Key": idempotency_key}
        try:
            text = self.patiently(
                lambda: self.client.chat.completions.with_raw_response.create(**body, extra_headers=headers).text
            )
            return read_reply(json.loads(text), self.scrub, answer)
        except (ValueError, RecursionError):
            return Reply(reason="reply cut short")
        except TroubleError as trouble:
            self.complaint = f"{trouble.reason} ({trouble.detail})"
            self.hopeless = self.hopeless or trouble.hopeless
            return Reply(reason=trouble.reason, paid=trouble.paid)

    def patiently(self, call: Callable[[], T], *, free: bool = False) -> T:
        """Make a call until it succeeds, waiting as long as the server asks for or twice as long each time.

        Args:
            call: one request by ``client``.
            free: it costs nothing, so it is made again even where it may have been done.

        Raises:
            TroubleError: it failed for good.
        """
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, TroubleError) and (error.again or (free and error.paid == "maybe"))
            ),
            wait=_wait,
            stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_when_event_set(self.stopped),
            sleep=tenacity.sleep_using_event(self.stopped),
            reraise=True,
        )(lambda: self.once(call))

    def once(self, call: Callable[[], T]) -> T:
        """Make a call; a fault comes as ``TroubleError``."""
        try:
            return call()
        except openai.OpenAIError as error:
            raise self._trouble(error) from None  # the original holds the request with its key
        except (ValueError, RecursionError):  # a body that is no JSON
            raise TroubleError("reply not understood", paid="maybe") from None

    def _trouble(self, error: openai.OpenAIError) -> TroubleError:
        detail = " ".join(self.scrub(str(error)).split())[:200]
        if isinstance(error, openai.APIStatusError):
            return _status_trouble(error, detail)
        if isinstance(error, openai.APIConnectionError):
            if type(error.__cause__).__name__ in NOT_SENT:
                return TroubleError("no connection", again=True, detail=detail)
            late = isinstance(error, openai.APITimeoutError)
            return TroubleError("timed out" if late else "connection lost", paid="maybe", detail=detail)
        return TroubleError("reply not understood", paid="maybe", detail=detail)


def _status_trouble(error: openai.APIStatusError, detail: str) -> TroubleError:
    status = error.status_code
    if status in HOPELESS or error.code == "insufficient_quota":
        return TroubleError(f"server error {status}", hopeless=True, detail=detail)
    if status in UNKNOWN:
        return TroubleError(f"server error {status}", paid="maybe", detail=detail)
    wait = _retry_after(error.response.headers.get("retry-after"))
    again = status in BUSY and (wait is None or wait <= MAX_RETRY_AFTER)
    return TroubleError(
        "rate limited" if status == 429 else f"server error {status}", again=again, wait=wait, detail=detail
    )


def _retry_after(header: str | None) -> float | None:
    """Seconds from now; the header holds them, or a date (RFC 9110, 10.2.3)."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    except ValueError:
        return None


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.wait if isinstance(error, TroubleError) else None
    usual = tenacity.wait_exponential_jitter(initial=FIRST_WAIT, max=MAX_WAIT, jitter=FIRST_WAIT)(state)
    return usual if asked is None else asked


def is_loopback(base_url: str) -> bool:
    """Whether a server is on this machine.

    Raises:
        UserError: it is no address of a server, or holds what does not belong in one.
    """
    try:
        url = openai.DefaultHttpxClient(base_url=base_url, trust_env=False).base_url  # as the client will read it
    except Exception:  # noqa: BLE001, RUF100 - whatever the URL parser of this version raises
        raise UserError(f"--base_url {base_url!r}: not an address; give it as in http://127.0.0.1:8000/v1") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"--base_url {base_url!r}: not an address; give it as in http://127.0.0.1:8000/v1")
    if url.userinfo or url.query or url.fragment:
        raise UserError("--base_url: holds a user name, a query or a fragment; keys go into the environment")
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def open_server(
    base_url: str, key_file: Path | None, timeout: float, connections: int, licensed: Path | None
) -> Server:
    """A server that may be asked.

    Args:
        base_url: up to and with ``/v1``.
        key_file: file of the API key; None reads the environment.
        timeout: seconds to wait for a reply.
        connections: how many calls may be under way.
        licensed: what is to be sent, if that may not leave this machine.

    Raises:
        UserError: what is licensed would leave this machine, or the key would go in the clear.
    """
    if licensed is not None and not is_loopback(base_url):
        raise UserError(
            f"{licensed}: is licensed, its utterances may not leave this machine; ask a server on "
            "it, as in --base_url http://127.0.0.1:8000/v1"
        )
    key = read_key(key_file)
    if key and base_url.startswith("http:") and not is_loopback(base_url):
        raise UserError(f"--base_url {base_url}: would carry the key in the clear; use https, or unset the key")
    return Server(base_url, key, timeout, connections)


def read_key(key_file: Path | None) -> str:
    """The API key from a file that only its owner can read, else from the environment; empty if there is none.

    Raises:
        UserError: the file is missing, or open to others, or what is found cannot be a key.
    """
    where, key = f"${KEY_VARIABLE}", os.environ.get(KEY_VARIABLE, "")
    if key_file is not None:
        where = str(key_file)
        try:
            with key_file.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                key = file.read(10_000).decode("utf-8", "replace")
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error.strerror})") from None
        if stat.S_IMODE(mode) & 0o077:
            raise UserError(f"{where}: others may read it; chmod 600 it")
        if not key.strip():
            raise UserError(f"{where}: is empty")
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{where}: holds no single line of plain letters and signs")
    return key
