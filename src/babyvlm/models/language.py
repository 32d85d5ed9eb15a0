"""Phase 0, language: a causal language model trained from scratch on the utterances alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from babyvlm.data.vocabulary import EOS, PAD, SOS, Vocabulary
from babyvlm.errors import UserError
from babyvlm.models import initialization
from babyvlm.models.causal import CausalModule
from babyvlm.models.optimization import CosineWithWarmup, TimedScheduler
from babyvlm.types import Batch


@dataclass(frozen=True)
class LanguageShape:
    """Size of a causal language model; by default the paper's GPT-2.

    Attributes:
        family: of the architecture.
        width: of the embeddings.
        layers: how many.
        heads: of attention.
        kv_heads: of keys and values, which groups of heads share; Llama only.
        inner: width inside the feed-forward part.
        dropout: GPT-2: of embeddings, attention and layers; Llama: of attention.
        positions: the longest context, in tokens.

    Raises:
        UserError: the heads do not divide the width, or cannot share keys and values.
    """

    family: Literal["gpt2", "llama"] = "gpt2"
    width: int = 256
    layers: int = 8
    heads: int = 32
    kv_heads: int | None = None
    inner: int = 1024
    dropout: float = 0.15
    positions: int = 1024

    @property
    def all_heads(self) -> tuple[int, int]:
        """Heads of attention, and of keys and values."""
        return self.heads, self.kv_heads or self.heads

    def __post_init__(self) -> None:
        """Refuse what cannot be built, before a family's own code fails somewhere inside."""
        if self.width % self.heads:
            raise UserError(f"language model: width {self.width} does not divide by {self.heads} heads")
        if self.kv_heads is not None and (self.family == "gpt2" or self.heads % self.kv_heads):
            raise UserError(
                f"language model: {self.heads} heads of {self.family} cannot share {self.kv_heads} kv_heads"
            )


GPT2 = LanguageShape()
TINY_LLAMA = LanguageShape("llama", width=2048, layers=22, heads=32, kv_heads=4, inner=5632, dropout=0, positions=2048)


def language_config(shape: LanguageShape, vocabulary_size: int) -> PretrainedConfig:
    """The transformers config of a language model, with our vocabulary's special tokens.

    Args:
        shape: its size.
        vocabulary_size: tokens, specials included.
    """
    common: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.positions,
        "pad_token_id": PAD,
        "bos_token_id": SOS,
        "eos_token_id": EOS,
        "attn_implementation": "sdpa",
    }
    rate = shape.dropout
    if shape.family == "gpt2":
        return GPT2Config(n_inner=shape.inner, embd_pdrop=rate, attn_pdrop=rate, resid_pdrop=rate, **common)
    return LlamaConfig(
        intermediate_size=shape.inner, num_key_value_heads=shape.kv_heads, attention_dropout=rate, **common
    )


def paper_optimizer(parameters: object) -> torch.optim.Optimizer:
    """AdamW, learning rate 5e-4, betas .9/.95, weight decay .1 (BabyLLaVA, phase 0)."""
    return torch.optim.AdamW(cast("list[Tensor]", parameters), lr=5e-4, betas=(0.9, 0.95), weight_decay=0.1)


class LanguageModel(CausalModule):
    """Predicts each word and ``<eos>`` of an utterance from what stands before it.

    Args:
        vocabulary: folder made by ``curate vocabulary``; the data's.
        shape: size of the model, ``lm``.
        max_tokens: tokens of a context; the data's.
        init_from: run folder or file to take the weights from; a step further, not a resume.
        recompute: what lies between layers again in the backward pass, instead of keeping it: less memory, more time.
        optimizer: called with the parameters.
        scheduler: called with the optimizer and the run's number of steps, stepped each step.

    Raises:
        UserError: contexts are longer than the model has positions.
    """

    def __init__(
        self,
        vocabulary: Path,
        shape: LanguageShape = GPT2,
        max_tokens: int = 1024,
        init_from: Path | None = None,
        recompute: bool = False,
        optimizer: OptimizerCallable = paper_optimizer,
        scheduler: TimedScheduler = CosineWithWarmup,
    ) -> None:
        super().__init__(optimizer, scheduler)
        if max_tokens > shape.positions:
            raise UserError(
                f"data.max_tokens {max_tokens} is more than the language model's {shape.positions} positions"
            )
        self.vocabulary, self.heads = Vocabulary(vocabulary), shape.all_heads
        self.lm = AutoModelForCausalLM.from_config(language_config(shape, len(self.vocabulary)))
        if recompute:
            self.lm.gradient_checkpointing_enable()
        if init_from is not None:
            initialization.init_from(self, init_from, {"": ""}, self.vocabulary)

    def forward(self, batch: Batch) -> Tensor:
        """(B, L, V) logits of what follows each token.

        Texts are packed or padded at the right, where earlier tokens cannot see it, so that no mask is needed.
        """
        logits: Tensor = self.lm(input_ids=batch.tokens_BL, use_cache=False).logits
        return logits
