import math
from dataclasses import replace

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError
from babyvlm.models.language import LanguageModel
from babyvlm.models.losses import supervised_labels
from babyvlm.models.networks.language import GPT2, TINY_LLAMA, LanguageShape, language_config
from babyvlm.types import Batch

SMALL = LanguageShape(width=16, layers=2, heads=4, inner=32, dropout=0.0, positions=16)
SMALL_LLAMA = LanguageShape("llama", width=16, layers=2, heads=4, kv_heads=2, inner=32, dropout=0.0, positions=16)
TEXTS = ["look at the ball", "the red dog", "wash", "a cup is red"]


def batch(vocabulary, texts=TEXTS):
    rows = [torch.tensor(row) for row in Vocabulary(vocabulary).encode(texts)]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, True)
    return Batch(list(texts), torch.empty(0), tokens, list(texts))


def loader(*batches):
    return DataLoader(list(batches), batch_size=None)


def trainer(folder, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **quiet | options)


@pytest.mark.parametrize(
    ("shape", "vocabulary_size", "millions"),
    [(GPT2, 2_350, "7.18M"), (GPT2, 5_176, "7.91M"), (GPT2, 6_000, "8.12M"), (TINY_LLAMA, 32_000, "1100.05M")],
)
def test_language_model_has_parameter_count_of_paper(shape, vocabulary_size, millions):
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(language_config(shape, vocabulary_size))
    assert f"{sum(parameter.numel() for parameter in lm.parameters()) / 1e6:.2f}M" == millions
    assert lm.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("shape", [SMALL, SMALL_LLAMA], ids=lambda shape: shape.family)
def test_loss_equals_transformers(tmp_path, vocabulary, shape):
    data = batch(vocabulary)
    model = LanguageModel(vocabulary, shape, max_tokens=16, predict_sos=False)
    assert isinstance(model.network, LlamaForCausalLM) == (shape.family == "llama")
    mask = (data.tokens_BL != 0).long()  # ours needs no mask
    theirs = model.network(data.tokens_BL, attention_mask=mask, labels=supervised_labels(data.tokens_BL)).loss.item()
    run = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    run.fit(model, loader(data), loader(data))
    assert run.callback_metrics["train_loss"].item() == pytest.approx(theirs, rel=1e-5)
    assert run.callback_metrics["supervised_share"].item() == pytest.approx(16 / 20)


def test_sos_is_predicted_after_eos_by_default(vocabulary):
    """As transformers' collator for causal models labels packed text: every token but padding."""
    packed = torch.cat([torch.tensor(row) for row in Vocabulary(vocabulary).encode(TEXTS)])[None]
    data = Batch(["context"], torch.empty(0), packed, [""])
    model = LanguageModel(vocabulary, replace(SMALL, positions=32), max_tokens=32)
    assert (packed[:, 1:] == 2).sum() == 3
    torch.testing.assert_close(model.training_step(data, 0), model.network(packed, labels=packed).loss)
    without = LanguageModel(vocabulary, replace(SMALL, positions=32), max_tokens=32, predict_sos=False)
    without.load_state_dict(model.state_dict())
    assert (without.training_step(data, 0) - model.training_step(data, 0)).abs() > 1e-4


def test_perplexity_is_independent_of_batch_size(tmp_path, vocabulary):
    model = LanguageModel(vocabulary, SMALL, max_tokens=16)
    results = []
    for batches in ([batch(vocabulary)], [batch(vocabulary, TEXTS[:1]), batch(vocabulary, TEXTS[1:])]):
        run = trainer(tmp_path)
        run.validate(model, loader(*batches), verbose=False)
        run.test(model, loader(*batches), verbose=False)
        results.append({name: value.item() for name, value in run.callback_metrics.items()})
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert results[0]["test_perplexity"] == pytest.approx(math.exp(results[0]["test_loss"]))


def test_language_model_refuses_context_longer_than_positions(vocabulary):
    with pytest.raises(UserError, match="max_tokens 17 exceeds the language model's 16 positions"):
        LanguageModel(vocabulary, SMALL, max_tokens=17)


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({"width": 16, "heads": 3}, "width 16 is not a multiple of 3"),
        ({"kv_heads": 4}, "gpt2 has no kv_heads"),
        ({"family": "llama", "heads": 32, "kv_heads": 5}, "32 heads are not a multiple of 5"),
    ],
)
def test_language_model_refuses_invalid_shape(options, say):
    with pytest.raises(UserError, match=say):
        LanguageShape(**options)
