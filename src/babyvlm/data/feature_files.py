"""A cache of features on disk: a folder of parts of a few hundred rows, each with its checksum; whole or absent.

What a killed run left is gone on with; a cache that is torn is told and made anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from babyvlm.curation.store.pair_store import GROUP_ROWS
from babyvlm.errors import UserError
from babyvlm.io import artifacts

T = TypeVar("T")
Precision = Literal["float32", "float16"]

PART_ROWS = GROUP_ROWS  # rows committed at a time: what a store reads at once


class FrozenFeatures:
    """The features of all rows of a store, (D,) or (P, D) each.

    Args:
        path: the cache's folder, whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        manifest = artifacts.read_manifest(path, "features")
        self.rows = int(manifest["rows"])
        self._shape, self._dtype = manifest["arguments"]["shape"], np.dtype(manifest["arguments"]["precision"])

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Tensor:
        """Float32 features of the image in a row of the store."""
        part, offset = divmod(row, PART_ROWS)
        after = min(PART_ROWS, self.rows - part * PART_ROWS) - offset  # rows from here to the part's end
        values = int(np.prod(self._shape))
        # Read, not mapped: a map keeps its file open, and of the thousands of parts a process may open but a thousand.
        with _part(self.path, part).open("rb") as file:
            file.seek(-after * values * self._dtype.itemsize, os.SEEK_END)
            features = np.fromfile(file, self._dtype, values)
        return torch.from_numpy(features.astype(np.float32).reshape(self._shape))


@dataclass(frozen=True)
class FeatureFiles:
    """A cache that is to be made.

    Attributes:
        path: its folder.
        rows: of the store.
        arguments: all that its contents depend on; ``shape`` and ``precision`` of a row's features among them.
    """

    path: Path
    rows: int
    arguments: artifacts.Manifest

    @property
    def partial(self) -> Path:
        """Where parts are put until all are there."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def numbers(self) -> range:
        """Of all parts."""
        return range(-(-self.rows // PART_ROWS))

    def is_whole(self) -> bool:
        """Tell whether it is there as it was made, by its checksums; remove it if it is there otherwise."""
        if not self.path.exists():
            store, _, _ = self.path.name.rpartition("-")
            others = sorted(path.name for path in self.path.parent.glob(f"{store}-*/") if path != self.partial)
            if others:
                print(f"{self.path}: new; of another encoder, transform or content: {', '.join(others)}")
            return False
        try:
            manifest = artifacts.read_manifest(self.path, "features")
            sums = manifest["sha256"] if manifest["arguments"] == self.arguments else []
        except (UserError, KeyError):
            sums = []
        checked = zip(bar(self.numbers, f"checking {self.path.name}"), sums, strict=False)
        if len(sums) == len(self.numbers) and all(_sha256(_part(self.path, n)) == wanted for n, wanted in checked):
            return True
        print(f"{self.path}: torn or changed since it was made; it is removed and made anew")
        shutil.rmtree(self.path)
        return False

    @contextmanager
    def making(self) -> Iterator[None]:
        """Make the cache whole, if the block fills ``partial``."""
        manifest: artifacts.Manifest = {"arguments": self.arguments, "rows": self.rows}
        with artifacts.create(self.path, "features", manifest, keep_partial=True):
            yield
            records = [_record(self.partial, number) for number in self.numbers]
            manifest["sha256"] = [record["sha256"] for record in records]
            manifest |= {name: max(record[name] for record in records) for name in ("max_error", "max_relative_error")}
        print(
            f"{self.path}: whole; {self.arguments['precision']} moved a value by at most {manifest['max_error']:.2g}, "
            f"the features of an image by {manifest['max_relative_error']:.2g} of their length"
        )

    def missing(self) -> list[int]:
        """Numbers of the parts that ``partial`` still lacks.

        Raises:
            UserError: the disk has no room for them.
        """
        kept = (_record(self.partial, number).get("sha256") for number in bar(self.numbers, "going on"))
        missing = [n for n, wanted in enumerate(kept) if wanted is None or _sha256(_part(self.partial, n)) != wanted]
        rows = sum(min(PART_ROWS, self.rows - number * PART_ROWS) for number in missing)
        shape, precision = self.arguments["shape"], self.arguments["precision"]
        size, free = rows * int(np.prod(shape)) * np.dtype(precision).itemsize, shutil.disk_usage(self.partial).free
        print(
            f"{self.path}: features of {rows:,} images, {' x '.join(map(str, shape))} {precision} each: "
            f"{size / 1e9:.3g} GB ({free / 1e9:.3g} GB are free)"
        )
        if size > free:
            raise UserError(f"{self.path}: needs {size / 1e9:.3g} GB, {free / 1e9:.3g} are free; choose another disk")
        return missing

    def commit(self, number: int, features: Tensor) -> None:
        """Write a part beside, then what is known of it, then give it its name.

        Args:
            number: of the part.
            features: float32, (rows, D) or (rows, P, D).

        Raises:
            UserError: a value is beyond the precision.
        """
        exact = features.flatten(1).numpy()
        with np.errstate(over="ignore"):
            kept = exact.astype(self.arguments["precision"])
        if not np.isfinite(kept).all():
            raise UserError(
                f"{self.path}: a feature of {np.abs(exact).max():.3g} is beyond {kept.dtype}; "
                "set data.features_precision to float32"
            )
        error, length = exact - kept.astype(np.float32), np.linalg.norm(exact, axis=1)
        part = _part(self.partial, number)
        beside = part.with_suffix(".writing")
        with beside.open("wb") as file:
            np.save(file, kept.reshape(features.shape))
        record = {
            "sha256": artifacts.sha256_file(beside),
            "max_error": float(np.abs(error).max()),
            "max_relative_error": float((np.linalg.norm(error, axis=1) / length.clip(min=1e-30)).max()),
        }
        _record_path(self.partial, number).write_text(json.dumps(record))
        beside.rename(part)


def bar(items: Iterable[T], what: str, *, shown: bool = True) -> Iterable[T]:
    """The items, with a progress bar on standard error while they are used up."""
    return track(items, what, console=Console(stderr=True), transient=True, disable=not shown)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.npy"


def _record_path(partial: Path, number: int) -> Path:
    return partial / artifacts.SCRATCH / f"part-{number:05d}.json"


def _record(partial: Path, number: int) -> dict[str, Any]:
    """What is known of a part; nothing where it was not committed."""
    try:
        return dict(json.loads(_record_path(partial, number).read_text()))
    except (OSError, ValueError):
        return {}


def _sha256(part: Path) -> str | None:
    return artifacts.sha256_file(part) if part.is_file() else None
