"""Causal language models, GPT-2 or Llama, with random weights. The implementation is transformers' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import AttentionInterface, GPT2Config, LlamaConfig, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from babyvlm.data.vocabulary import EOS, PAD, SOS
from babyvlm.errors import UserError
from babyvlm.ranges import require_in_range


@dataclass(frozen=True)
class LanguageShape:
    """Size of a causal language model; the defaults are GPT-2 of ShawnKing98/BabyLLaVA until September 2025.

    Attributes:
        family: architecture.
        width: of the embeddings.
        layers: number of layers.
        heads: number of attention heads.
        kv_heads: number of key and value heads, each shared by a group of heads; Llama only; default: ``heads``.
        inner: width of the feed-forward layers.
        dropout: GPT-2: of embeddings, attention and residuals; Llama: of attention.
        positions: longest context, in tokens.

    Raises:
        UserError: a number is out of range, ``width`` is not a multiple of ``heads``, or ``heads`` of ``kv_heads``.
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
        """Numbers of attention heads and of key and value heads."""
        return self.heads, self.kv_heads or self.heads

    def __post_init__(self) -> None:
        """Check the shape here: transformers reports such mistakes with a traceback."""
        require_in_range(width=self.width, layers=self.layers, heads=self.heads, kv_heads=self.kv_heads)
        require_in_range(inner=self.inner, dropout=self.dropout, positions=self.positions)
        if self.width % self.heads:
            raise UserError(f"language model: width {self.width} is not a multiple of {self.heads} heads")
        if self.kv_heads is not None and self.family == "gpt2":
            raise UserError("language model: gpt2 has no kv_heads. Remove kv_heads or set family to llama")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise UserError(f"language model: {self.heads} heads are not a multiple of {self.kv_heads} kv_heads")


# transformers' attention, but registered without a function that makes masks.
_WITHOUT_MASK = "babyvlm_causal"
AttentionInterface.register(_WITHOUT_MASK, sdpa_attention_forward)


@contextmanager
def causal_attention(model: nn.Module, implementation: str = _WITHOUT_MASK) -> Iterator[None]:
    """Let a model attend to all earlier positions of an input that has no padding on the left, and no cache.

    The result is the same, but transformers makes no mask. For that it would look whether the positions are those of
    packed sequences, and the CPU would wait for the device in every forward pass.

    Args:
        model: a language model of transformers.
        implementation: another implementation of attention by transformers; ``eager`` also returns its weights.
    """
    config: Any = model.config
    before = config._attn_implementation  # private to transformers; bounded in pyproject.toml
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


GPT2 = LanguageShape()
TINY_LLAMA = LanguageShape("llama", width=2048, layers=22, heads=32, kv_heads=4, inner=5632, dropout=0, positions=2048)


def language_config(shape: LanguageShape, vocabulary_size: int) -> PreTrainedConfig:
    """Return the transformers configuration of a language model with this project's special tokens.

    ``AutoModelForCausalLM.from_config`` builds the network from it.

    Args:
        shape: size of the model.
        vocabulary_size: number of tokens, special tokens included.
    """
    common: dict[str, int | str] = {
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
