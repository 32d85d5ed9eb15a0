import pytest
import torch
from transformers import AutoModelForCausalLM

from babyvlm.models.language import GPT2, TINY_LLAMA, language_config


@pytest.mark.parametrize(
    ("shape", "vocabulary_size", "said"),
    [(GPT2, 2_350, "7.18M"), (GPT2, 5_176, "7.91M"), (GPT2, 6_000, "8.12M"), (TINY_LLAMA, 32_000, "1100.05M")],
)
def test_counts_the_papers_parameters(shape, vocabulary_size, said):
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(language_config(shape, vocabulary_size))
    assert f"{sum(parameter.numel() for parameter in lm.parameters()) / 1e6:.2f}M" == said
    assert lm.config._attn_implementation == "sdpa"
