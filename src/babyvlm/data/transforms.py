"""From an image to the tensor that a vision encoder takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from cv2.typing import MatLike
from PIL import ImageFilter
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from babyvlm.io.images import open_rgb, rgb_pixels
from babyvlm.ranges import require_in_range

T = TypeVar("T")
View = Callable[[bytes, np.random.Generator], MatLike]  # encoded image and randomness -> uint8 (H, W, C)
# How an image becomes square. `crop`: its shorter side is resized, bilinear, and its center cropped (our choice).
# `squeeze`: both sides are resized, bicubic, which distorts it (arjunchandra2/multimodal-baby,
# multimodal_saycamllava_data_module.py). SAYCam's released frames are square, so that only other images differ.
Resize = Literal["crop", "squeeze"]

MEAN, STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # ImageNet's, as in wkvong/multimodal-baby and facebookresearch/dino

cv2.setNumThreads(0)  # a loader is parallel through its workers


class PILGaussianBlur(v2.Transform):  # type: ignore[misc] # torchvision ships no types
    """Blur with Pillow, as CVCL and DINO do: ten times as fast as a convolution of tensors at these sizes.

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
        """Blur one image."""
        return inpt.filter(ImageFilter.GaussianBlur(params["radius"]))


def to_tensor() -> list[v2.Transform]:
    """Return the last steps of every transform: image -> float32 (C, H, W), normalized."""
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


# Normalized value of each byte, per channel.
_NORMALIZED_CV = v2.Compose(to_tensor()[1:])(torch.arange(256, dtype=torch.uint8).expand(3, 1, 256))[:, 0].numpy()


def to_square(image_size: int, resize: Resize) -> list[v2.Transform]:
    """Return the steps that make an image square; see ``Resize``.

    Args:
        image_size: side of the square, in pixels.
        resize: how.

    Raises:
        UserError: the size is less than 1.
    """
    require_in_range(image_size=image_size)
    if resize == "squeeze":
        return [v2.Resize((image_size, image_size), v2.InterpolationMode.BICUBIC)]
    return [v2.Resize(image_size), v2.CenterCrop(image_size)]


def eval_transform(image_size: int, resize: Resize = "crop") -> v2.Compose:
    """Return the transform of evaluation: make the image square, normalize.

    Args:
        image_size: side of the square, in pixels.
        resize: how an image becomes square.
    """
    return v2.Compose([*to_square(image_size, resize), *to_tensor()])


class Plain:
    """The view of evaluation: after ``normalized`` it equals ``eval_transform``; nothing random.

    Args:
        image_size: side of the square, in pixels.
        resize: how an image becomes square.
    """

    def __init__(self, image_size: int, resize: Resize = "crop") -> None:
        self.image_size, self.resize = image_size, resize
        self.to_square = v2.Compose(to_square(image_size, resize))

    def __call__(self, encoded: bytes, random: np.random.Generator) -> MatLike:
        """Return uint8 (H, W, C)."""
        return np.array(self.to_square(open_rgb(encoded)))


@dataclass(frozen=True)
class Augmented:
    """CVCL's augmentation: a random resized crop, blurred with probability 0.5, mirrored with probability 0.5.

    CVCL uses torchvision on Pillow images; this is about four times as fast (`make bench-loader`). A crop differs from
    Pillow's by at most 2 of 255 levels, a blurred one by 0.4 on average, more at edges: Pillow's blur approximates a
    Gaussian by boxes.

    Attributes:
        image_size: side of the square, in pixels.
        min_scale: smallest fraction of the image's area that a crop covers.
        sigma: range of the blur's standard deviation, in pixels.
        resize: ``squeeze`` makes the image square before it is cropped, see ``Resize``; ``crop`` cuts the random crop
            from the original image.

    Raises:
        UserError: a number is out of range.
    """

    image_size: int
    min_scale: float = 0.2
    sigma: tuple[float, float] = (0.1, 2.0)
    resize: Resize = "crop"

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_in_range(image_size=self.image_size, min_scale=self.min_scale)

    def __call__(self, encoded: bytes, random: np.random.Generator) -> MatLike:
        """Return uint8 (H, W, C)."""
        is_squeezed = self.resize == "squeeze"
        image_HWC = Plain(self.image_size, "squeeze")(encoded, random) if is_squeezed else rgb_pixels(encoded)
        top, left, height, width = random_crop(image_HWC.shape[:2], self.min_scale, random)
        pixels_HWC = resized(image_HWC[top : top + height, left : left + width], self.image_size)
        if random.random() < 0.5:
            pixels_HWC = blurred(pixels_HWC, random.uniform(*self.sigma))
        return cv2.flip(pixels_HWC, 1) if random.random() < 0.5 else pixels_HWC


def random_crop(
    size: tuple[int, ...],
    min_scale: float,
    random: np.random.Generator,
    ratios: tuple[float, float] = (3 / 4, 4 / 3),
    max_scale: float = 1,
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a crop, with the distribution of torchvision's ``RandomResizedCrop``.

    Args:
        size: height and width of the image.
        min_scale: smallest fraction of its area.
        random: generator to draw from.
        ratios: range of width / height.
        max_scale: largest fraction of its area.
    """
    height, width = size
    for _ in range(10):
        area = height * width * random.uniform(min_scale, max_scale)
        ratio = math.exp(random.uniform(math.log(ratios[0]), math.log(ratios[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = random.integers(height - crop_height + 1), random.integers(width - crop_width + 1)
            return int(top), int(left), crop_height, crop_width
    crop_width, crop_height = min(width, round(height * ratios[1])), min(height, round(width / ratios[0]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def resized(pixels_HWC: MatLike, side: int) -> MatLike:
    """Return a square of (side, side, 3), bilinear, with antialiasing when it gets smaller, as in Pillow."""
    if max(pixels_HWC.shape[:2]) > side:
        pixels_BCHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]
        square_BCHW = interpolate(pixels_BCHW, (side, side), mode="bilinear", antialias=True)
        return np.ascontiguousarray(square_BCHW[0].permute(1, 2, 0).numpy())
    return cv2.resize(pixels_HWC, (side, side), interpolation=cv2.INTER_LINEAR)


def blurred(pixels_HWC: MatLike, sigma: float) -> MatLike:
    """Convolve with a Gaussian, truncated at three standard deviations; edges are replicated, as in Pillow.

    Args:
        pixels_HWC: uint8.
        sigma: standard deviation, in pixels.
    """
    kernel = cv2.getGaussianKernel(2 * math.ceil(3 * sigma) + 1, sigma)
    # Twice as fast as GaussianBlur, which is bit-exact on every machine.
    return cv2.sepFilter2D(pixels_HWC, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def normalized(images: Sequence[MatLike]) -> Tensor:
    """Return B views, uint8 (H, W, C), as (B, C, H, W), with the same floats as ``to_tensor``."""
    images_BCHW = np.empty((len(images), 3, *images[0].shape[:2]), np.float32)
    for image_CHW, pixels_HWC in zip(images_BCHW, images, strict=True):
        for channel, pixels_HW in enumerate(cv2.split(pixels_HWC)):
            cv2.LUT(pixels_HW, _NORMALIZED_CV[channel], image_CHW[channel])
    return torch.from_numpy(images_BCHW)


def normalized_pixels(pixels_BCHW: Tensor) -> Tensor:
    """Return uint8 images (..., C, H, W) as float32, on their device, with the same floats as ``to_tensor``."""
    mean_C11, std_C11 = _constants(pixels_BCHW.device)
    return (pixels_BCHW.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255) - mean_C11).div_(std_C11)


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, (C, 1, 1), on a device. Copied once: each copy would wait for a GPU."""
    mean_C11, std_C11 = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    return mean_C11, std_C11


def seeded(transform: Callable[[Image], T], image: Image, seed: int) -> T:
    """Transform an image with randomness that depends only on ``seed``, whatever ran before, in any worker."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)
