"""Held-out utterances by age and child: the builder, and scorers whose result is known."""

import csv
import hashlib
import json

import pyarrow.parquet as pq
import pytest
import torch

from babyvlm import evaluate
from babyvlm.benchmark_builder.held_out import held_out
from babyvlm.benchmarks import HeldOutUtterances
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import RECORDING_FIELDS, write_store
from babyvlm.errors import UserError
from babyvlm.io.images import open_rgb

CHILDREN = {"S": (6.5, 9.5), "A": (7.0, 12.0)}
WORDS = ["ball", "dog", "cup", "shoe", "book", "tree"]


@pytest.fixture(scope="module")
def store(tmp_path_factory, draw_jpeg):
    """Of each child and age 12 test utterances of 6 texts with 2 frames each, and a training utterance."""
    rows = []
    for child, ages in CHILDREN.items():
        for age in ages:
            for number in range(13):
                for frame in range(2):
                    rows.append(
                        {
                            "key": f"{child}_{age}_{number:03}_{frame}",
                            "image": draw_jpeg(len(rows), 24),
                            "utterance": f"the {WORDS[number % 6]}",
                            "source": "tiny",
                            "group": f"{child}_{age}_{number:03}",
                            "split": "train" if number == 12 else "test",
                            "child": child,
                            "date": None,
                            "age_months": age,
                        }
                    )
    path = tmp_path_factory.mktemp("held") / "store"
    options = {"arguments": {}, "funnel": Funnel("tiny"), "licensed": True, "extra_fields": RECORDING_FIELDS}
    return write_store(path, rows, **options)


@pytest.fixture(scope="module")
def built(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "held-out"
    held_out(store.path, out, by="child-and-age", per_category=10)
    return out


def rows_of(folder):
    with (folder / "held_out.csv").open() as file:
        return list(csv.DictReader(file))


def test_builder_draws_trials_within_a_category(store, built, tmp_path):
    rows = rows_of(built)
    trials = {}
    for row in rows:
        trials.setdefault(row["trial_id"], []).append(row)
    categories = {row["category"] for row in rows}
    assert categories == {"S, 6-9 months", "S, 9-12 months", "A, 6-9 months", "A, 12-15 months"}
    assert len(trials) == 40
    pairs = {f"frames/{number:09d}.jpg": pair for number, pair in enumerate(store)}
    for options in trials.values():
        assert len({row["image"] for row in options}) == 4
        texts = {pairs[row["image"]].utterance for row in options}
        assert len(texts) == 4
        assert {pairs[row["image"]].split for row in options} == {"test"}
        assert [pairs[row["image"]].utterance for row in options if row["correct"] == "1"] == [options[0]["utterance"]]
        for row in options:
            child = row["category"][0]
            assert pairs[row["image"]].key.startswith(child)
            assert (built / row["image"]).read_bytes() == pairs[row["image"]].image
    assert len({tuple(row["correct"] for row in options) for options in trials.values()}) == 4  # places are shuffled
    manifest = json.loads((built / "benchmark.json").read_text())
    assert (manifest["licensed"], manifest["world"]) == (True, "real")
    held_out(store.path, tmp_path / "again", by="child-and-age", per_category=10)
    assert rows_of(tmp_path / "again") == rows
    held_out(store.path, tmp_path / "child", by="child")
    assert {row["category"] for row in rows_of(tmp_path / "child")} == set(CHILDREN)
    held_out(store.path, tmp_path / "age", by="age", months=6)
    assert {row["category"] for row in rows_of(tmp_path / "age")} == {"6-12 months", "12-18 months"}


def test_builder_refuses_stores_without_ages(tiny_store, store, tmp_path):
    with pytest.raises(UserError, match="has no column child"):
        held_out(tiny_store(["a ball"] * 8, splits=["test"] * 8).path, tmp_path / "out")
    with pytest.raises(UserError, match=r"no category has 4 different utterances.* split|no category has 4"):
        held_out(store.path, tmp_path / "out", months=0.001, split="val")
    with pytest.raises(UserError, match="both must be above 0"):
        held_out(store.path, tmp_path / "out", months=0)
    assert not (tmp_path / "out").exists()


class Scorer:
    """Scores an image, which it recognizes by its bytes, with a text."""

    def __init__(self, rule):
        self.rule = rule

    def preprocess(self, image):
        digest = hashlib.sha256(image.tobytes()).digest()
        return torch.tensor([float(int.from_bytes(digest[:3], "big"))])[:, None, None]

    def score(self, images_BCHW, texts, wanted_BT=None):
        return torch.tensor([[self.rule(float(image), text) for text in texts] for image in images_BCHW[:, 0, 0, 0]])


def number_of(folder, name):
    return float(Scorer(None).preprocess(open_rgb(folder / name))[0, 0, 0])


def test_scorers_of_known_result(built):
    """An oracle, its opposite, constants, an image-blind and a random scorer."""
    right = {(number_of(built, row["image"]), row["utterance"]) for row in rows_of(built) if row["correct"] == "1"}
    benchmark = HeldOutUtterances(built / "held_out.csv")
    oracle = evaluate(Scorer(lambda image, text: float((image, text) in right)), benchmark)
    assert oracle.mean == 1.0
    assert oracle.means("blank")["accuracy"] == 0.25  # the same image four times
    assert evaluate(Scorer(lambda image, text: -float((image, text) in right)), benchmark, controls=False).mean < 0.05
    for blind in (lambda image, text: 0.0, lambda image, text: float(len(text))):
        assert evaluate(Scorer(blind), benchmark, controls=False).mean == 0.25
    random = evaluate(Scorer(lambda image, text: (image * 7919 + len(text)) % 1009), benchmark, controls=False)
    low, high = random.interval()
    assert low < 0.25 < high
    by_child = evaluate(
        Scorer(lambda image, text: float((image, text) in right)), "held_out", trials=built / "held_out.csv"
    )
    categories = by_child.table().to_pydict()["category"]
    assert len(set(categories)) == 4


def test_list_is_checked(built, tmp_path):
    lines = (built / "held_out.csv").read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join(lines[:4]))
    with pytest.raises(UserError, match="trial 0 has 3 rows"):
        HeldOutUtterances(tmp_path / "short.csv", built).load()
    (tmp_path / "mixed.csv").write_text("\n".join([lines[0], lines[1].replace("the ", "a "), *lines[2:5]]))
    with pytest.raises(UserError, match="its rows differ in utterance"):
        HeldOutUtterances(tmp_path / "mixed.csv", built).load()


def test_results_declare_chance_and_category(built, tmp_path):
    result = evaluate(Scorer(lambda image, text: image), HeldOutUtterances(built / "held_out.csv"), controls=False)
    result.save(tmp_path / "held_out-test.parquet")
    metadata = pq.read_schema(tmp_path / "held_out-test.parquet").metadata
    assert metadata[b"category"] == b"age and child"
    assert json.loads(metadata[b"measures"])[0]["chance"] == 0.25
