"""The review page: one image, two phrases and one keystroke at a time, on this machine only."""

from __future__ import annotations

import secrets
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from babyvlm.benchmark_builder.agreement import agreement, sentence
from babyvlm.benchmark_builder.items import Items
from babyvlm.benchmark_builder.verdicts import VERDICTS, read_all
from babyvlm.errors import UserError
from babyvlm.io.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Mapping


def review(items: Path, verdicts: Path | None = None, port: int = 8017) -> None:
    """Serve a page on which people judge items one by one; end it with Ctrl-C.

    A person opens the address that is printed, gives a name, and answers by one key an item whether the image shows
    the first phrase and not the second: y, n, s to skip, u to take the last answer back. Every answer is on disk
    before the next item shows; the same name goes on where it was.

    For example:
        python -m babyvlm benchmark build review --items build/pairs

    Args:
        items: phrase pairs or negative images, as `phrase-pairs` and `negatives` make them.
        verdicts: folder of the answers, a file a reviewer; `<items>.verdicts` if not given.
        port: on 127.0.0.1; 0 takes a free one.

    Raises:
        UserError: the items cannot be read, or the port is taken.
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
        print(
            f"{len(source.rows):,} items; verdicts go to {folder}\nopen http://127.0.0.1:{port}/?token={token}",
            flush=True,
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            thread.join()
        except KeyboardInterrupt:
            server.shutdown()
            app.close()
    print(f"\n{summary(source, folder)}")


def verdicts_of(items: Path) -> Path:
    """Where the verdicts on items are, if nobody says otherwise."""
    return items.with_name(f"{items.name}.verdicts")


def accepted(items: Items, verdicts: Path, reviewers: int = 1) -> list[str]:
    """Names of the items to which every reviewer who answered said yes, in order; a skip is no answer.

    Args:
        items: what was judged.
        verdicts: folder of the answers.
        reviewers: how many must have said yes.

    Raises:
        UserError: there is no answer, or no item is accepted.
    """
    given = read_all(verdicts, items.fingerprint)
    if not given:
        raise UserError(f"{verdicts}: holds no verdicts; review {items.path} first (benchmark build review)")
    names = [name for name in items.rows if _accepted([mine.get(name, "skip") for mine in given.values()], reviewers)]
    if not names:
        raise UserError(f"{verdicts}: no item has a yes of {reviewers} and no no; review more of {items.path}")
    return names


def _accepted(said: list[str], reviewers: int) -> bool:
    return "no" not in said and said.count("yes") >= reviewers


def summary(items: Items, verdicts: Path) -> str:
    """How far each reviewer is, and how far they agree."""
    given = read_all(verdicts, items.fingerprint)
    lines = [f"{name}: {_count(mine)} of {len(items.rows)} items" for name, mine in given.items()]
    return "\n".join([*lines, sentence(agreement(given))])


def _count(mine: Mapping[str, str]) -> str:
    counts = (f"{list(mine.values()).count(verdict)} {verdict}" for verdict in VERDICTS)
    return f"{len(mine)} ({', '.join(counts)})"


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(f"--port {port}: cannot be had ({error}); choose another, or 0 for a free one") from None
    return listener
