"""A self-contained HTML page of pairs. It loads nothing, and texts from the data cannot run as code."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.io.images import BrokenImageError, open_rgb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

THUMBNAIL = 224  # maximum length of the longer side in pixels
LICENSED_NOTE = "Built from a licensed store: this page must not leave this machine."
# All texts are escaped. The policy is a second safeguard: even if one were not, the browser would load and run nothing.
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="babyvlm"><title>{title}</title>
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
PAGE_BEGINNING = PAGE.partition("{title}")[0]  # identifies the pages that this package may replace


class Card(NamedTuple):
    """An image, its text, and details in small print."""

    image: bytes
    text: str
    detail: str


def contact_sheet(title: str, note: str, sections: Mapping[str, Sequence[Card]], *, licensed: bool) -> str:
    """Return the page as HTML, with a heading for each section. Texts need not be escaped.

    Args:
        title: title of the page.
        note: one paragraph below it.
        sections: cards by heading.
        licensed: whether the page must say that it must not leave the machine.
    """
    parts = [
        f'<h2>{html.escape(heading)}</h2>\n<div class="cards">\n{"".join(map(_figure, cards))}</div>\n'
        for heading, cards in sections.items()
    ]
    warning = f'<p class="licensed">{LICENSED_NOTE}</p>\n' if licensed else ""
    return PAGE.format(title=html.escape(title), licensed=warning, note=html.escape(note), sections="".join(parts))


def _figure(card: Card) -> str:
    try:
        content = base64.b64encode(thumbnail(open_rgb(card.image))).decode()
        image = f'<img alt="" src="data:image/jpeg;base64,{content}">'
    except BrokenImageError as error:
        image = f"<p>image cannot be opened: {html.escape(str(error))}</p>"
    text, detail = (html.escape(words.encode(errors="replace").decode()) for words in (card.text, card.detail))
    return f"<figure>{image}<figcaption>{text}<br><small>{detail}</small></figcaption></figure>\n"


def thumbnail(image: Image) -> bytes:
    """Return an image as a JPEG of at most ``THUMBNAIL`` pixels, without the metadata of its file."""
    image = image.copy()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
