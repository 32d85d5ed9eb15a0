"""Share work among the processes of a distributed run."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from rich.markup import escape
from rich.progress import track
from torch import distributed

from babyvlm.errors import UserError, first_line
from babyvlm.io.printing import Console

if TYPE_CHECKING:
    from lightning import Trainer

T = TypeVar("T")
U = TypeVar("U")
TIMEOUT = timedelta(days=7)  # our choice: longer than any job may run


def is_rank_zero() -> bool:
    """Return whether this is the first process, or the only one."""
    return not _distributed() or distributed.get_rank() == 0


def refuse_mps(trainer: Trainer, option: str) -> None:
    """Refuse Apple's GPUs, on which nothing of this package has been run.

    Args:
        trainer: has chosen its device.
        option: that names the device, for the message.

    Raises:
        UserError: the device is one of them.
    """
    if trainer.strategy.root_device.type == "mps":
        raise UserError(f"{option}: Apple's GPUs (MPS) are not supported; results on them are untested. Set it to cpu")


def device_name(device: torch.device) -> str:
    """Return what a device is: the GPU with its memory and CUDA's version, or the processor."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda})"
    file = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", file.read_text(errors="replace")) if file.is_file() else []
    return f"CPU ({models[0].strip() if models else platform.machine()})"


def progress(tasks: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
    """Return the tasks; the first rank shows a progress bar on standard error while it iterates over them.

    Args:
        tasks: with a length, or ``total`` is given or unknown.
        label: of the bar.
        total: number of tasks.
    """
    console = Console(stderr=True)
    return track(
        tasks,
        escape(label),
        total,
        console=console,
        transient=True,
        disable=not (is_rank_zero() and console.is_terminal),
    )


def map_over_ranks(
    tasks: Sequence[T], work: Callable[[Sequence[T]], U], group: distributed.ProcessGroup | None = None
) -> list[U]:
    """Divide tasks among all ranks, and return the results of all ranks, by rank, on every rank.

    A task is never split, so its result does not depend on the number of ranks. A rank may have no task. All ranks must
    call this function with the same tasks.

    Args:
        tasks: the tasks of all ranks.
        work: called with the tasks of this rank.
        group: process group; by default that of the run.

    Raises:
        UserError, RuntimeError: the work failed on another rank (on the rank where it failed, its own error is raised),
            so that no rank waits for one that has failed.
    """
    if not _distributed():
        return [work(tasks)]
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    own: Exception | None = None
    done: U | None = None
    try:
        done = work(tasks[rank::ranks])
    except Exception as error:
        own = error
    failure = None if own is None else (isinstance(own, UserError), f"rank {rank}: {first_line(own)}")
    all_done: list[Any] = [None] * ranks
    distributed.all_gather_object(all_done, (done, failure), group)
    if own is not None:
        raise own
    for _, failed in all_done:
        if failed is not None:
            raise (UserError if failed[0] else RuntimeError)(failed[1])
    return [part for part, _ in all_done]


def on_rank_zero(work: Callable[[], T]) -> T:
    """Call ``work`` on the first rank and return its result on every rank, however long it takes.

    Raises:
        UserError, RuntimeError: as ``map_over_ranks``.
    """
    if not _distributed():
        return work()
    # In the group of the run the others would time out while they wait: NCCL's limit is ten minutes.
    group = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo", timeout=TIMEOUT))
    try:
        return cast("T", map_over_ranks([work], lambda mine: mine[0]() if mine else None, group)[0])
    finally:
        distributed.destroy_process_group(group)


_host_groups: dict[object, distributed.ProcessGroup] = {}


def max_over_ranks(value: int) -> int:
    """Return the largest of the values of all ranks. They talk through their CPUs: no rank waits for its device."""
    if not _distributed():
        return value
    world = distributed.group.WORLD
    if world not in _host_groups:  # one for each run of this process
        _host_groups.clear()
        _host_groups[world] = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo", timeout=TIMEOUT))
    largest = torch.tensor(value)
    distributed.all_reduce(largest, distributed.ReduceOp.MAX, _host_groups[world])
    return int(largest)


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
