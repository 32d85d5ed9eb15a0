import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch.nn.functional import normalize

from babyvlm.models.losses import symmetric_info_nce


def unit(rows, width, seed, dtype=torch.float64):
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(
        dtype
    )


def by_hand(image, text, temperature):
    """Mean of -log p(right partner), by the definition of a softmax, pair by pair."""
    logits = np.array([[float(np.dot(i, t)) / temperature for t in text] for i in image])
    pairs = range(len(logits))
    of_text = [logsumexp(logits[n, :]) - logits[n, n] for n in pairs]
    of_image = [logsumexp(logits[:, n]) - logits[n, n] for n in pairs]
    return (np.mean(of_text) + np.mean(of_image)) / 2


@pytest.mark.parametrize(
    ("pairs", "width", "temperature"), [(1, 3, 0.07), (2, 1, 1.0), (5, 4, 0.07), (8, 16, 0.01), (33, 7, 2.5)]
)
def test_is_the_definition(pairs, width, temperature):
    image, text = unit(pairs, width, 1), unit(pairs, width, 2)
    expected = by_hand(image.numpy(), text.numpy(), temperature)
    assert symmetric_info_nce(image, text, temperature).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    single = symmetric_info_nce(image.float(), text.float(), torch.tensor(temperature))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-6, abs=1e-6 / temperature)


@pytest.mark.parametrize("pairs", [1, 2, 8, 100])
def test_knowing_nothing_costs_log_n(pairs):
    same = unit(1, 4, 0).expand(pairs, 4)
    assert symmetric_info_nce(same, same, 0.07).item() == pytest.approx(math.log(pairs), abs=1e-12)


def test_does_not_tell_images_from_texts_but_right_from_wrong():
    image, text = unit(6, 5, 1), unit(6, 5, 2)
    assert symmetric_info_nce(image, text, 0.1) == symmetric_info_nce(text, image, 0.1)
    assert symmetric_info_nce(image, image, 0.1) < symmetric_info_nce(image, image.roll(1, 0), 0.1)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_embeddings_lose_nothing_more_in_the_loss(autocast):
    image, text = unit(16, 8, 1, torch.bfloat16), unit(16, 8, 2, torch.bfloat16)
    expected = by_hand(image.double().numpy(), text.double().numpy(), 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = symmetric_info_nce(image, text, 0.07)
        of_floats = symmetric_info_nce(image.float(), text.float(), 0.07)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert of_floats.item() == pytest.approx(expected, abs=1e-5)


def test_gradient():
    image, text = unit(4, 3, 1).requires_grad_(), unit(4, 3, 2).requires_grad_()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(symmetric_info_nce, (image, text, temperature))
