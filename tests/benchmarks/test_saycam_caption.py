import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from babyvlm.adapters import lmms_eval_tasks as tasks
from babyvlm.benchmarks import EvaluationCallback, SAYCamCaption
from babyvlm.benchmarks.evaluate import evaluate
from babyvlm.benchmarks.meteor import meteor_nltk
from babyvlm.benchmarks.meteor_jar import meteor_15
from babyvlm.types import Captioner
from support.small_meteor import small_meteor

THINGS = ["a red ball", "a blue cup", "the dog runs"]


class Speaker(LightningModule):
    """Captions the thing in the image by a rule; the caption of a blank image is empty."""

    def __init__(self, rule=lambda thing: thing):
        super().__init__()
        self.rule, self.asked, self.limits, self.modes = rule, Counter(), set(), set()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def preprocess(self, image):
        return torch.tensor(float(image.getpixel((0, 0))[0])).reshape(1, 1, 1)

    def caption(self, images_BCHW, max_new_tokens=25):
        numbers = [int(number) for number in images_BCHW.flatten().tolist()]
        self.asked.update(numbers)
        self.limits.add(max_new_tokens)
        self.modes.add((self.training, torch.is_grad_enabled()))
        return [self.rule(THINGS[number]) if number < 3 else "" for number in numbers]

    def score_texts(self, texts):
        raise AssertionError("a caption is asked of an image")

    def validation_step(self, batch, batch_idx):
        pass

    def test_step(self, batch, batch_idx):
        pass


@pytest.fixture(scope="module", autouse=True)
def meteor(tmp_path_factory):
    with small_meteor(tmp_path_factory.mktemp("meteor")):
        yield


@pytest.fixture
def captions(tmp_path):
    for number in range(3):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [[f"{number}.png", THINGS[number], half] for number, half in zip((0, 1, 2, 0, 1, 0), "ttddtt", strict=True)]
    with (tmp_path / "caption.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["image", "text", "half"], *([*row[:2], {"t": "test", "d": "dev"}[row[2]]] for row in rows)]
        )
    return tmp_path / "caption.csv"


def trainer(folder, benchmark, batch_size=64):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder / "logs"),
        callbacks=[EvaluationCallback([benchmark], batch_size)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.usefixtures("no_wordnet")
def test_caption_scores_oracle_and_silent_model(captions, capsys):
    for rule, score in ((lambda thing: thing, meteor_15(["a red ball"], ["a red ball"])[0]), (lambda thing: "", 0)):
        model = Speaker(rule)
        run = trainer(captions.parent, SAYCamCaption(captions), batch_size=2)
        (metrics,) = run.test(model, DataLoader([0]), verbose=False)
        assert metrics == {"caption_meteor_15_test": pytest.approx(score)}
        assert model.asked == {0: 1, 1: 1, 124: 1}  # each image once, and an empty one
        assert model.limits == {25}
        assert model.modes == {(False, False)}
    assert (
        "METEOR by NLTK is left out: NLTK's METEOR needs WordNet and punkt_tab. Download them with: "
        in capsys.readouterr().out
    )


@pytest.mark.usefixtures("wordnet")
def test_caption_reports_both_meteors_by_name(captions):
    model = Speaker(lambda thing: thing.replace("cup", "mug"))
    run = trainer(captions.parent, SAYCamCaption(captions))
    (metrics,) = run.test(model, DataLoader([0]), verbose=False)
    right = meteor_nltk(["a red ball"], ["a red ball"])[0]  # a synonym is as good, and the chunk as long
    assert metrics["caption_meteor_nltk_test"] == pytest.approx(right)
    assert 0.5 < metrics["caption_meteor_15_test"] < 1  # the jar knows no synonyms beside the paraphrases of its table


@pytest.mark.usefixtures("no_wordnet")
def test_results_contain_captions_and_controls(captions):
    run = trainer(captions.parent, SAYCamCaption(captions))
    run.test(Speaker(lambda thing: f"look {thing}"), DataLoader([0]), verbose=False)
    rows = pq.read_table(Path(run.log_dir, "results", "caption-test.parquet")).to_pylist()
    by_control = {c: [row for row in rows if row["control"] == c] for c in ("", "blank", "shuffled")}
    assert sum(map(len, by_control.values())) == len(rows) == 3 * 2
    assert [row["item"] for row in by_control[""]] == ["2:0.png", "3:1.png"]
    assert [row["texts"] for row in by_control[""]] == [[THINGS[n]] * 2 for n in (0, 1)]
    assert [row["output"] for row in by_control[""]] == [f"look {THINGS[n]}" for n in (0, 1)]
    assert [row["output"] for row in by_control["shuffled"]] == [f"look {THINGS[n]}" for n in (1, 0)]
    assert [row["output"] for row in by_control["blank"]] == [""] * 2
    references = [THINGS[n] for n in (0, 1)]
    for view in by_control.values():
        assert [row["credit"] for row in view] == meteor_15([row["output"] for row in view], references)
    means = [sum(row["credit"] for row in by_control[control]) for control in ("", "shuffled", "blank")]
    assert means[0] > means[1] > means[2] == 0


@pytest.mark.usefixtures("no_wordnet")
def test_caption_counts_the_closest_reference_and_its_floors(tmp_path):
    texts = {0: ["the dog runs", "a red ball"], 1: ["a blue cup", "a blue cup is here"], 2: ["a red cup"]}
    for number in texts:
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "list.csv").write_text(
        "image,text\n" + "".join(f"{number}.png,{text}\n" for number, found in texts.items() for text in found)
    )
    result = evaluate(Speaker(), SAYCamCaption(tmp_path / "list.csv"), controls=False)
    captions = [THINGS[number] for number in texts]
    best = [max(meteor_15([caption] * len(texts[n]), texts[n])) for n, caption in enumerate(captions)]
    assert [one.credit for one in result.results] == best
    assert best[0] == meteor_15(["a red ball"], ["a red ball"])[0]
    found = json.loads(result.facts["floors"])["meteor_15"]
    assert found["oracle"] == pytest.approx(
        (meteor_15(["the dog runs"], ["a red ball"])[0] + meteor_15(["a blue cup"], ["a blue cup is here"])[0]) / 2
    )
    salad = "a cup blue"  # three words as the median reference has, in the order of their frequency
    for name, caption in (("constant", "a blue cup"), ("word salad", salad)):
        expected = [max(meteor_15([caption] * len(found), found)) for found in texts.values()]
        assert found[name] == pytest.approx(sum(expected) / 3), name


@pytest.mark.usefixtures("wordnet")
def test_task_of_lmms_eval_judges_captions_as_evaluate(tmp_path):
    """One document for each image, with all of its references; a repeated document counts once."""
    texts = {0: ["the dog runs", "a red ball"], 1: ["a blue mug is here"], 2: ["a red cup", "the cup"]}
    for number in texts:
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "list.csv").write_text(
        "image,text\n" + "".join(f"{number}.png,{text}\n" for number, found in texts.items() for text in found)
    )
    tasks.write_tasks(tmp_path / "tasks", saycam_caption=tmp_path / "list.csv")
    documents = [json.loads(line) for line in (tmp_path / "tasks" / "saycam_caption.json").read_text().splitlines()]
    assert [one["texts"] for one in documents] == list(texts.values())
    entries = [tasks.captioned(one, [THINGS[number]])["meteor_15"] for number, one in enumerate(documents)]
    expected = evaluate(Speaker(), SAYCamCaption(tmp_path / "list.csv"), controls=False).means()
    assert tasks.mean_meteor_15([*entries, entries[0]]) == pytest.approx(expected["meteor_15"])
    assert tasks.mean_meteor_nltk([*entries, entries[0]]) == pytest.approx(expected["meteor_nltk"])
    for measure in expected:
        assert f"{{metric: {measure}, aggregation: !function functions.mean_{measure}," in (
            (tmp_path / "tasks" / "babyvlm_saycam_caption.yaml").read_text()
        )


@pytest.mark.usefixtures("no_wordnet")
def test_validation_uses_dev_without_controls(captions):
    model = Speaker()
    run = trainer(captions.parent, SAYCamCaption(captions))
    (metrics,) = run.validate(model, DataLoader([0]), verbose=False)
    assert set(metrics) == {"caption_meteor_15_dev"}
    assert model.asked == {0: 1, 2: 1}


class Mute(LightningModule):
    def test_step(self, batch, batch_idx):
        pass


def test_caption_skips_model_without_captions(tmp_path):
    assert not isinstance(Mute(), Captioner)
    run = trainer(tmp_path, SAYCamCaption(tmp_path / "no-such-list.csv"))
    assert run.test(Mute(), DataLoader([0]), verbose=False) == [{}]
    assert not Path(run.log_dir, "results").exists()


@pytest.mark.soak
@pytest.mark.usefixtures("wordnet")
def test_captions_are_equal_on_two_processes(captions):
    found = []
    for devices in (1, 2):
        run = Trainer(
            accelerator="cpu",
            devices=devices,
            strategy="ddp_fork" if devices > 1 else "auto",
            logger=CSVLogger(captions.parent / f"logs{devices}", version=0),
            enable_progress_bar=False,
            callbacks=[EvaluationCallback([SAYCamCaption(captions)], batch_size=1)],
            enable_model_summary=False,
        )
        run.test(Speaker(lambda thing: f"look {thing}"), DataLoader([0]), verbose=False)
        results = captions.parent / f"logs{devices}" / "lightning_logs" / "version_0" / "results"
        found.append(pq.read_table(results / "caption-test.parquet"))
    assert found[0].num_rows == 2 * 3 * 2  # measures, controls, items
    assert found[0].equals(found[1])
