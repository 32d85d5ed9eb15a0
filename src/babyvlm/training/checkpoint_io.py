"""Checkpoints that are whole or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from babyvlm.errors import UserError, first_line


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

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; nothing in it is executed, whatever ``weights_only`` says.

        Raises:
            UserError: it is not a file on this machine, or holds more than tensors and plain values.
        """
        if not Path(path).is_file():
            raise UserError(f"{path}: not a checkpoint file on this machine")
        try:
            content = torch.load(path, map_location=lambda storage, _: storage, weights_only=True)
        except Exception as error:  # a damaged or hostile file may raise anything
            raise UserError(f"{path}: cannot be read as a checkpoint ({first_line(error)})") from error
        if not isinstance(content, dict):
            raise UserError(f"{path}: not a checkpoint of a run")
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint that a callback no longer needs, if it is one.

        The name may come from the state in another checkpoint, which somebody else may have written.
        """
        place = Path(path)
        if place.suffix == ".ckpt" and ".." not in place.parts and (place.is_file() or place.is_symlink()):
            place.unlink()


def partial(place: Path) -> Path:
    """Where a checkpoint is written to before it has its name."""
    return place.with_name(place.name + ".partial")
