"""The state of a long matching on disk, after every batch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from babyvlm.curation.matching.top_k import Batch
from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from babyvlm.curation.matching.state import LazyAssignment

HASHED_ROWS = 8192


@dataclass(frozen=True)
class Checkpoint:
    """A folder with ``problem.json``, one file of lists a batch, and ``state.npz``, which says how many of them count.

    A batch's lists are written first, the state is renamed in after them: a kill loses one batch at most.
    """

    folder: Path

    @classmethod
    def open(
        cls,
        folder: Path,
        targets: NDArray[Any],
        candidates: NDArray[Any],
        forbidden: NDArray[np.int64],
        arguments: Mapping[str, Any],
    ) -> Checkpoint:
        """Open the folder or make it.

        Raises:
            UserError: it holds the state of another problem.
        """
        problem = {**arguments, "data": [digest(array) for array in (targets, candidates, forbidden)]}
        path = folder / "problem.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(problem))
        elif json.loads(path.read_text()) != problem:
            raise UserError(f"{folder}: the checkpoint of a matching with other inputs or options; remove it")
        return cls(folder)

    def save(self, state: LazyAssignment, batch: Batch) -> None:
        """Commit the batch that was just assigned."""
        np.savez(self._lists(state.batches - 1), **asdict(batch))
        beside = self.folder / "beside.npz"
        np.savez(
            beside,
            **state.now._asdict(),
            wanted=state.wanted,
            waiting=state.waiting,
            counts=np.array([state.batches, state.pairs]),
            seconds=np.array(state.seconds),
        )
        beside.replace(self.folder / "state.npz")

    def restore(self, state: LazyAssignment) -> None:
        """Bring a new assignment to where the last commit was, if there was one."""
        path = self.folder / "state.npz"
        if not path.exists():
            return
        with np.load(path) as arrays:
            for name, array in state.now._asdict().items():
                array[:] = arrays[name]
            state.wanted, state.waiting = arrays["wanted"], arrays["waiting"]
            state.batches, state.pairs = arrays["counts"].tolist()
            state.seconds = state.seconds_before = float(arrays["seconds"])
        for number in range(state.batches):
            with np.load(self._lists(number)) as arrays:
                state.add_lists(Batch(**arrays))

    def _lists(self, number: int) -> Path:
        return self.folder / f"lists-{number:06d}.npz"


def digest(array: NDArray[Any]) -> str:
    """Hash of an array's type, shape and contents, read in parts."""
    content = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    for start in range(0, len(array), HASHED_ROWS):
        content.update(np.ascontiguousarray(array[start : start + HASHED_ROWS]).data)
    return content.hexdigest()
