"""The GPUs of this machine, handed out to the runs that this runner starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

VARIABLE = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 0.5


class GpuPool:
    """Identifiers of GPUs that no run uses at the moment.

    Args:
        ids: of all GPUs, as in ``CUDA_VISIBLE_DEVICES``.
    """

    def __init__(self, ids: list[str]) -> None:
        self.ids = tuple(ids)
        self._free, self._changed = list(ids), threading.Condition()

    @contextmanager
    def take(self, count: int, on_wait: Callable[[], None]) -> Iterator[list[str]]:
        """Yield some GPUs once they are free, all at the same time, and put them back afterwards.

        Args:
            count: number of GPUs.
            on_wait: called twice per second while they are in use; an exception that it raises ends the wait.

        Raises:
            UserError: there are fewer GPUs.
        """
        if count > len(self.ids):
            found = f"{len(self.ids)} ({VARIABLE} {','.join(self.ids)})" if self.ids else "none"
            raise UserError(
                f"its recipe asks for {count} GPUs (trainer.devices), but there are {found}. Run it on another "
                "machine, or set trainer.accelerator or trainer.devices in an overlay of the matrix"
            )
        with self._changed:
            while len(self._free) < count:
                self._changed.wait(POLL_SECONDS)
                on_wait()
            taken, self._free = self._free[:count], self._free[count:]
        try:
            yield taken
        finally:
            with self._changed:
                self._free = sorted([*self._free, *taken], key=self.ids.index)
                self._changed.notify_all()


def gpus_of_machine() -> list[str]:
    """Return the identifiers of the GPUs that this process may use: ``CUDA_VISIBLE_DEVICES``, else all of them.

    They are not looked up by PyTorch, whose import takes seconds.
    """
    visible = os.environ.get(VARIABLE)
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip().isdecimal()]


def gpus_needed(trainer: Mapping[str, Any], available: int) -> int:
    """Return the number of GPUs that a recipe needs on this machine.

    Args:
        trainer: settings of its Trainer.
        available: number of GPUs. Without a number of its own (``auto``, -1), a recipe takes all of them.

    >>> gpus_needed({"accelerator": "gpu", "devices": 2}, 8)
    2
    >>> gpus_needed({"accelerator": "cpu", "devices": 2}, 8)
    0
    >>> gpus_needed({}, 8), gpus_needed({"accelerator": "gpu"}, 0)
    (8, 1)
    """
    accelerator, devices = trainer.get("accelerator", "auto"), trainer.get("devices", "auto")
    wants_gpu = accelerator in ("gpu", "cuda")
    if not wants_gpu and (accelerator != "auto" or not available):
        return 0
    if isinstance(devices, list):
        return len(devices)
    number = int(devices) if str(devices).lstrip("-").isdecimal() else -1
    return number if number >= 0 else max(available, int(wants_gpu))
