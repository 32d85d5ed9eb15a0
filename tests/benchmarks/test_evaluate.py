"""``evaluate``: the numbers of a run, without a Trainer."""

import ast
import json
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

import babyvlm.benchmarks
from babyvlm.benchmarks import VTWT, EvaluationCallback, ForcedChoice, LabeledS, Measure, scoring
from babyvlm.benchmarks.evaluate import evaluate
from babyvlm.benchmarks.trials import Trial, read_rows, split_of
from babyvlm.errors import UserError
from babyvlm.report.columns import VTWT as VTWT_COLUMN
from babyvlm.report.comparisons import score
from babyvlm.report.runs import find_rows


class Shades(LightningModule):
    """Scores by gray level, image and length of the text; dropout would change its scores in training mode."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.37))
        self.dropout = torch.nn.Dropout(0.9)

    def preprocess(self, image):
        return torch.tensor(float(image.getpixel((0, 0))[0])).reshape(1, 1, 1)

    def score(self, images_BCHW, texts, wanted_BT=None):
        length_T = torch.tensor([float(len(text)) for text in texts])
        return torch.sin(self.dropout(self.weight * images_BCHW.flatten()[:, None] * length_T))

    def test_step(self, batch, batch_idx):
        pass


@pytest.fixture
def trials(tmp_path):
    """A VTWT list of 24 trials, some about the same two phrases; every third is in the dev split."""
    rows = ["image,positive_phrase,negative_phrase,half"]
    for number in range(24):
        Image.new("RGB", (4, 4), (number * 10, 0, 0)).save(tmp_path / f"{number}.png")
        positive = ("red ball", "wash the cup", "dog", "big dog")[number % 4]
        rows.append(f"{number}.png,{positive},a {'long ' * (number % 3)}cup,{'test' if number % 3 else 'dev'}")
    (tmp_path / "vtwt.csv").write_text("\n".join(rows))
    return tmp_path / "vtwt.csv"


def test_evaluate_gives_the_numbers_of_the_callback(trials, tmp_path):
    model = Shades()
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path),
        callbacks=[EvaluationCallback([VTWT(trials)])],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (metrics,) = trainer.test(model, DataLoader([0]), verbose=False)
    result = evaluate(model, "vtwt", trials=trials)
    assert {name: pytest.approx(value) for name, value in result.metrics().items()} == metrics
    saved = pq.read_table(Path(trainer.log_dir, "results", "vtwt-test.parquet"))
    assert result.table().to_pylist() == saved.to_pylist()
    assert result.table().schema.metadata == saved.schema.metadata


def test_evaluate_accepts_a_benchmark_and_a_split(trials):
    dev = evaluate(Shades(), VTWT(str(trials)), split="dev", controls=False)
    test = evaluate(Shades(), VTWT(trials), controls=False)
    assert (len(dev.results), len(test.results)) == (8, 16)
    assert {result.split for result in dev.results} == {"dev"}
    assert {result.control for result in test.results} == {""}


def test_evaluate_restores_the_mode_of_each_module(trials):
    model = Shades().train()
    model.dropout.eval()
    first = evaluate(model, "vtwt", trials=trials, controls=False)
    assert (model.training, model.dropout.training) == (True, False)
    model.dropout.train()
    assert evaluate(model, "vtwt", trials=trials, controls=False).results == first.results
    assert model.dropout.training


@pytest.mark.parametrize(
    ("benchmark", "options", "message"),
    [
        ("vtwtt", {"trials": "x.csv"}, "no benchmark is called 'vtwtt'; there are alignment, baby_winoground, "),
        ("vtwt", {}, "pass the list of benchmark 'vtwt' as trials="),
        ("caption", {"trials": "vtwt.csv"}, "Shades lacks a method that caption needs"),
        ("labeled_s", {"trials": "vtwt.csv"}, "no column 'trial_id'"),
    ],
)
def test_evaluate_reports_mistakes(trials, monkeypatch, benchmark, options, message):
    monkeypatch.chdir(trials.parent)
    with pytest.raises(UserError, match=message):
        evaluate(Shades(), benchmark, **options)


def test_evaluate_refuses_a_list_for_a_benchmark_that_has_one(trials):
    with pytest.raises(UserError, match="belong to the benchmark"):
        evaluate(Shades(), VTWT(trials), trials=trials)


def test_evaluate_refuses_a_split_without_trials(trials):
    trials.write_text(trials.read_text().replace(",dev", ",test"))
    with pytest.raises(UserError, match="no trial is in the dev split"):
        evaluate(Shades(), "vtwt", trials=trials, split="dev")


def test_result_has_the_interval_of_the_report(trials, tmp_path):
    result = evaluate(Shades(), "vtwt", trials=trials)
    result.save(tmp_path / "logs" / "shades" / "version_0" / "results" / "vtwt-test.parquet")
    groups = [one.group for one in result.results if not one.control]
    assert len(set(groups)) < len(groups)
    expected = score(find_rows(tmp_path / "logs")[0][0], VTWT_COLUMN)
    assert result.mean == expected.mean
    assert result.interval() == (expected.low, expected.high)
    assert f"{expected.mean:.3f}  [{expected.low:.3f}, {expected.high:.3f}]  0.500" in repr(result)


class Evidence:
    """log p(text | image) with a strong prior of the text, and an effect of the image's shade."""

    likelihood = "evidence"

    def preprocess(self, image):
        return torch.tensor([[[image.getpixel((0, 0))[0] / 100]]])

    def score(self, images_BCHW, texts, wanted_BT=None):
        prior_T = torch.tensor([-float(len(text)) for text in texts], dtype=torch.float64)
        return prior_T + images_BCHW.flatten(1) * torch.tensor([float(len(text) % 3) for text in texts])

    def score_texts(self, texts):
        return torch.zeros(len(texts))


def test_evidence_is_relative_to_dev_images(trials):
    benchmark = VTWT(trials)
    result = evaluate(Evidence(), benchmark)
    assert sorted(benchmark.references) == sorted(f"{number}.png" for number in range(0, 24, 3))
    assert result.facts["score"] == "evidence, without the end token, relative to 8 images"
    assert "text_only" not in {one.control for one in result.results}
    shades = torch.tensor([number / 10 for number in range(0, 24, 3)], dtype=torch.float64)
    for one in (one for one in result.results if not one.control):
        shade = int(one.images[0].removesuffix(".png")) / 10
        slopes = [len(text) % 3 for text in one.texts]
        expected = [slope * shade - float((slope * shades).exp().mean().log()) for slope in slopes]
        assert one.scores == pytest.approx(expected)  # the prior has no effect


def test_result_is_saved_with_what_a_report_needs(trials, tmp_path):
    result = evaluate(Shades(), "vtwt", trials=trials)
    result.save(tmp_path / "out" / "vtwt.parquet")
    metadata = {
        key.decode(): value.decode() for key, value in pq.read_schema(tmp_path / "out/vtwt.parquet").metadata.items()
    }
    assert metadata["title"] == "VTWT"
    accuracy, *apart = json.loads(metadata["measures"])
    facts = {"title": "", "chance": 0.5, "main": True, "correlation": False, "effective": None}
    assert accuracy == {"name": "accuracy", **facts}
    assert metadata["has_images"] == "True"
    assert [one["name"] for one in apart] == ["accuracy_seen", "accuracy_unseen"]
    assert (metadata["trials"], metadata["missing_items"]) == (str(trials), "0")


class Brighter(ForcedChoice):
    """A benchmark from outside the package."""

    name = "brighter"
    title = "Brighter"
    measures: ClassVar = {"accuracy": Measure(chance=1 / 2)}

    def read(self, path):
        """Return one trial for each row."""
        return [
            Trial(str(row.line), split_of(row, str(row.line), 0.0, path), "", ((row["one"], "x"), (row["other"], "x")))
            for row in read_rows(path, ("one", "other"))
        ]


def test_evaluate_finds_a_benchmark_from_outside_by_name(trials):
    (trials.parent / "pairs.csv").write_text("one,other\n1.png,2.png\n")
    result = evaluate(Shades(), "brighter", trials=trials.parent / "pairs.csv", controls=False)
    assert result.metrics().keys() == {"brighter_test"}


def test_callback_refuses_two_benchmarks_of_one_name(trials):
    trainer = Trainer(accelerator="cpu", callbacks=[EvaluationCallback([VTWT(trials), VTWT(trials)])], logger=False)
    with pytest.raises(UserError, match="two benchmarks of this run are called vtwt"):
        trainer.test(Shades(), DataLoader([0]), verbose=False)


def test_callback_does_not_require_a_scorer_without_validation(trials):
    callback = EvaluationCallback([LabeledS(trials.parent / "missing.csv")])
    trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False)
    callback.setup(trainer, torch.nn.Linear(1, 1), "predict")  # predict evaluates nothing, so no list is read


def test_benchmarks_import_lightning_in_callbacks_only():
    folder = Path(babyvlm.benchmarks.__file__).parent
    for path in folder.glob("*.py"):
        names = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        }
        callback = path.stem in ("evaluation_callback", "contamination_check")
        assert callback or not any(name.startswith("lightning") for name in names), path
        assert not any(name.startswith("babyvlm.models") for name in names), path


class Counting(Shades):
    """Counts the images that it preprocesses."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def preprocess(self, image):
        self.seen.append(image.getpixel((0, 0)))
        return super().preprocess(image)


def test_images_are_decoded_once_for_all_evaluations_of_a_model(trials):
    model = Counting().eval()
    first = evaluate(model, "vtwt", trials=trials)
    assert len(model.seen) == len(set(model.seen)) == 16 + 1  # and the blank one
    assert evaluate(model, "vtwt", trials=trials).results == first.results
    assert len(model.seen) == 17
    Image.new("RGB", (4, 4), (255, 0, 0)).save(trials.parent / "1.png")
    assert evaluate(model, "vtwt", trials=trials).results != first.results
    assert len(model.seen) == 18
    assert (
        evaluate(Shades().eval(), "vtwt", trials=trials, batch_size=3).mean
        == evaluate(model, "vtwt", trials=trials, batch_size=64).mean
    )


def test_kept_images_are_bounded(trials, monkeypatch):
    monkeypatch.setattr(scoring, "KEPT_BYTES", 5 * 4)
    model = Counting().eval()
    for _ in range(2):
        evaluate(model, "vtwt", trials=trials, controls=False, batch_size=3)
    assert len(model.seen) == 2 * 16 - 5
