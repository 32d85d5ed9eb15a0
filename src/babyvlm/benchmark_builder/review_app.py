"""The server of the review page: a WSGI application on Werkzeug.

A request must have the page's own address as ``Host`` (which prevents DNS rebinding), no other page as ``Origin``, and
the printed token, which the browser keeps in a cookie (which excludes other users of the machine).
"""

from __future__ import annotations

import hmac
import json
import mimetypes
import threading
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import BadRequest, Conflict, Forbidden, HTTPException, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.serving import WSGIRequestHandler
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from babyvlm.benchmark_builder.verdicts import VERDICTS, VerdictFile
from babyvlm.errors import UserError
from babyvlm.io.files import read_bounded
from babyvlm.io.images import IMAGE_SUFFIXES
from babyvlm.io.limits import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from _typeshed.wsgi import WSGIEnvironment

    from babyvlm.benchmark_builder.items import Items

COOKIE = "babyvlm_review"
PAGE = ("review.html", "review.css", "review.js")
MAX_REQUEST_BYTES = 4096  # requests of the page are below 300
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class QuietHandler(WSGIRequestHandler):
    """Disables the request log, which would print a line per keystroke and the token."""

    def log_request(self, *_: object) -> None:
        """Log nothing."""


class ReviewApp:
    """Serves items to reviewers and records their verdicts.

    Args:
        items: What is judged.
        verdicts: Folder of the reviewers' files.
        token: Grants access.
        port: Of the page's own address.
    """

    def __init__(self, items: Items, verdicts: Path, token: str, port: int) -> None:
        self._items, self._rows, self._folder, self._token = items.fingerprint, items.rows, verdicts, token
        self._root = items.path
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._files: dict[str, VerdictFile] = {}
        self._lock = threading.Lock()  # serializes changes of all requests
        routes = {"next": self._next, "verdict": self._verdict, "undo": self._undo}
        self._routes = Map(
            [
                Rule("/", endpoint=self._page, defaults={"name": PAGE[0]}),
                Rule("/<name>", endpoint=self._page),
                Rule("/image/<item>", endpoint=self._image),
                *(Rule(f"/api/{name}", endpoint=action, methods=["POST"]) for name, action in routes.items()),
            ]
        )

    def __call__(self, environ: WSGIEnvironment, start_response: Any) -> Iterable[bytes]:  # noqa: ANN401 - WSGI's
        """Answer one request."""
        request = Request(environ)
        request.max_content_length = MAX_REQUEST_BYTES
        try:
            response = self._answer(request)
        except UserError as error:
            response = _json({"error": str(error)}, 400)
        except HTTPException as error:
            response = _json({"error": error.description}, error.code or 500)
        response.headers.extend(HEADERS)
        return response(environ, start_response)

    def close(self) -> None:
        """Close the reviewers' files."""
        with self._lock:
            for file in self._files.values():
                file.__exit__()

    def _answer(self, request: Request) -> Response:
        host = request.headers.get("Host", "")
        if host not in self._hosts:
            raise Forbidden("open this page by its own address")
        if request.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise Forbidden("requests from other pages are not allowed")
        given = request.args.get("token")
        if given is not None and request.path == "/" and self._is_token(given):
            response = redirect("/", 303)
            response.set_cookie(COOKIE, given, httponly=True, samesite="Strict")
            return response
        if not self._is_token(request.cookies.get(COOKIE, "")):
            raise Forbidden("open the printed address, including its token")
        endpoint, arguments = self._routes.bind_to_environ(request.environ).match()
        response = endpoint(request, **arguments)
        assert isinstance(response, Response)
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _page(self, _: Request, name: str) -> Response:
        if name not in PAGE:
            raise NotFound
        content = files(__package__).joinpath("page", name).read_bytes()
        return Response(content, mimetype=mimetypes.guess_type(name)[0])

    def _image(self, _: Request, item: str) -> Response:
        if item not in self._rows:
            raise NotFound
        path = self._root / self._rows[item].image
        if path.suffix.lower() not in IMAGE_SUFFIXES:  # a page or a script of this address could do what the page can
            raise NotFound("not an image")
        try:
            content = read_bounded(path, MAX_IMAGE_BYTES)
        except OSError:
            raise NotFound("the image cannot be read") from None
        return Response(content, mimetype=mimetypes.guess_type(path.name)[0] or "image/*")

    def _next(self, request: Request) -> Response:
        with self._lock:
            return self._show(self._file(_parameter(request, "reviewer")))

    def _verdict(self, request: Request) -> Response:
        reviewer, item, verdict = (_parameter(request, name) for name in ("reviewer", "item", "verdict"))
        if verdict not in VERDICTS or item not in self._rows:
            raise BadRequest("unknown verdict or item")
        with self._lock:
            file = self._file(reviewer)
            if item in file.given:
                raise Conflict("this item already has a verdict, perhaps from another window. Reload the page")
            file.give(item, verdict)
            return self._show(file)

    def _undo(self, request: Request) -> Response:
        with self._lock:
            file = self._file(_parameter(request, "reviewer"))
            return self._show(file, file.undo())

    def _file(self, reviewer: str) -> VerdictFile:
        if reviewer not in self._files:
            self._files[reviewer] = VerdictFile(self._folder, reviewer, self._items)
        return self._files[reviewer]

    def _show(self, file: VerdictFile, name: str | None = None) -> Response:
        """Return an item, by default the first without a verdict, and the progress; no item if all have verdicts."""
        name = name or next((item for item in self._rows if item not in file.given), None)
        shown: dict[str, object] = {"done": len(file.given), "total": len(self._rows), "item": name}
        if name is not None:
            item = self._rows[name]
            shown |= {"positive": item.positive, "negative": item.negative, "word_class": item.word_class}
        return _json(shown)


def _parameter(request: Request, name: str) -> str:
    """Return a text from the JSON body of a request. Forms of other pages cannot send JSON without a preflight."""
    value = request.get_json()
    text = value.get(name) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise BadRequest(f"{name} is missing")
    return text


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")
