"""Phase 0 of the language model: trained from scratch on the utterances, without images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim.optimizer import ParamsT
from transformers import AutoModelForCausalLM

from babyvlm.data.vocabulary import PAD, Vocabulary
from babyvlm.errors import UserError
from babyvlm.models.base import CausalModule
from babyvlm.models.checkpoints import init_from as initialize
from babyvlm.models.networks.language import GPT2, LanguageShape, causal_attention, language_config
from babyvlm.models.networks.vision import initial_weights
from babyvlm.models.optimization import CosineWithWarmup, TimedScheduler
from babyvlm.types import Batch


class LanguageAdamW(torch.optim.AdamW):
    """AdamW with learning rate 5e-4, betas 0.9 and 0.95, and weight decay 0.1 (BabyLLaVA: train_babylm.py)."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        **kwargs: Any,  # noqa: ANN401 - AdamW's
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, **kwargs)


class LanguageModel(CausalModule):
    """Trains a causal language model of transformers to predict each token from the tokens before it.

    Args:
        vocabulary: folder created by ``curate vocabulary``; that of the data.
        shape: size of the model.
        max_tokens: length of a context, in tokens; that of the data.
        init_from: run folder or checkpoint file to initialize the weights from. This starts a new run; it does not
            resume one.
        predict_sos: also predict ``<sos>`` after the ``<eos>`` of the previous utterance, as ShawnKing98/BabyLLaVA does
            since October 2025 (``llava/train/train_babylm.py``); otherwise words and ``<eos>`` only.
        gradient_checkpointing: recompute the activations of the layers in the backward pass: less memory, more time.
        optimizer: called with the parameters.
        scheduler: called with the optimizer and the run's number of steps; stepped after each step.

    Raises:
        UserError: ``max_tokens`` exceeds the model's number of positions.
    """

    def __init__(
        self,
        vocabulary: Path,
        shape: LanguageShape = GPT2,
        max_tokens: int = 1024,
        init_from: Path | None = None,
        predict_sos: bool = True,
        gradient_checkpointing: bool = False,
        optimizer: OptimizerCallable = LanguageAdamW,
        scheduler: TimedScheduler = CosineWithWarmup,
    ) -> None:
        super().__init__(optimizer, scheduler)
        if max_tokens > shape.positions:
            raise UserError(
                f"data.max_tokens {max_tokens} exceeds the language model's {shape.positions} positions. "
                "Lower it or raise model.shape.positions"
            )
        if predict_sos:
            self.given = (PAD,)
        self.vocabulary, self.heads = Vocabulary(vocabulary), shape.all_heads
        with initial_weights():
            self.network = AutoModelForCausalLM.from_config(language_config(shape, len(self.vocabulary)))
        if gradient_checkpointing:
            self.network.activation_checkpointing_enable()
        if init_from is not None:
            initialize(self, init_from)

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, L, V) logits of the token after each token.

        Texts are packed, or padded on the right, where earlier tokens cannot see the padding: no mask is needed.
        """
        # Of tokens, transformers would read the first and the last, to warn of padding: a wait for the device.
        embedded_BLD = self.network.get_input_embeddings()(batch.tokens_BL)
        with causal_attention(self.network):
            logits: Tensor = self.network(inputs_embeds=embedded_BLD, use_cache=False).logits
        return logits
