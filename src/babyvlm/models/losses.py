"""Loss functions. Shapes: N pairs, D embedding width; B texts, L tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from babyvlm.data.vocabulary import PAD, SOS

UNSUPERVISED = -100  # label of tokens without a loss, in cross_entropy and transformers


def symmetric_info_nce(image_ND: Tensor, text_ND: Tensor, temperature: Tensor | float) -> Tensor:
    """Return the InfoNCE loss, averaged over both directions (CVCL; CLIP).

    >>> embeddings = torch.eye(4)
    >>> symmetric_info_nce(embeddings, embeddings, 0.07) < 1e-4
    tensor(True)
    >>> uninformative = torch.ones(4, 1)
    >>> round(symmetric_info_nce(uninformative, uninformative, 0.07).exp().item(), 4)
    4.0

    Args:
        image_ND: L2-normalized image embeddings.
        text_ND: L2-normalized text embeddings; row n belongs to image n, all other rows are its negatives.
        temperature: divides the cosines.

    Returns:
        Scalar, in nats, in float32 or higher precision; ``log N`` for uninformative embeddings.
    """
    precision = torch.promote_types(image_ND.dtype, torch.float32)
    with torch.autocast(image_ND.device.type, enabled=False):  # autocast would compute the product in half precision
        logits_NN = image_ND.to(precision) @ text_ND.to(precision).T / temperature
        target_N = torch.arange(len(logits_NN), device=logits_NN.device)
        return (cross_entropy(logits_NN, target_N) + cross_entropy(logits_NN.T, target_N)) / 2


def supervised_labels(tokens_BL: Tensor, given: Sequence[int] = (PAD, SOS)) -> Tensor:
    """Return the labels of a causal language model: by default words and ``<eos>``.

    >>> supervised_labels(torch.tensor([[2, 7, 8, 3, 0]]))  # <sos> two words <eos> <pad>
    tensor([[-100,    7,    8,    3, -100]])

    Args:
        tokens_BL: as in ``Batch``: ``<sos> words <eos>``, padded on the right; or several of these, packed.
        given: tokens that are given, not predicted.

    Returns:
        (B, L) tokens, ``UNSUPERVISED`` where there is no loss. Not shifted: label l is predicted from the tokens
        before l.
    """
    for token in given:  # compared with numbers: a tensor of them would be copied to the device in every step
        tokens_BL = tokens_BL.masked_fill(tokens_BL == token, UNSUPERVISED)
    return tokens_BL


def supervised_tokens(labels_BL: Tensor) -> Tensor:
    """Return the number of tokens that a loss averages over. The first of each row has no context and does not count.

    >>> supervised_tokens(torch.tensor([[-100, 7, 8, 3, -100]]))
    tensor(3)

    Args:
        labels_BL: as ``supervised_labels`` returns them.
    """
    return (labels_BL[:, 1:] != UNSUPERVISED).sum()


def language_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of the supervised tokens, as transformers' causal loss.

    >>> logits = torch.zeros(1, 5, 10)  # uniform over ten tokens
    >>> round(language_loss(logits, torch.tensor([[-100, 7, 8, 3, -100]])).exp().item(), 4)
    10.0

    Args:
        logits_BLV: logits of the token after each token.
        labels_BL: as ``supervised_labels`` returns them; the first of each row has no context and does not count.

    Returns:
        Scalar, in nats per token, in float32 or higher precision; ``log V`` for a uniform prediction; NaN without
        supervised tokens, which is not checked here: on a GPU the check would wait for all work before it.
    """
    target_BL = labels_BL[:, 1:]
    precision = torch.promote_types(logits_BLV.dtype, torch.float32)
    return cross_entropy(logits_BLV[:, :-1].flatten(0, 1).to(precision), target_BL.flatten())
