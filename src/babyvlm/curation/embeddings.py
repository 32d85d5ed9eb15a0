"""CLIP embeddings of a store on disk: one float16 row per pair."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from babyvlm.errors import UserError, first_line
from babyvlm.io import artifacts
from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_KEYS, MAX_KEYS_BYTES, load_json

if TYPE_CHECKING:
    import numpy.typing as npt

    from babyvlm.curation.store.pair_store import PairStore

PART_ROWS = 512  # rows saved at a time: seconds of work to lose, and a few hundred files per 100,000 rows


@dataclass(frozen=True)
class Embeddings:
    """Embeddings on disk, in the order of the store that they were computed from; rows are L2-normalized."""

    path: Path

    @cached_property
    def manifest(self) -> artifacts.Manifest:
        """The contents of ``embeddings.json``."""
        return artifacts.read_manifest(self.path, "embeddings")

    @cached_property
    def keys(self) -> list[str]:
        """The N keys of the store."""
        file = self.path / "keys.json"
        try:
            keys = load_json(read_bounded(file, MAX_KEYS_BYTES), MAX_KEYS_BYTES, MAX_KEYS)
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({first_line(error)}). Build the embeddings again") from None
        if not isinstance(keys, list):
            raise UserError(f"{file}: is not a list of keys. Build the embeddings again")
        return keys

    @cached_property
    def image(self) -> npt.NDArray[np.float16]:
        """(N, D) memory map."""
        return self._open("image")

    @cached_property
    def text(self) -> npt.NDArray[np.float16]:
        """(N, D) memory map."""
        return self._open("text")

    @property
    def clip(self) -> str:
        """The name of the CLIP model; similarities of different models cannot be compared."""
        return str(self.manifest["arguments"]["clip"])

    @property
    def clip_sha256(self) -> str:
        """Hash of the weights of the CLIP model, since the weights behind a name may change."""
        return str(self.manifest["arguments"].get("clip_sha256", ""))

    @property
    def lineage(self) -> dict[str, artifacts.Manifest]:
        """These embeddings and all that they were built from, by fingerprint."""
        return artifacts.lineage(self.path, "embeddings")

    @property
    def store(self) -> str:
        """Fingerprint of the store that they were computed from."""
        return str(self.manifest["arguments"]["store"])

    @property
    def fingerprint(self) -> str:
        """Hash of the contents."""
        return artifacts.fingerprint(self.path, "embeddings")

    def _open(self, side: str) -> npt.NDArray[np.float16]:
        array: npt.NDArray[np.float16] = np.load(self.path / f"{side}.npy", mmap_mode="r")
        return array


def check_same_clip(first: Embeddings, *others: Embeddings) -> None:
    """Check that embeddings can be compared.

    Raises:
        UserError: they were computed by different models, or by different weights of the same name.
    """
    for other in others:
        if first.clip != other.clip:
            raise UserError(
                f"{first.path} was computed by CLIP {first.clip}, {other.path} by {other.clip}. "
                "Embed both with the same model"
            )
        if first.clip_sha256 != other.clip_sha256:
            raise UserError(
                f"{first.path} and {other.path} were computed by different weights of CLIP {first.clip}. "
                "Embed both again"
            )


def embedded_rows(store: PairStore, embeddings: Embeddings) -> tuple[list[str], npt.NDArray[np.float16]]:
    """Return the keys of a store and the image embeddings (N, D) of its pairs, looked up by key.

    Raises:
        UserError: a pair has no embedding.
    """
    keys: list[str] = store.columns("key")["key"].to_pylist()
    if keys == embeddings.keys:
        return keys, embeddings.image
    row_of = {key: row for row, key in enumerate(embeddings.keys)}
    missing = [key for key in keys if key not in row_of]
    if missing:
        raise UserError(
            f"{embeddings.path}: lacks {len(missing):,} of the {len(keys):,} pairs of {store.path}, such as "
            f"{missing[0]}. Embed that store"
        )
    return keys, embeddings.image[[row_of[key] for key in keys]]


def part_path(folder: Path, number: int) -> Path:
    """Return the path at which part ``number`` is saved."""
    return folder / f"part-{number:06d}.npy"
