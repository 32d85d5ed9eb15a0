"""CVCL's text encoders (``TextEncoder`` in wkvong/multimodal-baby): tokens to one vector per utterance.

Unless asked otherwise, they ignore padding (id 0).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils.rnn import pack_padded_sequence

from babyvlm.data.vocabulary import PAD
from babyvlm.errors import UserError


class MeanEmbedding(nn.Module):
    """Mean of the word embeddings of ``<sos> words <eos>`` (CVCL's main model).

    Args:
        vocabulary_size: number of embeddings.
        width: of the output.
    """

    def __init__(self, vocabulary_size: int, width: int = 512) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width, padding_idx=PAD)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Return (B, width) text features."""
        lengths_B1 = (tokens_BL != PAD).sum(1, keepdim=True)
        mean: Tensor = self.embedding(tokens_BL).sum(1) / lengths_B1  # the embedding of padding is zero
        return mean


class LSTMText(nn.Module):
    """Last hidden state of a one-layer LSTM over the tokens (an option of CVCL).

    Args:
        vocabulary_size: number of embeddings.
        width: of embeddings and hidden state.
        dropout: of the inputs, in training; all words of an utterance lose the same units (0.5 in CVCL: ``dropout_i``
            in wkvong/multimodal-baby, ``runner_config/saycam_contrastive.py``).
    """

    def __init__(self, vocabulary_size: int, width: int = 512, dropout: float = 0.5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width, padding_idx=PAD)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.dropout = dropout

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Return (B, width) text features."""
        lengths_B = (tokens_BL != PAD).sum(1)
        embedded_BLD = self.embedding(tokens_BL)
        if self.training and self.dropout:
            embedded_BLD = embedded_BLD * dropout(torch.ones_like(embedded_BLD[:, :1]), self.dropout)
        if tokens_BL.is_cuda:  # packing needs the lengths on the CPU, which would wait for the GPU
            return last_states(self.lstm(embedded_BLD)[0], lengths_B)
        packed = pack_padded_sequence(embedded_BLD, lengths_B, batch_first=True, enforce_sorted=False)
        _, (hidden_1BD, _) = self.lstm(packed)
        last: Tensor = hidden_1BD[0]
        return last


def last_states(states_BLD: Tensor, lengths_B: Tensor) -> Tensor:
    """Return (B, D), the state at each text's last token; what comes after it, at padding, is ignored."""
    return states_BLD[torch.arange(len(states_BLD), device=states_BLD.device), lengths_B - 1]


class TransformerText(nn.Module):
    """Mean of the tokens after one transformer layer with learned positions (an option of CVCL).

    Args:
        vocabulary_size: number of embeddings.
        width: of embeddings and layer.
        heads: attention heads (8 in CVCL).
        max_tokens: number of positions (25 in CVCL).
        position_scale: standard deviation of the initial positions (0 in CVCL; 0.02 is our choice).
        sum_padding: also add up the outputs at padding, which see the words, before dividing by the number of words, as
            wkvong/multimodal-baby does (``TextEncoder.forward``): a text's features then depend on the longest text of
            its batch. For weights that were trained this way.
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int = 512,
        heads: int = 8,
        max_tokens: int = 25,
        position_scale: float = 0.02,
        sum_padding: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width, padding_idx=PAD)
        self.positions = nn.Parameter(torch.randn(max_tokens, width) * position_scale)
        self.sum_padding = sum_padding
        self.layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.1, batch_first=True)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Return (B, width) text features.

        Raises:
            UserError: a text is longer than ``max_tokens``.
        """
        length = tokens_BL.shape[1]
        if length > len(self.positions):
            raise UserError(
                f"the transformer text encoder has {len(self.positions)} positions, but a batch has {length} tokens. "
                "Raise model.text.max_tokens or lower data.max_tokens"
            )
        padding_BL = tokens_BL == PAD
        hidden_BLD = self.embedding(tokens_BL) + self.positions[:length]
        hidden_BLD = self.layer(hidden_BLD, src_key_padding_mask=padding_BL)
        if not self.sum_padding:
            hidden_BLD = hidden_BLD.masked_fill(padding_BL[..., None], 0.0)
        mean: Tensor = hidden_BLD.sum(1) / (~padding_BL).sum(1, keepdim=True)
        return mean
