"""Randomness of a step as a function of (seed, batches used, rank), so that a resumed run draws what it would have."""

from __future__ import annotations

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class SeedEachBatch(Callback):
    """Seeds torch before every training batch: a checkpoint then needs no generator's state.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Seed all of torch's generators."""
        batches_used = trainer.fit_loop.total_batch_idx
        sequence = np.random.SeedSequence([self.seed, batches_used, trainer.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
