"""``check-data``: what is there, what is missing, and what the stages will need, before the queue finds out."""

from __future__ import annotations

import shutil
import sys
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from babyvlm.curation.check_data.corpus import check_raw, check_released
from babyvlm.curation.check_data.costs import EMBED_RATE, KEPT, web_needs
from babyvlm.curation.check_data.lists import check_trials, check_web
from babyvlm.curation.ingest.profiles import find_profile
from babyvlm.errors import UserError
from babyvlm.io.files import as_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babyvlm.curation.check_data.corpus import Findings
    from babyvlm.curation.check_data.costs import Need

WIDTH = 120


def check_data(  # noqa: PLR0913, PLR0917 - each is something that a user may have, or knows of it
    videos: Path | None = None,
    transcripts: Path | None = None,
    frames: Path | None = None,
    captions: list[Path] | Path | None = None,
    sources: list[Path] | Path | None = None,
    trials: Path | None = None,
    image_root: Path | None = None,
    profile: str = "saycam",
    max_frames: int = 16,
    min_fraction: float = 1.0,
    num_workers: int = 2,
    embed_rate: float = EMBED_RATE,
    out: Path = Path("data"),
) -> None:
    """Check data before work is queued: what is there and missing, and the disk and time that each stage will need.

    Takes the raw files of any stage, and makes nothing. Headers and samples are read, not whole corpora. Prints what it
    found, then what is missing, line by line; ends with exit code 2 if a stage needs it.

    For example:
        python -m babyvlm check-data --videos data/saycam/raw --sources data/web/blip_laion_cc_sbu_558k.json --out data

    Args:
        videos: folder of raw videos, of SAYCam or of another corpus whose --profile is given.
        transcripts: folder of their transcripts; by default that of the videos.
        frames: folder of released frames.
        captions: list, or lists `[a.json,b.json]`, of what was said with them; else their --transcripts are numbered.
        sources: web source or sources, `[a,b]`, as for `curate web`.
        trials: folder of the benchmark lists (labeled_s.csv, vtwt.csv, baby_winoground.csv, SAYCam_caption.csv).
        image_root: folder that their image paths start from; that of the lists by default.
        profile: conventions of the corpus: `saycam`, `babyview`, or your own YAML or JSON file (docs/how-to/data.md).
        max_frames: most frames an utterance, as you will give it to `curate frames`.
        min_fraction: least share of the transcripts that must have a sound video; less than 1 if you know that some
            are lost.
        num_workers: processes that you will give to `curate frames`.
        embed_rate: pairs that your device embeds a second, if you know it.
        out: where you will work; its disk is the one that must have room.

    Raises:
        UserError: nothing was named to check, or something that a stage needs is missing.
    """
    if not (videos or frames or sources or trials):
        raise UserError("nothing to check: pass --videos, --frames, --sources or --trials")
    if not 0 <= min_fraction <= 1 or num_workers < 1 or max_frames < 1 or not 0 < embed_rate < inf:
        raise UserError("--min_fraction must be within 0 and 1, --num_workers, --max_frames and --embed_rate above 0")
    rules = find_profile(profile)
    checked = []
    if videos:
        checked.append(check_raw(videos, transcripts or videos, rules, max_frames, min_fraction, embed_rate))
    if frames:
        checked.append(check_released(frames, as_list(captions), transcripts, embed_rate))
    targets = round(KEPT * sum(one.pairs for one in checked))
    web = [check_web(source) for source in as_list(sources)]
    checked += [*web, *([check_trials(trials, image_root)] if trials else [])]
    needs = [need for found in checked for need in found.needs]
    needs += web_needs(sum(one.pairs for one in web), sum(one.bytes for one in web), embed_rate, targets)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for found in checked:
        _print_findings(console, found)
    missing = sum(len(found.missing) for found in checked) + (
        _print_needs(console, needs, num_workers, out) if needs else 0
    )
    if missing:
        raise UserError(f"{missing:,} things that a stage needs are missing or broken, see above")
    console.print("all that the stages need is there")


def _print_findings(console: Console, found: Findings) -> None:
    console.print(f"[bold]{escape(found.title)}[/bold]", highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, value in found.facts:
        table.add_row(escape(name), escape(value))
    console.print(table)
    for mark, lines in (("[red]missing[/red]", found.missing), ("[yellow]note[/yellow]   ", found.notes)):
        for line in lines:
            console.print(f"  {mark} {escape(line)}", soft_wrap=True, highlight=False)
    console.print()


def _print_needs(console: Console, needs: Sequence[Need], workers: int, out: Path) -> bool:
    """Print disk and time; tell whether the disk is too small."""
    console.print(f"[bold]what the stages will need[/bold] ({workers} workers)", highlight=False)
    table = Table("stage", "works on", "disk", "time", "rests on", box=SIMPLE_HEAD, padding=(0, 1))
    for need in needs:
        seconds = need.seconds / (workers if need.divisible else 1)
        table.add_row(need.stage, need.items, _bytes(need.disk), _duration(seconds), escape(need.rests_on))
    console.print(table)
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free, wanted = shutil.disk_usage(place).free, sum(need.disk for need in needs)
    console.print(f"disk: {_bytes(wanted)} needed in all, {_bytes(free)} free at {place}", soft_wrap=True)
    return wanted > free


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
