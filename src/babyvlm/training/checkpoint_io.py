"""Checkpoints that are complete or absent when written, and never executed when read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from babyvlm.errors import UserError, first_line
from babyvlm.io.limits import require_uncompressed


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint to a temporary file next to its path and rename it.

    Lightning's implementation holds the bytes in memory and writes them to the system's temporary folder, where a
    killed run leaves them behind, and copies them from there if that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: the disk is full; the error names the file.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(path)
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's own error hides that of the file
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(path)) from error
            raise
        temporary.replace(path)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint. Nothing in it is executed, whatever ``weights_only`` is.

        Raises:
            UserError: the path is not a local file, or the file contains more than tensors and plain values.
        """
        if not Path(path).is_file():
            raise UserError(f"{path}: not a checkpoint file on this machine")
        try:
            require_uncompressed(Path(path))
            content = torch.load(path, map_location=lambda storage, _: storage, weights_only=True)
        except Exception as error:  # a damaged or hostile file may raise anything
            raise UserError(f"{path}: cannot be read as a checkpoint ({first_line(error)})") from error
        if not isinstance(content, dict):
            raise UserError(f"{path}: not a checkpoint of a run")
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint file that a callback no longer needs.

        The path may come from the state in another checkpoint, which somebody else may have written: anything but a
        ``.ckpt`` file without ``..`` in its path is left.
        """
        path = Path(path)
        if path.suffix == ".ckpt" and ".." not in path.parts and (path.is_file() or path.is_symlink()):
            path.unlink()


def temporary_path(path: Path) -> Path:
    """Return the path to which a checkpoint is written before it is renamed."""
    return path.with_name(path.name + ".partial")
