"""Map HDR images, of phones and recent cameras, to the 8-bit sRGB that models are trained on."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
HDR_NAMES = {PQ: "PQ", HLG: "HLG"}
REFERENCE_WHITE = 203  # nits, of a white page in HDR: ITU-R BT.2408. It becomes (almost) white.
HLG_PEAK = 1000  # nits, of the nominal display: ITU-R BT.2100
KNEE = 0.8  # of white. Darker colors keep their brightness, highlights are compressed. Our choice.
TABLE_SIZE = 65
# Linear RGB from BT.2020 to BT.709 primaries: ITU-R BT.2087.
BT2020_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])


def tone_map(image: Image.Image, transfer: int) -> Image.Image:
    """Map an HDR image to sRGB.

    Args:
        image: RGB image of a frame, with BT.2020 primaries if the transfer is an HDR one.
        transfer: transfer characteristics (ITU-T H.273). Those that are not HDR leave the image unchanged.
    """
    return image.filter(_table(transfer)) if transfer in HDR_NAMES else image


@cache
def _table(transfer: int) -> ImageFilter.Color3DLUT:
    levels = np.linspace(0, 1, TABLE_SIZE)
    blue, green, red = np.meshgrid(levels, levels, levels, indexing="ij")  # red varies fastest
    signal = np.stack([red, green, blue], -1).reshape(-1, 3)
    nits = _pq_nits(signal) if transfer == PQ else _hlg_nits(signal)
    rgb = np.maximum(nits / REFERENCE_WHITE @ BT2020_TO_BT709.T, 0)
    brightest = rgb.max(1, keepdims=True)
    excess = np.maximum(brightest - KNEE, 0) / (1 - KNEE)
    rgb *= np.where(excess > 0, (KNEE + (1 - KNEE) * excess / (1 + excess)) / np.maximum(brightest, KNEE), 1)
    srgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return ImageFilter.Color3DLUT(TABLE_SIZE, srgb.clip(0, 1).astype(np.float32).ravel())


def _hlg_nits(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse OETF and OOTF of HLG (ITU-R BT.2100); the OOTF per channel, as FFmpeg's zscale does by default."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return HLG_PEAK * scene**1.2


def _pq_nits(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """EOTF of PQ (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
