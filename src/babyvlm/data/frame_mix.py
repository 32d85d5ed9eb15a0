"""Frames without utterances: several crops of each, for DINO (phase 0 of the vision encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from cv2.typing import MatLike
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.multi_crop import Draw, DrawnViews, ViewSettings, draw_view, render, render_views
from babyvlm.data.pair_dataset import chosen_groups, open_image, open_rows, reading_image, stable_hash
from babyvlm.data.pair_mix import Mix, Source
from babyvlm.data.sampler import ResumableLoader
from babyvlm.data.transforms import PILGaussianBlur, normalized_pixels, seeded
from babyvlm.errors import UserError
from babyvlm.io.images import rgb_pixels
from babyvlm.ranges import require_in_range
from babyvlm.types import pinned


@dataclass(frozen=True)
class Crops:
    """Settings of DINO's views; the defaults are facebookresearch/dino's, with its scales for convolutional networks.

    Attributes:
        local_count: number of small views, besides the two large ones.
        local_size: side of a small view, in pixels.
        global_scale: range of the fraction of the frame's area that a large view covers.
        local_scale: the same for a small view.
        jitter: strength of brightness, contrast, saturation and hue jitter, applied to four of five views.
        grayscale: probability that a view becomes gray.
        solarize: probability that the second large view is solarized.
        blur: range of the blur's radius, in pixels. The first large view is always blurred, the second with probability
            0.1, a small one with probability 0.5.

    Raises:
        UserError: a number is out of range.
    """

    local_count: int = 8
    local_size: int = 96
    global_scale: tuple[float, float] = (0.14, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.14)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    grayscale: float = 0.2
    solarize: float = 0.2
    blur: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_in_range(local_count=self.local_count, local_size=self.local_size)
        require_in_range(grayscale=self.grayscale, solarize=self.solarize)
        for name in ("global_scale", "local_scale"):
            least, greatest = getattr(self, name)
            if not 0 < least <= greatest <= 1:
                raise UserError(f"{name} {(least, greatest)}: must be two ascending fractions, above 0 and at most 1")
        if not 0 <= self.blur[0] <= self.blur[1]:
            raise UserError(f"blur {self.blur}: must be two ascending numbers, at least 0")


@dataclass
class Views:
    """A batch of frames, or one frame without the axis B.

    Attributes:
        keys: B store keys.
        large_VBCHW: two large views of each frame, for student and teacher.
        small_VBCHW: the small views, for the student.
    """

    keys: list[str]
    large_VBCHW: Tensor
    small_VBCHW: Tensor

    def pin_memory(self) -> Views:
        """Return the views in page-locked memory; for DataLoader."""
        return pinned(self)


@dataclass
class DrawnFrames:
    """A batch of frames whose views are not made yet.

    Attributes:
        keys: B store keys.
        frames_BCHW: uint8, padded to one size.
        large: draws of the large views.
        small: draws of the small views, or None if there are none.
    """

    keys: list[str]
    frames_BCHW: Tensor
    large: DrawnViews
    small: DrawnViews | None

    def pin_memory(self) -> DrawnFrames:
        """Return the batch in page-locked memory; for DataLoader."""
        return pinned(self)


class MultiCrop:
    """Creates two large views and some small ones of an image, uint8, with randomness from torch's generator.

    Uses torchvision, because lightly's own draws from numpy's global generator, which no worker seeds per item.

    Args:
        size: side of the large views, in pixels.
        crops: settings of the views.
    """

    def __init__(self, size: int, crops: Crops) -> None:
        self.sides = (size, crops.local_size)
        self.large = [
            self._view(size, crops.global_scale, crops, blur=1.0),
            self._view(size, crops.global_scale, crops, blur=0.1, solarize=crops.solarize),
        ]
        self.small = [self._view(crops.local_size, crops.local_scale, crops, blur=0.5)] * crops.local_count

    @staticmethod
    def _view(size: int, scale: tuple[float, float], crops: Crops, blur: float, solarize: float = 0.0) -> v2.Compose:
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(*crops.jitter)], p=0.8),
                v2.RandomGrayscale(crops.grayscale),
                v2.RandomApply([PILGaussianBlur(crops.blur)], p=blur),
                v2.RandomSolarize(threshold=128, p=solarize),
                v2.PILToTensor(),
            ]
        )

    def __call__(self, image: Image) -> tuple[Tensor, Tensor]:
        """Return (2, C, H, W) large and (local_count, C, h, w) small views."""
        views = ([view(image) for view in views] for views in (self.large, self.small))
        large, small = (_stack(views_CHW, side) for views_CHW, side in zip(views, self.sides, strict=True))
        return large, small


@dataclass(frozen=True)
class DrawnItem:
    """A frame, uint8 (H, W, C), with the draws of its views and their sides in pixels."""

    key: str
    pixels_HWC: MatLike
    sides: tuple[int, int]
    large: list[Draw]
    small: list[Draw]


class DrawnCrops:
    """Draws the same views as ``MultiCrop``, from a generator of numpy.

    Args:
        size: side of the large views, in pixels.
        crops: settings of the views.
        on_device: leave it to the device to make the views.
    """

    def __init__(self, size: int, crops: Crops, *, on_device: bool) -> None:
        common: dict[str, Any] = {"jitter": crops.jitter, "grayscale": crops.grayscale, "blur": crops.blur}
        self.on_device, self.sides = on_device, (size, crops.local_size)
        self.large = [
            ViewSettings(size, crops.global_scale, blur_probability=1.0, **common),
            ViewSettings(size, crops.global_scale, blur_probability=0.1, solarize=crops.solarize, **common),
        ]
        small = ViewSettings(crops.local_size, crops.local_scale, blur_probability=0.5, **common)
        self.small = [small] * crops.local_count

    def __call__(self, key: str, pixels_HWC: MatLike, random: np.random.Generator) -> DrawnItem | Views:
        """Return a frame with its draws, or its views, uint8."""
        size = pixels_HWC.shape[:2]
        large, small = ([draw_view(size, one, random) for one in kind] for kind in (self.large, self.small))
        if self.on_device:
            return DrawnItem(key, pixels_HWC, self.sides, large, small)
        views = (
            [torch.from_numpy(render(pixels_HWC, draw, side)).permute(2, 0, 1) for draw in draws]
            for draws, side in zip((large, small), self.sides, strict=True)
        )
        return Views([key], *(_stack(views_CHW, side) for views_CHW, side in zip(views, self.sides, strict=True)))


def _stack(views_CHW: list[Tensor], side: int) -> Tensor:
    """Return (V, 3, side, side), also for V = 0."""
    return torch.stack(views_CHW) if views_CHW else torch.empty(0, 3, side, side, dtype=torch.uint8)


class Frames(Dataset[Views | DrawnItem]):
    """The training frames of some stores, each cut into views.

    Args:
        stores: folder of the pair stores.
        sources: stores, and numbers of utterances whose frames are used.
        crops: image -> large and small views.
        seed: with the epoch and the frame it determines the views.
        cache_dir: see ``open_rows``.

    Raises:
        UserError: a store has no or too few training utterances.
    """

    def __init__(
        self,
        stores: Path,
        sources: Sequence[Source],
        crops: MultiCrop | DrawnCrops,
        seed: int,
        cache_dir: Path | None = None,
    ) -> None:
        self.crops, self.seed = crops, seed
        self._stores = [PairStore(stores / source.store) for source in sources]
        self._rows = [open_rows(store, cache_dir) for store in self._stores]
        self._chosen = [
            np.sort(chosen_groups(store, source.splits, seed, source.utterances, source.subset).rows)
            for store, source in zip(self._stores, sources, strict=True)
        ]
        self._ends = np.cumsum([len(rows) for rows in self._chosen])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index_epoch: tuple[int, int]) -> Views | DrawnItem:
        """Return the views of (index, epoch)."""
        index, epoch = index_epoch
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = self._rows[number][int(self._chosen[number][index - self._ends[number]])]  # negative: from its end
        draw = np.random.default_rng([self.seed, epoch, stable_hash(row["key"])])
        if isinstance(self.crops, DrawnCrops):
            with reading_image(self._stores[number], row["key"]):
                return self.crops(row["key"], rgb_pixels(row["image"]), draw)
        image = open_image(self._stores[number], row["key"], row["image"])
        return Views([row["key"]], *seeded(self.crops, image, int(draw.integers(2**62))))


def collate(items: Sequence[Views | DrawnItem]) -> Views | DrawnFrames:
    """Stack single frames, or their views, into a batch."""
    if isinstance(items[0], DrawnItem):
        return _collate_drawn(cast("Sequence[DrawnItem]", items))
    items = cast("Sequence[Views]", items)
    large, small = ([getattr(item, name) for item in items] for name in ("large_VBCHW", "small_VBCHW"))
    return Views([item.keys[0] for item in items], torch.stack(large, dim=1), torch.stack(small, dim=1))


def collate_finished(items: Sequence[Views | DrawnItem]) -> Views:
    """Stack single frames into a batch of normalized views."""
    return finished(collate(items))


def _collate_drawn(items: Sequence[DrawnItem]) -> DrawnFrames:
    height, width = (max(item.pixels_HWC.shape[axis] for item in items) for axis in (0, 1))
    frames_BHWC = np.zeros((len(items), height, width, 3), np.uint8)
    for frame_HWC, item in zip(frames_BHWC, items, strict=True):
        frame_HWC[: item.pixels_HWC.shape[0], : item.pixels_HWC.shape[1]] = item.pixels_HWC
    return DrawnFrames(
        [item.key for item in items],
        torch.from_numpy(frames_BHWC).permute(0, 3, 1, 2),
        DrawnViews.stack([item.large for item in items], items[0].sides[0]),
        DrawnViews.stack([item.small for item in items], items[0].sides[1]) if items[0].small else None,
    )


def finished(batch: Views | DrawnFrames) -> Views:
    """Return normalized views, made on the device of the batch if they are not made yet."""
    if isinstance(batch, DrawnFrames):
        large = normalized_pixels(render_views(batch.frames_BCHW, batch.large))
        if batch.small is None:
            return Views(batch.keys, large, large[:0])
        return Views(batch.keys, large, normalized_pixels(render_views(batch.frames_BCHW, batch.small)))
    if batch.large_VBCHW.dtype != torch.uint8:
        return batch
    return Views(batch.keys, *(normalized_pixels(views) for views in (batch.large_VBCHW, batch.small_VBCHW)))


class FrameMix(Mix):
    """Training frames from some stores, cut for DINO. There is no validation: evaluate DINO with a linear probe.

    Args:
        name: of the mix, for the run's name.
        stores: folder of the pair stores.
        sources: the stores to train on.
        batch_size: global, split over all devices.
        image_size: side of the large views, in pixels.
        crops: settings of the views.
        views: what makes the views. `pillow`: torchvision on Pillow images, in the loader's workers. `opencv`: the same
            on arrays, several times as fast; pixels differ by a few levels. `device`: PyTorch on the device of the
            model, so that workers only decode; for GPUs, which otherwise wait for the workers.
        num_workers: processes per device that decode and augment.
        seed: of order and augmentation; that of the run.
        cache_dir: folder of the memory-mapped copies of the stores, if they cannot be written beside the stores.

    Attributes:
        view_sizes: sides of all views, in pixels.
    """

    def __init__(
        self,
        name: str,
        stores: Path,
        sources: list[Source],
        batch_size: int = 64,
        image_size: int = 224,
        crops: Crops = Crops(),
        views: Literal["pillow", "opencv", "device"] = "pillow",
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: Path | None = None,
    ) -> None:
        require_in_range(image_size=image_size, num_workers=num_workers)
        super().__init__(name, stores, sources, batch_size, seed)
        self.cache_dir = cache_dir
        self.num_workers = num_workers
        self.crops: MultiCrop | DrawnCrops = MultiCrop(image_size, crops)
        if views != "pillow":
            self.crops = DrawnCrops(image_size, crops, on_device=views == "device")
        self.view_sizes = (image_size, crops.local_size)

    unit = "frames"

    def prepare_data(self) -> None:
        """Write the memory-mapped copies of the stores, on one rank."""
        for source in self.sources:
            open_rows(PairStore(self.stores / source.store), self.cache_dir)

    @cached_property
    def _training(self) -> Frames:
        return Frames(self.stores, self.sources, self.crops, self.seed, self.cache_dir)

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of training data per epoch."""
        return len(self._training) // self.batch_size

    def train_dataloader(self) -> ResumableLoader[Views | DrawnItem]:
        """Return batches of frames of all sources, in the order of (seed, epoch, mix)."""
        alone = self.trainer is None  # otherwise it moves a batch to the device before it is finished
        return self._training_loader(self._training, collate_finished if alone else collate, self.num_workers)

    def on_after_batch_transfer(self, batch: Views | DrawnFrames, dataloader_idx: int) -> Views:
        """Make the views if they are not made yet, and normalize them, on the device."""
        return self.converted(finished(batch))
