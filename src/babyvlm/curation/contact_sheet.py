"""One self-contained HTML page of pairs to look at: nothing on it is fetched, and nothing it quotes is run."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.io.images import BrokenImageError, open_rgb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

THUMBNAIL = 224  # pixels of the longer side at most
LICENSED_NOTE = "Made from a licensed store: this page must not leave this machine."
# The policy is a second lock: the texts are escaped, and if one were not, the browser would still run and load nothing.
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 2em; }}
.licensed {{ border: 3px solid #d55e00; padding: .5em 1em; font-weight: bold; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1em; }}
figure {{ margin: 0; width: 224px; overflow-wrap: anywhere; }}
img {{ max-width: 224px; display: block; }}
small {{ color: #555; }}
</style></head><body>
<h1>{title}</h1>
{licensed}<p>{note}</p>
{sections}</body></html>
"""


class Card(NamedTuple):
    """A picture with what was said, and smaller print below."""

    image: bytes
    text: str
    detail: str


def sheet(title: str, note: str, sections: Mapping[str, Sequence[Card]], *, licensed: bool) -> str:
    """A page with a heading for each section; texts may hold anything."""
    parts = [
        f'<h2>{html.escape(heading)}</h2>\n<div class="cards">\n{"".join(map(_figure, cards))}</div>\n'
        for heading, cards in sections.items()
    ]
    warning = f'<p class="licensed">{LICENSED_NOTE}</p>\n' if licensed else ""
    return PAGE.format(title=html.escape(title), licensed=warning, note=html.escape(note), sections="".join(parts))


def _figure(card: Card) -> str:
    try:
        picture = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(thumbnail(card.image)).decode()}">'
    except BrokenImageError as error:
        picture = f"<p>image broken: {html.escape(str(error))}</p>"
    text, detail = (html.escape(words.encode(errors="replace").decode()) for words in (card.text, card.detail))
    return f"<figure>{picture}<figcaption>{text}<br><small>{detail}</small></figcaption></figure>\n"


def thumbnail(content: bytes | Path) -> bytes:
    """A picture as a JPEG of at most ``THUMBNAIL`` pixels, without whatever else its file held.

    Raises:
        BrokenImageError: it cannot be decoded.
    """
    image = open_rgb(content)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
