"""What all models that predict words from what stands before them share: loss, perplexity, schedule."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from transformers.modeling_layers import GradientCheckpointingLayer

from babyvlm.models.initialization import VocabularyModule
from babyvlm.models.losses import language_loss, supervised_labels, supervised_tokens
from babyvlm.models.optimization import TimedScheduler, configure, training_steps
from babyvlm.types import Batch


class CausalModule(VocabularyModule):
    """Trains ``forward`` on the words and ``<eos>`` of each utterance.

    Logs ``train_loss`` and ``supervised_share``; over all held-out tokens ``val_loss`` and ``val_perplexity``, and
    likewise ``test_``. Losses are in nats a token.

    Args:
        optimizer: called with the parameters that are trained.
        scheduler: called with the optimizer and the run's number of steps, stepped each step.
    """

    def __init__(self, optimizer: OptimizerCallable, scheduler: TimedScheduler) -> None:
        super().__init__()
        self.held_out_loss = MeanMetric()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self._accumulated: list[Tensor] = []  # supervised tokens of each batch since the last step, the ranks' mean

    def configure_model(self) -> None:
        """Share weights, gradients and optimizer state out over the devices (FSDP2), a layer of the model at a time.

        Only if the trainer's strategy asks for it: ``ModelParallelStrategy`` has a mesh of devices.
        """
        if self.device_mesh is None or isinstance(self, FSDPModule):
            return
        for parameter in self.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP2 refuses the channels_last of a vision trunk
        layers = [module for module in self.modules() if isinstance(module, GradientCheckpointingLayer)]
        for module in (*layers, self):
            fully_shard(module, mesh=self.device_mesh["data_parallel"])

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """(B, L, V) logits of what follows each token of ``batch.tokens_BL``."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of the supervised tokens of the global batch."""
        labels_BL = supervised_labels(batch.tokens_BL)
        loss = language_loss(self(batch), labels_BL)
        loss = loss * self._weight(supervised_tokens(labels_BL).to(loss))
        self.log("train_loss", loss, batch_size=len(batch.keys), sync_dist=True)
        share = supervised_tokens(labels_BL) / labels_BL[:, 1:].numel()  # the rest is paid for nothing
        self.log("supervised_share", share, batch_size=len(batch.keys))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Take the loss of one batch."""
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the loss and perplexity of all."""
        self._log_held_out("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Take the loss of one batch."""
        self._measure(batch)

    def on_test_epoch_end(self) -> None:
        """Log the loss and perplexity of all."""
        self._log_held_out("test")

    def _weight(self, tokens: Tensor) -> Tensor | float:
        """This rank's tokens over the ranks' mean: gradients are averaged over ranks, but tokens count alike."""
        if not torch.distributed.is_initialized():
            self._tokens = tokens
            return 1.0
        self._tokens = cast("Tensor", self.all_gather(tokens)).mean()
        return tokens / self._tokens

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """Take the gradient of a batch, weighed by its tokens against the first of those that are accumulated."""
        self._accumulated.append(self._tokens)
        super().backward(loss * (self._tokens / self._accumulated[0]), *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Make of accumulated gradients that of the mean over all of their tokens, as if in one large batch.

        Lightning has divided each by ``accumulate_grad_batches``, however many there were.
        """
        if self.trainer.accumulate_grad_batches > 1:
            share = float(self._accumulated[0] / torch.stack(self._accumulated).sum())
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.trainer.accumulate_grad_batches * share)
        self._accumulated.clear()

    def _measure(self, batch: Batch) -> None:
        labels_BL = supervised_labels(batch.tokens_BL)
        # A mean over tokens, not over batches, which hold more of them or less.
        self.held_out_loss.update(language_loss(self(batch), labels_BL), supervised_tokens(labels_BL))

    def _log_held_out(self, split: str) -> None:
        loss = self.held_out_loss.compute()
        self.log(f"{split}_loss", loss, prog_bar=True)
        self.log(f"{split}_perplexity", loss.exp())
        self.held_out_loss.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over what is trained, and its schedule over the whole run."""
        steps = training_steps(self.trainer)
        return configure(
            self.parameters(), self.make_optimizer, lambda optimizer: self.make_scheduler(optimizer, steps)
        )
