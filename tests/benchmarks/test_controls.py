from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from babyvlm.benchmarks import VTWT, BabyWinoground, EvaluationCallback, LabeledS
from babyvlm.benchmarks.controls import controlled, derangement
from babyvlm.benchmarks.trials import Trial
from babyvlm.types import TextScorer

THINGS = [f"thing{number}" for number in range(12)]
COPIES = 5


class Looker(LightningModule):
    """Recognizes the thing in the image, if any, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.images, self.pairs, self.texts = Counter(), Counter(), Counter()

    def preprocess(self, image):
        return torch.tensor(image.getpixel((0, 0))).reshape(3, 1, 1)

    def score(self, images_BCHW, texts, wanted_BT=None):
        seen = [tuple(image.flatten().tolist()) for image in images_BCHW]
        self.images.update(seen)
        self.pairs.update((seen[b], texts[t]) for b, t in wanted_BT.nonzero().tolist())
        return torch.tensor([[float(text.endswith(f"thing{red}")) for text in texts] for red, _, _ in seen])

    def test_step(self, batch, batch_idx):
        pass

    def validation_step(self, batch, batch_idx):
        pass


class Reader(Looker):
    """Has a prior too: it likes short texts."""

    def score_texts(self, texts):
        self.texts.update(texts)
        return torch.tensor([-float(len(text)) for text in texts])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    for number in range(len(THINGS)):
        for copy in range(COPIES):
            Image.new("RGB", (4, 4), (number, copy, 0)).save(folder / f"{number}_{copy}.png")
    rows = ["trial_id,target_category,real_category,image"]
    for trial in range(2200):
        for step in range(4):
            real = (trial + step * (1 + trial % 3)) % 12
            rows.append(f"{trial},thing{trial % 12},thing{real},{real}_{(trial // 7 + step) % COPIES}.png")
    (folder / "labeled_s.csv").write_text("\n".join(rows))
    rows = ["image,positive_phrase,negative_phrase,half"]
    for n in range(60):
        words = ("a" if n % 2 else "some", "some" if n % 2 else "a")
        half = "dev" if n < 6 else "test"
        rows.append(f"{n % 12}_{n // 12}.png,{words[0]} thing{n % 12},{words[1]} thing{(n + 1) % 12},{half}")
    (folder / "vtwt.csv").write_text("\n".join(rows))
    rows = ["instance_id,positive_phrase,negative_phrase,image,image_tag"]
    for n in range(10):
        tags = (("positive", n), ("negative", n + 1))
        rows += [f"{n},a thing{n},some thing{n + 1},{thing}_0.png,{tag}" for tag, thing in tags]
    (folder / "baby_winoground.csv").write_text("\n".join(rows))
    return folder


def evaluate(folder, model, benchmark, stage="test", **options):
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder),
        callbacks=[EvaluationCallback([benchmark], **options)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    getattr(trainer, stage)(model, DataLoader([0]), verbose=False)
    rows = [row for path in Path(trainer.log_dir, "results").iterdir() for row in pq.read_table(path).to_pylist()]
    credit = {}
    for row in rows:
        credit.setdefault((row["control"], row["measure"]), []).append(row["credit"])
    return {key: sum(values) / len(values) for key, values in credit.items()}


def test_labeled_s_encodes_each_image_and_scores_each_pair_once(root, tmp_path):
    model = Reader()
    means = evaluate(tmp_path, model, LabeledS(root / "labeled_s.csv", dev_fraction=0.0))
    distinct = len(THINGS) * COPIES
    assert len(model.images) == distinct + 1  # and the blank image
    assert sum(model.images.values()) <= 1.2 * distinct
    assert set(model.pairs.values()) == {1}
    assert set(model.texts.values()) == {1}
    assert means["", "accuracy"] == 1
    assert means["blank", "accuracy"] == means["text_only", "accuracy"] == 1 / 4  # one word for four images
    assert means["shuffled", "accuracy"] == pytest.approx(1 / 4, abs=0.1)


def test_vtwt_without_image_scores_text_prior(root, tmp_path):
    model = Reader()
    assert isinstance(model, TextScorer)
    means = evaluate(tmp_path, model, VTWT(root / "vtwt.csv"))
    assert means["", "accuracy"] == 1
    assert means["blank", "accuracy"] == 1 / 2
    assert means["text_only", "accuracy"] == 1 / 2  # the short phrase is right in every second trial
    assert 0.3 < means["shuffled", "accuracy"] < 0.6


def test_winoground_controls_reveal_text_prior(root, tmp_path):
    means = evaluate(tmp_path, Reader(), BabyWinoground(root / "baby_winoground.csv"))
    assert means["", "overall"] == 1
    for control in ("blank", "text_only"):
        assert means[control, "overall"] == means[control, "image"] == 0
    assert (means["text_only", "positive"], means["text_only", "negative"]) == (1, 0)
    assert means["text_only", "positive_strict"] == 0


def test_controls_omit_text_only_for_image_models(root, tmp_path):
    means = evaluate(tmp_path, Looker(), VTWT(root / "vtwt.csv"))
    assert {control for control, _ in means} == {"", "blank", "shuffled"}


def test_controls_are_omitted_on_request_and_on_dev(root, tmp_path):
    for options, stage in (({"controls": False}, "test"), ({}, "validate")):
        model = Reader()
        assert evaluate(tmp_path, model, VTWT(root / "vtwt.csv"), stage, **options) == {("", "accuracy"): 1}
        assert not model.texts
        assert sum(model.images.values()) == (54 if stage == "test" else 6)


@given(st.sets(st.integers(0, 99), min_size=2, max_size=20), st.integers(0, 5))
@settings(max_examples=50)
def test_derangement_moves_every_image(numbers, seed):
    images = {f"{number}.png" for number in numbers}
    other = derangement(images, seed)
    assert set(other) == set(other.values()) == images
    assert all(image != shown for image, shown in other.items())
    assert derangement(set(sorted(images)[::-1]), seed) == other


def test_derangement_depends_on_seed_and_needs_two_images():
    images = {f"{number}.png" for number in range(30)}
    assert derangement(images, 0) != derangement(images, 1)
    assert derangement({"a"}, 0) == {}
    trials = [Trial("1", "test", "", (("a", "x"), ("a", "y")))]
    assert set(controlled(trials, text_only=False, seed=0)) == {"blank"}
