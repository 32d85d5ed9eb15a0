"""``check-data``: report what is available, what is missing, and the resources that each stage will need."""

from __future__ import annotations

import shutil
import sys
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from babyvlm.curation.check_data.corpus import check_released_frames, check_videos
from babyvlm.curation.check_data.device import find_device
from babyvlm.curation.check_data.findings import Findings, format_bytes
from babyvlm.curation.check_data.requirements import KEPT_BY_FILTER, training_requirements, web_requirements
from babyvlm.curation.check_data.trials import check_trials
from babyvlm.curation.check_data.web import check_web_source
from babyvlm.curation.ingest.profiles import find_profile
from babyvlm.errors import UserError, require_at_least
from babyvlm.io.files import as_list
from babyvlm.io.printing import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babyvlm.curation.check_data.requirements import Device, Requirement

FRAME_BYTES = 15_000  # of a 224-pixel JPEG
WIDTH = 140  # characters, where the output is not a terminal


def check_data(  # noqa: PLR0913, PLR0917 - each is an input that a user may or may not have
    videos: Path | None = None,
    transcripts: Path | None = None,
    frames: Path | None = None,
    captions: list[Path] | Path | None = None,
    sources: list[Path] | Path | None = None,
    trials: Path | None = None,
    image_root: Path | None = None,
    profile: str = "saycam",
    max_frames: int = 32,
    min_fraction: float = 1.0,
    num_workers: int = 2,
    embed_rate: float | None = None,
    out: Path = Path("data"),
    speakers: Path | None = None,
) -> None:
    """Check raw data for missing and broken files, and estimate the disk space and time of each stage.

    Input: the raw files of any stage. Reads headers and samples, not complete corpora, and writes nothing. Prints
    what was found, then all problems and how to fix them, then the requirements of the stages. Exits with status 2 if
    something that a stage needs is missing.

    For example:
        python -m babyvlm check-data --videos data/saycam/raw --sources data/web/blip_laion_cc_sbu_558k.json --out data

    Args:
        videos: folder of raw videos, of SAYCam or of the corpus that --profile describes.
        transcripts: folder of their transcripts. Default: the folder of the videos.
        frames: folder of released frames.
        captions: list or lists `[a.json,b.json]` with their utterances. Without it, --transcripts are needed.
        sources: web corpus or corpora `[a,b]`, as for `curate web`.
        trials: folder of the benchmark lists (labeled_s.csv, vtwt.csv, baby_winoground.csv, SAYCam_caption.csv).
        image_root: folder that the image paths in these lists start from. Default: the folder of the lists.
        profile: conventions of the corpus, as for `curate frames` (docs/how-to/data.md).
        max_frames: maximum number of frames per utterance, as for `curate frames`.
        min_fraction: minimum share of the transcripts that must have a readable video; below one half also of the
            utterances that must be within it. Pass less than 1 if you know
            that some videos are missing.
        num_workers: number of processes, as for `curate frames`.
        embed_rate: pairs per second that your device embeds. By default it is measured on the GPU that is there, or
            known for a CPU core.
        out: folder of the outputs; the free space on its disk is checked.
        speakers: folder of RTTM files, as for `curate frames`.

    Raises:
        UserError: nothing was named to check, or something that a stage needs is missing.
    """
    if not (videos or frames or sources or trials):
        raise UserError("nothing to check. Pass --videos, --frames, --sources or --trials")
    _check_options(max_frames, num_workers, min_fraction, embed_rate)
    device = find_device(embed_rate)
    rules = find_profile(profile)
    corpora = []
    if videos:
        corpora.append(check_videos(videos, transcripts or videos, rules, max_frames, min_fraction, device, speakers))
    if frames:
        corpora.append(check_released_frames(frames, as_list(captions), transcripts, device))
    web = [check_web_source(source) for source in as_list(sources)]
    benchmarks = [check_trials(trials, image_root)] if trials else []

    checked = [*corpora, *web, *benchmarks]
    requirements = [requirement for findings in checked for requirement in findings.requirements]
    targets = round(KEPT_BY_FILTER * sum(findings.pairs for findings in corpora))
    web_pairs, web_bytes = sum(findings.pairs for findings in web), sum(findings.image_bytes for findings in web)
    requirements += web_requirements(web_pairs, web_bytes, device, targets)
    matched = min(targets, web_pairs)
    image_bytes = targets * FRAME_BYTES + (matched / web_pairs * web_bytes if web_pairs else 0)
    requirements += training_requirements(targets + matched, image_bytes / max(1, targets + matched), device)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for findings in checked:
        _print_findings(console, findings)
    missing = sum(len(findings.missing) for findings in checked)
    if requirements:
        missing += _print_requirements(console, requirements, num_workers, out, device)
    if 0 < web_pairs < targets:
        note = f"curate match needs as many web pairs as filtered frames, about {targets:,}; there are {web_pairs:,}"
        _print_lines(console, "[yellow]note[/yellow]   ", [note])
    if missing:
        raise UserError(f"{missing:,} problem{'s' if missing > 1 else ''} found. See the lines marked 'missing' above")
    console.print("All inputs are complete.")


def _check_options(max_frames: int, num_workers: int, min_fraction: float, embed_rate: float | None) -> None:
    require_at_least(1, max_frames=max_frames, num_workers=num_workers)
    if not 0 <= min_fraction <= 1:
        raise UserError(f"--min_fraction {min_fraction}: must be between 0 and 1")
    if embed_rate is not None and not 0 < embed_rate < inf:
        raise UserError(f"--embed_rate {embed_rate}: must be a positive, finite number")


def _print_findings(console: Console, findings: Findings) -> None:
    console.print(f"[bold]{escape(findings.title)}[/bold]", highlight=False)
    if findings.facts:
        table = Table(box=None, show_header=False, padding=(0, 2))
        for name, value in findings.facts:
            table.add_row(escape(name), escape(value))
        console.print(table)
    _print_lines(console, "[red]missing[/red]", findings.missing)
    _print_lines(console, "[green]fix[/green]    ", findings.fixes)
    _print_lines(console, "[yellow]note[/yellow]   ", findings.notes)
    console.print()


def _print_lines(console: Console, label: str, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(f"  {label} {escape(line)}", soft_wrap=True, highlight=False)


def _print_requirements(
    console: Console, requirements: Sequence[Requirement], num_workers: int, out: Path, device: Device
) -> bool:
    """Print the disk space and time of each stage. Return whether the disk has too little space."""
    console.print(f"[bold]Requirements of the stages[/bold] (with {num_workers} processes; {escape(device.name)})")
    table = Table("stage", "input", "disk", "memory", "time", "based on", box=SIMPLE_HEAD, padding=(0, 1))
    times = [one.seconds / (num_workers if one.parallel else 1) for one in requirements]
    for requirement, seconds in zip(requirements, times, strict=True):
        table.add_row(
            requirement.stage,
            requirement.items,
            format_bytes(requirement.disk_bytes),
            f"{requirement.memory_gb * (num_workers if requirement.parallel else 1):.1f} GB",
            _format_duration(seconds),
            escape(requirement.basis),
        )
    console.print(table)
    longest = max(range(len(times)), key=times.__getitem__)
    share = f"{_format_duration(times[longest])} of {_format_duration(sum(times))}"
    where = "the device" if requirements[longest].on_device else "the CPU"
    console.print(
        f"Bottleneck: {requirements[longest].stage} on {where}, {share}. fit: one row, one seed", highlight=False
    )
    folder = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free, needed = shutil.disk_usage(folder).free, sum(requirement.disk_bytes for requirement in requirements)
    sizes = f"{format_bytes(needed)} needed in total, {format_bytes(free)} free in {folder}"
    console.print(f"Disk: {escape(sizes)}", soft_wrap=True)
    if needed > free:
        _print_lines(console, "[red]missing[/red]", ["disk space"])
        _print_lines(console, "[green]fix[/green]    ", ["Free space, or pass an --out on another disk"])
    return needed > free


def _format_duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
