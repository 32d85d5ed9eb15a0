"""DINO's views by OpenCV and on the device, compared with torchvision on Pillow images, with the same draws."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from babyvlm.data.multi_crop import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    Draw,
    DrawnViews,
    ViewSettings,
    draw_view,
    render,
    render_views,
)

SETTINGS = ViewSettings(48, (0.14, 1.0), (0.4, 0.4, 0.2, 0.1), 0.2, (0.1, 2.0), 0.5, 0.2)


def scene(height, width, seed=0):
    """Smooth areas with edges, in colors."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 6, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.BICUBIC)
    image.paste((240, 30, 90), (width // 5, height // 4, width // 2, height // 2))
    return image


JITTER = {
    BRIGHTNESS: functional.adjust_brightness,
    CONTRAST: functional.adjust_contrast,
    SATURATION: functional.adjust_saturation,
    HUE: functional.adjust_hue,
}


def by_pillow(image, draw, side):
    """The same view as torchvision makes it."""
    view = functional.resized_crop(image, *draw.box, [side, side], v2.InterpolationMode.BICUBIC)
    view = functional.horizontal_flip(view) if draw.flip else view
    for kind in draw.order:
        view = JITTER[kind](view, draw.factors[kind])
    view = functional.rgb_to_grayscale(view, 3) if draw.gray else view
    view = view.filter(ImageFilter.GaussianBlur(draw.sigma)) if draw.sigma else view
    return np.asarray(functional.solarize(view, 128) if draw.solarize else view).astype(float)


def on_device(images, draws, side):
    """(V, B, S, S, 3) views of images, given their draws [B][V]."""
    height, width = max(one.height for one in images), max(one.width for one in images)
    frames_BHWC = np.zeros((len(images), height, width, 3), np.uint8)
    for frame, image in zip(frames_BHWC, images, strict=True):
        frame[: image.height, : image.width] = np.asarray(image)
    views = render_views(torch.from_numpy(frames_BHWC).permute(0, 3, 1, 2), DrawnViews.stack(draws, side))
    return views.permute(0, 1, 3, 4, 2).numpy()


def draw(**options):
    return Draw(
        **(
            {"box": (4, 6, 70, 60), "flip": False, "order": (), "factors": (1, 1, 1, 0)}
            | {"gray": False, "sigma": 0.0, "solarize": False}
            | options
        )
    )


STEPS = {  # draw, greatest and mean deviation from Pillow, in levels, of OpenCV and of the device
    "reduced": (draw(), 2, 0.3),
    "enlarged": (draw(box=(4, 6, 20, 30)), 2, 0.3),
    "mirrored": (draw(flip=True), 2, 0.3),
    "brightness": (draw(order=(BRIGHTNESS,), factors=(1.3, 1, 1, 0)), 4, 0.8),
    "contrast": (draw(order=(CONTRAST,), factors=(1, 0.7, 1, 0)), 3, 0.8),
    "saturation": (draw(order=(SATURATION,), factors=(1, 1, 1.2, 0)), 4, 0.8),
    "hue": (draw(order=(HUE,), factors=(1, 1, 1, -0.07)), 12, 2.0),
    "gray": (draw(gray=True), 2, 0.4),
    "blurred": (draw(sigma=1.4), 14, 0.8),
}


@pytest.mark.parametrize("name", STEPS)
def test_each_step_equals_pillow(name):
    one, greatest, mean = STEPS[name]
    image = scene(90, 70)
    expected = by_pillow(image, one, 48)
    for found in (render(np.array(image), one, 48), on_device([image], [[one]], 48)[0, 0]):
        deviation = np.abs(found - expected)
        assert deviation.max() <= greatest
        assert deviation.mean() <= mean


def test_solarized_view_inverts_bright_pixels():
    image = scene(90, 70)
    plain, inverted = draw(), draw(solarize=True)
    for make in (lambda one: render(np.array(image), one, 48), lambda one: on_device([image], [[one]], 48)[0, 0]):
        view, solarized = make(plain).astype(int), make(inverted).astype(int)
        assert np.array_equal(solarized, np.where(view < 128, view, 255 - view))
        assert (view >= 128).any()
        assert (view < 128).any()


def test_views_of_a_batch_equal_those_of_single_frames():
    """Frames of different sizes, all steps in all orders: the device's views are those of the worker's path."""
    random = np.random.default_rng(3)
    images = [scene(90, 70, 1), scene(64, 80, 2), scene(50, 50, 3)]
    settings = ViewSettings(48, (0.14, 1.0), (0.4, 0.4, 0.2, 0.1), 0.2, (0.1, 2.0), 0.5)  # solarizing is discontinuous
    draws = [[draw_view((image.height, image.width), settings, random) for _ in range(12)] for image in images]
    found_VBSSC = on_device(images, draws, 48)
    deviations = []
    for b, image in enumerate(images):
        for v, one in enumerate(draws[b]):
            alone = on_device([image], [[one]], 48)[0, 0]
            np.testing.assert_allclose(found_VBSSC[v, b], alone, atol=1e-2)
            expected = by_pillow(image, one, 48)
            deviations.append([np.abs(view - expected).mean() for view in (alone, render(np.array(image), one, 48))])
    assert np.mean(deviations, 0).max() < 1.5  # of 255 levels
    assert np.max(deviations) < 5


def test_draws_have_the_distribution_of_torchvision():
    random = np.random.default_rng(0)
    ours = [draw_view((90, 70), SETTINGS, random) for _ in range(2000)]
    image = Image.new("L", (70, 90))
    crop, jitter = v2.RandomResizedCrop(48, (0.14, 1.0)), v2.ColorJitter(0.4, 0.4, 0.2, 0.1)
    theirs = [crop.make_params([image]) for _ in range(2000)]
    for place, name in enumerate(("top", "left", "height", "width")):
        assert ks_2samp([one.box[place] for one in ours], [one[name] for one in theirs]).pvalue > 1e-4
    jittered = [one for one in ours if one.order]
    params = [jitter.make_params([]) for _ in range(2000)]
    for place, name in enumerate(("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")):
        assert ks_2samp([one.factors[place] for one in jittered], [one[name] for one in params]).pvalue > 1e-4
    share = {
        name: np.mean([bool(getattr(one, name)) for one in ours]) for name in ("flip", "gray", "sigma", "solarize")
    }
    assert share == pytest.approx({"flip": 0.5, "gray": 0.2, "sigma": 0.5, "solarize": 0.2}, abs=0.04)
    assert len(jittered) / 2000 == pytest.approx(0.8, abs=0.04)
    assert len({one.order for one in jittered}) == 24


def test_views_on_the_device_read_no_value():
    """A GPU would wait for each value that Python reads."""

    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            assert operation.name().partition(".")[0] not in ("aten::_local_scalar_dense", "aten::nonzero")
            return operation(*args, **kwargs or {})

    random = np.random.default_rng(0)
    draws = DrawnViews.stack([[draw_view((40, 40), SETTINGS, random) for _ in range(4)] for _ in range(2)], 16)
    frames = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    with Refuse():
        assert render_views(frames, draws).shape == (4, 2, 3, 16, 16)
