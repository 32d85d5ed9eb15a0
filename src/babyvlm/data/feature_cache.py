"""Cache of a frozen encoder's features of a store's images: computed once, shared by ranks and runs.

A cache is a folder of parts of a few hundred rows, each with a checksum. An interrupted computation resumes; a
corrupted cache is reported and rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from babyvlm.curation.store.pair_store import GROUP_ROWS, PairStore
from babyvlm.data.pair_dataset import reading_image
from babyvlm.data.transforms import Plain, eval_transform, normalized_pixels
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.distributed import map_over_ranks, on_rank_zero, progress
from babyvlm.io.files import atomic_write, read_bounded
from babyvlm.io.limits import MAX_JSON_BYTES, load_json
from babyvlm.io.printing import echo
from babyvlm.types import FrozenVision

Precision = Literal["float32", "float16"]

PART_ROWS = GROUP_ROWS  # rows per part: what a store reads at once
CHUNK_ROWS = 8  # images that a loader's worker passes on at once: 1.2 MB at 224 pixels


class CachedFeatures:
    """The features of all rows of a store, (D,) or (P, D) each.

    Args:
        path: folder of a complete cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        manifest = artifacts.read_manifest(path, "features")
        self.rows = int(manifest["rows"])
        self._shape, self._dtype = manifest["arguments"]["shape"], np.dtype(manifest["arguments"]["precision"])

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Tensor:
        """Return the float32 features of the image in a row of the store."""
        part, offset = divmod(row, PART_ROWS)
        remaining = min(PART_ROWS, self.rows - part * PART_ROWS) - offset  # rows from this one to the part's end
        values = int(np.prod(self._shape))
        # Read, not mapped: a map keeps its file open, and a process may open about a thousand of thousands of parts.
        with _part_path(self.path, part).open("rb") as file:
            file.seek(-remaining * values * self._dtype.itemsize, os.SEEK_END)
            features = np.fromfile(file, self._dtype, values)
        return torch.from_numpy(features.astype(np.float32).reshape(self._shape))


def features_for(
    trainer: Trainer, folder: Path, store: PairStore, view: Plain, precision: Precision, num_workers: int
) -> CachedFeatures:
    """Return the features of a store's images under the trainer's model, with its present weights.

    Args:
        trainer: has the model, and knows the ranks.
        folder: of all caches.
        store: contains the images.
        view: makes them square.
        precision: of stored features.
        num_workers: processes per rank that decode images.

    Raises:
        UserError: the model's vision encoder changes in training.
    """
    model = trainer.lightning_module
    encoder = model.frozen_vision() if isinstance(model, FrozenVision) else None
    if encoder is None:
        raise UserError(
            f"data.features: the vision encoder of {type(model).__name__} changes in training, so its features cannot "
            "be cached. Freeze it (--model.vision.frozen true, --model.vision.update_batch_norm false) or remove "
            "data.features"
        )
    return frozen_features(folder, store, encoder, view, precision, trainer, num_workers)


def frozen_features(
    folder: Path,
    store: PairStore,
    encoder: nn.Module,
    view: Plain,
    precision: Precision,
    trainer: Trainer,
    num_workers: int = 0,
) -> CachedFeatures:
    """Open the cache of a store's features, after computing missing parts.

    The cache's name consists of the store's name and a hash of everything that its contents depend on, so that another
    encoder, view or store has another folder. All ranks call this; they share the folder and the work.

    Args:
        folder: of all caches.
        store: contains the images.
        encoder: images -> (B, D) or (B, P, D), in evaluation mode, on the device to use.
        view: makes the images square.
        precision: of stored features; float16 takes half of the space, and its error is saved in the cache's manifest.
        trainer: knows the ranks.
        num_workers: processes per rank that decode images.

    Raises:
        UserError: the disk is too small, an image cannot be read, or a feature overflows float16; on all ranks, so that
            none waits for one that failed.
    """
    shape = _encode(encoder, torch.zeros(1, 3, view.image_size, view.image_size, dtype=torch.uint8)).shape[1:]
    arguments = {
        "store": store.fingerprint,
        "encoder": module_hash(encoder),
        "transform": repr(eval_transform(view.image_size, view.resize)),
        "shape": list(shape),
        "precision": precision,
    }
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
    writer = FeatureCacheWriter(folder / f"{store.path.name}-{digest[:16]}", len(store), arguments, store.licensed)
    is_first = trainer.is_global_zero

    def compute(numbers: Sequence[int]) -> None:
        loader = DataLoader(
            _Chunks(store, numbers, view), batch_size=None, num_workers=num_workers, pin_memory=_on_gpu(encoder)
        )
        waiting: dict[int, list[Tensor]] = {}  # of each part that a worker is reading
        done: dict[int, list[Tensor]] = {}
        total = sum(-(-writer.rows_of(number) // CHUNK_ROWS) for number in numbers)
        for number, is_last, images_BCHW in progress(loader, f"features of {store.path.name}", total):
            images = [*waiting.pop(number, []), images_BCHW]
            if not is_last and sum(map(len, images)) < _batch_size(encoder):
                waiting[number] = images
                continue
            done.setdefault(number, []).append(_encode(encoder, torch.cat(images)))
            if is_last:
                writer.commit(number, torch.cat(done.pop(number)))

    with artifacts.exclusive(writer.path) if is_first else nullcontext():
        if not on_rank_zero(writer.is_complete):
            with writer.create() if is_first else nullcontext():
                map_over_ranks(on_rank_zero(writer.missing), compute)
        trainer.strategy.barrier("feature cache is complete")
    return CachedFeatures(writer.path)


def module_hash(module: nn.Module) -> str:
    """Return a hash of a module's architecture, weights and buffers."""
    digest = hashlib.sha256(f"{type(module).__module__} {module!r}".encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class FeatureCacheWriter:
    """Writes a cache.

    Attributes:
        path: its folder.
        rows: number of rows of the store.
        arguments: everything that its contents depend on, including ``shape`` and ``precision`` of a row's features.
        licensed: the flag of the store.
    """

    path: Path
    rows: int
    arguments: artifacts.Manifest
    licensed: bool = True

    @property
    def partial(self) -> Path:
        """Folder of the parts until all are complete."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def numbers(self) -> range:
        """Numbers of all parts."""
        return range(-(-self.rows // PART_ROWS))

    def rows_of(self, number: int) -> int:
        """Return the number of rows of a part."""
        return min(PART_ROWS, self.rows - number * PART_ROWS)

    def is_complete(self) -> bool:
        """Return whether the cache exists and its checksums are right; a corrupted cache is removed.

        Hashing 100 GB takes minutes: parts whose size and time of change are as when this host hashed them are trusted.
        """
        try:
            if not artifacts.is_complete(self.path, "features", self.arguments):
                store, _, _ = self.path.name.rpartition("-")
                others = sorted(path.name for path in self.path.parent.glob(f"{store}-*/") if path != self.partial)
                if others:
                    echo(f"{self.path}: new. Caches of another encoder, transform or store: {', '.join(others)}")
                return False
            sums = artifacts.read_manifest(self.path, "features")["sha256"]
        except (UserError, KeyError):  # damaged, or built from other arguments
            sums = []
        record = {"sha256": sums, "parts": [_stat(_part_path(self.path, number)) for number in self.numbers]}
        if sums and self._checked_here() == record:
            return True
        checked = zip(progress(self.numbers, f"checking {self.path.name}"), sums, strict=False)
        if len(sums) == len(self.numbers) and all(_sha256(_part_path(self.path, n)) == wanted for n, wanted in checked):
            with suppress(OSError, UserError), atomic_write(self._record_of_host) as file:  # it may be read-only
                json.dump(record, file)
            return True
        parts = {_part_path(self.path, number).name for number in self.numbers}
        parts |= {file.name for file in self.path.glob("checked-by-*.json")}
        if self.path.is_symlink() or {path.name for path in self.path.iterdir()} - parts - {
            "features.json",
            "features.json.sha256",
        }:
            raise UserError(f"{self.path}: is not a feature cache. Move it, or set data.features to another folder")
        echo(f"{self.path}: corrupted or changed since it was created; rebuilding")
        shutil.rmtree(self.path)
        return False

    @property
    def _record_of_host(self) -> Path:
        """File with size and time of change of all parts, as this host hashed them."""
        return self.path / f"checked-by-{re.sub(r'[^A-Za-z0-9.-]', '_', platform.node()) or 'host'}.json"

    def _checked_here(self) -> object:
        """Return what this host recorded; None if nothing can be read."""
        try:
            return load_json(read_bounded(self._record_of_host, MAX_JSON_BYTES))
        except (OSError, ValueError):
            return None

    @contextmanager
    def create(self) -> Iterator[None]:
        """Create the cache, when the block has filled ``partial``."""
        manifest: artifacts.Manifest = {"arguments": self.arguments, "rows": self.rows, "licensed": self.licensed}
        with artifacts.create(self.path, "features", manifest, keep_partial=True):
            yield
            records = [_read_record(self.partial, number) for number in self.numbers]
            manifest["sha256"] = [record["sha256"] for record in records]
            manifest |= {name: max(record[name] for record in records) for name in ("max_error", "max_relative_error")}
        echo(
            f"{self.path}: complete. Maximum error of {self.arguments['precision']}: {manifest['max_error']:.2g} per "
            f"value, {manifest['max_relative_error']:.2g} of an image's feature norm"
        )

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are missing in ``partial``.

        Raises:
            UserError: the disk is too small for them.
        """
        done = (_read_record(self.partial, number).get("sha256") for number in progress(self.numbers, "resuming"))
        missing = [
            n for n, wanted in enumerate(done) if wanted is None or _sha256(_part_path(self.partial, n)) != wanted
        ]
        rows = sum(map(self.rows_of, missing))
        shape, precision = self.arguments["shape"], self.arguments["precision"]
        size, free = rows * int(np.prod(shape)) * np.dtype(precision).itemsize, shutil.disk_usage(self.partial).free
        echo(
            f"{self.path}: features of {rows:,} images, {' x '.join(map(str, shape))} {precision} each: "
            f"{size / 1e9:.3g} GB ({free / 1e9:.3g} GB free)"
        )
        if size > free:
            raise UserError(
                f"{self.path}: needs {size / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free. "
                "Set data.features to a folder on another disk"
            )
        return missing

    def commit(self, number: int, features: Tensor) -> None:
        """Write a part under a temporary name, then its record, then rename the part.

        Args:
            number: of the part.
            features: float32, (rows, D) or (rows, P, D).

        Raises:
            UserError: a value overflows the precision.
        """
        exact = features.flatten(1).numpy()
        with np.errstate(over="ignore"):
            stored = exact.astype(self.arguments["precision"])
        if not np.isfinite(stored).all():
            raise UserError(
                f"{self.path}: a feature of {np.abs(exact).max():.3g} overflows {stored.dtype}. "
                "Set data.features_precision to float32"
            )
        error, length = exact - stored.astype(np.float32), np.linalg.norm(exact, axis=1)
        part = _part_path(self.partial, number)
        temporary = part.with_suffix(".writing")
        with temporary.open("wb") as file:
            np.save(file, stored.reshape(features.shape))
        record = {
            "sha256": artifacts.sha256_file(temporary),
            "max_error": float(np.abs(error).max()),
            "max_relative_error": float((np.linalg.norm(error, axis=1) / length.clip(min=1e-30)).max()),
        }
        _record_path(self.partial, number).write_text(json.dumps(record))
        temporary.rename(part)


class _Chunks(IterableDataset[tuple[int, bool, Tensor]]):
    """The images of some parts, a few at a time: number of the part, whether they are its last, uint8 (B, C, H, W).

    Workers pass them on in /dev/shm, which has 64 MB in a container: a part as a whole would not fit.
    """

    def __init__(self, store: PairStore, numbers: Sequence[int], view: Plain) -> None:
        self.store, self.numbers, self.view = store, numbers, view

    def __iter__(self) -> Iterator[tuple[int, bool, Tensor]]:
        """Yield the chunks of every part that is this worker's."""
        worker = get_worker_info()
        mine = self.numbers if worker is None else self.numbers[worker.id :: worker.num_workers]
        random = np.random.default_rng(0)  # unused by the view
        for number in mine:
            rows = list(self.store.part(number, PART_ROWS))
            for start in range(0, len(rows), CHUNK_ROWS):
                images = []
                for row in rows[start : start + CHUNK_ROWS]:
                    with reading_image(self.store, row["key"]):
                        images.append(self.view(row["image"], random))
                images_BCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
                yield number, start + CHUNK_ROWS >= len(rows), images_BCHW


def _encode(encoder: nn.Module, images_NCHW: Tensor) -> Tensor:
    """Return the features of any number of images, uint8, as float32 on the CPU."""
    weight = next(encoder.parameters())
    with torch.inference_mode():
        chunks = [
            encoder(normalized_pixels(chunk.to(weight.device, non_blocking=True)).to(weight)).float()
            for chunk in torch.split(images_NCHW, _batch_size(encoder))
        ]
        return torch.cat(chunks).cpu()


def _batch_size(encoder: nn.Module) -> int:
    """On a CPU a batch whose activations fit into its caches is fastest (ResNeXt-50: 8, by a third)."""
    return 128 if _on_gpu(encoder) else 8


def _on_gpu(encoder: nn.Module) -> bool:
    return next(encoder.parameters()).device.type != "cpu"


def _part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.npy"


def _record_path(partial: Path, number: int) -> Path:
    return partial / artifacts.SCRATCH / f"part-{number:05d}.json"


def _read_record(partial: Path, number: int) -> dict[str, Any]:
    """Return checksum and errors of a part; nothing if it was not committed."""
    try:
        record = load_json(_record_path(partial, number).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _stat(part: Path) -> list[int]:
    """Return size and time of change; an empty list for a file that does not exist."""
    try:
        found = part.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _sha256(part: Path) -> str | None:
    return artifacts.sha256_file(part) if part.is_file() else None
