"""Render the sprite bank from icon sets published on npm. Run by ``make playroom-sprites``; not needed to use it.

Needs ``resvg_py`` (``pip install resvg_py==0.5.0``), which no other part of babyvlm does. Without arguments, print the
names of the npm packages.

Each noun of ``nouns.csv`` names icons. Every icon set that has one of them contributes up to two exemplars of the noun.
The icons are rendered by resvg, cropped, and stored as lossy WebP with an alpha channel in one uncompressed zip file.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from rich.progress import track

from babyvlm.errors import UserError
from babyvlm.io.printing import echo
from babyvlm.playroom.credit import ICON_SETS, IconSet

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDE = 96  # pixels; no thing is drawn larger in a frame
QUALITY = 82  # of WebP
PER_SET = 2
SKIPPED = {("streamline-emojis", "turkey"), ("fxemoji", "sunglasses")}  # a flag and a face
HERE = Path(__file__).parent
_TIME = (2026, 1, 1, 0, 0, 0)  # fixed, so that the bank is reproducible


def build_sprites(packs: Path, out: Path = HERE / "sprites.zip") -> None:
    """Render the bank.

    Args:
        packs: folder with the files that ``npm pack`` writes for the packages in ``ICON_SETS``.
        out: zip file to write, with ``sprites.csv`` (file, noun, icon set, icon) and one WebP image per exemplar.

    Raises:
        UserError: a package is missing, or differs from the pinned one.
    """
    icon_sets = [(pack, _read_icons(packs / pack.file_name, pack)) for pack in ICON_SETS]
    with (HERE / "nouns.csv").open(encoding="utf-8", newline="") as file:
        nouns = [(row["noun"], row["icons"].split("|")) for row in csv.DictReader(file)]
    with (HERE / "props.csv").open(encoding="utf-8", newline="") as file:
        nouns += [(row["prop"], row["icons"].split("|")) for row in csv.DictReader(file)]
    rows = []
    partial = out.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as bank:
        for noun, icons in track(nouns, description="rendering sprites"):
            seen: set[bytes] = set()
            for pack, table in icon_sets:
                for name, svg in _exemplars(icons, table):
                    data = _render(svg)
                    if data in seen:  # aliases of one drawing
                        continue
                    seen.add(data)
                    path = f"{noun.replace(' ', '_')}/{pack.name}_{name}.webp"
                    bank.writestr(zipfile.ZipInfo(path, _TIME), data)
                    rows.append((path, noun, pack.name, name))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("file", "noun", "icon_set", "icon"), *rows])
        bank.writestr(zipfile.ZipInfo("sprites.csv", _TIME), text.getvalue())
    partial.replace(out)
    echo(f"{out}: {len(rows)} exemplars of {len(nouns)} nouns, {out.stat().st_size / 1e6:.1f} MB")


def _read_icons(path: Path, pack: IconSet) -> dict[str, list[tuple[str, str]]]:
    """Return the icons of a package as (name, SVG), grouped by simplified name."""
    if not path.is_file():
        raise UserError(f"{path}: not found. Run: npm pack @iconify-json/{pack.name}@{pack.version}")
    data = path.read_bytes()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if integrity != pack.integrity:
        raise UserError(f"{path}: differs from the pinned package ({integrity})")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = tar.extractfile("package/icons.json")
        assert member is not None
        content = json.load(member)
    icons: dict[str, list[tuple[str, str]]] = {}
    for name, icon in sorted(content["icons"].items()):
        if (pack.name, name) in SKIPPED:
            continue
        width, height = (icon.get(side) or content.get(side) or 16 for side in ("width", "height"))
        left, top = icon.get("left", 0), icon.get("top", 0)
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{2 * SIDE}" height="{2 * SIDE}">{icon["body"]}</svg>'
        )
        icons.setdefault(_simplify(name), []).append((name, svg))
    return icons


def _simplify(name: str) -> str:
    """Return an icon's name without hyphens and the number of a variant, which the sets write differently."""
    return re.sub(r"[^a-z]", "", re.sub(r"-\d$", "", name))


def _exemplars(icons: list[str], table: dict[str, list[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    found = [exemplar for icon in icons for exemplar in table.get(_simplify(icon), [])]
    yield from found[:PER_SET]


def _render(svg: str) -> bytes:
    """Return an SVG as WebP, cropped, with the longer side at ``SIDE`` pixels."""
    import resvg_py

    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)))).convert("RGBA")
    box = image.getchannel("A").point([255 * (value > 8) for value in range(256)]).getbbox()
    if box is None:
        raise UserError(f"An icon is empty: {svg[:200]}")
    image = image.crop(box)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=None)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()


if __name__ == "__main__":
    import sys

    if sys.argv[1:]:
        build_sprites(*map(Path, sys.argv[1:]))
    else:
        echo(" ".join(f"@iconify-json/{pack.name}@{pack.version}" for pack in ICON_SETS))
