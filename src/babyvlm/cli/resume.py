"""The ``resume`` command; Lightning is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """Hardware of a resumed run, if it differs from the run's config.

    Attributes:
        devices: number or list of devices per machine.
        num_nodes: number of machines.
        accelerator: `cpu` or `gpu`.
        strategy: `auto` or `ddp`.
    """

    devices: int | str | None = None
    num_nodes: int | None = None
    accelerator: str | None = None
    strategy: str | None = None


@dataclass(frozen=True)
class Loading:
    """Data loading of a resumed run, if it differs from the run's config.

    Attributes:
        num_workers: loader processes per device.
    """

    num_workers: int | None = None


def resume(run: Path, trainer: Machine = Machine(), data: Loading = Loading()) -> None:
    """Continue an interrupted training run from its saved config and its latest recovery state.

    The result is the same as without the interruption: the same weights and the same rows of metrics. If training is
    complete, only the remaining evaluation is run.

    Args:
        run: folder of the run, such as `lightning_logs/CVCL-filtered/version_0`. If paths in its config are relative,
            run this command in the folder where `fit` was run.
        trainer: hardware to use (default: as in the config).
        data: data loading (default: as in the config).
    """
    from babyvlm.cli.lightning import resume as resume_run

    given = {
        f"--{part}.{name}": value
        for part, options in (("trainer", trainer), ("data", data))
        for name, value in vars(options).items()
        if value is not None
    }
    resume_run(run, *(part for option, value in given.items() for part in (option, str(value))))
