"""Estimate the disk space and time that each curation stage needs, from measured rates."""

from __future__ import annotations

from dataclasses import dataclass

# Measured on 2026-11-23 on two cores of an AMD EPYC without a GPU, as CPU time of one core because the machine was not
# idle. Frames are 224-pixel JPEGs of 15 KB.
EMBED_RATE = 0.7  # pairs per second, CLIP ViT-L/14: two cores at 0.37
FILTER_RATE = 15_000  # pairs per second
REWRITE_RATE = 5_000  # captions per second, by rules. For language models see docs/how-to/rewriting.md
MATCH_RATE = 67_000 * 558_000 / 260.5  # comparisons per second (README)
EMBEDDING_BYTES = 2 * 768 * 2  # per pair: image and text, width of ViT-L/14, float16
KEPT_BY_FILTER = 67_000 / 600_285  # share of SAYCam's frames that the CLIP filter keeps (paper, section 3)


@dataclass(frozen=True)
class Requirement:
    """What one stage needs.

    Attributes:
        stage: the command.
        items: number and kind of its inputs.
        disk_bytes: size of its output and of temporary files.
        seconds: duration with one process or device.
        basis: the rate behind ``seconds`` and where it comes from.
        parallel: whether several processes share the work.
    """

    stage: str
    items: str
    disk_bytes: float
    seconds: float
    basis: str
    parallel: bool = False


def corpus_requirements(first: Requirement, pairs: int, bytes_per_image: float, embed_rate: float) -> list[Requirement]:
    """Return what a corpus needs from its frames to filtered pairs; ``first`` is the stage that reads the frames."""
    kept = round(pairs * KEPT_BY_FILTER)
    basis = f"{FILTER_RATE:,} pairs/s; {KEPT_BY_FILTER:.0%} are kept, as in the paper"
    filtering = Requirement("curate filter", f"{pairs:,} pairs", kept * bytes_per_image, pairs / FILTER_RATE, basis)
    return [first, _embedding(pairs, "frames", embed_rate), filtering]


def web_requirements(pairs: int, image_bytes: float, embed_rate: float, targets: int) -> list[Requirement]:
    """Return what web pairs need from rewriting to matching.

    Args:
        pairs: number of web pairs.
        image_bytes: size of all their images.
        embed_rate: pairs embedded per second.
        targets: number of filtered frames that they are matched with.
    """
    if not pairs:
        return []
    requirements = [
        Requirement(
            "curate rewrite",
            f"{pairs:,} captions",
            image_bytes,
            pairs / REWRITE_RATE,
            f"{REWRITE_RATE:,} captions/s by rules; disk if all captions are kept",
        ),
        _embedding(pairs, "web pairs", embed_rate),
    ]
    if targets:
        disk = min(targets, pairs) / pairs * image_bytes
        basis = "67,000 x 558,000 in 260 s (README)"
        seconds = targets * pairs / MATCH_RATE
        requirements.append(Requirement("curate match", f"{targets:,} x {pairs:,}", disk, seconds, basis))
    return requirements


def _embedding(pairs: int, kind: str, rate: float) -> Requirement:
    basis = f"{rate:g} pairs/s, from --embed_rate"
    if rate == EMBED_RATE:
        basis = f"{rate:g} pairs/s, ViT-L/14 on two CPU cores. For your device, pass --embed_rate"
    # Parts and merged files exist at the same time.
    return Requirement("curate embed", f"{pairs:,} {kind}", 2 * pairs * EMBEDDING_BYTES, pairs / rate, basis)
