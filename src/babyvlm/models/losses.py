"""Loss functions of tensors alone. Shapes: N pairs, D embedding width; B texts, L tokens, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from babyvlm.data.vocabulary import IMAGE, PAD, SOS
from babyvlm.errors import UserError

UNSUPERVISED = -100  # cross_entropy's and transformers' mark of a token that is no target


def symmetric_info_nce(image_ND: Tensor, text_ND: Tensor, temperature: Tensor | float) -> Tensor:
    """InfoNCE in both directions, averaged (CVCL; CLIP).

    Args:
        image_ND: L2-normalised image embeddings.
        text_ND: L2-normalised text embeddings; row n belongs to image n, all other rows are its negatives.
        temperature: divides the cosines.

    Returns:
        Scalar, in nats, float32 or better; ``log N`` for embeddings that say nothing.
    """
    precision = torch.promote_types(image_ND.dtype, torch.float32)
    with torch.autocast(image_ND.device.type, enabled=False):  # it would take the product in half precision again
        logits_NN = image_ND.to(precision) @ text_ND.to(precision).T / temperature
        target_N = torch.arange(len(logits_NN), device=logits_NN.device)
        return (cross_entropy(logits_NN, target_N) + cross_entropy(logits_NN.T, target_N)) / 2


def supervised_labels(tokens_BL: Tensor) -> Tensor:
    """What a causal language model has to learn of a text: its words and ``<eos>``.

    ``<pad>``, ``<sos>`` and ``<image>`` are given, not said.

    Args:
        tokens_BL: as in ``Batch``: ``<sos> words <eos>``, padded at the right; or several of these packed in a row.

    Returns:
        (B, L): the tokens, ``UNSUPERVISED`` where there is nothing to learn. Not shifted: a model predicts label l from
        the tokens before l.
    """
    return tokens_BL.masked_fill((tokens_BL == PAD) | (tokens_BL == SOS) | (tokens_BL == IMAGE), UNSUPERVISED)


def supervised_tokens(labels_BL: Tensor) -> Tensor:
    """How many tokens a loss is the mean over: the first of a row is predicted from nothing and does not count."""
    return (labels_BL[:, 1:] != UNSUPERVISED).sum()


def language_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Mean negative log-likelihood of the supervised tokens, each given those before it (transformers' causal loss).

    Args:
        logits_BLV: what follows each token.
        labels_BL: of ``supervised_labels``; the first of a row has nothing before it and does not count.

    Returns:
        Scalar, in nats a token, float32 or better; ``log V`` for a model that says nothing.

    Raises:
        UserError: no token is supervised: the mean would be of nothing.
    """
    target_BL = labels_BL[:, 1:]
    if not supervised_tokens(labels_BL):
        raise UserError("a batch has no supervised token: its utterances are empty or cut off; see data.max_tokens")
    precision = torch.promote_types(logits_BLV.dtype, torch.float32)
    return cross_entropy(logits_BLV[:, :-1].flatten(0, 1).to(precision), target_BL.flatten())
