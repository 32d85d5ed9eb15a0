import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from babyvlm.data.vocabulary import EOS, PAD, SOS, UNK, Vocabulary
from babyvlm.models.losses import (
    UNSUPERVISED,
    language_loss,
    supervised_labels,
    supervised_tokens,
    symmetric_info_nce,
)


def unit(rows, width, seed, dtype=torch.float64):
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(
        dtype
    )


def by_hand(image, text, temperature):
    """Return the mean of -log p(right partner), by the definition of a softmax, pair by pair."""
    logits = np.array([[float(np.dot(i, t)) / temperature for t in text] for i in image])
    pairs = range(len(logits))
    of_text = [logsumexp(logits[n, :]) - logits[n, n] for n in pairs]
    of_image = [logsumexp(logits[:, n]) - logits[n, n] for n in pairs]
    return (np.mean(of_text) + np.mean(of_image)) / 2


@pytest.mark.parametrize(
    ("pairs", "width", "temperature"), [(1, 3, 0.07), (2, 1, 1.0), (5, 4, 0.07), (8, 16, 0.01), (33, 7, 2.5)]
)
def test_contrastive_loss_equals_definition(pairs, width, temperature):
    image, text = unit(pairs, width, 1), unit(pairs, width, 2)
    expected = by_hand(image.numpy(), text.numpy(), temperature)
    assert symmetric_info_nce(image, text, temperature).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    single = symmetric_info_nce(image.float(), text.float(), torch.tensor(temperature))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-6, abs=1e-6 / temperature)


@pytest.mark.parametrize("pairs", [1, 2, 8, 100])
def test_contrastive_loss_of_equal_embeddings_is_log_n(pairs):
    same = unit(1, 4, 0).expand(pairs, 4)
    assert symmetric_info_nce(same, same, 0.07).item() == pytest.approx(math.log(pairs), abs=1e-12)


def test_contrastive_loss_is_symmetric_and_prefers_matching_pairs():
    image, text = unit(6, 5, 1), unit(6, 5, 2)
    assert symmetric_info_nce(image, text, 0.1) == symmetric_info_nce(text, image, 0.1)
    assert symmetric_info_nce(image, image, 0.1) < symmetric_info_nce(image, image.roll(1, 0), 0.1)


@pytest.mark.parametrize("autocast", [False, True])
def test_contrastive_loss_keeps_precision_of_half_embeddings(autocast):
    image, text = unit(16, 8, 1, torch.bfloat16), unit(16, 8, 2, torch.bfloat16)
    expected = by_hand(image.double().numpy(), text.double().numpy(), 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = symmetric_info_nce(image, text, 0.07)
        of_floats = symmetric_info_nce(image.float(), text.float(), 0.07)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert of_floats.item() == pytest.approx(expected, abs=1e-5)


def test_contrastive_loss_passes_gradcheck():
    image, text = unit(4, 3, 1).requires_grad_(), unit(4, 3, 2).requires_grad_()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(symmetric_info_nce, (image, text, temperature))


@given(
    texts=st.lists(
        st.lists(st.sampled_from(["look", "ball", "<unk>", "zebra", "<image>", "<eos>"]), max_size=9), min_size=1
    ),
    limit=st.integers(2, 12),
)
def test_labels_supervise_words_and_end_only(vocabulary, texts, limit):
    """For any texts, truncation and padding."""
    rows = [torch.tensor(row) for row in Vocabulary(vocabulary).encode([" ".join(words) for words in texts], limit)]
    tokens_BL = pad_sequence(rows, batch_first=True, padding_value=PAD)
    labels_BL = supervised_labels(tokens_BL)
    for words, tokens, labels in zip(texts, tokens_BL.tolist(), labels_BL.tolist(), strict=True):
        num_words = min(len(words), limit - 2)
        assert labels[0] == UNSUPERVISED  # <sos>
        assert labels[1 : num_words + 2] == tokens[1 : num_words + 2]
        assert labels[num_words + 1] == EOS
        assert set(labels[num_words + 2 :]) <= {UNSUPERVISED}  # padding
    assert supervised_tokens(labels_BL) == sum(min(len(words), limit - 2) + 1 for words in texts)


def test_labels_exclude_image_and_keep_tokens():
    tokens_BL = torch.tensor([[SOS, 7, UNK, EOS, PAD]])
    labels_BL = supervised_labels(tokens_BL)
    assert labels_BL.tolist() == [[UNSUPERVISED, 7, UNK, EOS, UNSUPERVISED]]
    assert tokens_BL[0, 0] == SOS


def test_language_loss_averages_supervised_tokens():
    logits = torch.randn(3, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[5, 6, 7, 8, -100, -100], [-100, -100, 9, 3, -100, -100], [-100] * 6])
    log_p = logits.double().log_softmax(-1)
    by_hand = [
        log_p[b, i - 1, t].item() for b, row in enumerate(labels.tolist()) for i, t in enumerate(row) if i and t > 0
    ]
    assert len(by_hand) == 5
    assert language_loss(logits, labels).item() == pytest.approx(-sum(by_hand) / 5, rel=1e-6)
    assert language_loss(torch.zeros(3, 6, 11), labels).item() == pytest.approx(math.log(11))
    assert language_loss(logits.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("labels", [[[-100, -100, -100]], [[7, -100, -100]]])
def test_language_loss_without_supervised_token_is_nan(labels):
    assert language_loss(torch.zeros(1, 3, 11), torch.tensor(labels)).isnan()
