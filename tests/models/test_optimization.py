import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from babyvlm.errors import UserError
from babyvlm.models.optimization import CosineWithWarmup, configure, training_steps


class Counted(LightningDataModule):
    """Seven batches per epoch."""

    batches_per_epoch = 7

    def train_dataloader(self):
        return DataLoader(torch.ones(7, 1), batch_size=1)


class Line(LightningModule):
    """A model of one weight that records the learning rate of each step."""

    def __init__(self, make_scheduler=CosineWithWarmup):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.make_scheduler, self.rates = make_scheduler, []

    def training_step(self, batch, batch_idx):
        return (self.weight * batch).sum()

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self):
        steps = training_steps(self.trainer)
        return configure(
            self.parameters(), lambda p: torch.optim.SGD(p, lr=0.5), lambda o: self.make_scheduler(o, steps)
        )


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, **quiet | options)


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


@pytest.mark.parametrize("steps", [1, 2, 10, 333])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5])
def test_schedule_equals_transformers(steps, warmup):
    ours, theirs = optimizer(), optimizer()
    a = CosineWithWarmup(ours, steps, warmup)
    b = get_cosine_schedule_with_warmup(theirs, a.warmup_steps, steps)
    assert a.warmup_steps == -(-steps * round(100 * warmup) // 100)
    for _ in range(steps + 1):
        assert a.get_last_lr() == pytest.approx(b.get_last_lr(), abs=1e-12)
        for each, schedule in ((ours, a), (theirs, b)):
            each.step()
            schedule.step()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_steps": 5, "max_epochs": -1}, 5),
        ({"max_epochs": 3}, 21),
        ({"max_epochs": 3, "max_steps": 10}, 10),
        ({"max_epochs": 1, "max_steps": 10}, 7),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, 12),
        ({"max_epochs": 3, "limit_train_batches": 4}, 12),
        ({"max_epochs": 3, "limit_train_batches": 9}, 21),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 6),
        ({"fast_dev_run": 3}, 3),
    ],
)
def test_schedule_is_as_long_as_run(tmp_path, options, expected):
    run, line = trainer(tmp_path, **options), Line()
    run.fit(line, Counted())
    assert run.global_step == len(line.rates) == expected
    schedule = CosineWithWarmup(optimizer(), expected)
    for rate in line.rates:
        assert rate == pytest.approx(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()


def test_schedule_refuses_endless_run(tmp_path):
    with pytest.raises(UserError, match=r"Set trainer\.max_steps or trainer\.max_epochs"):
        trainer(tmp_path, max_epochs=-1).fit(Line(), Counted())
    with pytest.raises(UserError, match=r"Set max_steps"):
        trainer(tmp_path, max_epochs=3).fit(Line(), DataLoader(torch.ones(7, 1)))


def test_torch_schedules_receive_run_length(tmp_path):
    line = Line(torch.optim.lr_scheduler.CosineAnnealingLR)
    trainer(tmp_path, max_epochs=2).fit(line, Counted())
    assert line.rates[7] == pytest.approx(0.25)


def test_resume_continues_schedule_and_refuses_other_length(tmp_path):
    complete = Line()
    trainer(tmp_path, max_steps=14, max_epochs=-1).fit(complete, Counted())
    saved = trainer(tmp_path, max_steps=14, max_epochs=-1)
    first = Line()
    first.on_train_batch_end = lambda *_: saved.save_checkpoint(tmp_path / "a.ckpt") if len(first.rates) == 7 else None
    saved.fit(first, Counted())
    again = Line()
    trainer(tmp_path, max_steps=14, max_epochs=-1).fit(
        again, Counted(), ckpt_path=tmp_path / "a.ckpt", weights_only=True
    )
    assert again.rates == pytest.approx(complete.rates[7:])
    with pytest.raises(UserError, match="14 steps, but this run has 20"):
        trainer(tmp_path, max_steps=20, max_epochs=-1).fit(
            Line(), Counted(), ckpt_path=tmp_path / "a.ckpt", weights_only=True
        )
