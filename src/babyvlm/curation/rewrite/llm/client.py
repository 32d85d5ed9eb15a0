"""Client of an OpenAI-compatible server: permitted addresses, API keys, retries and the meaning of errors."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import stat
import threading
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

import openai
import tenacity

from babyvlm.curation.rewrite.llm.prompt import Paid, Prompt, Reply
from babyvlm.curation.rewrite.llm.replies import decode_body, error_in_body, read_reply
from babyvlm.curation.rewrite.llm.responses import MAX_REPLY_BYTES, BoundedResponses, OversizedError
from babyvlm.curation.rewrite.llm.settings import RequestSettings
from babyvlm.errors import UserError
from babyvlm.io.license_gate import require_free
from babyvlm.io.printing import echo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
KEY_VARIABLE = "OPENAI_API_KEY"
# Attempts per call, seconds between them, and the longest Retry-After that is honored. Our choices.
MAX_ATTEMPTS = 8
FIRST_WAIT = 1.0
MAX_WAIT = 60.0
MAX_RETRY_AFTER = 600.0
# A server that has not answered yet and fails (500, no connection) is given up after this time plus the wait that has
# begun, less than 30 s in all, instead of after all attempts. Our choice.
START_SECONDS = 8.0
MIN_KEY = 12  # characters of a key from which its base64 form is long enough to be masked. Our choice.
RETRYABLE = (409, 429, 500, 503, 529)  # the server did not process the call and may do so later
# A gateway (nginx, Cloudflare) or the server gave up while the model may have been answering: the call may be billed.
AMBIGUOUS = frozenset({408, 499, 502, 504, *range(520, 526)})
FATAL = (301, 302, 303, 307, 308, 401, 402, 403, 404, 405)  # every further call would fail as well
NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError")


@dataclass(frozen=True)
class RequestError(Exception):
    """A request without a usable reply.

    Attributes:
        reason: in our own words, so that no text of a server gets into tables.
        paid: whether it may have been billed nevertheless.
        retry: whether another attempt may succeed.
        wait: seconds requested by the server.
        fatal: every further request would fail as well.
        detail: message of the server in one line, without secrets.
        rejection: complete message if the server rejects the form of the request (400, 422).
    """

    reason: str
    paid: Paid = "no"
    retry: bool = False
    wait: float | None = None
    fatal: bool = False
    detail: str = ""
    rejection: str = ""


class Server:
    """An OpenAI-compatible server.

    Args:
        base_url: URL that ends in ``/v1``.
        key: API key; empty for a server that needs none.
        timeout: seconds to wait for the beginning of a reply, and from there to its end.
        settings: of chat completions.
        max_reply_bytes: of a reply, unpacked.

    Attributes:
        stopped: set to end retries and waiting.
        last_error: last failure, with the server's message.
        fatal: whether every further call would fail.
        answered: whether the model has replied to a call.
        worked_before: whether it answered in an earlier run, so that its failures are not those of a wrong setting.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        timeout: float,
        settings: RequestSettings | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self.base_url = base_url
        self.settings = settings or RequestSettings()
        self.answered = self.worked_before = False
        self._key_forms = _key_forms(key) if key else None
        self._announced = False
        self._adapting = threading.Lock()
        self.stopped = threading.Event()
        self.last_error = ""
        self.fatal = False
        local = is_loopback(base_url)
        # No proxies for a loopback server, and no redirects: data meant for this machine must not leave it.
        http = openai.DefaultHttpxClient(
            trust_env=not local,
            follow_redirects=False,
            headers={"Accept-Encoding": "gzip"},
            event_hooks={"response": [BoundedResponses(max_reply_bytes, timeout)]},
        )
        self.client = openai.OpenAI(
            base_url=base_url, api_key=key or "none", http_client=http, max_retries=0, timeout=timeout
        )
        self.headers: dict[str, Any] = {} if key else {"Authorization": openai.Omit()}

    def scrub(self, text: str) -> str:
        """Mask the API key in text written by the server."""
        return self._key_forms.sub("[key]", text) if self._key_forms else text

    def complete(self, prompt: Prompt, model: str, item: str, idempotency_key: str) -> Reply:
        """Make one chat completion, with retries as long as it is certain that no attempt was billed.

        Before the first reply, settings that the server rejects are adapted. Sets ``fatal`` and ``last_error`` after a
        failure.
        """
        headers = {**self.headers, "Idempotency-Key": idempotency_key}
        try:
            reply = read_reply(self._adapt_and_send(prompt, model, item, headers), self.scrub, prompt.answer)
        except RequestError as error:
            self.last_error = f"{error.reason} ({error.detail})"
            given_up = error.retry and not self._has_worked and not self.stopped.is_set()
            self.fatal = self.fatal or error.fatal or given_up
            return Reply(reason=error.reason, paid=error.paid)
        self.answered = True
        return reply

    def _adapt_and_send(self, prompt: Prompt, model: str, item: str, headers: dict[str, Any]) -> object:
        while True:
            body = self.settings.body(prompt, model, item)
            try:
                return self.send_with_retries(partial(self._post, body, headers))
            except RequestError as error:
                if self.answered or not error.rejection:
                    raise
                with self._adapting:
                    is_outdated = body != self.settings.body(prompt, model, item)  # another call has adapted them
                    if not is_outdated and not self.settings.adapt(error.rejection):
                        raise

    def _post(self, body: dict[str, Any], headers: dict[str, Any]) -> object:
        """Return the decoded body of the response.

        Raises:
            RequestError: it is an error, or not JSON.
        """
        others = {name: value for name, value in body.items() if name not in ("model", "messages")}
        text = self.client.chat.completions.with_raw_response.create(
            model=body["model"], messages=body["messages"], extra_body=others, extra_headers=headers
        ).text
        try:
            decoded = decode_body(text)
        except (ValueError, RecursionError):
            if text.lstrip()[:1] == "<":
                detail = f"it begins with {self._one_line(text)[:100]!r}; check --base_url, which usually ends in /v1"
                raise RequestError("a web page instead of a reply", "maybe", fatal=True, detail=detail) from None
            raise RequestError("reply truncated", "yes", detail=repr(self._one_line(text)[:100])) from None
        if error := error_in_body(decoded):
            status, message = error
            detail = self._one_line(message)
            if status is None:
                raise RequestError(
                    "server error without a code", "maybe", fatal=not self._has_worked, detail=detail[:200]
                )
            raise _status_error(status, None, detail)
        return decoded

    def _one_line(self, text: str) -> str:
        return " ".join(self.scrub(text).split())

    def send_with_retries(self, call: Callable[[], T], *, free: bool = False) -> T:
        """Send a request until it succeeds, with exponential backoff or the wait requested by the server.

        Args:
            call: makes one request with ``client``.
            free: the request costs nothing, so it is repeated even if it may have been processed.

        Raises:
            RequestError: it failed for good.
        """
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, RequestError) and (error.retry or (free and error.paid == "maybe"))
            ),
            wait=_wait,
            stop=partial(self._is_final, free=free),
            before_sleep=self._announce_retry,
            sleep=tenacity.sleep_using_event(self.stopped),
            reraise=True,
        )(lambda: self.send(call))

    def send(self, call: Callable[[], T]) -> T:
        """Send a request once.

        Raises:
            RequestError: it failed.
        """
        try:
            return call()
        except openai.OpenAIError as error:
            raise self._request_error(error) from None  # the original contains the request with its key
        except (ValueError, RecursionError):  # a body that is not JSON
            raise RequestError("reply not understood", paid="maybe") from None

    @property
    def _has_worked(self) -> bool:
        return self.answered or self.worked_before

    def _is_final(self, state: tenacity.RetryCallState, *, free: bool) -> bool:
        if state.attempt_number >= MAX_ATTEMPTS or self.stopped.is_set():
            return True
        error = state.outcome.exception() if state.outcome else None
        is_broken = isinstance(error, RequestError) and error.reason in ("server error 500", "no connection")
        return is_broken and not free and not self._has_worked and (state.seconds_since_start or 0) > START_SECONDS

    def _announce_retry(self, state: tenacity.RetryCallState) -> None:
        """Print the first failure of the run, so that a server that is not ready does not cause a silent wait."""
        error = state.outcome.exception() if state.outcome else None
        if not self._announced and isinstance(error, RequestError):
            self._announced = True
            echo(f"{self.base_url}: {error.reason} ({error.detail}); retrying")

    def _request_error(self, error: openai.OpenAIError) -> RequestError:
        text = self._one_line(str(error))
        detail = text[:200]
        if isinstance(error, openai.APIStatusError):
            if " - " not in text:  # the client quotes only errors in OpenAI's form
                text = self._one_line(f"{error} - {error.response.text}")
            return _status_error(error.status_code, error.response.headers.get("retry-after"), text, error.code)
        if isinstance(error, openai.APIConnectionError):
            if isinstance(error.__cause__, OversizedError):
                return RequestError("reply too large", paid="maybe", detail=str(error.__cause__))
            if type(error.__cause__).__name__ in NOT_SENT:
                return RequestError("no connection", retry=True, detail=detail)
            timed_out = isinstance(error, openai.APITimeoutError)
            return RequestError("timed out" if timed_out else "connection lost", paid="maybe", detail=detail)
        return RequestError("reply not understood", paid="maybe", detail=detail)


def _status_error(status: int, retry_after: str | None, text: str, code: str | None = None) -> RequestError:
    detail = text[:200]
    if status in FATAL or code == "insufficient_quota":
        return RequestError(f"server error {status}", fatal=True, detail=detail)
    if status in AMBIGUOUS:
        return RequestError(f"server error {status}", paid="maybe", detail=detail)
    if status in (400, 422):
        return RequestError(f"server error {status}", detail=detail, rejection=text)
    wait = _retry_after(retry_after)
    retry = status in RETRYABLE and (wait is None or wait <= MAX_RETRY_AFTER)
    reason = "rate limited" if status == 429 else f"server error {status}"
    return RequestError(reason, retry=retry, wait=wait, detail=detail)


def _key_forms(key: str) -> re.Pattern[str]:
    """Match a key as it is, with any characters escaped as in JSON or URLs, and in base64."""
    forms = ["".join(rf"(?:{re.escape(c)}|\\+u00{ord(c):02x}|%{ord(c):02x})" for c in key)]
    if len(key) >= MIN_KEY:
        for offset, start in ((0, 0), (1, 2), (2, 3)):  # the characters that depend on the key alone
            coded = base64.b64encode(b"\0" * offset + key.encode()).decode()
            forms.append(re.escape(coded[start : (offset + len(key)) * 8 // 6]))
    return re.compile("|".join(forms), re.IGNORECASE)


def _retry_after(header: str | None) -> float | None:
    """Return the seconds to wait; the header has a number of seconds or a date (RFC 9110, section 10.2.3)."""
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
    requested = error.wait if isinstance(error, RequestError) else None
    backoff = tenacity.wait_exponential_jitter(initial=FIRST_WAIT, max=MAX_WAIT, jitter=FIRST_WAIT)(state)
    return backoff if requested is None else requested


def is_loopback(base_url: str) -> bool:
    """Return whether a server is on this machine.

    Raises:
        UserError: not a valid URL, or it contains credentials, a query or a fragment.
    """
    invalid = UserError(f"--base_url {base_url!r}: not a valid URL. Example: http://127.0.0.1:8000/v1")
    try:
        url = openai.DefaultHttpxClient(base_url=base_url, trust_env=False).base_url  # parsed as the client will
    except Exception:  # noqa: BLE001, RUF100 - whatever the URL parser of this version raises
        raise invalid from None
    if url.scheme not in ("http", "https") or not url.host:
        raise invalid
    if url.userinfo or url.query or url.fragment:
        raise UserError(
            f"--base_url: must not contain a user name, a query or a fragment. Set the key in ${KEY_VARIABLE}"
        )
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def open_server(
    base_url: str,
    key_file: Path | None,
    timeout: float,
    licensed: Path | None,
    settings: RequestSettings | None = None,
    max_reply_bytes: int = MAX_REPLY_BYTES,
) -> Server:
    """Return a client, after checking that data and key may be sent to this server.

    Args:
        base_url: URL that ends in ``/v1``.
        key_file: file with the API key; None reads the environment.
        timeout: seconds to wait for a reply.
        licensed: store or items to be sent, if they must not leave this machine.
        settings: of chat completions.
        max_reply_bytes: of a reply, unpacked.

    Raises:
        UserError: licensed data would leave this machine, or the key would be sent unencrypted.
    """
    if licensed is not None:
        local_server = "Use a server on this machine, for example --base_url http://127.0.0.1:8000/v1"
        require_free(licensed, licensed=not is_loopback(base_url), remedy=local_server)
    key = read_key(key_file)
    if key and base_url.startswith("http:") and not is_loopback(base_url):
        raise UserError(f"--base_url {base_url}: would send the API key unencrypted. Use https or unset the key")
    return Server(base_url, key, timeout, settings, max_reply_bytes)


def read_key(key_file: Path | None) -> str:
    """Return the API key from a file that only its owner can read, or from the environment; empty if no key is set.

    Raises:
        UserError: the file is missing or readable by others, or its content cannot be a key.
    """
    source, key = f"${KEY_VARIABLE}", os.environ.get(KEY_VARIABLE, "")
    if key_file is not None:
        source = str(key_file)
        try:
            with key_file.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                key = file.read(10_000).decode("utf-8", "replace")
        except OSError as error:
            raise UserError(f"{source}: cannot be read ({error.strerror})") from None
        if stat.S_IMODE(mode) & 0o077:
            raise UserError(f"{source}: readable by other users. Run: chmod 600 {source}")
        if not key.strip():
            raise UserError(f"{source}: is empty")
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{source}: not an API key. Expected a single line of printable ASCII without blanks")
    return key
