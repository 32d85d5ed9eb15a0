"""What a frozen encoder makes of a store's images: computed once, shared by ranks and runs, read in their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.feature_files import PART_ROWS, FeatureFiles, FrozenFeatures, Precision, bar
from babyvlm.data.pair_dataset import open_picture
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.distributed import map_over_ranks, on_rank_zero
from babyvlm.types import FrozenVision

Transform = Callable[[Image.Image], Tensor]


def features_for(
    trainer: Trainer, folder: Path, store: PairStore, transform: Transform, precision: Precision, num_workers: int
) -> FrozenFeatures:
    """The features that the trainer's model, with the weights that it has now, makes of a store's images.

    Raises:
        UserError: the model's vision encoder may learn, so that no feature stays what it is.
    """
    model = trainer.lightning_module
    encoder = model.frozen_vision() if isinstance(model, FrozenVision) else None
    if encoder is None:
        raise UserError(
            f"data.features: the vision encoder of {type(model).__name__} learns, so that its features cannot be kept; "
            "freeze it (--model.vision.frozen true) or leave data.features out"
        )
    return frozen_features(folder, store, encoder, transform, precision, trainer, num_workers)


def frozen_features(
    folder: Path,
    store: PairStore,
    encoder: nn.Module,
    transform: Transform,
    precision: Precision,
    trainer: Trainer,
    num_workers: int = 0,
) -> FrozenFeatures:
    """Open the cache of a store's features; compute first what it lacks.

    It is named by its store and by a hash of all that its contents depend on, so that another encoder, transform or
    content has another folder. All ranks call this; they share the folder and the work.

    Args:
        folder: of all caches.
        store: whose images.
        encoder: images -> (B, D) or (B, P, D), in evaluation mode, on the device where it shall work.
        transform: picture -> (C, H, W), nothing random in it.
        precision: of what is stored; float16 takes half the space, its error stands in the cache's manifest.
        trainer: knows the ranks.
        num_workers: processes a rank that decode images.

    Raises:
        UserError: the disk has no room, an image cannot be read, or a feature is beyond float16; on all ranks, so that
            none waits for one that failed.
    """
    shape = _encode(encoder, transform(Image.new("RGB", (256, 256)))[None]).shape[1:]
    arguments = {
        "store": store.fingerprint,
        "encoder": module_hash(encoder),
        "transform": repr(transform),
        "shape": list(shape),
        "precision": precision,
    }
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
    files = FeatureFiles(folder / f"{store.path.name}-{digest[:16]}", len(store), arguments)
    first = trainer.is_global_zero

    def compute(mine: Sequence[int]) -> None:
        loader = DataLoader(_Parts(store, mine, transform), batch_size=None, num_workers=num_workers)
        for number, images in bar(loader, f"features of {store.path.name}", shown=first):
            files.commit(number, _encode(encoder, images))

    with artifacts.exclusive(files.path) if first else nullcontext():
        if not on_rank_zero(files.is_whole):
            with files.making() if first else nullcontext():
                map_over_ranks(on_rank_zero(files.missing), compute)
        trainer.strategy.barrier("the cache is whole")
    return FrozenFeatures(files.path)


def module_hash(module: nn.Module) -> str:
    """Hash of a module's architecture and of all its weights and statistics."""
    digest = hashlib.sha256(f"{type(module).__module__} {module!r}".encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class _Parts(Dataset[tuple[int, Tensor]]):
    """Number of a part -> that number, its images."""

    def __init__(self, store: PairStore, numbers: Sequence[int], transform: Transform) -> None:
        self.store, self.numbers, self.transform = store, numbers, transform

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        rows = self.store.part(self.numbers[index], PART_ROWS)
        pictures = (open_picture(self.store, row["key"], row["image"]) for row in rows)
        return self.numbers[index], torch.stack([self.transform(picture) for picture in pictures])


def _encode(encoder: nn.Module, images_NCHW: Tensor) -> Tensor:
    """Features of any number of images, float32 on the CPU."""
    weight = next(encoder.parameters())
    # Images at once: on a CPU a batch whose activations stay in its caches is the fastest (ResNeXt-50: 8 by a third).
    rows = 8 if weight.device.type == "cpu" else 128
    with torch.inference_mode():
        chunks = [encoder(chunk.to(weight)).float().cpu() for chunk in torch.split(images_NCHW, rows)]
    return torch.cat(chunks)
