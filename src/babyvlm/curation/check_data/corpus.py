"""Check a corpus of baby video: raw videos with transcripts, or released frames with caption lists."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rich.progress import track

from babyvlm.curation.check_data.findings import Findings, format_bytes
from babyvlm.curation.check_data.requirements import Device, Requirement, corpus_requirements
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.ingest.caption_lists import read_caption_lists, read_frame_transcripts
from babyvlm.curation.ingest.frame_numbering import RULES
from babyvlm.curation.ingest.frames import VideoPart, check_times_fit, find_videos, missing_reasons
from babyvlm.curation.ingest.released import ImagePart
from babyvlm.curation.ingest.sentences import frame_times
from babyvlm.curation.ingest.transcripts import (
    Transcript,
    base_name,
    find_speakers,
    find_transcripts,
    read_transcripts,
)
from babyvlm.curation.ingest.video import VideoError, VideoInfo, probe
from babyvlm.curation.stage import MIN_FRACTION
from babyvlm.curation.store.chunked_writer import Log, UnusableInputError
from babyvlm.errors import UserError
from babyvlm.io.files import file_size, files_below
from babyvlm.io.images import IMAGE_SUFFIXES
from babyvlm.io.printing import Console

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from babyvlm.curation.ingest.profiles import Profile

PROBE_THREADS = 16  # headers read at the same time: most of the time is spent waiting for the disk
SAMPLE_VIDEOS = 3  # videos from which frames are extracted to measure the speed
SAMPLE_SECONDS = 2.0  # per video
SAMPLE_IMAGES = 300


class Recording(NamedTuple):
    """A transcript with its readable video."""

    transcript: Transcript
    video: Path


def check_videos(
    videos: Path,
    transcripts: Path,
    profile: Profile,
    max_frames: int,
    min_fraction: float,
    device: Device,
    speakers: Path | None = None,
) -> Findings:
    """Check raw videos and their transcripts.

    Args:
        videos: folder of videos.
        transcripts: folder of transcripts.
        profile: conventions of the corpus.
        max_frames: maximum number of frames per utterance.
        min_fraction: minimum share of transcripts with a readable video. Below it, videos that are missing or damaged
            count as ``missing``; otherwise they are ``notes``, because each costs only its own utterances.
        device: embeds the pairs.
        speakers: folder of RTTM files with the speakers of the videos.
    """
    findings = Findings(f"Raw videos and transcripts ({profile.source})")
    try:
        video_files = find_videos(videos, profile)
        paths = find_transcripts(transcripts, profile.transcript_format)
        speaker_files = find_speakers(speakers, profile) if speakers else None
    except UserError as error:
        findings.missing.append(str(error))
        return findings
    read, problems = read_transcripts(paths, profile, speaker_files)
    findings.missing += problems
    unread = {base_name(path.name, profile) for path in set(paths) - {transcript.path for transcript in read}}
    findings.notes += [f"{transcript.path}: {note}" for transcript in read for note in transcript.notes]
    infos, errors = _probe_videos(path for paths in video_files.values() for path in paths)
    missing = missing_reasons({transcript.video for transcript in read} - video_files.keys(), videos, profile)
    recordings, lost = [], []
    for transcript in read:
        paths = video_files.get(transcript.video, [])
        if len(paths) == 1 and paths[0] in infos:
            try:
                check_times_fit(transcript, paths[0], profile.time_format, infos[paths[0]].seconds)
            except UserError as error:
                findings.missing.append(str(error))
            recordings.append(Recording(transcript, paths[0]))
        else:
            reason = errors[paths[0]] if len(paths) == 1 else "several videos have this name"
            if not paths:
                reason = missing[transcript.video]
            location = paths[0] if paths else transcript.path
            lost.append(f"{location}: {transcript.video}: {reason}; {len(transcript.utterances):,} utterances lost")
    if len(recordings) >= min_fraction * len(read):
        findings.notes += lost
    else:
        findings.missing += lost
        share = len(recordings) / len(read)
        findings.fixes.append(
            f"Copy the missing and damaged videos again, or accept the loss: --min_fraction {int(share * 100) / 100:g}"
        )
    named = {transcript.video for transcript in read} | unread
    findings.notes += [
        f"{path}: no transcript" for name in sorted(video_files.keys() - named) for path in video_files[name]
    ]
    findings.notes += [f"{path}: {note}" for path, info in infos.items() for note in info.notes]
    num_within = _count_pairs(findings, read, recordings, infos, errors, profile, max_frames)
    num_utterances = sum(len(transcript.utterances) for transcript in read)
    without_time = sum(count for transcript in read for reason, count in transcript.dropped if "time" in reason)
    needed = min(MIN_FRACTION, min_fraction)
    if num_within < needed * (num_utterances + without_time):
        findings.missing.append(
            f"{transcripts}: only {num_within:,} of {num_utterances + without_time:,} caregiver utterances are within a"
            f" readable video ({without_time:,} turns have no valid time); `curate frames` needs {needed:.0%}"
        )
        findings.fixes.append("See the reasons above, or pass a lower --min_fraction here and to `curate frames`")
    if findings.pairs:
        _measure_extraction(findings, recordings, profile, max_frames, device)
    elif read:
        findings.missing.append(f"{transcripts}: no caregiver utterance has a readable video in {videos}")
    return findings


def check_released_frames(frames: Path, captions: Sequence[Path], transcripts: Path | None, device: Device) -> Findings:
    """Check extracted frames, and the caption lists or transcripts with their utterances.

    Args:
        frames: folder of images.
        captions: caption lists.
        transcripts: folder of raw transcripts, used if there are no caption lists.
        device: embeds the pairs.
    """
    findings = Findings("Released frames")
    try:
        sizes = {path.relative_to(frames).as_posix(): file_size(path) for path in files_below(frames, IMAGE_SUFFIXES)}
        funnel = Funnel("released", unit="images")
        if captions:
            utterances = read_caption_lists(captions, funnel, sizes, tokenize=False)
        elif transcripts:
            utterances, rule = read_frame_transcripts(find_transcripts(transcripts), sizes, funnel)
            findings.facts.append(("numbering of the utterances", RULES[rule]))
        else:
            findings.missing.append(f"{frames}: no utterances for the images. Pass --captions or --transcripts")
            utterances = []
    except UserError as error:
        findings.missing.append(str(error))
        return findings
    listed = [name for utterance in utterances for name in utterance.images]
    present = [name for name in listed if sizes.get(name, -1) > 0]
    if len(present) < len(listed):
        first = next(name for name in listed if sizes.get(name, -1) <= 0)
        count = len(listed) - len(present)
        findings.missing.append(f"{frames}: {count:,} of the listed images are missing or empty; the first is {first}")
        findings.fixes.append("Copy the missing images again. `curate released` leaves them out otherwise")
    findings.pairs = len(present)
    findings.facts += [
        ("images", f"{len(sizes):,} ({format_bytes(sum(sizes.values()))})"),
        ("utterances with images", f"{len(utterances):,}"),
        ("images with an utterance", f"{len(listed):,}"),
        *((f"images dropped: {reason}", f"{count:,}") for reason, count in funnel.dropped.most_common()),
        ("expected pairs", f"{len(present):,} images"),
    ]
    if present:
        part = ImagePart(frames, tuple(utterances), source="", image_size=0)
        start = time.perf_counter()
        log = Log()
        rows = list(islice(part.rows(log), SAMPLE_IMAGES))
        if len(rows) < MIN_FRACTION * log.funnel.seen:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in log.funnel.dropped.most_common(3))
            findings.missing.append(
                f"{frames}: only {len(rows):,} of the first {log.funnel.seen:,} listed images can be used ({reasons});"
                f" `curate released` needs {MIN_FRACTION:.0%}"
            )
        if not rows:
            return findings
        rate = len(rows) / (time.perf_counter() - start)
        size = sum(sizes[name] for name in present)
        reading = Requirement(
            "curate released",
            f"{len(present):,} images",
            2 * size,  # the parts exist while the store is assembled
            len(present) / rate,
            f"{rate:,.0f} images/s per process, measured on these images",
            parallel=True,
        )
        findings.requirements = corpus_requirements(reading, len(present), size / len(present), device)
    return findings


def _probe_videos(paths: Iterable[Path]) -> tuple[dict[Path, VideoInfo], dict[Path, str]]:
    """Return the properties of the readable videos, and the errors of the others."""

    def probe_one(path: Path) -> VideoInfo | str:
        try:
            return probe(path)
        except VideoError as error:
            return str(error)

    all_paths = list(paths)
    with ThreadPoolExecutor(PROBE_THREADS) as pool:
        probes = pool.map(probe_one, all_paths)
        results = list(track(probes, "reading video headers", len(all_paths), console=Console(stderr=True)))
    infos = {path: result for path, result in zip(all_paths, results, strict=True) if isinstance(result, VideoInfo)}
    return infos, {path: result for path, result in zip(all_paths, results, strict=True) if isinstance(result, str)}


def _count_pairs(
    findings: Findings,
    transcripts: Sequence[Transcript],
    recordings: Sequence[Recording],
    infos: Mapping[Path, VideoInfo],
    errors: Mapping[Path, str],
    profile: Profile,
    max_frames: int,
) -> int:
    """Add the facts and the number of expected pairs. Return the number of utterances within their video."""
    hours = sum(info.seconds for info in infos.values()) / 3600
    size = sum(file_size(path) for path in infos)
    formats = Counter(f"{info.width} x {info.height} at {info.fps:.4g} fps" for info in infos.values())
    dropped = Counter[str]()
    for transcript in transcripts:
        dropped.update(dict(transcript.dropped))
    within_video = [
        utterance
        for transcript, video in recordings
        for utterance in transcript.utterances
        if not infos[video].seconds or utterance.start_ms < infos[video].seconds * 1000
    ]
    findings.pairs = sum(
        len(frame_times(utterance, profile.frame_interval_ms, max_frames)) for utterance in within_video
    )
    findings.facts += [
        ("readable transcripts", f"{len(transcripts):,}"),
        ("readable videos", f"{len(infos):,} ({hours:,.1f} h, {format_bytes(size)})"),
        ("unreadable videos", f"{len(errors):,}"),
        ("transcripts with a readable video", f"{len(recordings):,}"),
        *((f"videos of {kind}", f"{count:,}") for kind, count in formats.most_common(4)),
        ("caregiver utterances", f"{sum(len(transcript.utterances) for transcript in transcripts):,}"),
        *((f"turns dropped: {reason}", f"{count:,}") for reason, count in dropped.most_common()),
        ("utterances within their video", f"{len(within_video):,}"),
        ("expected pairs", f"{findings.pairs:,} frames (at most {max_frames} per utterance)"),
    ]
    return len(within_video)


def _measure_extraction(
    findings: Findings, recordings: Sequence[Recording], profile: Profile, max_frames: int, device: Device
) -> None:
    """Add the requirements of the stages, by extracting frames from a few videos for some seconds."""
    usable = [recording for recording in recordings if recording.transcript.utterances]
    num_images, num_bytes, seconds = 0, 0, 0.0
    for transcript, path in usable[:: max(1, len(usable) // SAMPLE_VIDEOS)][:SAMPLE_VIDEOS]:
        part = VideoPart(transcript, (path,), profile, profile.crop_size, max_frames)
        start = time.perf_counter()
        try:
            for row in part.rows(Log()):
                num_images, num_bytes = num_images + 1, num_bytes + len(row["image"])
                if time.perf_counter() - start > SAMPLE_SECONDS:
                    break
        except UnusableInputError as error:
            findings.missing.append(f"{path}: {error}")
        seconds += time.perf_counter() - start
    if not num_images:
        return
    rate, bytes_per_image = num_images / seconds, num_bytes / num_images
    extraction = Requirement(
        "curate frames",
        f"{findings.pairs:,} frames",
        2 * findings.pairs * bytes_per_image,  # the parts exist while the store is assembled
        findings.pairs / rate,
        f"{rate:.0f} frames/s per process, measured on these videos",
        parallel=True,
    )
    findings.requirements = corpus_requirements(extraction, findings.pairs, bytes_per_image, device)
