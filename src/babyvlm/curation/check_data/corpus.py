"""What of a corpus is there, what is missing or broken: raw videos with transcripts, or released frames with lists."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from babyvlm.curation.check_data.costs import Need, corpus_needs
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.caption_lists import read_lists, read_transcripts_of_frames
from babyvlm.curation.ingest.frames import VideoFrames, find_transcripts, find_videos
from babyvlm.curation.ingest.released import SUFFIXES, ImageChunk
from babyvlm.curation.ingest.sentences import frame_times
from babyvlm.curation.ingest.transcripts import Transcript, read_transcript
from babyvlm.curation.ingest.video import VideoError, VideoFacts, probe
from babyvlm.curation.store.chunked_writer import Log, UnusableInputError
from babyvlm.errors import UserError
from babyvlm.io.files import file_size, files_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from babyvlm.curation.ingest.profiles import Profile

PROBES = 16  # headers read at once: most of the time is the disk's
SAMPLED = 3  # videos that are cut for a moment
SAMPLE_SECONDS = 2.0  # each
SAMPLE_IMAGES = 300


@dataclass
class Findings:
    """What a check found.

    Attributes:
        title: what was checked.
        facts: name and value.
        missing: what a stage needs and cannot have, a line each.
        notes: what is worth knowing and stops nothing, a line each.
        needs: what the stages will need.
        pairs: how many (image, utterance) pairs are to be expected.
        bytes: of their images.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    pairs: int = 0
    bytes: float = 0.0


def check_raw(
    videos: Path, transcripts: Path, profile: Profile, max_frames: int, min_fraction: float, embed_rate: float
) -> Findings:
    """Check raw videos and their transcripts.

    A video that is missing or broken costs its own utterances alone, so it counts as ``missing`` only while less than
    ``min_fraction`` of the transcripts have a sound one.
    """
    found = Findings(f"raw videos and transcripts ({profile.source})")
    try:
        index = find_videos(videos, profile)
        paths = find_transcripts(transcripts)
    except UserError as error:
        found.missing.append(str(error))
        return found
    read = _read_all(paths, profile, found)
    facts, broken = _probe_all(path for paths in index.values() for path in paths)
    sound: list[tuple[Transcript, Path]] = []
    lost = []
    for transcript in read:
        paths = index.get(transcript.video, [])
        if len(paths) == 1 and paths[0] in facts:
            sound.append((transcript, paths[0]))
        else:
            said = f"{len(transcript.utterances):,} utterances lost"
            reason = "several videos" if len(paths) > 1 else broken[paths[0]] if paths else "video missing"
            lost.append(f"{paths[0] if paths else transcript.path}: {transcript.video}: {reason}; {said}")
    (found.notes if len(sound) >= min_fraction * len(read) else found.missing).extend(lost)
    named = {transcript.video for transcript in read}
    found.notes += [f"{path}: no transcript" for name in sorted(index.keys() - named) for path in index[name]]
    found.notes += [f"{path}: {note}" for path, one in facts.items() for note in one.notes]
    _count(found, read, sound, facts, broken, profile, max_frames)
    if found.pairs:
        _add_needs(found, sound, profile, max_frames, embed_rate)
    else:
        found.missing.append(f"{transcripts}: no caregiver's utterance has a sound video in {videos}")
    return found


def _read_all(paths: Sequence[Path], profile: Profile, found: Findings) -> list[Transcript]:
    """The transcripts that can be read; the others are ``missing``."""
    read: dict[str, Transcript] = {}
    for path in track(paths, "reading transcripts", console=Console(stderr=True)):
        try:
            transcript = read_transcript(path, profile)
        except UserError as error:
            found.missing.append(str(error))
            continue
        if transcript.video in read:
            found.missing.append(f"{path}: is of video {transcript.video!r}, as {read[transcript.video].path} is")
        read.setdefault(transcript.video, transcript)
    return list(read.values())


def _probe_all(paths: Iterable[Path]) -> tuple[dict[Path, VideoFacts], dict[Path, str]]:
    """Facts of the videos that can be opened, and why the others cannot."""

    def look(path: Path) -> VideoFacts | str:
        try:
            return probe(path)
        except VideoError as error:
            return str(error)

    listed = list(paths)
    with ThreadPoolExecutor(PROBES) as pool:
        looks = list(track(pool.map(look, listed), "probing videos", len(listed), console=Console(stderr=True)))
    facts = {path: one for path, one in zip(listed, looks, strict=True) if isinstance(one, VideoFacts)}
    return facts, {path: one for path, one in zip(listed, looks, strict=True) if isinstance(one, str)}


def _count(
    found: Findings,
    read: Sequence[Transcript],
    sound: Sequence[tuple[Transcript, Path]],
    facts: Mapping[Path, VideoFacts],
    broken: Mapping[Path, str],
    profile: Profile,
    max_frames: int,
) -> None:
    """Fill in the facts and the number of pairs."""
    hours = sum(one.seconds for one in facts.values()) / 3600
    size = sum(file_size(path) for path in facts)
    kinds = Counter(f"{one.width} x {one.height} at {one.fps:.4g} fps" for one in facts.values())
    dropped = Counter[str]()
    for transcript in read:
        dropped.update(dict(transcript.dropped))
    lengths = {path: one.seconds * 1000 for path, one in facts.items()}
    said = [(one, lengths[path]) for transcript, path in sound for one in transcript.utterances]
    heard = [one for one, length in said if not length or one.start_ms < length]
    found.pairs = sum(len(frame_times(one, profile.step_ms, max_frames)) for one in heard)
    found.facts += [
        ("transcripts that can be read", f"{len(read):,}"),
        ("videos that can be read", f"{len(facts):,} ({hours:,.1f} h, {size / 1e9:,.1f} GB); {len(broken):,} cannot"),
        ("transcripts with a sound video", f"{len(sound):,}"),
        *(("videos of " + kind, f"{count:,}") for kind, count in kinds.most_common(4)),
        ("caregiver's utterances", f"{sum(len(one.utterances) for one in read):,}"),
        *((f"turns dropped: {reason}", f"{count:,}") for reason, count in dropped.most_common()),
        ("utterances within their video", f"{len(heard):,}"),
        ("pairs to expect", f"{found.pairs:,} frames (at most {max_frames} an utterance)"),
    ]


def _add_needs(
    found: Findings, sound: Sequence[tuple[Transcript, Path]], profile: Profile, max_frames: int, embed_rate: float
) -> None:
    """What the stages will need, by cutting some of these videos for a moment."""
    talking = [(transcript, path) for transcript, path in sound if transcript.utterances]
    images, spent = 0, 0.0
    total = 0
    for transcript, path in talking[:: max(1, len(talking) // SAMPLED)][:SAMPLED]:
        part = VideoFrames(transcript, (path,), profile, profile.cropped, max_frames, "", "")
        began = time.perf_counter()
        try:
            for row in part.rows(Log()):
                images, total = images + 1, total + len(row["image"])
                if time.perf_counter() - began > SAMPLE_SECONDS:
                    break
        except UnusableInputError as error:
            found.missing.append(f"{path}: {error}")
        spent += time.perf_counter() - began
    if not images:
        return
    rate, bytes_each = images / spent, total / images
    # While the store is put together, the parts are there too.
    cut = Need(
        "curate frames",
        f"{found.pairs:,} frames",
        2 * found.pairs * bytes_each,
        found.pairs / rate,
        f"{rate:.0f} frames/s by one process, cut from these videos just now",
        divisible=True,
    )
    found.needs = corpus_needs(cut, found.pairs, bytes_each, embed_rate)


def check_released(images: Path, captions: Sequence[Path], transcripts: Path | None, embed_rate: float) -> Findings:
    """Check frames that are cut already, and the lists or transcripts that say what was said with them."""
    found = Findings("released frames")
    try:
        sizes = {path.relative_to(images).as_posix(): file_size(path) for path in files_below(images, SUFFIXES)}
        funnel = Funnel("released", unit="images")
        if captions:
            said = read_lists(captions, funnel)
        elif transcripts:
            said = read_transcripts_of_frames(find_transcripts(transcripts), sizes, funnel)
        else:
            found.missing.append(f"{images}: nothing says which utterance an image goes with; add --captions")
            said = []
    except UserError as error:
        found.missing.append(str(error))
        return found
    listed = [name for one in said for name in one.images]
    there = [name for name in listed if sizes.get(name, -1) > 0]
    if len(there) < len(listed):
        first = next(name for name in listed if sizes.get(name, -1) <= 0)
        lost = len(listed) - len(there)
        found.missing.append(f"{images}: {lost:,} of the listed images are missing or empty, the first is {first}")
    found.pairs = len(there)
    found.facts += [
        ("images", f"{len(sizes):,} ({sum(sizes.values()) / 1e9:,.1f} GB)"),
        ("utterances with images", f"{len(said):,}"),
        ("images with an utterance", f"{len(listed):,}"),
        *((f"images dropped: {reason}", f"{count:,}") for reason, count in funnel.dropped.most_common()),
        ("pairs to expect", f"{len(there):,} images"),
    ]
    if there:
        part = ImageChunk.of(images, said, sizes, "", 0)
        began = time.perf_counter()
        rows = list(islice(part.rows(Log()), SAMPLE_IMAGES))
        rate = len(rows) / (time.perf_counter() - began)
        size = sum(sizes[name] for name in there)
        read = Need(
            "curate released",
            f"{len(there):,} images",
            2 * size,
            len(there) / rate,
            f"{rate:,.0f} images/s by one process, read just now",
            divisible=True,
        )
        found.needs = corpus_needs(read, len(there), size / len(there), embed_rate)
    return found
