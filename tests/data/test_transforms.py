"""Compare the fast decoding and transforms with Pillow, torchvision and scipy."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from torchvision import transforms

from babyvlm.data.transforms import Augmented, Plain, blurred, eval_transform, normalized, random_crop, resized
from babyvlm.io.images import BrokenImageError, open_rgb, rgb_pixels


def scene(width, height, seed=0):
    """Return an image with smooth areas and edges."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    pil_image = Image.fromarray(small).resize((width, height), Image.BICUBIC)
    pil_image.paste((250, 20, 90), (width // 5, height // 4, width // 2 + 1, height // 2 + 1))
    return pil_image


def encoded(pil_image, kind="JPEG", **options):
    file = io.BytesIO()
    pil_image.save(file, kind, **options)
    return file.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was rotated by 90 degrees
DEEP = Image.fromarray((np.arange(6000).reshape(60, 100) * 10).astype(np.uint16))
KINDS = {
    "4:2:0": encoded(scene(101, 67)),
    "4:4:4": encoded(scene(101, 67), quality=97, subsampling=0),
    "progressive": encoded(scene(64, 64), progressive=True),
    "not YCbCr": encoded(scene(64, 64), keep_rgb=True),
    "grey": encoded(scene(50, 40).convert("L")),
    "CMYK": encoded(scene(50, 40).convert("CMYK")),
    "turned by EXIF": encoded(scene(80, 60), exif=TURNED),
    "bytes after its end": encoded(scene(80, 60)) + bytes(100),
    "alpha": encoded(scene(50, 40).convert("RGBA"), "PNG"),
    "palette": encoded(scene(50, 40).convert("P"), "PNG"),
    "16-bit grey": encoded(DEEP, "PNG"),
    "WebP": encoded(scene(50, 40), "WebP"),
    "GIF": encoded(scene(50, 40), "GIF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_decode_equals_pillow(kind):
    pixels = rgb_pixels(KINDS[kind])
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(open_rgb(KINDS[kind])))
    pixels[0] = 0  # the array owns its memory


def bomb(width, height):
    """Return a JPEG whose header declares more pixels than the file has."""
    content = bytearray(encoded(scene(32, 32)))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(content)


WHOLE = encoded(scene(64, 64))
BROKEN = {
    "nothing": b"",
    "no image": b"look at the ball",
    "header alone": WHOLE[:200],
    "truncated": WHOLE[: len(WHOLE) // 2],
    "truncated, with an end": WHOLE[:200] + b"\xff\xd9",
    "bomb": bomb(60000, 60000),
    "bomb of half the size": bomb(10000, 10000),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_decode_refuses_what_pillow_refuses(kind):
    for read in (open_rgb, rgb_pixels):
        with pytest.raises(BrokenImageError, match="bomb" if "bomb" in kind else None):
            read(BROKEN[kind])


@pytest.mark.parametrize("size", [(224, 224), (120, 300), (200, 90)])
@pytest.mark.parametrize("min_scale", [0.2, 0.9])
def test_crop_distribution_equals_torchvision(size, min_scale):
    height, width = size
    random = np.random.default_rng(0)
    ours = np.array([random_crop(size, min_scale, random) for _ in range(2000)])
    pil_image = Image.new("L", (width, height))
    draw = transforms.RandomResizedCrop.get_params
    theirs = np.array([draw(pil_image, (min_scale, 1.0), (3 / 4, 4 / 3)) for _ in range(2000)])
    for mine, other in zip(ours.T, theirs.T, strict=True):
        assert ks_2samp(mine, other).pvalue > 1e-4
    assert ks_2samp(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > 1e-4


@pytest.mark.parametrize("size", [(10, 300), (300, 10), (1, 1)])
def test_fallback_crop_equals_torchvision(size):
    height, width = size
    pil_image = Image.new("L", (width, height))
    theirs = transforms.RandomResizedCrop.get_params(pil_image, (0.9, 1.0), (3 / 4, 4 / 3))
    assert random_crop(size, 0.9, np.random.default_rng(0)) == theirs


@given(width=st.integers(1, 150), height=st.integers(1, 150), side=st.integers(1, 120))
def test_resize_equals_pillow(width, height, side):
    pil_image = scene(width, height)
    expected = np.asarray(pil_image.resize((side, side), Image.BILINEAR)).astype(int)
    assert np.abs(resized(np.array(pil_image), side) - expected).max() <= 2


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.9])
def test_blur_is_gaussian(sigma):
    pil_image = scene(90, 70)
    found = blurred(np.array(pil_image), sigma).astype(int)
    exact = gaussian_filter(np.asarray(pil_image).astype(float), (sigma, sigma, 0), mode="nearest", radius=(20, 20, 0))
    assert np.abs(found - exact).max() <= 2
    pillows = np.asarray(pil_image.filter(ImageFilter.GaussianBlur(sigma))).astype(int)
    assert np.abs(found - pillows).max() <= 12  # at an edge of 230 levels
    assert np.abs(found - pillows).mean() <= 0.6


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("size", "side"), [((96, 96), 64), ((224, 224), 224), ((300, 200), 224)])
def test_augmented_view_equals_pillow_with_same_draws(size, side, seed):
    pil_image = scene(*size, seed)
    found = Augmented(side)(encoded(pil_image, "PNG"), np.random.default_rng(seed)).astype(int)
    draw = np.random.default_rng(seed)
    top, left, height, width = random_crop(size[::-1], 0.2, draw)
    expected = pil_image.crop((left, top, left + width, top + height)).resize((side, side), Image.BILINEAR)
    if draw.random() < 0.5:
        expected = expected.filter(ImageFilter.GaussianBlur(draw.uniform(0.1, 2.0)))
    if draw.random() < 0.5:
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert found.shape == (side, side, 3)
    assert np.abs(found - np.asarray(expected)).mean() < 0.6


@given(size=st.tuples(st.integers(20, 90), st.integers(20, 90)), side=st.integers(8, 40))
def test_plain_view_equals_evaluation_transform(size, side):
    pil_image = scene(*size)
    view = Plain(side)(encoded(pil_image, "PNG"), np.random.default_rng(0))
    images_BCHW = normalized([view, view])
    assert np.array_equal(images_BCHW[1].numpy(), eval_transform(side)(pil_image).numpy())
