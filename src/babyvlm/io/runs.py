"""The folder of a run: where it is, and which of its checkpoints is the best one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from babyvlm.errors import UserError, first_line
from babyvlm.io.files import atomic_write, read_bounded
from babyvlm.io.limits import load_json

if TYPE_CHECKING:
    from lightning import Trainer

BEST = "best_checkpoint.json"  # in a run's folder
MAX_BYTES = 1 << 16


def run_folder(trainer: Trainer) -> Path | None:
    """Return the folder of a Trainer's run, the same on every rank; None if no file of the run is kept.

    In a run of the command line it is ``<log_dir>/<row>/<run>``, whatever logs. For a Trainer of your own it is the
    folder of its first logger or, without loggers, ``default_root_dir`` if you set it. It is never the working
    directory, whose files belong to the user.

    Call this on every rank: the folder is that of the first one.
    """
    folder = None if trainer.fast_dev_run else _own_folder(trainer)  # type: ignore[attr-defined] # set by Lightning
    folder = trainer.strategy.broadcast(folder)
    return None if folder is None else Path(folder)


def _own_folder(trainer: Trainer) -> str | None:
    for logger in trainer.loggers:
        if hasattr(logger, "run_folder"):  # the command line's own logger
            return str(logger.run_folder)
    if not trainer.loggers:
        root = trainer.default_root_dir
        return None if os.path.realpath(root) == os.path.realpath(os.curdir) else root
    first = trainer.loggers[0]
    if first.log_dir is not None:
        return str(first.log_dir)
    version = first.version if isinstance(first.version, str) else f"version_{first.version}"
    return str(Path(first.save_dir or trainer.default_root_dir, str(first.name), version))  # as ModelCheckpoint


@dataclass(frozen=True)
class BestCheckpoint:
    """The best checkpoint of a run, as recorded in its folder. Tests, ``load``, ``export`` and reports use this one.

    Attributes:
        path: the file.
        monitor: the metric that selected it; None if it is the last one, for a run that monitors nothing.
        mode: whether a low (``min``) or a high (``max``) value of the metric is good.
        value: of the metric.
        step: optimizer steps before it was saved.
    """

    path: Path
    monitor: str | None = None
    mode: str | None = None
    value: float | None = None
    step: int | None = None

    def __str__(self) -> str:
        if self.monitor is None:
            return f"last checkpoint, step {self.step}"
        return f"step {self.step}, {'lowest' if self.mode == 'min' else 'highest'} {self.monitor} {self.value:.4g}"

    def write(self, run: Path) -> None:
        """Record the checkpoint in a run's folder, atomically."""
        inside = self.path.resolve().is_relative_to(run.resolve())  # then the run may be moved
        path = self.path.resolve().relative_to(run.resolve()) if inside else self.path.resolve()
        with atomic_write(run / BEST) as file:
            file.write(json.dumps(asdict(self) | {"path": str(path)}, indent=2) + "\n")

    @classmethod
    def read(cls, run: Path) -> BestCheckpoint | None:
        """Return what is recorded in a run's folder; None if nothing is.

        Raises:
            UserError: the record is damaged.
        """
        file = run / BEST
        if not file.is_file():
            return None
        try:
            found = load_json(read_bounded(file, MAX_BYTES))
            if not isinstance(found, dict):
                raise TypeError("not an object")
            best = cls(**found | {"path": run / found["path"]})
            str(best)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{file}: cannot be read ({first_line(error)}). Restore it from the run") from None
        return best


def recorded_best(run: Path) -> Path | None:
    """Return the file of the best checkpoint of a run; None if the run has no record of it.

    Raises:
        UserError: the record is damaged, or its file is missing.
    """
    best = BestCheckpoint.read(run)
    if best is not None and not best.path.is_file():
        raise UserError(f"{run}: its best checkpoint, {best.path}, is missing. Restore it, or name a checkpoint file")
    return None if best is None else best.path
