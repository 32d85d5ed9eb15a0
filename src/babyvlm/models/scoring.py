"""How likely a language model finds texts, with an image before them or without.

Shapes: B images, T texts, N pairs of both, P image tokens, L text tokens, D the language model's width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, LlavaForConditionalGeneration

from babyvlm.data.vocabulary import PAD
from babyvlm.models.losses import UNSUPERVISED

ROWS = 64  # texts a forward pass (our choice): bounds memory, and more are no faster on a CPU


def text_logits(vlm: LlavaForConditionalGeneration, tokens_BL: Tensor, image_BPD: Tensor | None = None) -> Tensor:
    """What follows each text token, given the image tokens before the text.

    Texts are padded at the right, where a causal model's earlier tokens cannot see it: no mask is needed, and scaled
    dot-product attention takes its fast path.

    Args:
        vlm: its language model and output layer are used.
        tokens_BL: ``<sos> words <eos>``.
        image_BPD: what the connector made of the image; None for a text alone.

    Returns:
        (B, L, V), nothing for the image tokens.
    """
    embedded_BLD = vlm.get_input_embeddings()(tokens_BL)
    if image_BPD is not None:
        embedded_BLD = torch.cat([image_BPD.to(embedded_BLD.dtype), embedded_BLD], 1)
    hidden_BLD = vlm.model.language_model(inputs_embeds=embedded_BLD, use_cache=False).last_hidden_state
    logits: Tensor = vlm.lm_head(hidden_BLD[:, -tokens_BL.shape[1] :])
    return logits


def log_likelihood(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """(B,) log p of what follows each text's first token, in nats, float32 or better."""
    label_BL = labels_BL[:, 1:]
    precision = torch.promote_types(logits_BLV.dtype, torch.float32)
    log_p_BLV = logits_BLV[:, :-1].to(precision).log_softmax(-1)
    log_p_BL = log_p_BLV.gather(-1, label_BL.clamp(min=0)[..., None])[..., 0]
    return log_p_BL.masked_fill(label_BL == UNSUPERVISED, 0.0).sum(1)


def without_image(vlm: LlavaForConditionalGeneration, texts: Sequence[Sequence[int]]) -> Tensor:
    """(T,) log p of each text, the language model alone."""
    parts = []
    for first in range(0, len(texts), ROWS):
        tokens_BL, labels_BL = _padded(texts[first : first + ROWS], vlm.device)
        parts.append(log_likelihood(text_logits(vlm, tokens_BL), labels_BL))
    return torch.cat(parts)


def given_images(
    vlm: LlavaForConditionalGeneration, image_BPD: Tensor, texts: Sequence[Sequence[int]], wanted_BT: Tensor | None
) -> Tensor:
    """Log-likelihood of texts given images. The keys and values of an image are computed once for all its texts.

    Args:
        vlm: the model.
        image_BPD: what the connector made of the images.
        texts: token ids, ``<sos> words <eos>``.
        wanted_BT: bool; the pairs that are computed; all by default.

    Returns:
        (B, T), NaN where not wanted.
    """
    prefix = vlm.model.language_model(inputs_embeds=image_BPD, use_cache=True).past_key_values
    return given_prefix(vlm, prefix, texts, wanted_BT)


def given_prefix(
    vlm: LlavaForConditionalGeneration,
    prefix: DynamicCache,
    texts: Sequence[Sequence[int]],
    wanted_BT: Tensor | None,
    rows: int | None = None,
) -> Tensor:
    """Log-likelihood of texts after prefixes whose keys and values have been computed.

    Args:
        vlm: the model.
        prefix: keys and values of B prefixes of one length.
        texts: token ids; the first of each is given, not said.
        wanted_BT: bool; the pairs that are computed; all by default.
        rows: pairs a forward pass.

    Returns:
        (B, T), NaN where not wanted.
    """
    if wanted_BT is None:
        wanted_BT = torch.ones(len(prefix.layers[0].keys), len(texts), dtype=torch.bool)
    lengths_T = torch.tensor([len(text) for text in texts])
    pairs_N2 = wanted_BT.nonzero().cpu()
    pairs_N2 = pairs_N2[lengths_T[pairs_N2[:, 1]].argsort(stable=True)]  # equally long texts together: little padding
    score_BT = torch.full(wanted_BT.shape, torch.nan, device=vlm.device)
    for b_N, t_N in (part.unbind(1) for part in torch.split(pairs_N2, rows or ROWS)):
        tokens_NL, labels_NL = _padded([texts[t] for t in t_N], vlm.device)
        rows_N = b_N.to(vlm.device)
        cache = DynamicCache([(layer.keys[rows_N], layer.values[rows_N]) for layer in prefix.layers])
        hidden_NLD = vlm.model.language_model(input_ids=tokens_NL, past_key_values=cache).last_hidden_state
        score_BT[rows_N, t_N.to(vlm.device)] = log_likelihood(vlm.lm_head(hidden_NLD), labels_NL).to(score_BT.dtype)
    return score_BT


def mean_or_total(total: Tensor, texts: Sequence[Sequence[int]], likelihood: str) -> Tensor:
    """Log-likelihoods of texts as they are (``total``), or by token (``mean``), the first, which is given, left out.

    Args:
        total: (..., T).
        texts: token ids.
        likelihood: ``mean`` or ``total``.
    """
    if likelihood == "total":
        return total
    return total / torch.tensor([len(text) - 1 for text in texts], device=total.device)


def _padded(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, L) tokens, and labels that leave the padding out. Causal models need no mask for padding at the right."""
    tokens = [torch.tensor(text) for text in texts]
    tokens_BL, labels_BL = (pad_sequence(tokens, batch_first=True, padding_value=v) for v in (PAD, UNSUPERVISED))
    return tokens_BL.to(device), labels_BL.to(device)
