import csv
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from babyvlm.benchmarks import VTWT, BabyWinoground, LabeledS
from babyvlm.benchmarks.results import RESULT_SCHEMA, result_table, write_results
from babyvlm.benchmarks.scoring import score_pairs
from babyvlm.benchmarks.trials import Row, Trial, read_rows, split_of, with_images
from babyvlm.errors import UserError
from babyvlm.types import ImageTextScorer, TrialResult

THINGS = ["ball", "cup", "dog", "bed", "soap"]
LABELED = ["trial_id", "target_category", "real_category", "image"]
TWO_WORD = ["image", "positive_phrase", "negative_phrase"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures whose red says which thing they show: ball0.png, ball1.png, ..."""
    folder = tmp_path_factory.mktemp("images")
    for number, thing in enumerate(THINGS):
        for copy in range(4):
            Image.new("RGB", (4, 4), (number * 10, copy, 0)).save(folder / f"{thing}{copy}.png")
    return folder


def labeled_rows(count, seed=0):
    """``count`` trials in the authors' form; the target stands anywhere among its four rows."""
    draw = random.Random(seed)
    rows = []
    for trial in range(count):
        shown = draw.sample(THINGS, 4)
        target = draw.choice(shown)
        rows += [[f"t{trial:04d}", target, thing, f"{thing}{draw.randrange(4)}.png"] for thing in shown]
    return rows


def two_word_rows(count, seed=0):
    draw = random.Random(seed)
    pairs = [draw.sample(THINGS, 2) for _ in range(count)]
    return [[f"{right}{draw.randrange(4)}.png", f"see {right}", f"see {wrong}"] for right, wrong in pairs]


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


class Rule:
    """A scorer that applies a rule to (thing in the image, text), and counts its calls."""

    def __init__(self, rule):
        self.rule, self.opened, self.encoded, self.wanted = rule, 0, Counter(), []

    def preprocess(self, image):
        self.opened += 1
        return torch.tensor(image.getpixel((0, 0))[:2]).reshape(2, 1, 1)

    def score(self, images_BCHW, texts, wanted_BT=None):
        seen = [tuple(image.flatten().tolist()) for image in images_BCHW]
        self.encoded.update(seen)
        self.wanted.append((seen, list(texts), wanted_BT))
        return torch.tensor([[float(self.rule(THINGS[red // 10], text)) for text in texts] for red, _ in seen])


SCORERS = {
    "constant": lambda thing, text: 0.25,
    "oracle": lambda thing, text: thing in text,
    "adversary": lambda thing, text: thing not in text,
}
WORTH = {
    "labeled_s": {"constant": 1 / 4, "oracle": 1, "adversary": 0},
    "vtwt": {"constant": 1 / 2, "oracle": 1, "adversary": 0},
}


def pairs_of(trials):
    return [option for trial in trials for option in trial.options]


def accuracy(benchmark, rule, root, batch_size=64):
    trials = benchmark.read(benchmark.path)
    scores = score_pairs(Rule(rule), pairs_of(trials), root, device=CPU, batch_size=batch_size)
    judged = [benchmark.judge(trial, tuple(scores[option] for option in trial.options)) for trial in trials]
    credit = [judgement.credit for (judgement,) in judged]
    return sum(credit) / len(credit)


@pytest.mark.parametrize(
    ("make", "header", "rows"), [(LabeledS, LABELED, labeled_rows(5)), (VTWT, TWO_WORD, two_word_rows(7))]
)
@given(data=st.data())
@settings(max_examples=15)
def test_chance_and_bounds_are_exact_for_any_row_order(tmp_path_factory, root, make, header, rows, data):
    path = tmp_path_factory.getbasetemp() / "permuted.csv"
    write_csv(path, header, data.draw(st.permutations(rows)))
    benchmark = make(path, root)
    for name, rule in SCORERS.items():
        assert accuracy(benchmark, rule, root, batch_size=3) == WORTH[benchmark.name][name]


@pytest.mark.parametrize(("options", "chance"), [(4, 1 / 4), (2, 1 / 2)])
def test_random_scores_are_near_chance(options, chance):
    draw = random.Random(1)
    credit = []
    for item in range(2000):
        pairs = tuple((f"{item}-{n}.png", "ball") for n in range(options))
        trial = Trial(str(item), "test", "", pairs, draw.randrange(options))
        credit.append(VTWT(Path("x")).judge(trial, tuple(draw.random() for _ in pairs))[0].credit)
    assert sum(credit) / 2000 == pytest.approx(chance, abs=0.035)  # three standard errors of the wider
    assert set(credit) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("scores", "answer", "credit", "choice"),
    [
        ((0.1, 0.9, 0.3, 0.2), 1, 1, 1),
        ((0.1, 0.9, 0.3, 0.2), 2, 0, 1),
        ((0.9, 0.9, 0.3, 0.2), 1, 1 / 2, 0),
        ((0.9, 0.1, 0.9, 0.9), 2, 1 / 3, 0),
        ((0.5, 0.5, 0.5, 0.5), 3, 1 / 4, 0),
        ((0.5, 0.9, 0.9, 0.5), 0, 0, 1),  # two wrong ones tie: the right one is not among them
        ((-3.0, -2.0, -2.0, -9.0), 3, 0, 1),
        ((float("-inf"), -2.0, -2.5, -9.0), 1, 1, 1),
    ],
)
def test_forced_choice_shares_credit_among_ties(scores, answer, credit, choice):
    trial = Trial("i", "dev", "c", tuple((f"{n}.png", "ball") for n in range(4)), answer)
    assert LabeledS(Path("x")).judge(trial, scores) == [("accuracy", credit, choice)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_score_pairs_encodes_images_once_and_requests_needed_pairs(tmp_path, root, batch_size):
    trials = LabeledS(write_csv(tmp_path / "l.csv", LABELED, labeled_rows(20))).read(tmp_path / "l.csv")
    needed = {option for trial in trials for option in trial.options}
    scorer = Rule(SCORERS["oracle"])
    assert isinstance(scorer, ImageTextScorer)
    scores = score_pairs(scorer, pairs_of(trials), root, device=CPU, batch_size=batch_size)
    images = {image for image, _ in needed}
    assert scorer.opened == len(images)
    assert len(scorer.encoded) == len(images)
    assert set(scorer.encoded.values()) == {1}
    marked = set()
    for seen, texts, wanted_BT in scorer.wanted:
        assert len(seen) <= batch_size
        assert wanted_BT.any(0).all()  # no text is asked for nothing
        marked |= {(f"{THINGS[seen[b][0] // 10]}{seen[b][1]}.png", texts[t]) for b, t in wanted_BT.nonzero().tolist()}
    assert marked == needed == set(scores)
    assert all(score == (image[:-5] == text) for (image, text), score in scores.items())


def test_score_pairs_refuses_nan_only_where_read(tmp_path, root):
    rows = [["ball0.png", "see ball", "see cup"], ["dog0.png", "see dog", "see bed"]]
    trials = VTWT(write_csv(tmp_path / "v.csv", TWO_WORD, rows)).read(tmp_path / "v.csv")
    elsewhere = Rule(lambda thing, text: float("nan") if (thing, text) == ("ball", "see bed") else thing in text)
    assert len(score_pairs(elsewhere, pairs_of(trials), root, device=CPU)) == 4
    broken = Rule(lambda thing, text: float("nan") if (thing, text) == ("dog", "see bed") else thing in text)
    with pytest.raises(UserError, match=r"'dog0\.png' with 'see bed' is not a number"):
        score_pairs(broken, pairs_of(trials), root, device=CPU)


GOOD = [
    ["a", "ball", "ball", "ball0.png"],
    ["a", "ball", "cup", "cup0.png"],
    ["a", "ball", "dog", "dog0.png"],
    ["a", "ball", "bed", "bed0.png"],
]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            ["trial_id", "target_category", "image", "x"],
            GOOD,
            ", row 1: no column 'real_category' (found trial_id, target_category, image, x)",
        ),
        (LABELED, [*GOOD[:2], ["a", "ball", " ", "dog0.png"], GOOD[3]], ", row 4: real_category is empty"),
        (LABELED, [*GOOD[:3], ["a", "ball", "bed"]], ", row 5: 3 cells in a table of 4 columns"),
        (LABELED, GOOD[:3], ": trial a has 3 rows, 1 of its target 'ball'; it needs 4 rows"),
        (LABELED, [*GOOD, GOOD[1]], ": trial a has 5 rows"),
        (LABELED, [*GOOD[:3], ["a", "ball", "ball", "ball1.png"]], ": trial a has 4 rows, 2 of its target 'ball'"),
        (LABELED, [["a", "cat", *row[2:]] for row in GOOD], ": trial a has 4 rows, 0 of its target 'cat'"),
        (
            LABELED,
            [*GOOD[:3], ["a", "cup", "bed", "bed0.png"]],
            ": trial a: its rows differ in target_category or half",
        ),
        ([*LABELED, "half"], [[*row, "train"] for row in GOOD], ": item a: half is 'train', must be dev or test"),
        ([*LABELED, "half"], [[*row, ""] for row in GOOD], ": item a: half is '', must be dev or test"),
        ([*LABELED, "half"], GOOD, ", row 2: 4 cells in a table of 5 columns"),
        (
            [*LABELED, "half"],
            [[*row, half] for row, half in zip(GOOD, ["dev", "dev", "dev", "test"], strict=True)],
            ": trial a: its rows differ in target_category or half",
        ),
        (LABELED, [], ": contains no rows"),
    ],
)
def test_labeled_s_reports_malformed_lists(tmp_path, header, rows, message):
    path = write_csv(tmp_path / "labeled_s.csv", header, rows)
    with pytest.raises(UserError) as refusal:
        LabeledS(path).read(path)
    assert str(refusal.value).startswith(f"{path}{message}")


def test_vtwt_reports_malformed_rows(tmp_path):
    path = write_csv(tmp_path / "vtwt.csv", TWO_WORD, [["ball0.png", "wash ball", ""]])
    with pytest.raises(UserError, match=r"vtwt\.csv, row 2: negative_phrase is empty"):
        VTWT(path).read(path)
    path = write_csv(path, [*TWO_WORD, "half"], [["ball0.png", "wash ball", "kick ball", "val"]])
    with pytest.raises(UserError, match=r"item 2:ball0\.png: half is 'val'"):
        VTWT(path).read(path)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00a", b"image\n\x00\n" + b"x" * 140_000])
def test_read_rows_refuses_files_that_are_not_lists(tmp_path, content):
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.csv") as refusal:
        read_rows(path, TWO_WORD)
    assert "\n" not in str(refusal.value)


def test_read_rows_accepts_spreadsheet_export(tmp_path):
    path = tmp_path / "v.csv"
    path.write_bytes('\ufeffimage,positive_phrase,negative_phrase\r\nball0.png,"wash, ball",kick ball\r\n'.encode())
    assert VTWT(path).read(path)[0].options == (("ball0.png", "wash, ball"), ("ball0.png", "kick ball"))


def trial_of(*images):
    return [Trial("1", "test", "", tuple((image, "ball") for image in images), 0)]


@pytest.mark.parametrize("image", ["../secret.png", "sub/../../secret.png", "/etc/passwd"])
def test_with_images_refuses_paths_outside_root(tmp_path, image):
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "root" / "sub").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"l\.csv: image {image} leaves"):
        with_images(trial_of(image), tmp_path / "root", tmp_path / "l.csv")


def test_with_images_names_all_missing_images(root, tmp_path):
    with_images(trial_of("ball0.png", "cup0.png"), root, tmp_path / "l.csv")
    lists = [*trial_of("ball0.png", "no2.png", "no1.png"), *trial_of("no1.png", "cup0.png")]
    with pytest.raises(UserError) as refusal:
        with_images(lists, root, tmp_path / "l.csv")
    assert str(refusal.value) == (
        f"{tmp_path}/l.csv: 2 of 4 images are missing or empty in {root} (allow_missing: true scores the rest): "
        "no1.png, no2.png"
    )
    whole = trial_of("ball0.png", "cup0.png")
    assert with_images([*lists, *whole], root, tmp_path / "l.csv", allow_missing=True) == whole
    with pytest.raises(UserError, match=r"l\.csv: every trial lacks an image"):
        with_images(lists, root, tmp_path / "l.csv", allow_missing=True)
    with pytest.raises(
        UserError, match=r"l\.csv: none of its 2 images is in .*\. Set their folder with images: FOLDER"
    ):
        with_images(trial_of("no1.png", "no2.png"), root, tmp_path / "l.csv", allow_missing=True)


def test_score_pairs_reports_broken_image(tmp_path, draw_jpeg):
    (tmp_path / "good.jpg").write_bytes(draw_jpeg(1))
    (tmp_path / "half.jpg").write_bytes(draw_jpeg(1)[:300])
    scorer = Rule(lambda thing, text: 0)
    with pytest.raises(UserError, match=r"half\.jpg: cannot be read as an image"):
        score_pairs(scorer, pairs_of(trial_of("good.jpg", "half.jpg")), tmp_path, device=CPU)


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(max_examples=20)
def test_split_of_is_stable_and_has_requested_size(tmp_path_factory, seed, fraction):
    path = tmp_path_factory.getbasetemp() / "list.csv"
    items = [f"{seed}-{n}" for n in range(1000)]
    halves = [split_of(Row(1, {}), item, fraction, path) for item in items]
    assert halves == [split_of(Row(1, {}), item, fraction, path) for item in items]
    assert halves.count("dev") / 1000 == pytest.approx(fraction, abs=0.08)
    more = [split_of(Row(1, {}), item, min(1.0, fraction + 0.1), path) for item in items]
    assert all(new == "dev" for old, new in zip(halves, more, strict=True) if old == "dev")


def test_split_of_matches_golden_values(tmp_path):
    golden = ["dev", "dev", "test", "dev", "dev", "test", "test", "dev"]  # SHA-256 of the ids: 5fec.., 6b86.., d473..
    assert [split_of(Row(1, {}), str(item), 0.5, tmp_path) for item in range(8)] == golden
    assert split_of(Row(1, {"half": "dev"}), "0", 0.0, tmp_path) == "dev"
    assert split_of(Row(1, {"half": "test"}), "0", 1.0, tmp_path) == "test"


def test_authors_lists_have_expected_splits(tmp_path):
    labeled = LabeledS(write_csv(tmp_path / "l.csv", LABELED, labeled_rows(400)))
    assert Counter(trial.split for trial in labeled.read(labeled.path)) == {"test": 400}
    two_word = VTWT(write_csv(tmp_path / "v.csv", TWO_WORD, two_word_rows(50)))
    assert {trial.split for trial in two_word.read(two_word.path)} == {"test"}


def test_write_results_is_atomic(tmp_path):
    results = [
        TrialResult("1", "test", "ball", "", "accuracy", (0.5, 0.25), 0, 1.0),
        TrialResult("2", "test", "", "blank", "overall", (1.0, 1.0), None, 0.5),
    ]
    write_results(tmp_path / "results" / "x.parquet", result_table(results, {"world": "real"}))
    table = pq.read_table(tmp_path / "results" / "x.parquet")
    assert table.schema.equals(RESULT_SCHEMA)
    assert table.to_pylist()[1] == {
        "item": "2",
        "split": "test",
        "category": "",
        "control": "blank",
        "measure": "overall",
        "scores": [1.0, 1.0],
        "choice": None,
        "credit": 0.5,
        "output": "",
        "group": "",
        "images": [],
        "texts": [],
    }
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["x.parquet"]
    assert table.schema.metadata[b"world"] == b"real"


def compositions(folder, values):
    Image.new("RGB", (4, 4)).save(folder / "0.png")
    rows = [f"0.png,wash cup,fill cup,{value},test" for value in values]
    (folder / "vtwt.csv").write_text(
        "\n".join(["image,positive_phrase,negative_phrase,composition,half", *rows]) + "\n"
    )
    return VTWT(folder / "vtwt.csv")


def test_seen_and_unseen_combinations_are_measured_apart(tmp_path):
    benchmark = compositions(tmp_path, ["seen", "seen", "unseen"])
    trials, _ = benchmark.load()
    found = [benchmark.judge_all(trial, scores) for trial, scores in zip(trials, [(1, 0), (0, 1), (1, 0)], strict=True)]
    credits = [{one.measure: one.credit for one in judgements} for judgements in found]
    assert credits == [
        {"accuracy": 1, "accuracy_seen": 1},
        {"accuracy": 0, "accuracy_seen": 0},
        {"accuracy": 1, "accuracy_unseen": 1},
    ]
    assert benchmark.measured(trials) == ["accuracy", "accuracy_seen", "accuracy_unseen"]
    assert benchmark.measured(trials[:2]) == ["accuracy", "accuracy_seen"]
    assert benchmark.measured([replace(trial, composition="") for trial in trials]) == ["accuracy"]
    assert benchmark.floors(trials)["accuracy_unseen"] == {"constant": 0.5}


def test_winoground_instance_with_an_unseen_phrase_is_unseen(tmp_path):
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    lines = ["instance_id,positive_phrase,negative_phrase,image,image_tag,composition"]
    for item, (one, other) in enumerate([("seen", "seen"), ("seen", "unseen")]):
        lines += [f"{item},wash cup,fill cup,a.png,positive,{one}", f"{item},wash cup,fill cup,b.png,negative,{other}"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    trials, _ = BabyWinoground(tmp_path / "list.csv").load()
    assert [trial.composition for trial in trials] == ["seen", "unseen"]


def test_composition_must_be_seen_or_unseen(tmp_path):
    with pytest.raises(UserError, match="composition is 'new', must be seen or unseen"):
        compositions(tmp_path, ["new"]).load()
