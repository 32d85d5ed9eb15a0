"""What the stages will need for a corpus: disk and time, and the measured rates that these rest on."""

from __future__ import annotations

from dataclasses import dataclass

# Measured on 2026-11-23 on two cores of an AMD EPYC, no GPU: CPU time of one core, since the machine was not idle.
# Frames are 224-pixel JPEGs of 15 KB.
EMBED_RATE = 0.7  # images and texts a second, CLIP ViT-L/14: two cores at 0.37
FILTER_RATE = 15_000  # pairs a second
REWRITE_RATE = 5_000  # captions a second, by the rules; a language model's time and price: docs/how-to/rewriting.md
MATCH_RATE = 67_000 * 558_000 / 260.5  # comparisons a second (README)
EMBEDDING_BYTES = 2 * 768 * 2  # of a pair: image and text, ViT-L/14's width, float16
KEPT = 67_000 / 600_285  # share of SAYCam's frames that CLIP's filter keeps (paper, section 3)
EMBED_SOURCE = f"{EMBED_RATE:g} pairs/s, ViT-L/14 on two CPU cores; --embed_rate says your device's"


@dataclass(frozen=True)
class Need:
    """What one stage needs.

    Attributes:
        stage: the command.
        items: how many of what it works on.
        disk: bytes that it leaves, and needs besides while it runs.
        seconds: how long it takes one process or device.
        rests_on: the rate behind the seconds, and where it is from.
        divisible: several processes share the work.
    """

    stage: str
    items: str
    disk: float
    seconds: float
    rests_on: str
    divisible: bool = False


def embed_need(pairs: int, what: str, rate: float) -> Need:
    """Embedding: parts and the merged files are there at once."""
    source = EMBED_SOURCE if rate == EMBED_RATE else f"{rate:g} pairs/s, as you say"
    return Need("curate embed", f"{pairs:,} {what}", 2 * pairs * EMBEDDING_BYTES, pairs / rate, source)


def corpus_needs(first: Need, pairs: int, bytes_each: float, embed_rate: float) -> list[Need]:
    """From a corpus' frames to its filtered pairs; ``first`` is the stage that makes the frames."""
    kept = round(pairs * KEPT)
    of_filter = f"{FILTER_RATE:,} pairs/s; {KEPT:.0%} kept as in the paper"
    filtered = Need("curate filter", f"{pairs:,} pairs", kept * bytes_each, pairs / FILTER_RATE, of_filter)
    return [first, embed_need(pairs, "frames", embed_rate), filtered]


def web_needs(pairs: int, size: float, embed_rate: float, targets: int) -> list[Need]:
    """From all web pairs, ``size`` bytes, to those that are matched with ``targets`` filtered frames."""
    if not pairs:
        return []
    rewrite = Need(
        "curate rewrite",
        f"{pairs:,} captions",
        size,
        pairs / REWRITE_RATE,
        f"{REWRITE_RATE:,} captions/s by the rules; disk if all are kept",
    )
    match = Need(
        "curate match",
        f"{targets:,} x {pairs:,}",
        min(targets, pairs) / pairs * size,
        targets * pairs / MATCH_RATE,
        "67,000 x 558,000 in 260.5 s (README)",
    )
    return [rewrite, embed_need(pairs, "web pairs", embed_rate), *([match] if targets else [])]
