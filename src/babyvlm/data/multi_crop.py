"""DINO's views of a frame, made by OpenCV in the loader's workers or by PyTorch on the device of the model.

Both follow the same random draws. Shape letters: B frames, V views of each, N = V * B, S side of a view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from cv2.typing import MatLike
from torch import Tensor
from torch.nn.functional import interpolate, pad

from babyvlm.data.transforms import blurred, random_crop
from babyvlm.types import pinned

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow and torchvision


@dataclass(frozen=True)
class ViewSettings:
    """How the views of one kind are drawn; see ``frame_mix.Crops``.

    Attributes:
        side: in pixels.
        scale: range of the fraction of the frame's area.
        jitter: strengths of brightness, contrast, saturation and hue jitter.
        grayscale: probability.
        blur: range of the standard deviation, in pixels.
        blur_probability: probability.
        solarize: probability.
    """

    side: int
    scale: tuple[float, float]
    jitter: tuple[float, float, float, float]
    grayscale: float
    blur: tuple[float, float]
    blur_probability: float
    solarize: float = 0.0


@dataclass(frozen=True)
class Draw:
    """The random numbers of one view.

    Attributes:
        box: top, left, height and width of the crop.
        flip: mirror it.
        order: of the four kinds of jitter; empty without jitter.
        factors: of brightness, contrast and saturation; shift of the hue, as a fraction of the circle.
        gray: make it gray.
        sigma: standard deviation of the blur, in pixels; 0 without blur.
        solarize: invert bright pixels.
    """

    box: tuple[int, int, int, int]
    flip: bool
    order: tuple[int, ...]
    factors: tuple[float, float, float, float]
    gray: bool
    sigma: float
    solarize: bool


def draw_view(size: tuple[int, ...], settings: ViewSettings, random: np.random.Generator) -> Draw:
    """Draw a view with the distributions of torchvision's transforms, in their order.

    Args:
        size: height and width of the frame.
        settings: of the view.
        random: generator to draw from.
    """
    box = random_crop(size, settings.scale[0], random, max_scale=settings.scale[1])
    flip, jittered = random.random() < 0.5, random.random() < 0.8
    order = tuple(random.permutation(4).tolist()) if jittered else ()
    *strengths, hue = settings.jitter
    brightness, contrast, saturation = (random.uniform(max(0.0, 1 - s), 1 + s) for s in strengths)
    factors = (brightness, contrast, saturation, random.uniform(-hue, hue))
    gray = random.random() < settings.grayscale
    sigma = random.uniform(*settings.blur) if random.random() < settings.blur_probability else 0.0
    return Draw(box, flip, order, factors, gray, sigma, random.random() < settings.solarize)


# In the workers, one view at a time.


def render(pixels_HWC: MatLike, draw: Draw, side: int) -> MatLike:
    """Return a view, uint8 (S, S, 3), of a frame, uint8 (H, W, 3)."""
    top, left, height, width = draw.box
    crop_BCHW = torch.from_numpy(pixels_HWC[top : top + height, left : left + width]).permute(2, 0, 1)[None]
    view_BCHW = interpolate(crop_BCHW, (side, side), mode="bicubic", antialias=True)  # as Pillow
    view: MatLike = np.ascontiguousarray(view_BCHW[0].permute(1, 2, 0).numpy())
    if draw.flip:
        view = cv2.flip(view, 1)
    for kind in draw.order:
        view = _jittered(view, kind, draw.factors[kind])
    if draw.gray:
        view = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if draw.sigma:
        view = blurred(view, draw.sigma)
    return cv2.LUT(view, _SOLARIZED) if draw.solarize else view


_SOLARIZED = np.where(np.arange(256) < 128, np.arange(256), 255 - np.arange(256)).astype(np.uint8)


def _jittered(view: MatLike, kind: int, factor: float) -> MatLike:
    if kind == HUE:
        hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(int(factor * 255) % 256)  # wraps around
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    if kind == SATURATION:
        gray = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return cv2.addWeighted(view, factor, gray, 1 - factor, 0)
    fixed = float(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY).mean()) if kind == CONTRAST else 0.0
    return cv2.LUT(view, (np.arange(256) * factor + fixed * (1 - factor)).clip(0, 255).astype(np.uint8))


# On the device, all views of one size at once.


@dataclass
class DrawnViews:
    """The draws of all views of one size in a batch, as tensors.

    Attributes:
        side: of the views, in pixels.
        radius: of the widest blur, in pixels.
        box_VB4: top, left, height and width of the crops.
        flip_VB: which are mirrored.
        factor_N4: factors of the jitter.
        order_4N: which views have their jitter number 0 to 3, sorted by its kind.
        counts: numbers of views of each kind in each row of ``order_4N``; the rest has no jitter.
        gray_N: which become gray.
        blurred_K: which are blurred.
        sigma_K: their standard deviations.
        solarize_N: which are solarized.
    """

    side: int
    radius: int
    box_VB4: Tensor
    flip_VB: Tensor
    factor_N4: Tensor
    order_4N: Tensor
    counts: list[list[int]]
    gray_N: Tensor
    blurred_K: Tensor
    sigma_K: Tensor
    solarize_N: Tensor

    def pin_memory(self) -> DrawnViews:
        """Return the draws in page-locked memory."""
        return pinned(self)

    @classmethod
    def stack(cls, draws_BV: Sequence[Sequence[Draw]], side: int) -> DrawnViews:
        """Collect the draws of V views of B frames."""
        draws = [draw for draws_B in zip(*draws_BV, strict=True) for draw in draws_B]
        shape = (len(draws_BV[0]), len(draws_BV))
        orders = np.array([draw.order or (len(draw.factors),) * 4 for draw in draws]).T
        blurs = [n for n, draw in enumerate(draws) if draw.sigma]
        return cls(
            side,
            math.ceil(3 * max([draw.sigma for draw in draws], default=0.0)),
            torch.tensor([draw.box for draw in draws]).view(*shape, 4),
            torch.tensor([draw.flip for draw in draws]).view(*shape),
            torch.tensor([draw.factors for draw in draws]),
            torch.from_numpy(np.argsort(orders, axis=1, kind="stable")),
            [[int((order == kind).sum()) for kind in range(4)] for order in orders],
            torch.tensor([draw.gray for draw in draws]),
            torch.tensor(blurs, dtype=torch.int64),
            torch.tensor([draws[n].sigma for n in blurs]),
            torch.tensor([draw.solarize for draw in draws]),
        )


def render_views(frames_BCHW: Tensor, views: DrawnViews) -> Tensor:
    """Return the views (V, B, 3, S, S) of frames as float32 from 0 to 255, on the frames' device.

    No value is read from the device.

    Args:
        frames_BCHW: uint8; may be padded, since no crop reaches the padding.
        views: draws, on the same device.
    """
    images_BCHW = frames_BCHW.float()
    height, width = images_BCHW.shape[2:]
    top_VB, left_VB, height_VB, width_VB = views.box_VB4.unbind(-1)
    rows_VBSH = resampling(top_VB, height_VB, height, views.side)
    columns_VBSW = resampling(left_VB, width_VB, width, views.side)
    columns_VBSW = torch.where(views.flip_VB[..., None, None], columns_VBSW.flip(2), columns_VBSW)
    parts = [
        rows_BSH[:, None] @ images_BCHW @ columns_BSW[:, None].mT
        for rows_BSH, columns_BSW in zip(rows_VBSH, columns_VBSW, strict=True)
    ]
    view_NCSS = torch.cat(parts).round_().clamp_(0, 255)
    for order_N, counts in zip(views.order_4N, views.counts, strict=True):
        first = 0
        for kind, count in enumerate(counts):
            chosen = order_N[first : first + count]
            first += count
            if count:
                factor_N111 = views.factor_N4[chosen, kind].float()[:, None, None, None]  # whatever the run's precision
                view_NCSS[chosen] = _jitter_views(view_NCSS[chosen], kind, factor_N111)
    view_NCSS = torch.where(views.gray_N[:, None, None, None], _gray(view_NCSS), view_NCSS)
    if len(views.blurred_K):
        view_NCSS[views.blurred_K] = _blur_views(view_NCSS[views.blurred_K], views.sigma_K.float(), views.radius)
    bright_NCSS = views.solarize_N[:, None, None, None] & (view_NCSS >= 128)
    view_NCSS = torch.where(bright_NCSS, 255 - view_NCSS, view_NCSS)
    return view_NCSS.view(*views.box_VB4.shape[:2], *view_NCSS.shape[1:])


def resampling(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """Return the matrices (..., S, size) that resize a range of pixels to S, bicubic with antialiasing, as Pillow.

    Args:
        start: (...) first pixel of each range.
        length: (...) number of its pixels.
        size: number of pixels of the image.
        side: S.
    """
    start, length = start[..., None, None], length[..., None, None]
    pixel = torch.arange(size, device=start.device)
    scale = length / side
    center = start + (torch.arange(side, device=start.device)[:, None] + 0.5) * scale
    weight = _bicubic((pixel + 0.5 - center) / scale.clamp(min=1))
    weight = weight * ((pixel >= start) & (pixel < start + length))
    return weight / weight.sum(-1, keepdim=True)


def _bicubic(distance: Tensor) -> Tensor:
    """Return Keys' cubic kernel with a = -0.5, Pillow's ``BICUBIC``."""
    x = distance.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _gray(view_NCSS: Tensor) -> Tensor:
    red, green, blue = view_NCSS.unbind(1)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[:, None]


def _jitter_views(view_NCSS: Tensor, kind: int, factor_N111: Tensor) -> Tensor:
    if kind == HUE:
        return _shift_hue(view_NCSS, factor_N111[:, 0])
    if kind == BRIGHTNESS:
        return (view_NCSS * factor_N111).clamp_(0, 255)
    other = _gray(view_NCSS)
    other = other.mean((1, 2, 3), keepdim=True) if kind == CONTRAST else other
    return (view_NCSS * factor_N111 + other * (1 - factor_N111)).clamp_(0, 255)


def _shift_hue(view_NCSS: Tensor, shift_N11: Tensor) -> Tensor:
    """Turn the hue; value and saturation (of HSV) stay."""
    red, green, blue = view_NCSS.unbind(1)
    value, chroma = view_NCSS.amax(1), view_NCSS.amax(1) - view_NCSS.amin(1)
    divisor = chroma.clamp(min=1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sector = sector + 6 * shift_N11
    channels = []
    for offset in (5, 3, 1):
        position = (offset + sector) % 6
        channels.append(value - chroma * torch.minimum(position, 4 - position).clamp(0, 1))
    return torch.stack(channels, 1)


def _blur_views(view_KCSS: Tensor, sigma_K: Tensor, radius: int) -> Tensor:
    """Convolve each view with its own Gaussian, truncated at three standard deviations; edges are replicated."""
    offset = torch.arange(-radius, radius + 1, device=sigma_K.device)
    weight_KR = torch.exp(-(offset**2) / (2 * sigma_K[:, None] ** 2)) * (offset.abs() <= (3 * sigma_K[:, None]).ceil())
    weight_KR = weight_KR / weight_KR.sum(1, keepdim=True)
    side = view_KCSS.shape[-1]
    for axis, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded = pad(view_KCSS, padding, mode="replicate")
        view_KCSS = torch.zeros_like(view_KCSS)
        for number, weight_K in enumerate(weight_KR.unbind(1)):
            view_KCSS.addcmul_(padded.narrow(axis, number, side), weight_K[:, None, None, None])
    return view_KCSS
