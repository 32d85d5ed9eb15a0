"""1, 2 and 4 real processes give the same numbers to the last digit, and none waits for one that failed."""

import csv
import time
from collections import Counter
from datetime import timedelta

import pyarrow.parquet as pq
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import distributed
from torch.utils.data import DataLoader

from babyvlm.benchmarks import VTWT, BabyWinoground, EvaluationCallback
from babyvlm.benchmarks.scoring import score_pairs
from babyvlm.errors import UserError
from babyvlm.io.distributed import map_over_ranks, max_over_ranks, on_rank_zero
from support.ranks import on_ranks

CPU = torch.device("cpu")
IMAGES = 11


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        Image.new("RGB", (4, 4), (number * 20, 255 - number, 7)).save(folder / f"{number}.png")
    return folder


class Sensitive:
    """Its scores depend on all that stands in a batch together, as floating point makes them in the last digits."""

    def __init__(self, broken=()):
        self.encoded, self.broken = Counter(), set(broken)

    def preprocess(self, image):
        return torch.tensor(image.getpixel((0, 0))).double().reshape(3, 1, 1) / 255

    def score(self, images_BCHW, texts, wanted_BT=None):
        reds = [round(image[0].item() * 255) for image in images_BCHW]
        self.encoded.update(reds)
        if self.broken & set(reds):
            raise UserError("this picture is beyond me") if 20 in self.broken else ZeroDivisionError("of course")
        text_T = torch.tensor([len(text) for text in texts]).double()
        return images_BCHW.mean((1, 2, 3))[:, None] * text_T + images_BCHW.mean() * text_T.mean() * 1e-9


PAIRS = [(f"{number}.png", "x" * (1 + (number * step) % 5)) for number in range(IMAGES) for step in (1, 2)]


@pytest.mark.parametrize("batch_size", [2, 64])  # with 64 there is one batch: all other ranks have none
def test_scores_are_equal_on_any_number_of_ranks(root, tmp_path, batch_size):
    def work(rank):
        scorer = Sensitive()
        scores = score_pairs(scorer, PAIRS, root, device=CPU, batch_size=batch_size)
        return scores, scorer.encoded

    alone, encoded = work(0)
    assert set(encoded.values()) == {1}
    assert len(encoded) == IMAGES
    for ranks in (2, 4):
        by_rank = on_ranks(ranks, work, tmp_path)
        assert all(scores == alone for scores, _ in by_rank)
        assert sum((encoded for _, encoded in by_rank), Counter()) == encoded  # shared out, nothing twice


@pytest.mark.parametrize(("red", "error"), [(20, "UserError"), (40, "ZeroDivisionError")])
def test_failure_on_one_rank_ends_all(root, tmp_path, red, error):
    def work(rank):
        return score_pairs(Sensitive(broken=[red]), PAIRS, root, device=CPU, batch_size=1)

    messages = on_ranks(4, work, tmp_path)
    failed = [rank for rank, message in enumerate(messages) if "rank" not in message]
    assert len(failed) == 1
    assert messages[failed[0]].startswith(f"{error}: ")
    others = "UserError" if error == "UserError" else "RuntimeError"
    for rank, message in enumerate(messages):
        if rank not in failed:
            assert message.startswith(f"{others}: ")
            assert f"rank {failed[0]}: " in message


def test_map_over_ranks_distributes_tasks(tmp_path):
    assert map_over_ranks([1, 2, 3], sum) == [6]
    assert on_ranks(2, lambda rank: map_over_ranks(range(5), list), tmp_path) == [[[0, 2, 4], [1, 3]]] * 2
    assert on_ranks(4, lambda rank: map_over_ranks([7], list), tmp_path) == [[[7], [], [], []]] * 4


def test_on_rank_zero_returns_or_raises_on_all_ranks(tmp_path):
    def refuse():
        raise UserError("no room")

    assert on_rank_zero(lambda: 7) == 7
    assert on_ranks(2, lambda rank: on_rank_zero(lambda: f"of rank {rank}"), tmp_path) == ["of rank 0"] * 2
    (tmp_path / "again").mkdir()
    first, second = on_ranks(2, lambda rank: on_rank_zero(refuse), tmp_path / "again")
    assert "UserError: no room" in first
    assert "UserError: rank 0: no room" in second


def test_on_rank_zero_waits_beyond_group_timeout(tmp_path):
    def work(rank):
        distributed.destroy_process_group()
        distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/hasty", rank=rank, world_size=2, timeout=timedelta(seconds=5)
        )
        return on_rank_zero(lambda: time.sleep(6) or 7)

    assert on_ranks(2, work, tmp_path) == [7, 7]


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.scorer = Sensitive()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def preprocess(self, image):
        return self.scorer.preprocess(image)

    def score(self, images_BCHW, texts, wanted_BT=None):
        return self.scorer.score(images_BCHW, texts)

    def test_step(self, batch, batch_idx):
        pass


def evaluate(root, folder, devices):
    for name, rows in {
        "vtwt": [
            ["image", "positive_phrase", "negative_phrase"],
            *([f"{n}.png", "x" * (n % 3 + 1), "x" * (n % 4 + 1)] for n in range(IMAGES)),
        ],
        "baby_winoground": [
            ["instance_id", "positive_phrase", "negative_phrase", "image", "image_tag"],
            *(
                [n // 2, "x" * (n // 2 + 1), "xx", f"{n}.png", ("positive", "negative")[n % 2]]
                for n in range(IMAGES - 1)
            ),
        ],
    }.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    benchmarks = [VTWT(folder / "vtwt.csv", root), BabyWinoground(folder / "baby_winoground.csv", root)]
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        callbacks=[EvaluationCallback(benchmarks, batch_size=2)],
        logger=CSVLogger(folder / f"logs{devices}", version=0),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(Model(), DataLoader([0]), verbose=False)
    results = folder / f"logs{devices}" / "lightning_logs" / "version_0" / "results"
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    return {path.name: pq.read_table(path).to_pylist() for path in results.iterdir()}, metrics


def test_trainer_on_two_processes_writes_equal_results(root, tmp_path):
    alone, two = evaluate(root, tmp_path, 1), evaluate(root, tmp_path, 2)
    assert alone == two
    assert sorted(alone[0]) == ["baby_winoground-test.parquet", "vtwt-test.parquet"]
    assert alone[1].keys() >= {"vtwt_test", "baby_winoground_test", "baby_winoground_positive_strict_test"}


def test_max_over_ranks_is_the_same_on_all_ranks(tmp_path):
    assert max_over_ranks(3) == 3
    assert on_ranks(3, lambda rank: [max_over_ranks(rank * n) for n in (1, 0, 2)], tmp_path) == [[2, 0, 4]] * 3
