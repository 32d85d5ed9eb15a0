"""What all models that tell right pairs from wrong ones share: a loss over the global batch, on any number of ranks."""

from __future__ import annotations

from typing import cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn.functional import pad
from torchmetrics import MeanMetric

from babyvlm.errors import UserError
from babyvlm.models.losses import symmetric_info_nce


class ContrastiveModule(LightningModule):
    """Each pair has all others of the global batch as its negatives."""

    def __init__(self) -> None:
        super().__init__()
        self.held_out_loss = MeanMetric()

    def on_train_epoch_start(self) -> None:
        """Refuse what would train something else.

        Raises:
            UserError: gradients are accumulated: pairs would meet the negatives of a part of the batch only.
        """
        if self.trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"trainer.accumulate_grad_batches {self.trainer.accumulate_grad_batches}: a contrastive loss has the "
                "batch as its negatives, so that accumulated batches are not a large one; set it to 1 and raise "
                "data.batch_size, over more devices if need be"
            )

    def log_held_out(self, split: str, loss: Tensor, pairs: int) -> None:
        """Log ``<split>_loss``, the mean over all pairs.

        Args:
            split: ``val`` or ``test``.
            loss: of a batch.
            pairs: this rank's share of it. Lightning's own mean rounds when ranks have different numbers.
        """
        self.held_out_loss.update(loss, pairs)
        self.log(f"{split}_loss", self.held_out_loss, prog_bar=True)

    def global_loss(self, image_BD: Tensor, text_BD: Tensor, temperature: Tensor | float) -> Tensor:
        """``symmetric_info_nce`` over the pairs of all ranks, with gradient; the same value on each.

        Args:
            image_BD: L2-normalised image embeddings of this rank; ranks may have different numbers of them.
            text_BD: L2-normalised text embeddings of the same pairs.
            temperature: divides the cosines.
        """
        image_ND, text_ND = self._of_all_ranks(torch.stack([image_BD, text_BD], dim=1)).unbind(1)
        return symmetric_info_nce(image_ND, text_ND, temperature)

    def _of_all_ranks(self, pairs_B2D: Tensor) -> Tensor:
        """(N, 2, D), rank after rank."""
        if self.trainer.world_size == 1:
            return pairs_B2D
        counts: list[int] = cast("Tensor", self.all_gather(torch.tensor(len(pairs_B2D), device=self.device))).tolist()
        even = pad(pairs_B2D, (0, 0, 0, 0, 0, max(counts) - len(pairs_B2D)))  # only shapes that agree can be gathered
        gathered_RB2D = cast("Tensor", self.all_gather(even, sync_grads=True))
        return torch.cat([pairs[:count] for pairs, count in zip(gathered_RB2D, counts, strict=True)])
