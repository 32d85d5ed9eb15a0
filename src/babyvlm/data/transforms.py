"""From a picture to the tensor a vision encoder takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from PIL import ImageFilter
from PIL.Image import Image
from torchvision.transforms import v2

T = TypeVar("T")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as in CVCL and DINO


class PILGaussianBlur(v2.Transform):  # type: ignore[misc] # torchvision ships no types
    """Blur by Pillow, as CVCL does: ten times as fast as a convolution of tensors at these sizes.

    Args:
        sigma: range of the radius, in pixels.
    """

    _transformed_types = (Image,)

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        super().__init__()
        self.sigma = sigma

    def make_params(self, flat_inputs: list[Any]) -> dict[str, float]:
        """Draw a radius from torch's generator."""
        return {"radius": float(torch.empty(1).uniform_(*self.sigma))}

    def transform(self, inpt: Image, params: dict[str, float]) -> Image:
        """Blur one picture."""
        return inpt.filter(ImageFilter.GaussianBlur(params["radius"]))


def to_tensor() -> list[v2.Transform]:
    """What ends every transform: picture -> float32 (C, H, W), normalised."""
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def train_transform(image_size: int, min_scale: float = 0.2) -> v2.Compose:
    """CVCL's augmentation: random resized crop (scale 0.2 to 1), blur half of the time, mirror half of the time."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=(min_scale, 1.0)),
            v2.RandomApply([PILGaussianBlur()], p=0.5),
            v2.RandomHorizontalFlip(),
            *to_tensor(),
        ]
    )


def eval_transform(image_size: int) -> v2.Compose:
    """Shorter side to ``image_size``, centre crop, normalise; nothing random."""
    return v2.Compose([v2.Resize(image_size), v2.CenterCrop(image_size), *to_tensor()])


def seeded(transform: Callable[[Image], T], image: Image, seed: int) -> T:
    """Transform a picture with randomness that is a function of ``seed`` alone, whatever ran before, in any worker."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)
