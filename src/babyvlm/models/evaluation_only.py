"""The base class of models that are evaluated but not trained."""

from __future__ import annotations

from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader


class EvaluationOnly(LightningModule):
    """A model for ``test`` without data: only the benchmarks, which are callbacks, are evaluated."""

    def test_dataloader(self) -> DataLoader[int]:
        """Return a loader of one empty step."""
        return DataLoader([0])  # type: ignore[arg-type] # a list is a dataset

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Compute nothing: no pairs are needed."""
