from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
import torch
from PIL import Image

from babyvlm.benchmarks import BabyWinoground
from babyvlm.benchmarks.scoring import indistinguishable, report_truncated_texts, score_pairs, vocabulary_facts
from babyvlm.benchmarks.trials import Trial
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError

HEADER = "instance_id,positive_phrase,negative_phrase,image,image_tag"
CHANCES = {
    "overall": 1 / 6,
    "text": 1 / 4,
    "image": 1 / 4,
    "positive": 1 / 2,
    "positive_strict": 1 / 3,
    "negative": 1 / 2,
    "negative_strict": 1 / 3,
}


def judged(scores):
    """Credit by measure of one instance, of its four scores (i+,p+), (i+,p-), (i-,p+), (i-,p-)."""
    trial = Trial("i", "test", "", (("+", "p"), ("+", "n"), ("-", "p"), ("-", "n")))
    return {measure: credit for measure, credit, _ in BabyWinoground(Path("x")).judge(trial, tuple(scores))}


def test_winoground_chance_equals_paper():
    # A scorer that knows nothing is as likely to give one order of the four as another.
    orders = list(permutations((0.1, 0.2, 0.3, 0.4)))
    total = Counter()
    for scores in orders:
        total.update(judged(scores))
    assert {measure: total[measure] / len(orders) for measure in CHANCES} == pytest.approx(CHANCES)


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        ((1, 0, 0, 1), set(CHANCES)),  # the oracle
        ((0, 1, 1, 0), set()),  # its adversary
        ((5, 5, 5, 5), set()),  # a constant: ties never help
        ((1, 0, 1, 0), {"positive"}),  # a prior for one phrase looks right in one context, wrong in the other
        ((0, 1, 0, 1), {"negative"}),
        ((2, 1, 1, 1), {"positive", "positive_strict"}),
        ((3, 1, 5, 6), {"positive", "negative", "negative_strict", "text"}),
        ((6, 1, 2, 1), {"positive", "positive_strict"}),  # s(i-,p-) ties with s(i+,p-)
        ((3, 5, 1, 6), {"negative", "negative_strict", "image"}),
    ],
)
def test_winoground_judges_each_measure(scores, right):
    assert {measure for measure, credit in judged(scores).items() if credit} == right


def read(tmp_path, *rows, header=HEADER):
    path = tmp_path / "w.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return BabyWinoground(path).read(path)


def test_winoground_reads_rows_in_any_order(tmp_path):
    trials = read(
        tmp_path,
        "7,wash cup,kick ball,b.png,negative",
        "",
        "8,a,b,c.png,positive",
        "7,wash cup,kick ball,a.png,positive",
        "",
        "8,a,b,d.png,negative",
    )
    assert [trial.item for trial in trials] == ["7", "8"]
    assert trials[0].options == (
        ("a.png", "wash cup"),
        ("a.png", "kick ball"),
        ("b.png", "wash cup"),
        ("b.png", "kick ball"),
    )
    assert {trial.split for trial in trials} == {"test"}  # the authors' list is a test set as a whole


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["7,a,b,x.png,positive"], "instance 7 has rows tagged positive; it needs one positive, one negative"),
        (["7,a,b,x.png,positive", "7,a,b,y.png,positive"], "instance 7 has rows tagged positive, positive"),
        (["7,a,b,x.png,positive", "7,a,b,y.png,other"], "instance 7 has rows tagged positive, other"),
        (["7,a,b,x.png,positive", "7,a,b,y.png,negative", "7,a,b,z.png,negative"], "tagged positive, negative, neg"),
        (["7,a,b,x.png,positive", "7,a,c,y.png,negative"], "instance 7: its rows differ in a phrase or half"),
        (["", "", "7,a,b,x.png,positive", "", "7,a,,y.png,negative"], "row 6: negative_phrase is empty"),
    ],
)
def test_winoground_reports_malformed_lists(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, *rows)


class Noise:
    """Another score each time it is asked, and a vocabulary."""

    def __init__(self, vocabulary):
        self.vocabulary, self.asked = Vocabulary(vocabulary), []

    def preprocess(self, image):
        return torch.zeros(1, 1, 1)

    def score(self, images_BCHW, texts, wanted_BT=None):
        self.asked.append(list(texts))
        return torch.rand(len(images_BCHW), len(texts))


def test_indistinguishable_phrases_tie_and_are_scored_once(tmp_path, vocabulary):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    scorer = Noise(vocabulary)
    texts = ["zebra red", "yak red", "Yak red", "red ball", "ball red"]
    assert indistinguishable(scorer, texts) == {
        "Yak red": "Yak red",
        "yak red": "Yak red",
        "zebra red": "Yak red",
        "ball red": "ball red",
        "red ball": "red ball",
    }
    scores = score_pairs(scorer, [("a.png", text) for text in texts], tmp_path, device=torch.device("cpu"))
    assert scorer.asked == [["Yak red", "ball red", "red ball"]]
    assert scores["a.png", "zebra red"] == scores["a.png", "yak red"] == scores["a.png", "Yak red"]
    assert len(set(scores.values())) == 3


def test_truncated_texts_tie_and_are_reported_once(tmp_path, vocabulary, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    scorer = Noise(vocabulary)
    texts = ["look at the red ball", "look at the red cup", "look at the red dog", "look at the ball"]
    assert len(set(indistinguishable(scorer, texts).values())) == 4
    scorer.max_tokens = 6
    assert set(indistinguishable(scorer, texts).values()) == {"look at the ball", "look at the red ball"}
    scores = score_pairs(scorer, [("a.png", text) for text in texts], tmp_path, device=torch.device("cpu"))
    assert len({scores["a.png", text] for text in texts}) == 2
    for _ in range(2):
        report_truncated_texts(scorer, [*texts, *texts], tmp_path / "list.csv")
    report_truncated_texts(scorer, texts[3:], tmp_path / "other.csv")
    report_truncated_texts(object(), texts, tmp_path / "list.csv")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "list.csv: 3 of 4 texts are truncated to the model's 6 tokens" in printed
    assert "the longest has 7" in printed


def test_vocabulary_facts_count_unknown_words_and_alike_items(vocabulary):
    texts = [["look at the zebra", "look at the yak"], ["red yak", "red ball"], ["look", "look"]]
    facts = {"unknown_words": f"{3 / 14:.4f}", "items_alike": "1"}  # two texts that are one text are no blur
    assert vocabulary_facts(Noise(vocabulary), texts) == facts
    assert vocabulary_facts(Noise(vocabulary), [["look"]]) == {"unknown_words": "0.0000", "items_alike": "0"}
    assert vocabulary_facts(object(), texts) == {}
