"""Characters that nobody sees: they make a word another word, and an empty caption one with text."""

from __future__ import annotations

import re

# Zero-width spaces, soft hyphens, byte order marks, marks of writing direction and invisible tags; and joiners, unless
# they stand between the characters of another script or of an emoji.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0000-\U000e007f]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)


def strip_invisible(text: str) -> str:
    r"""Return text without characters that have no width.

    >>> strip_invisible("\u200bdu\u00adck\ufeff ")
    'duck '
    """
    return _INVISIBLE.sub("", text)
