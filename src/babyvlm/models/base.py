"""Base classes of the LightningModules: vocabulary, contrastive training on the global batch, language modeling."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.functional import pad
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from transformers.modeling_layers import GradientCheckpointingLayer

from babyvlm.data.pair_mix import Mix
from babyvlm.data.vocabulary import PAD, SOS, Vocabulary
from babyvlm.errors import UserError
from babyvlm.io.distributed import max_over_ranks
from babyvlm.io.runs import run_folder
from babyvlm.models.checkpoints import check_vocabulary
from babyvlm.models.compatibility import upgrade_state_dict
from babyvlm.models.losses import language_loss, supervised_labels, supervised_tokens, symmetric_info_nce
from babyvlm.models.optimization import TimedScheduler, configure, training_steps
from babyvlm.types import Batch, FrozenVision

_NO_NEGATIVES = "a contrastive loss needs other pairs as negatives, and is 0 without them"


class VocabularyModule(LightningModule):
    """A model that belongs to one vocabulary: its runs contain the vocabulary, its checkpoints its hash.

    Attributes:
        vocabulary: set by the subclass.
        heads: numbers of attention heads and of key and value heads of its language model, if it has one. They are
            saved because no shape of a weight depends on them.
    """

    vocabulary: Vocabulary
    heads: tuple[int, int] | None = None

    def on_fit_start(self) -> None:
        """Copy the vocabulary to the run's folder, so that the run can be used without its data."""
        folder = run_folder(self.trainer)
        if folder is not None and self.trainer.is_global_zero and not (folder / "vocabulary").exists():
            partial = folder / "vocabulary.partial"
            self.vocabulary.copy_to(partial)
            partial.rename(partial.with_suffix(""))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the hash of the vocabulary, and the heads."""
        checkpoint["vocabulary"] = self.vocabulary.hash
        if self.heads is not None:
            checkpoint["heads"] = list(self.heads)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the vocabulary, and give weights of earlier versions today's names.

        Raises:
            UserError: the checkpoint was trained with another vocabulary.
        """
        check_vocabulary("the checkpoint", checkpoint.get("vocabulary"), self.vocabulary)
        if "state_dict" in checkpoint:  # sharded strategies load the weights themselves
            checkpoint["state_dict"] = upgrade_state_dict(checkpoint["state_dict"], type(self))


class ContrastiveModule(LightningModule):
    """A model whose loss contrasts each pair with all other pairs of the global batch, on any number of ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.held_out_loss = MeanMetric()

    def setup(self, stage: str) -> None:
        """Check that every pair has negatives.

        Raises:
            UserError: gradients are accumulated, so that negatives would come from a part of the batch only; or a batch
                has one pair.
        """
        if stage != "fit":
            return
        data = getattr(self.trainer, "datamodule", None)
        for name in ("batch_size", "val_batch_size"):
            if getattr(data, name, None) == 1:
                raise UserError(f"data.{name} 1: {_NO_NEGATIVES}. Raise it")
        count = getattr(data, "held_out_pairs", None)
        if count is not None and self.trainer.enable_validation and count("val") == 1:
            raise UserError(f"the validation split has one pair: {_NO_NEGATIVES}. Use a store with more pairs")
        if self.trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"trainer.accumulate_grad_batches {self.trainer.accumulate_grad_batches}: a contrastive loss takes its "
                "negatives from the batch, so accumulating batches does not equal a larger batch. Set it to 1 and "
                "raise data.batch_size, on more devices if needed"
            )

    def log_held_out(self, split: str, loss: Tensor, pairs: int) -> None:
        """Log ``<split>_loss``, the mean over all pairs.

        Args:
            split: ``val`` or ``test``.
            loss: of a batch.
            pairs: number of this rank's pairs. Lightning's own mean is inexact when ranks have different numbers.
        """
        self.held_out_loss.update(loss, pairs)
        self.log(f"{split}_loss", self.held_out_loss, prog_bar=True)

    def global_loss(self, image_BD: Tensor, text_BD: Tensor, temperature: Tensor | float) -> Tensor:
        """Return ``symmetric_info_nce`` over the pairs of all ranks, with gradient; the same value on each rank.

        Args:
            image_BD: L2-normalized image embeddings of this rank; numbers may differ between ranks.
            text_BD: L2-normalized text embeddings of the same pairs.
            temperature: divides the cosines.

        Raises:
            UserError: there is only one pair.
        """
        image_ND, text_ND = self._gather_pairs(torch.stack([image_BD, text_BD], dim=1)).unbind(1)
        if len(image_ND) == 1:
            raise UserError(f"a batch has one pair: {_NO_NEGATIVES}. Raise the batch size, or use more pairs")
        return symmetric_info_nce(image_ND, text_ND, temperature)

    def _gather_pairs(self, pairs_B2D: Tensor) -> Tensor:
        """Return (N, 2, D), the pairs of all ranks in the order of ranks."""
        if not torch.distributed.is_initialized():
            return pairs_B2D
        if self.trainer.training and isinstance(getattr(self.trainer, "datamodule", None), Mix):
            counts = [len(pairs_B2D)] * self.trainer.world_size  # known, without waiting for the device
        else:
            counts = cast("Tensor", self.all_gather(torch.tensor(len(pairs_B2D), device=self.device))).tolist()
        even = pad(pairs_B2D, (0, 0, 0, 0, 0, max(counts) - len(pairs_B2D)))  # all_gather needs equal shapes
        gathered_RB2D = cast("Tensor", self.all_gather(even, sync_grads=True))
        return torch.cat([pairs[:count] for pairs, count in zip(gathered_RB2D, counts, strict=True)])


class CausalModule(VocabularyModule):
    """A model that predicts each token of an utterance from the tokens before it.

    Logs ``train_loss`` and ``supervised_share``; over all held-out tokens ``val_loss`` and ``val_perplexity``, and
    likewise ``test_``. Losses are in nats per token.

    Args:
        optimizer: called with the trainable parameters.
        scheduler: called with the optimizer and the run's number of steps; stepped after each optimizer step.

    Attributes:
        logged: names of the metrics that ``fit`` measures.
        given: tokens that are not predicted.
    """

    logged = ("train_loss", "supervised_share", "val_loss", "val_perplexity")
    given: tuple[int, ...] = (PAD, SOS)

    def __init__(self, optimizer: OptimizerCallable, scheduler: TimedScheduler) -> None:
        super().__init__()
        self.held_out_loss = MeanMetric()
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self._accumulated: list[Tensor] = []  # supervised tokens of each batch since the last step, mean over ranks

    def configure_model(self) -> None:
        """Shard weights, gradients and optimizer state over the devices (FSDP2), one layer at a time.

        Only if the trainer's strategy has a mesh of devices: ``ModelParallelStrategy``.
        """
        if self.device_mesh is None or isinstance(self, FSDPModule):
            return
        for parameter in self.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP2 does not support the channels_last of a vision trunk
        first = torch.distributed.get_rank() == 0
        weights = dict(self.state_dict()) if first else {}
        layers = [module for module in self.modules() if isinstance(module, GradientCheckpointingLayer)]
        for module in (*layers, self):
            fully_shard(module, mesh=self.device_mesh["data_parallel"], ignored_params=set(self.unsharded_parameters()))
        self._take_weights_of_first_rank(weights)

    def _take_weights_of_first_rank(self, weights: dict[str, Tensor]) -> None:
        """Fill the other ranks' shards, which are on the meta device, one weight at a time.

        Only the first rank of a run holds a whole model, so that the memory of a host does not grow with its ranks.

        Args:
            weights: of the whole model, on the first rank; empty on the others.
        """
        is_meta = torch.tensor(int(any(parameter.is_meta for parameter in self.parameters())))
        if not max_over_ranks(int(is_meta)):
            return
        device = self.trainer.strategy.root_device
        network = cast("nn.Module", self.network)  # not the metrics, whose state is not on the meta device
        network.to_empty(device=device) if is_meta else network.to(device)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self, cast("dict[str, Any]", weights), options=options)
        saved = self.state_dict().keys()
        for name, buffer in self.named_buffers():
            if name not in saved:
                torch.distributed.broadcast(buffer, 0)

    def unsharded_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that every rank keeps whole.

        Those of a frozen vision encoder: its features are also computed outside of a training step, for their cache,
        where FSDP2 would not gather its weights.
        """
        encoder = self.frozen_vision() if isinstance(self, FrozenVision) else None
        return [] if encoder is None else list(encoder.parameters())

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Return (B, L, V) logits of the token after each token of ``text(batch)``."""

    def text(self, batch: Batch) -> Tensor:
        """Return (B, L) tokens of the utterances."""
        return batch.tokens_BL

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check that a batch has something to predict, while it is on the CPU: on a GPU the check would wait for it.

        Raises:
            UserError: it has no supervised token.
        """
        if not supervised_tokens(supervised_labels(self.text(batch), self.given)):
            raise UserError(
                "a batch has no supervised token: its utterances are empty or truncated. Check data.max_tokens"
            )
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of the supervised tokens of the global batch."""
        labels_BL = supervised_labels(self.text(batch), self.given)
        loss = language_loss(self(batch), labels_BL)
        tokens = supervised_tokens(labels_BL)
        loss = loss * self._weight(tokens.to(loss))
        self.log("train_loss", loss, batch_size=len(batch.keys), sync_dist=True)
        share = tokens / labels_BL[:, 1:].numel()  # the rest is padding
        self.log("supervised_share", share, batch_size=len(batch.keys))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the loss of one batch."""
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        """Log loss and perplexity over all tokens."""
        self._log_held_out("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the loss of one batch."""
        self._measure(batch)

    def on_test_epoch_end(self) -> None:
        """Log loss and perplexity over all tokens."""
        self._log_held_out("test")

    def _weight(self, tokens: Tensor) -> Tensor | float:
        """Return this rank's number of tokens over the mean of all ranks.

        DDP averages gradients over ranks; with this weight each token of the global batch counts the same.
        """
        if not torch.distributed.is_initialized():
            self._tokens = tokens
            return 1.0
        self._tokens = cast("Tensor", self.all_gather(tokens)).mean()
        return tokens / self._tokens

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """Compute the gradient of a batch, weighted by its tokens relative to the first accumulated batch."""
        self._accumulated.append(self._tokens)
        super().backward(loss * (self._tokens / self._accumulated[0]), *args, **kwargs)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Update the weights; gradients are rescaled before callbacks read and Lightning clips them."""

        def closure() -> Any:  # noqa: ANN401 - Lightning's signature
            assert optimizer_closure is not None
            loss = optimizer_closure()
            self._rescale_gradients()
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def _rescale_gradients(self) -> None:
        """Rescale accumulated gradients to the gradient of the mean over all of their tokens, as in one large batch.

        Lightning has divided each of them by ``accumulate_grad_batches``, even if the last step has fewer.
        """
        if self.trainer.accumulate_grad_batches > 1:
            share = self._accumulated[0] / torch.stack(self._accumulated).sum()  # stays on its device
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.trainer.accumulate_grad_batches * share)
        self._accumulated.clear()

    def _measure(self, batch: Batch) -> None:
        labels_BL = supervised_labels(self.text(batch), self.given)
        # A mean over tokens, not over batches: batches differ in their number of tokens.
        self.held_out_loss.update(language_loss(self(batch), labels_BL), supervised_tokens(labels_BL))

    def _log_held_out(self, split: str) -> None:
        loss = self.held_out_loss.compute()
        self.log(f"{split}_loss", loss, prog_bar=True)
        self.log(f"{split}_perplexity", loss.exp())
        self.held_out_loss.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of the trainable parameters, and its schedule over the run."""
        steps = training_steps(self.trainer)
        return configure(
            self.parameters(), self.make_optimizer, lambda optimizer: self.make_scheduler(optimizer, steps)
        )
