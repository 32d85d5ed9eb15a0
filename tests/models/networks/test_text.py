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
    encoder = LSTMText(SIZE, WIDTH).eval()
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
    for mode in (encoder.eval(), encoder.train() if encoder_class is MeanEmbedding else encoder):  # no dropout
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


def test_lstm_drops_the_same_inputs_of_all_words():
    """An LSTM that adds up its inputs: each unit is either twice the sum of all words or zero, by the utterance."""
    torch.manual_seed(0)
    encoder = LSTMText(SIZE, WIDTH)
    gates = torch.zeros(4 * WIDTH)  # input, forget, cell, output
    gates[: 2 * WIDTH] = gates[3 * WIDTH :] = 50.0  # open
    with torch.no_grad():
        for name, parameter in encoder.lstm.named_parameters():
            parameter.zero_()
            if name == "bias_ih_l0":
                parameter.copy_(gates)
            if name == "weight_ih_l0":
                parameter[2 * WIDTH : 3 * WIDTH] = torch.eye(WIDTH)
        encoder.embedding.weight[1:].uniform_(1e-3, 2e-3)  # where tanh is linear
    rows = [utterance(seed, 5) for seed in range(200)]
    sums = torch.stack([encoder.embedding(torch.tensor(row)).sum(0) for row in rows]).detach()
    ratio = (encoder(padded(rows)) / sums).detach()
    is_dropped = ratio.abs() < 0.01
    torch.testing.assert_close(ratio[~is_dropped], torch.full_like(ratio[~is_dropped], 2.0), atol=0.01, rtol=0)
    assert is_dropped.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert len(set(map(tuple, is_dropped.tolist()))) > 150  # each utterance loses other units
    torch.testing.assert_close(encoder.eval()(padded(rows)) / sums, torch.ones_like(sums), atol=0.01, rtol=0)
    assert LSTMText(SIZE, WIDTH, dropout=0)(padded(rows)).isfinite().all()


@pytest.mark.parametrize("grad", [True, False])
def test_transformer_sums_padding_as_an_unmasked_mean(grad):
    """Against attention written out: padding is no key, but its outputs are added to those of the words."""
    torch.manual_seed(0)
    encoder = TransformerText(SIZE, WIDTH, heads=2, sum_padding=True, position_scale=1.0).eval()
    rows, layer = [utterance(1, 2), utterance(2, 6), utterance(3, 0)], encoder.layer
    tokens_BL = padded(rows, extra=1)
    with torch.set_grad_enabled(grad):
        found = encoder(tokens_BL)
    for row, tokens, out in zip(rows, tokens_BL, found, strict=True):
        x_LD = encoder.embedding(tokens) + encoder.positions[: len(tokens)]
        q, k, v = (x_LD @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias).chunk(3, -1)
        heads = []
        for part in range(2):
            at = slice(part * WIDTH // 2, (part + 1) * WIDTH // 2)
            weights = (q[:, at] @ k[: len(row), at].T / (WIDTH // 2) ** 0.5).softmax(-1)
            heads.append(weights @ v[: len(row), at])
        x_LD = layer.norm1(x_LD + layer.self_attn.out_proj(torch.cat(heads, -1)))
        x_LD = layer.norm2(x_LD + layer.linear2(layer.linear1(x_LD).relu()))
        torch.testing.assert_close(out, x_LD.sum(0) / len(row), atol=1e-5, rtol=1e-5)
        masked = x_LD[: len(row)].mean(0)
        assert (out - masked).abs().max() > 1e-3
    encoder.sum_padding = False
    torch.testing.assert_close(encoder(tokens_BL)[-1], masked, atol=1e-5, rtol=1e-5)


def test_transformer_positions_begin_at_scale():
    assert TransformerText(SIZE, WIDTH, position_scale=0.0).positions.abs().max() == 0
    assert TransformerText(SIZE, 512).positions.std().item() == pytest.approx(0.02, rel=0.05)
