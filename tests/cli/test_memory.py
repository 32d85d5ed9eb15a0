"""The memory of recipes, found without a GPU, data or weights."""

import copy
from pathlib import Path

import pytest
import torch
import yaml

from babyvlm.__main__ import main
from babyvlm.ablations.plan import Plan
from babyvlm.cli import memory
from babyvlm.cli.memory import estimate
from babyvlm.errors import UserError
from babyvlm.models.networks.vision import VisionEncoder

ROOT = Path(__file__).parents[2]
GB = 1e9


@pytest.fixture(scope="module")
def recipes():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return dict(Plan(Path("configs/saycam/ablations.yaml")).recipes([]))


def language(checkpointing, width=64, batch_size=4):
    shape = {"family": "gpt2", "width": width, "layers": 3, "heads": 4, "inner": 4 * width, "positions": 64}
    options = {"shape": shape, "gradient_checkpointing": checkpointing}
    data = {"batch_size": batch_size, "max_tokens": 64, "stores": "s", "vocabulary": "v"}
    return {
        "model": {"class_path": "babyvlm.models.language.LanguageModel", "init_args": options},
        "data": {"class_path": "babyvlm.data.text_mix.TextMix", "init_args": data},
    }


def test_estimate_counts_weights_gradients_and_adam():
    width, words = 64, 100
    block = 12 * width**2 + 13 * width  # attention and feed-forward layers with biases, and two norms
    parameters = 3 * block + 2 * width + (words + 64) * width
    need = estimate(language(False), words=words)
    assert need.gradients == 4 * parameters
    assert need.optimizer == pytest.approx(8 * parameters, rel=1e-3)  # two moments, and a count for each parameter
    assert need.weights == pytest.approx(4 * parameters, rel=1e-3)
    assert need.total == need.weights + need.gradients + need.optimizer + need.activations


def test_activations_grow_with_batch_and_shrink_with_checkpointing():
    small, large = (estimate(language(False, batch_size=size)).activations for size in (4, 16))
    assert 3 < large / small < 5
    assert estimate(language(True, batch_size=16)).activations < 0.6 * large


def test_activations_are_what_autograd_saves():
    """A linear layer saves its input; at the peak, its gradient is there too."""
    with memory._Allocations() as allocated:
        layer = torch.nn.Linear(1000, 1000, bias=False)
        before = allocated.current
        out = layer(torch.empty(10, 1000))
        assert allocated.current - before == 2 * 10 * 1000 * 4
        del out
        assert allocated.current - before == 0
        assert allocated.peak - before >= 2 * 10 * 1000 * 4


@pytest.mark.soak
def test_llama_phase_2_fits_into_40_gb_because_of_checkpointing(recipes):
    """The shipped recipe at its batch size of 128."""
    need = estimate(recipes["llama-phase-2"])
    assert 18 * GB < need.total < 30 * GB


@pytest.mark.soak
def test_llama_phase_2_without_checkpointing_needs_what_was_measured(recipes):
    """80 to 84 GiB, on a GPU."""
    without = copy.deepcopy(recipes["llama-phase-2"])
    without["model"]["init_args"]["gradient_checkpointing"] = False
    assert 75 * GB < estimate(without).total < 95 * GB


def test_sharding_divides_all_but_the_frozen_encoder(recipes):
    whole = recipes["llama-phase-2"]
    assert whole["model"]["init_args"]["gradient_checkpointing"]  # or it would not fit, see the long tests
    sharded = copy.deepcopy(whole)
    strategy = {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy", "init_args": {}}
    strategy["init_args"]["data_parallel_size"] = 8
    sharded["trainer"] |= {"devices": 8, "strategy": strategy}
    for config in (whole, sharded):
        config["model"]["init_args"]["language"] |= {"width": 256, "layers": 2, "inner": 512}
        config["model"]["init_args"]["vision"]["init_args"] |= {"backbone": "vit_tiny_patch16_224"}
    one, eight = estimate(whole), estimate(sharded)
    encoder = sum(4 * p.numel() for p in VisionEncoder("vit_tiny_patch16_224").parameters())
    assert eight.devices == 8
    assert eight.weights == pytest.approx(encoder + (one.weights - encoder) / 8, rel=1e-3)
    assert eight.gradients == one.gradients // 8
    assert eight.activations < one.activations / 4


def test_every_step_of_a_matrix_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    matrix = yaml.safe_load(Path("configs/playroom/ablations.yaml").read_text())
    kept = ("cvcl", "gpt2-language", "gpt2-phase-1", "gpt2-phase-2")
    matrix["steps"] = {name: step for name, step in matrix["steps"].items() if name in kept}
    del matrix["models"]["BabyLLaVA-Llama"], matrix["quick"]
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(matrix, sort_keys=False))
    main(["memory", "--matrix", str(tmp_path / "matrix.yaml")])
    lines = capsys.readouterr().out.splitlines()
    steps = list(kept)
    assert [line.split()[0] for line in lines[1:-1]] == steps
    assert lines[-1] == "GB on each GPU, texts of 25 tokens, 2,350 words"


def test_unknown_data_is_one_line_error():
    config = language(False)
    config["data"]["class_path"] = "mine.Data"
    with pytest.raises(UserError, match=r"data of class Data is not known"):
        estimate(config)
