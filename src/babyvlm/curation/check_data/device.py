"""Ask this machine what embeds and trains: its GPU, with rates that are measured on it, or its cores."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

from babyvlm.curation.check_data.requirements import CVCL_RATE, EMBED_RATE, Device
from babyvlm.errors import first_line
from babyvlm.io.printing import echo

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SECONDS = 3  # for each rate
BATCH_SIZE = 64


def find_device(embed_rate: float | None = None) -> Device:
    """Return the GPU of this machine, if there is one, otherwise its cores.

    Args:
        embed_rate: pairs per second that the device embeds; by default measured, or known for a core.
    """
    found = (
        _measured_gpu() if shutil.which("nvidia-smi") else None
    )  # torch, which knows it too, takes seconds to import
    if found is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        found = Device(f"{cores} CPU cores, no GPU", (cores, cores), f"{cores} cores")
    if embed_rate is None:
        return found
    return Device(found.name, (embed_rate / EMBED_RATE, found.speedup[1]), "--embed_rate", found.is_gpu)


def _measured_gpu() -> Device | None:
    import torch

    if not torch.cuda.is_available():
        return None
    import open_clip
    import timm

    properties = torch.cuda.get_device_properties(0)
    name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    device = torch.device("cuda")
    try:
        clip = open_clip.create_model("ViT-L-14", load_weights=False).visual
        embedding = images_per_second(clip, device, train=False)
        training = images_per_second(timm.create_model("resnext50_32x4d", num_classes=512), device, train=True)
    except RuntimeError as error:  # other processes may have taken its memory
        echo(f"warning: {name}: cannot be measured ({first_line(error)}). Times are those of the CPU", file=sys.stderr)
        return None
    return Device(name, (embedding / EMBED_RATE, training / CVCL_RATE), f"measured on {properties.name}", is_gpu=True)


def images_per_second(
    model: nn.Module, device: torch.device, *, train: bool, side: int = 224, seconds: float = SECONDS
) -> float:
    """Return how many images a model embeds in bfloat16, or is trained on in float32, per second, after a warm-up."""
    import torch

    model = model.to(device).train(train)
    images_BCHW = torch.randn(BATCH_SIZE, 3, side, side, device=device)

    def step() -> Tensor:
        if train:
            model.zero_grad()
            loss: Tensor = model(images_BCHW).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            mean: Tensor = model(images_BCHW).float().mean()
            return mean

    step().item()
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        step().item()  # waits for the device
        count += BATCH_SIZE
    return count / (time.perf_counter() - start)
