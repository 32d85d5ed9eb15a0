"""``resume``, as the command line reads it; what it needs is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What computes a run that goes on, where that is another than its config says.

    Attributes:
        devices: of this machine; how many, or which.
        num_nodes: machines.
        accelerator: `cpu`, `gpu`.
        strategy: `auto`, `ddp`.
    """

    devices: int | str | None = None
    num_nodes: int | None = None
    accelerator: str | None = None
    strategy: str | None = None


@dataclass(frozen=True)
class Loading:
    """What reads its data.

    Attributes:
        num_workers: processes a device.
    """

    num_workers: int | None = None


def resume(run: Path, trainer: Machine = Machine(), data: Loading = Loading()) -> None:
    """Go on with a training run that was killed or stopped, from its saved config and its last whole state.

    It ends as if it had never been interrupted: the same weights, the same rows of metrics. Where only tests are left
    to do, these are done.

    Args:
        run: its folder, `lightning_logs/NAME/version_N`. If paths in its config are relative, call this where `fit`
            was called.
        trainer: what computes it from now on, as the config says by default.
        data: what reads its data.
    """
    from babyvlm.cli.lightning import resume as go_on

    given = {
        f"--{part}.{name}": value
        for part, options in (("trainer", trainer), ("data", data))
        for name, value in vars(options).items()
        if value is not None
    }
    go_on(run, *(part for option, value in given.items() for part in (option, str(value))))
