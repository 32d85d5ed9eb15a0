import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from babyvlm.benchmarks import VTWT, Benchmark, EvaluationCallback, LabeledS
from babyvlm.benchmarks.results import RESULT_SCHEMA
from babyvlm.errors import UserError

THINGS = ["ball", "cup", "dog", "bed"]


@pytest.fixture
def lists(tmp_path):
    """Both lists with both splits, three dev and two test trials each, beside their images."""
    for number, thing in enumerate(THINGS):
        Image.new("RGB", (4, 4), (number * 10, 0, 0)).save(tmp_path / f"{thing}.png")
    halves = ["dev", "test", "dev", "dev", "test"]
    labeled = [["trial_id", "target_category", "real_category", "image", "half"]]
    two_word = [["image", "positive_phrase", "negative_phrase", "word_class", "half"]]
    for number, half in enumerate(halves):
        target, other = THINGS[number % 4], THINGS[(number + 1) % 4]
        labeled += [[number, target, thing, f"{thing}.png", half] for thing in THINGS]
        two_word += [[f"{target}.png", f"see {target}", f"see {other}", "noun", half]]
    for name, rows in (("labeled_s", labeled), ("vtwt", two_word)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return tmp_path


class Learner(LightningModule):
    """Wrong about everything at first; each step of training takes its one weight up by one."""

    def __init__(self, weight=-1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))
        self.modes, self.graphs = set(), set()

    def preprocess(self, image):
        return torch.tensor([float(image.getpixel((0, 0))[0])]).reshape(1, 1, 1)

    def score(self, images_BCHW, texts, wanted_BT=None):
        self.modes.add(self.training)
        self.graphs.add(torch.is_grad_enabled())
        things = [dict(enumerate(THINGS)).get(int(image) // 10, "nothing") for image in images_BCHW.flatten().tolist()]
        return self.weight * torch.tensor([[float(thing in text) for text in texts] for thing in things])

    def training_step(self, batch, batch_idx):
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", -self.weight)

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trainer(folder, *callbacks, batch_size=64, **options):
    """A trainer with one ``EvaluationCallback`` of the benchmarks among ``callbacks``."""
    benchmarks = [one for one in callbacks if isinstance(one, Benchmark)]
    callbacks = [one for one in callbacks if one not in benchmarks]
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder / "logs", "learner-toy"),
        callbacks=[*callbacks, EvaluationCallback(benchmarks, batch_size)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )


def loader():
    return DataLoader([0])


def run_results(run):
    folder = Path(run.log_dir) / "results"
    return {path.name: pq.read_table(path) for path in folder.iterdir()} if folder.exists() else {}


@pytest.mark.parametrize(("weight", "labeled", "two_word"), [(1.0, 1, 1), (-1.0, 0, 0), (0.0, 1 / 4, 1 / 2)])
def test_validation_logs_dev_and_test_logs_test(lists, weight, labeled, two_word):
    model = Learner(weight)
    run = trainer(lists, LabeledS(lists / "labeled_s.csv"), VTWT(lists / "vtwt.csv"))
    (metrics,) = run.validate(model, loader(), verbose=False)
    assert metrics == pytest.approx({"val_loss": -weight, "labeled_s_dev": labeled, "vtwt_dev": two_word})
    (metrics,) = run.test(model, loader(), verbose=False)
    assert metrics == pytest.approx({"labeled_s_test": labeled, "vtwt_test": two_word})
    assert model.modes == {False}
    assert model.graphs == {False}
    tables = run_results(run)
    dev, test = "dev-step0000000.parquet", "test.parquet"
    assert sorted(tables) == [f"labeled_s-{dev}", f"labeled_s-{test}", f"vtwt-{dev}", f"vtwt-{test}"]
    assert all(table.schema.equals(RESULT_SCHEMA) for table in tables.values())
    assert [table.num_rows for _, table in sorted(tables.items())] == [3, 6, 3, 6]  # test has two controls
    test = tables["vtwt-test.parquet"].slice(0, 2).to_pydict()
    assert test["control"] == ["", ""]
    assert test["item"] == ["3:cup.png", "6:ball.png"]
    assert test["category"] == ["noun", "noun"]
    assert test["scores"] == [[weight, 0.0]] * 2
    assert test["credit"] == [two_word] * 2
    assert tables["labeled_s-test.parquet"]["item"].to_pylist() == ["1", "4"] * 3


def test_checkpoint_is_chosen_on_dev(lists):
    # Right from the second step on; the first epoch's checkpoint is at chance (weight 0), not at its start.
    checkpoint = ModelCheckpoint(monitor="labeled_s_dev", mode="max", filename="{epoch}-{labeled_s_dev:.2f}")
    run = trainer(lists, checkpoint, LabeledS(lists / "labeled_s.csv"), max_epochs=3, num_sanity_val_steps=1)
    model = Learner()
    run.fit(model, loader(), loader())
    assert checkpoint.best_model_score.item() == 1
    assert checkpoint.best_model_path.endswith("epoch=1-labeled_s_dev=1.00.ckpt")
    steps = [f"labeled_s-dev-step{step:07d}.parquet" for step in (1, 2, 3)]  # none of the sanity check
    tables = run_results(run)
    assert sorted(tables) == steps
    assert [set(tables[step]["credit"].to_pylist()) for step in steps] == [{0.25}, {1.0}, {1.0}]
    with Path(run.log_dir, "metrics.csv").open() as file:
        logged = [row["labeled_s_dev"] for row in csv.DictReader(file) if row.get("labeled_s_dev")]
    assert [float(value) for value in logged] == [0.25, 1, 1]


def test_validation_skips_list_without_dev_split(lists):
    rows = (lists / "vtwt.csv").read_text().replace(",dev", ",test")
    (lists / "vtwt.csv").write_text(rows)
    run = trainer(lists, VTWT(lists / "vtwt.csv"))
    assert run.validate(Learner(), loader(), verbose=False) == [{"val_loss": 1.0}]
    assert run_results(run) == {}
    assert run.test(Learner(), loader(), verbose=False) == [{"vtwt_test": 0.0}]
    assert run_results(run)["vtwt-test.parquet"].num_rows == 3 * 5


def test_images_are_found_in_other_folder(lists, tmp_path):
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    (lists / "vtwt.csv").rename(elsewhere / "vtwt.csv")
    with pytest.raises(UserError, match=r"vtwt\.csv: none of its 4 images is in"):
        trainer(lists, VTWT(elsewhere / "vtwt.csv")).test(Learner(1.0), loader(), verbose=False)
    run = trainer(lists, VTWT(elsewhere / "vtwt.csv", lists), batch_size=1)
    assert run.test(Learner(1.0), loader(), verbose=False) == [{"vtwt_test": 1.0}]


class Deaf(LightningModule):
    def test_step(self, batch, batch_idx):
        raise AssertionError("the mistake is reported before anything runs")


@pytest.mark.parametrize("model", [Deaf, Learner])
def test_mistakes_are_reported_before_anything_runs(lists, model):
    (lists / "labeled_s.csv").write_text("trial_id,image\n1,ball.png\n" if model is Learner else "")
    message = "no column 'target_category'" if model is Learner else r"Deaf has no preprocess\(\) and score\(\)"
    with pytest.raises(UserError, match=message):
        trainer(lists, LabeledS(lists / "labeled_s.csv")).test(model(), loader(), verbose=False)


def test_fast_dev_run_writes_nothing(lists, monkeypatch):
    monkeypatch.chdir(lists)
    before = sorted(lists.iterdir())
    run = trainer(lists, LabeledS(lists / "labeled_s.csv"), fast_dev_run=True)
    run.fit(Learner(), loader(), loader())
    assert "labeled_s_dev" in run.callback_metrics
    assert sorted(lists.iterdir()) == before
