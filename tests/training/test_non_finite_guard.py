"""A loss or a gradient that is no number ends the run before the weights are touched."""

import json

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from babyvlm.errors import UserError
from babyvlm.training.non_finite_guard import StopOnNonFinite
from babyvlm.types import Batch


class Line(LightningModule):
    """Loss ``f(w) * mean of the images``: the images decide what goes wrong."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.other = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        return self.function(self.weight) * batch.images_BCHW.mean() + self.other

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def batches(*values):
    made = [
        Batch([f"k{n}a", f"k{n}b"], torch.full((2, 1, 1, 1), value), torch.ones(2, 1), ["", ""])
        for n, value in enumerate(values)
    ]
    return DataLoader(made, batch_size=None)


def infinite_slope(weight):
    return (weight - weight.detach()).sqrt()  # 0 with an infinite derivative


CASES = {
    "loss is NaN": (lambda w: w, [1.0, float("nan"), 1.0], 1, ["k1a", "k1b"], "nan"),
    "loss is infinite": (lambda w: w, [1.0, 1.0, float("inf")], 2, ["k2a", "k2b"], "inf"),
    "gradient is infinite": (infinite_slope, [1.0], 0, ["k0a", "k0b"], "1.0"),
}


@pytest.mark.parametrize("case", CASES)
def test_guard_ends_run_and_names_pairs(tmp_path, case):
    function, values, step, keys, loss = CASES[case]
    model = Line(function)
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path, "run"),
        max_epochs=1,
        callbacks=[StopOnNonFinite()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    with pytest.raises(UserError, match=f"step {step}: loss {loss}.*lower the learning rate"):
        trainer.fit(model, batches(*values))
    found = json.loads((tmp_path / "run/version_0/non-finite-rank0.json").read_text())
    assert (found["step"], found["loss"], found["keys"]) == (step, loss, keys)
    assert "weight" in found["gradients"]
    assert torch.isfinite(model.weight)
    assert trainer.global_step == step


def test_guard_names_pairs_of_all_accumulated_batches(tmp_path):
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path, "run"),
        max_epochs=1,
        callbacks=[StopOnNonFinite()],
        accumulate_grad_batches=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    with pytest.raises(UserError):
        trainer.fit(Line(lambda w: w), batches(1.0, 1.0, float("nan"), 1.0))
    found = json.loads((tmp_path / "run/version_0/non-finite-rank0.json").read_text())
    assert found["keys"] == ["k2a", "k2b", "k3a", "k3b"]
    assert found["loss"] == "nan"


def test_guard_ignores_finite_values(tmp_path):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=1,
        callbacks=[StopOnNonFinite()],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Line(lambda w: w), batches(1.0, 2.0, 3.0))
    assert trainer.global_step == 3
