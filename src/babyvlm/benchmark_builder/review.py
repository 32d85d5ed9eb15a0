"""Serve the review page on this machine: one image, two phrases, one keystroke."""

from __future__ import annotations

import secrets
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from babyvlm.benchmark_builder.items import Items
from babyvlm.benchmark_builder.verdicts import VERDICTS, agreement, agreement_text, read_all
from babyvlm.errors import UserError
from babyvlm.io.extras import require_extra
from babyvlm.io.printing import echo

if TYPE_CHECKING:
    from collections.abc import Mapping


def review(items: Path, verdicts: Path | None = None, port: int = 8017) -> None:
    """Serve a page on which reviewers judge items one by one. Stop it with Ctrl-C.

    A reviewer opens the printed address, enters a name, and answers with one key per item whether the image shows the
    first phrase and not the second: y (yes), n (no), s (skip), u (undo). Every answer is on disk before the next item
    is shown. A reviewer who enters the same name again continues at the first unanswered item.

    For example:
        python -m babyvlm benchmark build review --items build/pairs

    Args:
        items: output of `phrase-pairs` or `negatives`.
        verdicts: folder of the answers, one file per reviewer; by default `<items>.verdicts`.
        port: port on 127.0.0.1; 0 selects a free port.

    Raises:
        UserError: the items cannot be read, or the port is in use.
    """
    with require_extra("review", "the review page"):
        from werkzeug.serving import make_server

        from babyvlm.benchmark_builder.review_app import QuietHandler, ReviewApp
    source = Items(items)
    folder = verdicts or verdicts_of(items)
    with _listening(port) as listener:
        token = secrets.token_urlsafe(16)
        port = listener.getsockname()[1]
        app = ReviewApp(source, folder, token, port)
        server = make_server("127.0.0.1", port, app, threaded=True, request_handler=QuietHandler, fd=listener.fileno())
        echo(
            f"{len(source.rows):,} items; verdicts are written to {folder}\nopen http://127.0.0.1:{port}/?token={token}",
            flush=True,
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            thread.join()
        except KeyboardInterrupt:
            server.shutdown()
            app.close()
    echo(f"\n{summary(source, folder)}")


def verdicts_of(items: Path) -> Path:
    """Return the default folder of verdicts on items."""
    return items.with_name(f"{items.name}.verdicts")


def accepted(items: Items, verdicts: Path, reviewers: int = 1) -> list[str]:
    """Return the names of items that no reviewer rejected and enough accepted, in order; a skip is no answer.

    Args:
        items: What was judged.
        verdicts: Folder of the answers.
        reviewers: Minimum number of reviewers who answered yes.

    Raises:
        UserError: there are no answers, or no item is accepted.
    """
    given = read_all(verdicts, items.fingerprint)
    if not given:
        raise UserError(f"{verdicts}: no verdicts. Review {items.path} first (benchmark build review)")
    names = [name for name in items.rows if _accepted([own.get(name, "skip") for own in given.values()], reviewers)]
    if not names:
        raise UserError(f"{verdicts}: no item was accepted by {reviewers} reviewers. Review more of {items.path}")
    return names


def _accepted(answers: list[str], reviewers: int) -> bool:
    return "no" not in answers and answers.count("yes") >= reviewers


def summary(items: Items, verdicts: Path) -> str:
    """Return the progress and the agreement of the reviewers, as text."""
    given = read_all(verdicts, items.fingerprint)
    lines = [f"{name}: {_count(own)} of {len(items.rows)} items" for name, own in given.items()]
    return "\n".join([*lines, agreement_text(agreement(given))])


def _count(own: Mapping[str, str]) -> str:
    counts = (f"{list(own.values()).count(verdict)} {verdict}" for verdict in VERDICTS)
    return f"{len(own)} ({', '.join(counts)})"


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(f"--port {port}: not available ({error}). Pass a different port, or 0 for a free one") from None
    return listener
