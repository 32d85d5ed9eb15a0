"""Rates and memory of one CPU core for the cost estimates of `check-data`, and the tables of docs/reference/cost.md.

    python perf/cost.py               # measure, about five minutes
    python perf/cost.py --tables      # print the tables with the rates in curation/check_data/requirements.py

Each stage runs its own code on simulated input in a process of its own, with one thread, so that its peak memory is
that of this stage. Rates are items per second of CPU time.
"""

from __future__ import annotations

import io
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from common import make_parser, simulated_frames

from babyvlm.curation.check_data.command import FRAME_BYTES
from babyvlm.curation.check_data.findings import format_bytes
from babyvlm.curation.check_data.requirements import (
    KEPT_BY_FILTER,
    Device,
    Requirement,
    corpus_requirements,
    training_requirements,
    web_requirements,
)

Work = Iterator[int]  # yields the number of items when a round is done; the first round is a warm-up

DECODE_RATE = 195  # frames per core-second, 1920 x 1080
WEB_RATE = 477  # samples per core-second, of Playroom's archives (docs/how-to/data.md)
WEB_BYTES = 28e9 / 558_000  # our assumption: LLaVA-Pretrain's images take 28 GB
# Baby S: 61 hours of transcribed video (Vong et al., 2024) gave 600,285 frames.
FRAMES_PER_HOUR = 600_285 / 61
ONE_CORE = Device("one core", (1, 1), "one core")


class Scenario(NamedTuple):
    """Hours of video, and web pairs."""

    title: str
    hours: float
    web_pairs: int


SCENARIOS = (
    Scenario("868 hours of BabyView", 868, 1_200_000),  # matching needs more web pairs than filtered frames
    Scenario("Ten times the paper", 610, 5_580_000),
)


def hash_images() -> Work:
    """Decode and hash the images of a store, as `curate decontaminate` does."""
    from PIL import Image

    from babyvlm.curation.near_duplicates import perceptual_hashes

    frames = list(simulated_frames(100))
    while True:
        perceptual_hashes(Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames)
        yield len(frames)


def decode_video() -> Work:
    """Decode H.264 of 1920 x 1080 at 30 frames/s, which is most of the work of `curate frames`."""
    import av

    file = io.BytesIO()
    random = np.random.default_rng(0)
    scene = random.integers(0, 256, (270, 600, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(file, "w", "mp4") as container:
        stream = container.add_stream("libx264", Fraction(30), options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for number in range(60):  # the camera moves
            picture = np.ascontiguousarray(scene[:1080, 4 * number : 4 * number + 1920])
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    while True:
        file.seek(0)
        with av.open(file) as container:
            container.streams.video[0].thread_type = "NONE"
            yield sum(1 for _ in container.decode(video=0))


def embed() -> Work:
    """Embed images and short texts by CLIP ViT-L/14 with random weights, as `curate embed` does."""
    import open_clip
    import torch

    model = open_clip.create_model("ViT-L-14", load_weights=False).eval()
    images, texts = torch.randn(4, 3, 224, 224), torch.randint(1, 40_000, (4, 77))
    while True:
        with torch.inference_mode():
            model.encode_image(images)
            model.encode_text(texts)
        yield len(images)


def train_cvcl() -> Work:
    """Train the image encoder of CVCL, ResNeXt-50, at batch size 8; the text encoder costs next to nothing."""
    import timm
    import torch

    model = timm.create_model("resnext50_32x4d", num_classes=512)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(8, 3, 224, 224)
    while True:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        yield len(images)


def compute_features() -> Work:
    """Compute the features of frames by a frozen ResNeXt-50, once for all rows and phases of BabyLLaVA."""
    import timm
    import torch

    model = timm.create_model("resnext50_32x4d", num_classes=0, global_pool="").eval()
    images = torch.randn(8, 3, 224, 224)
    while True:
        with torch.inference_mode():
            model(images)
        yield len(images)


def train_babyllava() -> Work:
    """Train BabyLLaVA's GPT-2 on 49 features and 12 tokens per pair at batch size 40, as in phase 1."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=2350, n_embd=256, n_layer=8, n_head=32, n_inner=1024, n_positions=2048)
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    inputs, labels = torch.randn(40, 61, 256), torch.randint(0, 2350, (40, 61))
    while True:
        optimizer.zero_grad()
        model(inputs_embeds=inputs, labels=labels).loss.backward()
        optimizer.step()
        yield len(inputs)


STAGES = (hash_images, decode_video, embed, train_cvcl, compute_features, train_babyllava)


def measure(stage: Callable[[], Work], seconds: float) -> tuple[float, float]:
    """Return items per second of CPU time, and the peak memory in GB."""
    import torch

    torch.set_num_threads(1)
    work, items = stage(), 0
    next(work)
    start = time.process_time()
    while time.process_time() < start + seconds:
        items += next(work)
    rate = items / (time.process_time() - start)
    return rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def print_table(scenario: Scenario) -> None:
    """Print what the stages of a scenario need, as Markdown."""
    pairs = round(scenario.hours * FRAMES_PER_HOUR)
    seconds = scenario.hours * 3600 * 30 / DECODE_RATE
    extraction = Requirement("curate frames", f"{scenario.hours:,.0f} h of video", 2 * pairs * FRAME_BYTES, seconds, "")
    web_bytes = scenario.web_pairs * WEB_BYTES
    reading = Requirement(
        "curate web", f"{scenario.web_pairs:,} samples", 2 * web_bytes, scenario.web_pairs / WEB_RATE, ""
    )
    targets = round(pairs * KEPT_BY_FILTER)
    matched = min(targets, scenario.web_pairs)
    mean_bytes = (targets * FRAME_BYTES + matched * WEB_BYTES) / (targets + matched)
    requirements = [
        *corpus_requirements(extraction, pairs, FRAME_BYTES, ONE_CORE),
        reading,
        *web_requirements(scenario.web_pairs, web_bytes, ONE_CORE, targets),
        *training_requirements(targets + matched, mean_bytes, ONE_CORE),
    ]
    print(f"## {scenario.title}\n\n| stage | input | runs on | core-hours | disk | memory per process |")
    print("|---|---|---|---|---|---|")
    for one in requirements:
        where = "GPU" if one.on_device else "CPU"
        numbers = f"{one.seconds / 3600:,.1f} | {format_bytes(one.disk_bytes)} | {one.memory_gb:.1f} GB"
        print(f"| `{one.stage}` | {one.items} | {where} | {numbers} |")
    curation = [one for one in requirements if not one.stage.startswith("fit")]
    cpu = sum(one.seconds for one in curation if not one.on_device) / 3600
    disk = format_bytes(sum(one.disk_bytes for one in requirements))
    slowest = max(curation, key=lambda one: one.seconds)
    print(f"\nCPU stages together: {cpu:,.0f} core-hours. Disk: {disk}.")
    print(f"Bottleneck of curation: `{slowest.stage}`, {slowest.seconds / 3600:,.0f} core-hours.\n")


def main() -> None:
    """Print the rates, or the tables."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--tables", action="store_true", help="print the tables instead of measuring")
    parser.add_argument("--seconds", type=float, default=15, help="CPU time per stage")
    args = parser.parse_args()
    if args.tables:
        for scenario in SCENARIOS:
            print_table(scenario)
        return
    for stage in STAGES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rate, memory = pool.apply(measure, (stage, args.seconds))
        print(f"{stage.__name__:16} {rate:10,.2f} items per core-second, {memory:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
