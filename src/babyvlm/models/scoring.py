"""Likelihoods of texts under a language model, with or without an image before them.

Shapes: B images, T texts, N pairs of both, L text tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from babyvlm.data.vocabulary import PAD
from babyvlm.models.losses import UNSUPERVISED

if TYPE_CHECKING:
    from babyvlm.models.networks.babyllava import BabyLLaVANetwork

Likelihood: TypeAlias = Literal["mean", "total", "evidence"]
BATCH_SIZE = 64  # texts in a forward pass (our choice): bounds memory; larger batches are no faster on a CPU


def log_likelihood(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Return the log-likelihood of each text, given its first token.

    >>> logits = torch.zeros(1, 3, 10)  # uniform over ten tokens
    >>> log_likelihood(logits, torch.tensor([[2, 5, 3]])).exp()
    tensor([0.0100])

    Args:
        logits_BLV: logits of the token after each token.
        labels_BL: token ids, ``UNSUPERVISED`` where they do not count.

    Returns:
        (B,), in nats, in float32 or higher precision.
    """
    label_BL = labels_BL[:, 1:]
    precision = torch.promote_types(logits_BLV.dtype, torch.float32)
    log_p_BLV = logits_BLV[:, :-1].to(precision).log_softmax(-1)
    log_p_BL = log_p_BLV.gather(-1, label_BL.clamp(min=0)[..., None])[..., 0]
    return log_p_BL.masked_fill(label_BL == UNSUPERVISED, 0.0).sum(1)


def log_likelihood_without_image(network: BabyLLaVANetwork, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return (T,) log-likelihoods of texts under the language model, without an image.

    Args:
        network: the model.
        texts: token ids that begin with ``<sos>``, which is given.
    """
    parts = []
    for first in range(0, len(texts), BATCH_SIZE):
        tokens_BL, labels_BL = _pad(texts[first : first + BATCH_SIZE], network.llava.device)
        parts.append(log_likelihood(network(tokens_BL), labels_BL))
    return torch.cat(parts)


def log_likelihood_after_prefix(
    language_model: nn.Module,
    lm_head: nn.Module,
    prefix: DynamicCache,
    texts: Sequence[Sequence[int]],
    wanted_BT: Tensor | None = None,
    *,
    first_BV: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Return the log-likelihood of texts after prefixes whose keys and values have been computed.

    Args:
        language_model: a causal model of transformers without its output layer.
        lm_head: its output layer.
        prefix: keys and values of B prefixes of one length.
        texts: token ids, at least one each. Without ``first_BV``, the first token of each is given, as a part of the
            prefix, and does not count.
        wanted_BT: bool; the pairs to compute; all by default.
        first_BV: logits after the prefix. With them, all tokens count.
        batch_size: pairs in a forward pass; ``BATCH_SIZE`` by default.

    Returns:
        (B, T), NaN where not wanted.
    """
    if wanted_BT is None:
        wanted_BT = torch.ones(len(prefix.layers[0].keys), len(texts), dtype=torch.bool)
    device = prefix.layers[0].keys.device
    lengths_T = torch.tensor([len(text) for text in texts])
    pairs_N2 = wanted_BT.nonzero().cpu()
    pairs_N2 = pairs_N2[lengths_T[pairs_N2[:, 1]].argsort(stable=True)]  # batches of similar length: little padding
    score_BT = torch.full(wanted_BT.shape, torch.nan, device=device)
    for b_N, t_N in (part.unbind(1) for part in torch.split(pairs_N2, batch_size or BATCH_SIZE)):
        tokens_NL, labels_NL = _pad([texts[t] for t in t_N], device)
        rows_N = b_N.to(device)
        cache = DynamicCache([(layer.keys[rows_N], layer.values[rows_N]) for layer in prefix.layers])
        hidden_NLD = language_model(input_ids=tokens_NL, past_key_values=cache).last_hidden_state
        score_N = log_likelihood(lm_head(hidden_NLD), labels_NL)
        if first_BV is not None:
            log_p_NV = first_BV[rows_N].to(score_N.dtype).log_softmax(-1)
            score_N = score_N + log_p_NV.gather(1, tokens_NL[:, :1])[:, 0]
        score_BT[rows_N, t_N.to(device)] = score_N.to(score_BT.dtype)
    return score_BT


def per_token_or_total(total: Tensor, counts: Sequence[int], likelihood: Likelihood) -> Tensor:
    """Return log-likelihoods per token (``mean``) or unchanged (``total``, ``evidence``).

    >>> per_token_or_total(torch.tensor([-6.0, -2.0]), [3, 1], "mean")
    tensor([-2., -2.])

    Args:
        total: (..., T) log-likelihoods.
        counts: T numbers of tokens that count; the mean of a text without any is NaN.
        likelihood: what the score is.
    """
    return total / torch.tensor(counts, device=total.device) if likelihood == "mean" else total


def without_eos(texts: Sequence[Sequence[int]], eos: int) -> list[list[int]]:
    """Return token ids of texts without the end token, where a text has it.

    >>> without_eos([[2, 7, 3], [2, 7, 8]], eos=3)
    [[2, 7], [2, 7, 8]]
    """
    return [list(text[:-1] if text and text[-1] == eos else text) for text in texts]


def _pad(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (B, L) tokens, and labels without the padding. Padding on the right needs no mask in a causal model."""
    tokens = [torch.tensor(text) for text in texts]
    tokens_BL, labels_BL = (pad_sequence(tokens, batch_first=True, padding_value=v) for v in (PAD, UNSUPERVISED))
    return tokens_BL.to(device), labels_BL.to(device)
