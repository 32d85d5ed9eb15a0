import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from babyvlm.errors import UserError
from babyvlm.models.networks.text import LSTMText, MeanEmbedding, TransformerText

SIZE, WIDTH = 13, 16
ENCODERS = [MeanEmbedding, LSTMText, TransformerText]


def utterance(seed, length):
    words = torch.randint(4, SIZE, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [2, *words, 3]


def padded(rows, extra=0):
    longest = max(map(len, rows)) + extra
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


@pytest.mark.parametrize("length", [0, 1, 2, 7, 23])
def test_mean_embedding_averages_words(length):
    torch.manual_seed(length)
    encoder = MeanEmbedding(SIZE, WIDTH)
    table = encoder.embedding.weight.tolist()
    rows = [utterance(length, length), utterance(1, 4)]
    for row, out in zip(rows, encoder(padded(rows)).tolist(), strict=True):
        expected = [0.0] * WIDTH
        for word in row:
            for column in range(WIDTH):
                expected[column] += table[word][column] / len(row)
        assert out == pytest.approx(expected, abs=1e-6)


def test_lstm_returns_state_after_last_word():
    torch.manual_seed(0)
    encoder = LSTMText(SIZE, WIDTH)
    rows = [utterance(1, 1), utterance(2, 6), utterance(3, 3)]
    for row, out in zip(rows, encoder(padded(rows)), strict=True):
        state = None
        for word in row:  # one step at a time
            last, state = encoder.lstm(encoder.embedding(torch.tensor([[word]])), state)
        torch.testing.assert_close(out, last[0, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("encoder_class", ENCODERS)
@given(lengths=st.lists(st.integers(0, 8), min_size=1, max_size=4), extra=st.integers(1, 6), seed=st.integers(0, 999))
@settings(max_examples=25)
def test_text_encoder_ignores_padding(encoder_class, lengths, extra, seed):
    torch.manual_seed(seed)
    encoder = encoder_class(SIZE, WIDTH)
    rows = [utterance(seed + n, length) for n, length in enumerate(lengths)]
    for mode in (encoder.eval(), encoder.train() if encoder_class is not TransformerText else encoder):  # no dropout
        alone = torch.cat([mode(padded([row])) for row in rows])
        torch.testing.assert_close(mode(padded(rows)), alone, atol=2e-6, rtol=0)
        torch.testing.assert_close(mode(padded(rows, extra)), alone, atol=2e-6, rtol=0)


@pytest.mark.parametrize("encoder_class", ENCODERS)
def test_text_encoder_does_not_train_padding_embedding(encoder_class):
    torch.manual_seed(0)
    encoder = encoder_class(SIZE, WIDTH)
    before = encoder.embedding.weight.detach().clone()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, weight_decay=0.5)
    tokens = padded([utterance(1, 2), utterance(2, 7)])
    for _ in range(3):
        optimizer.zero_grad()
        encoder(tokens).square().sum().backward()
        assert encoder.embedding.weight.grad[0].abs().max() == 0
        optimizer.step()
    assert encoder.embedding.weight[0].abs().max() == 0
    assert not torch.equal(encoder.embedding.weight[2], before[2])


@pytest.mark.parametrize("encoder_class", [LSTMText, TransformerText])
def test_text_encoder_uses_word_order_except_mean_embedding(encoder_class):
    torch.manual_seed(0)
    encoder = encoder_class(SIZE, WIDTH).eval()
    one, other = encoder(torch.tensor([[2, 5, 6, 3], [2, 6, 5, 3]]))
    assert (one - other).abs().max() > 1e-3
    bag = MeanEmbedding(SIZE, WIDTH)(torch.tensor([[2, 5, 6, 3], [2, 6, 5, 3]]))
    torch.testing.assert_close(bag[0], bag[1])


def test_text_encoder_refuses_more_tokens_than_positions():
    encoder = TransformerText(SIZE, WIDTH, max_tokens=6)
    assert encoder(padded([utterance(0, 4)])).shape == (1, WIDTH)
    with pytest.raises(UserError, match="has 6 positions, but a batch has 7"):
        encoder(padded([utterance(0, 5)]))
