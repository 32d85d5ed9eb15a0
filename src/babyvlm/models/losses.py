"""Loss functions of tensors alone. Shapes: N pairs, D embedding width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


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
