"""Estimate the disk space, memory and time that each stage needs, from measured rates."""

from __future__ import annotations

from dataclasses import dataclass

# Items per second of one core of an AMD EPYC, and memory: `perf/cost.py`, 2026-11-28. Rates of filter, rewriting and
# matching: 2026-11-23, as CPU time because the machine was not idle. Frames are 224-pixel JPEGs of 15 KB.
HASH_RATE = 965  # images: decoding and hashing
EMBED_RATE = 0.58  # pairs, CLIP ViT-L/14
FILTER_RATE = 15_000  # pairs
REWRITE_RATE = 5_000  # captions, by rules. For language models see docs/how-to/rewriting.md
MATCH_RATE = 67_000 * 558_000 / 260.5 / 2  # comparisons; two cores took 260.5 s (docs/performance.md)
CVCL_RATE = 2.1  # pairs and epoch
FEATURE_RATE = 6.9  # images
BABYLLAVA_RATE = 16  # pairs and epoch, on cached features
MEMORY = {  # GB per process
    "frames": 0.8,
    "decontaminate": 0.6,
    "embed": 2.6,
    "filter": 0.3,
    "rewrite": 0.2,
    "CVCL": 2.3,
    "BabyLLaVA": 2.3,
}
EMBEDDING_BYTES = 2 * 768 * 2  # per pair: image and text, width of ViT-L/14, float16
FEATURE_BYTES = 49 * 2048 * 2  # per image: positions, channels of ResNeXt-50, float16
KEPT_BY_FILTER = 67_000 / 600_285  # share of SAYCam's frames that the CLIP filter keeps (paper, section 3)
CVCL_EPOCHS, BABYLLAVA_EPOCHS = 400, 10  # configs/saycam: base.yaml; phase-1.yaml and phase-2.yaml
CHECKPOINTS = 4  # per run: best, last, and two recovery states
CVCL_WEIGHTS, BABYLLAVA_WEIGHTS = 26e6, 33e6  # parameters


@dataclass(frozen=True)
class Device:
    """What embeds and trains.

    Attributes:
        name: the GPU, or the cores.
        speedup: its rates for CLIP and CVCL, relative to one core.
        basis: where they come from.
        is_gpu: whether it is a GPU.
    """

    name: str
    speedup: tuple[float, float]
    basis: str
    is_gpu: bool = False


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
        memory_gb: host memory of a process.
        on_device: whether the time is that of the device.
    """

    stage: str
    items: str
    disk_bytes: float
    seconds: float
    basis: str
    parallel: bool = False
    memory_gb: float = MEMORY["frames"]
    on_device: bool = False


def corpus_requirements(first: Requirement, pairs: int, bytes_per_image: float, device: Device) -> list[Requirement]:
    """Return what a corpus needs from its frames to filtered pairs; ``first`` is the stage that reads the frames."""
    kept = round(pairs * KEPT_BY_FILTER)
    basis = f"{FILTER_RATE:,} pairs/s; {KEPT_BY_FILTER:.0%} are kept, as in the paper"
    filtering = Requirement(
        "curate filter",
        f"{pairs:,} pairs",
        kept * bytes_per_image,
        pairs / FILTER_RATE,
        basis,
        memory_gb=MEMORY["filter"],
    )
    cleaning = _decontamination(pairs, "frames", pairs * bytes_per_image)
    return [first, cleaning, _embedding(pairs, "frames", device), filtering]


def web_requirements(pairs: int, image_bytes: float, device: Device, targets: int) -> list[Requirement]:
    """Return what web pairs need from decontamination to matching.

    Args:
        pairs: number of web pairs.
        image_bytes: size of all their images.
        device: embeds them.
        targets: number of filtered frames that they are matched with.
    """
    if not pairs:
        return []
    requirements = [
        _decontamination(pairs, "web pairs", image_bytes),
        Requirement(
            "curate rewrite",
            f"{pairs:,} captions",
            2 * image_bytes,  # the parts exist while the store is assembled
            pairs / REWRITE_RATE,
            f"{REWRITE_RATE:,} captions/s by rules; disk if all captions are kept",
            parallel=True,
            memory_gb=MEMORY["rewrite"],
        ),
        _embedding(pairs, "web pairs", device),
    ]
    if targets:
        disk = min(targets, pairs) / pairs * image_bytes
        basis = "67,000 x 558,000 in 521 s and 2.5 GB on one core; it uses all cores"
        seconds, memory = targets * pairs / MATCH_RATE, 0.4 + 2.14 * targets / 67_000
        matching = f"{targets:,} x {pairs:,}"
        requirements.append(Requirement("curate match", matching, disk, seconds, basis, memory_gb=memory))
    return requirements


def training_requirements(pairs: int, bytes_per_image: float, device: Device) -> list[Requirement]:
    """Return what one row of CVCL and one of BabyLLaVA need, by the recipes of ``configs/saycam``.

    Args:
        pairs: of the training mix.
        bytes_per_image: of the store.
        device: trains them.
    """
    if not pairs:
        return []
    arrow = pairs * bytes_per_image
    rate = CVCL_RATE * device.speedup[1]
    cvcl = Requirement(
        "fit CVCL",
        f"{pairs:,} pairs x {CVCL_EPOCHS} epochs",
        arrow + CHECKPOINTS * 12 * CVCL_WEIGHTS,  # weights, and two moments of AdamW, float32
        pairs * CVCL_EPOCHS / rate,
        f"{rate:,.0f} pairs/s, {device.basis}; disk: Arrow copy, checkpoints",
        memory_gb=MEMORY["CVCL"],
        on_device=True,
    )
    seconds = pairs / FEATURE_RATE + pairs * BABYLLAVA_EPOCHS / BABYLLAVA_RATE
    babyllava = Requirement(
        "fit BabyLLaVA",
        f"{pairs:,} pairs x {BABYLLAVA_EPOCHS} epochs",
        pairs * FEATURE_BYTES + CHECKPOINTS * 12 * BABYLLAVA_WEIGHTS,
        seconds / device.speedup[1],
        "GPT-2 on cached features, relative to CVCL as on a CPU; disk: features, checkpoints",
        memory_gb=MEMORY["BabyLLaVA"],
        on_device=True,
    )
    return [cvcl, babyllava]


def _decontamination(pairs: int, kind: str, image_bytes: float) -> Requirement:
    basis = f"{HASH_RATE:,.0f} images/s per process; disk: the store without near-duplicates"
    seconds, memory = pairs / HASH_RATE, MEMORY["decontaminate"]
    stage = "curate decontaminate"
    return Requirement(stage, f"{pairs:,} {kind}", image_bytes, seconds, basis, parallel=True, memory_gb=memory)


def _embedding(pairs: int, kind: str, device: Device) -> Requirement:
    rate = EMBED_RATE * device.speedup[0]
    basis = f"{rate:,.3g} pairs/s, ViT-L/14, {device.basis}"
    # Parts and merged files exist at the same time.
    disk = 2 * pairs * EMBEDDING_BYTES
    memory = MEMORY["embed"]
    return Requirement("curate embed", f"{pairs:,} {kind}", disk, pairs / rate, basis, memory_gb=memory, on_device=True)
