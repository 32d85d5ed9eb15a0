"""Checkpoints that are whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it in.

    Lightning's own way holds its bytes in memory, puts them into the system's folder for temporary files, where a run
    that is killed leaves them, and copies them from there if that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write it.

        Raises:
            OSError: the disk has no room; it names the file.
        """
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = partial(place)
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's own complaint hides the file's
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(place)) from error
            raise
        beside.replace(place)


def partial(place: Path) -> Path:
    """Where a checkpoint is written to before it has its name."""
    return place.with_name(place.name + ".partial")
