"""Correlation of accuracy with word frequency and age of acquisition."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from babyvlm.errors import UserError
from babyvlm.report.command import report
from babyvlm.report.runs import find_rows
from babyvlm.report.word_frequency import rank_correlation, read_norms, training_counts, word_accuracy, word_table
from support.made_runs import make_run

WORDS = ["ball", "cup", "dog", "hat", "key", "sea"]
COUNTS = [9, 7, 5, 3, 1, 0]
CREDITS = [[1, 1], [1, 1], [1, 0], [0, 1], [0, 0], [1, 0]]


@pytest.fixture
def logs(tmp_path, tiny_store):
    said = [f"a {word} here" for word, count in zip(WORDS, COUNTS, strict=True) for _ in range(count)]
    said += ["balloon", "the cup", "the cup", "the dog"]  # frames of one utterance; a pair of another split
    groups = [*(f"g{place}" for place in range(len(said) - 3)), "same", "same", "other"]
    splits = ["train"] * (len(said) - 1) + ["val"]
    tiny_store(said, groups=groups, splits=splits, path=tmp_path / "stores" / "home")
    config = f"data: {{init_args: {{stores: {tmp_path / 'stores'}, sources: [{{store: home}}]}}}}\n"
    categories = [word for word in WORDS for _ in range(2)]
    for seed in (0, 1):
        credit = [value for pair in CREDITS for value in pair]
        row = make_run(
            tmp_path / "logs", "CVCL-filtered", seed, config=config, seed=seed, categories=categories, labeled_s=credit
        )
        (row / "checkpoints").mkdir()
    make_run(tmp_path / "logs", "CLIP", 0, categories=categories, labeled_s=credit)
    return tmp_path / "logs"


def test_words_are_counted_in_training_utterances(logs):
    row = next(row for row in find_rows(logs)[0] if row.name == "CVCL-filtered")
    (benchmark,) = {results.columns for run in row.runs for results in run.results.values()}
    accuracy = word_accuracy(row, benchmark)
    assert accuracy == dict(zip(WORDS, [1, 1, 0.5, 0.5, 0, 0.5], strict=True))
    counts = training_counts(row, accuracy)
    assert counts == dict(zip(WORDS, [9, 8, 5, 3, 1, 0], strict=True))
    table = word_table([row])
    rho = spearmanr(list(accuracy.values()), list(counts.values())).statistic
    assert table.rows[0][:5] == ["CVCL-filtered", "2", "Labeled-S", "utterances in training", "6"]
    assert table.rows[0][5].startswith(f"{rho:+.3f} [")


def test_words_of_a_tested_run_are_those_of_its_training(logs):
    """``Trained`` has no stores of its own."""
    source = logs / "CVCL-filtered" / "version_0"
    config = f"model: {{class_path: babyvlm.models.zero_shot.Trained, init_args: {{source: {source}}}}}\n"
    make_run(logs, "CVCL-suites", 0, config=config, categories=WORDS, labeled_s=[1] * len(WORDS))
    row = next(row for row in find_rows(logs)[0] if row.name == "CVCL-suites")
    assert training_counts(row, dict.fromkeys(WORDS, 1.0)) == dict(zip(WORDS, [9, 8, 5, 3, 1, 0], strict=True))


def test_norms_correlate_every_row(logs, tmp_path, capsys):
    norms = tmp_path / "norms.csv"
    norms.write_text(
        "word,age,source\n" + "".join(f"{word.title()},{20 + place},x\n" for place, word in enumerate(WORDS))
    )
    report(logs, details=True, age_of_acquisition=norms)
    rows = find_rows(logs)[0]
    table = word_table(rows, read_norms(norms))
    found = [(cells[0], cells[3]) for cells in table.rows]
    assert found == [
        ("CLIP", "age of acquisition"),
        ("CVCL-filtered", "utterances in training"),
        ("CVCL-filtered", "age of acquisition"),
    ]
    assert "age of acquisition" in capsys.readouterr().out
    report(logs, tmp_path / "out", age_of_acquisition=norms)
    assert "Accuracy and words" in (tmp_path / "out" / "report.md").read_text()
    assert word_table(rows[:1]) is None  # no training store, no norms


def test_cosines_are_no_accuracy(logs):
    """Alignment has object categories too, but its first measure has no chance."""
    measures = [{"name": "accuracy", "title": "cosine", "chance": None}]
    facts = {"title": "Alignment", "category": "object category", "measures": json.dumps(measures)}
    credit = [place / 10 for place in range(len(WORDS))]
    make_run(logs, "CLIP-suites", 0, categories=WORDS, facts=facts, labeled_s=credit)
    rows = [row for row in find_rows(logs)[0] if row.name == "CLIP-suites"]
    norms = {word: float(place) for place, word in enumerate(WORDS)}
    assert word_table(rows, norms) is None
    measures[0]["chance"] = 0.25
    make_run(
        logs, "CLIP-objects", 0, categories=WORDS, facts=facts | {"measures": json.dumps(measures)}, labeled_s=credit
    )
    rows = [row for row in find_rows(logs)[0] if row.name == "CLIP-objects"]
    assert [cells[2] for cells in word_table(rows, norms).rows] == ["Alignment"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word\nball\n", "no column 'age'"),
        ("word,age\nball,soon\n", "row 2: age is 'soon', must be a number"),
        ("word,age\ncup,3\nball,4\nCup ,9\n", "row 4: the word 'cup' occurs twice"),
    ],
)
def test_malformed_norms_are_user_errors(tmp_path, text, message):
    (tmp_path / "norms.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_norms(tmp_path / "norms.csv")


def test_rank_correlation_covers_the_truth():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        x = rng.normal(size=40)
        y = 0.6 * x + 0.8 * rng.normal(size=40)
        _, low, high, _ = rank_correlation(x.tolist(), y.tolist())
        inside += low < 6 / np.pi * np.arcsin(0.6 / 2) < high  # Spearman's of a bivariate normal (Pearson 1907)
    assert 0.9 < inside / 300 < 0.99
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) == (0, -1, 1, 1)
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])[:3] == pytest.approx((1, 1, 1))
