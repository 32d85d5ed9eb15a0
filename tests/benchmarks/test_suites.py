"""Benchmarks of other suites: each is scored by a constant, at random, blindly, and by an oracle."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from babyvlm.benchmarks import (
    DevBenchChoice,
    DevCV,
    DevCVMatching,
    LabeledS,
    MachineDevBenchGrammatical,
    MachineDevBenchLexical,
    ObjectTrials,
    TuxPaintStamps,
)
from babyvlm.benchmarks.evaluate import evaluate
from babyvlm.benchmarks.intervals import effective_items, linearized, mean_interval
from babyvlm.benchmarks.stamps import FOLDER, noun_of
from babyvlm.errors import UserError
from babyvlm.report.comparisons import score
from babyvlm.report.runs import find_rows
from support.scorers import THINGS, Adversary, Blind, Constant, Noise, Oracle


@pytest.fixture(scope="module")
def lists(tmp_path_factory, things, stand_ins):
    """Stand-ins from the command, and a manifest of frequency bins in which one bin has a single item."""
    nouns = tmp_path_factory.mktemp("lexical") / "Lexical" / "Nouns"
    items = []
    for number, bin_name in enumerate(["[1,2)", "[2,4)", "[4,8)", "[4,8)", "[4,8)", "[8,16)"] * 4):
        right, wrong = (THINGS[(number + step) % 5] for step in (0, 1 + number % 3))
        fields = {"image_positive": right, "image_negative": wrong}
        images = {name: f"realistic/x/{thing}.png" for name, thing in fields.items()}
        items.append({**images, "caption_positive": right, "frequency_bin": bin_name, "category": "x"})
    (nouns / "realistic" / "x").mkdir(parents=True)
    for thing in THINGS:
        shutil.copy(things / thing / f"{thing}0.png", nouns / "realistic" / "x" / f"{thing}.png")
    (nouns / "manifest_nouns_realistic.json").write_text(json.dumps({"metadata": {}, "items": items}))
    stamps = shutil.copytree(things, tmp_path_factory.mktemp("tuxpaint") / "stamps")
    for picture in stamps.rglob("*.png"):
        picture.with_suffix(".txt").write_text(f"A small {picture.parent.name}.\n")
    return {"stand-ins": stand_ins, "lexical": nouns.parent, "stamps": stamps}


def make(name, lists, things, **options):
    devcv = lists["stand-ins"] / "devcv"
    grammatical = lists["stand-ins"] / "machine_devbench"
    return {
        "objects": lambda: ObjectTrials(things, per_category=8, **options),
        "objects_of_two": lambda: ObjectTrials(things, options=2, per_category=8, **options),
        "one_image": lambda: ObjectTrials(things, choose="word", per_category=8, **options),
        "stamps": lambda: TuxPaintStamps(lists["stamps"], per_category=8, **options),
        "picture_vocabulary": lambda: DevCV(devcv / "picture_vocabulary/data.json", "picture_vocabulary", **options),
        "localization": lambda: DevCV(devcv / "localize/data.json", "localization", **options),
        "counting": lambda: DevCV(devcv / "count/data.json", "counting", **options),
        "comparison": lambda: DevCV(devcv / "compare_synthetic/data.json", "comparison", **options),
        "left_right": lambda: DevCVMatching(devcv / "leftright/data.json", **options),
        "lexical": lambda: MachineDevBenchLexical(lists["lexical"], **options),
        "grammatical": lambda: MachineDevBenchGrammatical(grammatical, **options),
        "looking": lambda: DevBenchChoice(lists["stand-ins"] / "devbench", **options),
        "visual_vocabulary": lambda: DevBenchChoice(lists["stand-ins"] / "devbench", "lex-viz_vocab", **options),
    }[name]()


CHANCE = {
    "objects": 1 / 4,
    "objects_of_two": 1 / 2,
    "one_image": 1 / 4,
    "stamps": 1 / 4,
    "picture_vocabulary": 1 / 4,
    "localization": 1 / 4,
    "counting": 1 / 6,  # stand-ins count to six
    "comparison": 1 / 2,
    "left_right": 1 / 3,
    "lexical": 1 / 2,
    "grammatical": 1 / 2,
    "looking": 1 / 2,
    "visual_vocabulary": 1 / 4,
}


@pytest.mark.parametrize("name", CHANCE)
def test_scorers_reach_what_they_know(lists, things, name):
    benchmark = make(name, lists, things)
    oracle = evaluate(Oracle(), benchmark)
    trials = len({result.item for result in oracle.results})
    chance = benchmark.measures["accuracy"].chance
    assert chance == pytest.approx(CHANCE[name])
    assert oracle.mean == 1
    assert evaluate(Constant(), benchmark, controls=False).mean == pytest.approx(chance)
    assert json.loads(oracle.facts["floors"])["accuracy"]["constant"] == pytest.approx(chance)
    four_errors = 4 * (chance * (1 - chance) / trials) ** 0.5
    noise = evaluate(Noise(), benchmark, controls=False)
    assert noise.mean == pytest.approx(chance, abs=four_errors)
    low, high = noise.interval()
    assert 0 <= low < noise.mean < high <= 1
    if name != "left_right":  # whose adversary would have to know what is mirrored
        assert evaluate(Adversary(), benchmark, controls=False).mean < chance / 2
    # An image-blind scorer, and an oracle that sees a blank image, are at chance; with one image and several texts they
    # reach what their preference for a text is worth.
    limit = {"counting": 0.45, "one_image": 0.45}.get(name, chance + 1e-9)
    assert evaluate(Blind(), benchmark, controls=False).mean <= limit
    assert oracle.means("blank")["accuracy"] <= limit
    assert oracle.means("shuffled")["accuracy"] < 0.85


def test_floors_audit_the_lists(lists, things):
    counting, matching = (make(name, lists, things) for name in ("counting", "left_right"))
    facts = evaluate(Constant(), counting, controls=False).facts
    answers = [entry["conversations"][1]["value"] for entry in json.loads(counting.path.read_text())]
    share = max(map(answers.count, answers)) / len(answers)
    assert json.loads(facts["floors"])["accuracy"]["most frequent answer"] == share
    # Pixels alone find the copy that is not mirrored: the list needs no model.
    facts = evaluate(Constant(), matching, controls=False).facts
    assert json.loads(facts["floors"])["accuracy"]["pixel match"] == 1


def test_devcv_reads_published_forms(tmp_path, things):
    quadrants = "(A) top left image (B) top right image (C) bottom left image (D) bottom right image."
    ordinals = "(A) the first image (B) the second image (C) the third image (D) the fourth image."
    images = [f"{thing}/{thing}0.png" for thing in THINGS]
    turns = [
        (f"<image> Touch the image of 'Egress' {quadrants}", "A", images[:1]),
        (f"<image><image><image><image>\n Touch the image of 'comb' {ordinals}", "D", images[:4]),
    ]
    benchmark = DevCV(write_devcv(tmp_path / "a.json", turns), "picture_vocabulary", images=things)
    one, other = benchmark.load()[0]
    assert one.options[3] == ("ball/ball0.png\0bottom right", "egress")
    assert one.images == ("ball/ball0.png",)
    assert (other.answer, other.options[3]) == (3, ("hat/hat0.png", "comb"))
    place = "Is it in the (A) top left or (B) top right or (C) bottom left or (D) bottom right of the image?"
    turns = [(f"<image> Point at the rug/carpet. {place}", "D", images[:1])]
    path = write_devcv(tmp_path / "b.json", turns)
    assert DevCV(path, "localization", images=things).load()[0][0].options[0][1] == "rug"
    whole = DevCV(path, "localization", images=things, template="{word} at the {place}").load()[0][0]
    assert whole.options[2] == (images[0], "rug at the bottom left")
    turns = [("<image> How many boxes do you see?", str(n), images[:1]) for n in (1, 3)]
    counted = DevCV(write_devcv(tmp_path / "c.json", turns), "counting", images=things, variant="real")
    assert [text for _, text in counted.load()[0][1].options] == ["one box", "two boxes", "three boxes"]
    assert (counted.name, counted.title) == ("devcv_counting_real", "Counting real")
    letters = "<image> Which of the following contains exactly this object? (A) <image> (B) <image> (C) <image>."
    more = letters.replace(".", " (D) <image>.")
    path = write_devcv(tmp_path / "d.json", [(letters, "B", images[:4]), (more, "D", [*images[:4], images[0]])])
    matching = DevCVMatching(path, "spatial_details", images=things)
    assert [trial.answer for trial in matching.load()[0]] == [1, 3]
    assert matching.measures["accuracy"].chance == pytest.approx((1 / 3 + 1 / 4) / 2)
    constant, oracle = (evaluate(one, matching, controls=False).mean for one in (Constant(), Oracle()))
    assert (constant, oracle) == (pytest.approx(7 / 24), 0.5)  # no option of the first question shows the object


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ("'rubik's cube' (A) <image>", "rubik's cube"),
        ("'the dogs' bowl'\n(A)<image> (B)<image>", "the dogs' bowl"),
        ("'crane (bird)'. (A) the first image", "crane (bird)"),
        ("'Cup'", "cup"),
    ],
)
def test_devcv_reads_words_with_apostrophes(tmp_path, asked, word):
    path = write_devcv(tmp_path / "a.json", [(f"<image> Touch the image of {asked}", "A", ["a.png"])])
    assert DevCV(path, "picture_vocabulary").read(path)[0].options[0][1] == word


@pytest.mark.parametrize(
    ("task", "template", "message"),
    [
        ("counting", "{number}", r"must contain \{word\}"),
        ("counting", "{word} {foo}", r"'foo' is not a field of counting; there is \{word\} and \{number\}"),
        ("comparison", "{number} {word}", r"'number' is not a field of comparison; there is \{word\}$"),
        ("localization", "{word} {", "Single '{' encountered|expected '}'"),
        ("localization", "{word.__class__}", r"'word\.__class__' is not a field"),
        ("localization", "{word!r} {place:>9}", "'word' is not a field"),
        ("localization", "{word} {}", "'' is not a field"),
    ],
)
def test_devcv_refuses_templates_that_cannot_be_filled_in(task, template, message):
    with pytest.raises(UserError, match=message):
        DevCV("a.json", task, template=template)
    assert DevCV("a.json", task, template="a {word}{{}}").template


def write_devcv(path, turns):
    path.write_text(
        json.dumps(
            [
                {
                    "id": "count_6",  # the published lists have ids that repeat
                    "conversations": [{"from": "human", "value": ask}, {"from": "gpt", "value": answer}],
                    "image": images,
                }
                for ask, answer, images in turns
            ]
        )
    )
    return path


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("<image> What is this?", "A", ["ball/ball0.png"])], r"a\.json: 0:count_6: not a question of counting"),
        ([("<image> How many cups do you see?", "C", ["ball/ball0.png"])], "answer 'C' is not a number from 1 to"),
        ([("<image> How many cups do you see?", "\u00b2", ["ball/ball0.png"])], "answer '\u00b2' is not a number"),
        ([("<image> How many \ud800 do you see?", "2", ["ball/ball0.png"])], "surrogates not allowed"),
        ([("<image> How many cups do you see?", "2", ["a.png", "b.png"])], "has 2 images; counting needs 1"),
        ([("<image> How many cups do you see?", "2", [])], "entry 0 has no"),
    ],
)
def test_devcv_reports_malformed_lists(tmp_path, turns, message):
    with pytest.raises(UserError, match=message):
        DevCV(write_devcv(tmp_path / "a.json", turns), "counting").load()


def test_devcv_refuses_conversations(tmp_path):
    path = write_devcv(tmp_path / "a.json", [("Touch the new image. (A) <image>", "A", ["ball/ball0.png"])])
    entries = json.loads(path.read_text())
    entries[0]["conversations"] *= 2
    path.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"a conversation of 4 turns\. Tasks of several turns"):
        DevCV(path, "counting").load()


def test_lexical_mean_over_bins_weighs_every_bin_the_same(lists, things):
    benchmark = make("lexical", lists, things)
    trials, _ = benchmark.load()
    assert {trial.category for trial in trials} == {"[1,4)", "[4,8)", "[8,16)"}  # the lowest two are one bin
    scores = [(float(trial.category != "[8,16)"), 0.5) for trial in trials]  # right but for the rarest bin
    judged = benchmark.judge_view(trials, scores)
    means = [sum(judgement[place].credit for judgement in judged) / len(judged) for place in (0, 1)]
    assert means == pytest.approx([20 / 24, 2 / 3])


def test_lexical_mean_over_bins_has_the_interval_of_a_weighted_share(lists, things, tmp_path):
    """Between 0 and 1, also where all is right. The report shows the same."""
    benchmark = make("lexical", lists, things)
    low, high = evaluate(Oracle(), benchmark).interval("bin_mean")
    assert 0 < low < high == 1
    sizes = np.repeat([8, 12, 4], [8, 12, 4])
    effective = (1 / sizes).sum() ** 2 / (1 / sizes**2).sum()
    assert benchmark.measures["bin_mean"].effective == pytest.approx(effective)
    for scorer in (Oracle(), Noise()):
        found = evaluate(scorer, benchmark)
        results = tmp_path / type(scorer).__name__ / "version_0" / "results"
        found.save(results / "machine_devbench_lexical-test.parquet")
        (row,) = (row for row in find_rows(tmp_path)[0] if row.name == type(scorer).__name__)
        (column,) = (one for one in row.runs[0].results[benchmark.name].columns.main if one.measure == "bin_mean")
        shown = score(row, column)
        assert (shown.low, shown.high) == pytest.approx(found.interval("bin_mean"))
        assert shown.mean == pytest.approx(found.means()["bin_mean"])
        assert 0 <= shown.low < shown.high <= 1


@pytest.mark.parametrize("share", [0.8, 0.95])
def test_interval_of_a_weighted_share_covers_the_truth(share):
    """Bins of 2 to 25 items. Each bound misses at most 2.5%, with a margin for 400 draws."""
    sizes = np.array([2, 4, 10, 20, 25])
    weights = np.repeat(sizes.sum() / (len(sizes) * sizes), sizes)
    rng, below, above = np.random.default_rng(0), 0, 0
    for _ in range(400):
        credit = (rng.random(len(weights)) < share).astype(float)
        low, high = mean_interval(linearized(credit, weights), effective=effective_items(weights))
        below, above = below + (high < share), above + (low > share)
    assert below <= 18
    assert above <= 18


def test_interval_of_a_weighted_share_in_which_all_is_right_is_as_wide_as_for_its_effective_items():
    weights = np.repeat([2.5, 0.5], [10, 30])
    effective, ones = effective_items(weights), np.ones(40)
    assert effective == pytest.approx(40**2 / (10 * 2.5**2 + 30 * 0.5**2))
    low, high = mean_interval(linearized(ones, weights), effective=effective)
    quantile = 2.0739  # of t with 22 degrees of freedom
    assert (low, high) == (pytest.approx(effective / (effective + quantile**2), abs=2e-4), 1)


def test_interval_of_a_weighted_share_with_equal_weights_is_that_of_a_share():
    for right in (0, 3, 17, 30):
        credit = (np.arange(30) < right).astype(float)
        same = mean_interval(linearized(credit, np.ones(30)), effective=effective_items(np.ones(30)))
        assert same == pytest.approx(mean_interval(credit))


def test_grammatical_sum_is_laxer_than_winoground(lists, things):
    benchmark = make("grammatical", lists, things)
    trial = benchmark.load()[0][0]
    one_side = {name: credit for name, credit, _ in benchmark.judge(trial, (3.0, 1.0, 2.0, 1.5))}
    assert one_side == {"accuracy": 1, "overall": 0, "text": 0, "image": 1}
    assert benchmark.judge(trial, (1.0, 1.0, 1.0, 1.0))[0].credit == 0.5


def test_objects_read_cvcl_json_of_any_width(tmp_path, things):
    trials = [
        {
            "trial_num": 0,
            "target_category": THINGS[number % 5],
            "target_img_filename": f"/home/x/object_categories/{THINGS[number % 5]}/{THINGS[number % 5]}1.png",
            "foil_categories": [THINGS[(number + step) % 5] for step in (1, 2)],
            "foil_img_filenames": [
                f"/o/{thing}/{thing}0.png" for thing in (THINGS[(number + step) % 5] for step in (1, 2))
            ],
        }
        for number in range(10)
    ]
    path = tmp_path / "eval_object_categories.json"
    path.write_text(json.dumps({"data": trials}))
    benchmark = ObjectTrials(path, images=things)
    assert evaluate(Oracle(), benchmark, controls=False).mean == 1
    assert benchmark.measures["accuracy"].chance == pytest.approx(1 / 3)
    chosen = ObjectTrials(path, images=things, categories=["ball", "cup", "dog"])
    assert {trial.category for trial in chosen.load()[0]} == {"ball"}
    assert chosen.facts() == {"options": "3 categories"}
    with pytest.raises(UserError, match="no trial has only the categories ball"):
        ObjectTrials(path, images=things, categories=["ball"]).load()
    trials[0]["foil_categories"], trials[0]["foil_img_filenames"] = ["cup"], ["/o/cup/cup0.png"]
    path.write_text(json.dumps({"data": trials}))
    with pytest.raises(UserError, match="trials have 2 to 3 pictures"):
        ObjectTrials(path, images=things).load()
    with pytest.raises(UserError, match="has 5 categories with pictures; a trial of 6 pictures needs as many"):
        ObjectTrials(things, options=6).load()
    for value in (None, float("nan"), "", 7):
        trials[0]["foil_categories"] = [value]
        path.write_text(json.dumps({"data": trials}))
        with pytest.raises(UserError, match=r"trial 0: (null|NaN|\"\"|7) is no category or file name"):
            ObjectTrials(path, images=things).load()


def test_labeled_s_keeps_chosen_categories(things):
    benchmark = LabeledS(things, categories=["ball", "cup", "dog", "key"])
    trials, _ = benchmark.load()
    assert len(trials) == 400
    assert {trial.category for trial in trials} == {"ball", "cup", "dog", "key"}
    assert benchmark.facts() == {"options": "4 categories"}


def test_variant_names_a_second_list(things):
    second = LabeledS(things, variant="15")
    assert (second.name, second.title, LabeledS(things).name) == ("labeled_s_15", "Labeled-S 15", "labeled_s")
    with pytest.raises(UserError, match="variant 'a b'"):
        LabeledS(things, variant="a b")


@pytest.fixture
def stamps(tmp_path):
    texts = {
        "animals/dog": "A black dog.\npl.utf8=Pies.\n",
        "animals/cartoon/cow": "A cow.",
        "symbols/money/key": "A key.",
        "household/key": "An old iron key!",
        "sports/ball": "A soccer ball.",
        "clothes/hat": "A hat is worn on the head in winter, and in summer too.",
        "clothes/cap": "A cap.",
        "food/xanthia": "A xanthia.",
    }
    for number, (name, text) in enumerate(texts.items()):
        file = tmp_path / "stamps" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (30, 20), (number, 0, 0, 255)).save(file)
        file.with_suffix(".txt").write_text(text)
    Image.new("RGBA", (9, 9)).save(tmp_path / "stamps" / "food" / "cup.png")  # without a description
    return tmp_path / "stamps"


def test_stamps_take_photographs_of_known_nouns(stamps, vocabulary):
    benchmark = TuxPaintStamps(stamps)
    expected = {"dog": ["animals/dog.png"], "key": ["household/key.png"], "ball": ["sports/ball.png"]}
    assert benchmark.pictures(stamps) == expected | {"cap": ["clothes/cap.png"]}
    assert set(TuxPaintStamps(stamps, vocabulary=vocabulary).pictures(stamps)) == {"dog", "ball"}
    trials, missing = TuxPaintStamps(stamps, per_category=3).load()
    assert (len(trials), missing) == (12, 0)
    with pytest.raises(UserError, match="apt install tuxpaint-stamps-default"):
        TuxPaintStamps(stamps / "nowhere").load()


@pytest.mark.skipif(not FOLDER.is_dir(), reason="tuxpaint-stamps-default is not installed")
def test_installed_stamps_have_nouns():
    found = TuxPaintStamps().pictures(FOLDER)
    assert len(found) > 100
    assert {"banana", "elephant", "hammer"} <= set(found)
    assert noun_of(FOLDER / "vehicles" / "nothing.txt") == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "is not a list of conversations"), ("{", "cannot be read as JSON"), ('["a"]', "entry 0 has no")],
)
def test_devcv_reports_other_files(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        DevCV(tmp_path / "a.json", "comparison").load()


def test_manifests_report_what_is_missing(tmp_path, lists):
    with pytest.raises(UserError, match=r"has no manifest_\*_cartoon\.json"):
        MachineDevBenchLexical(lists["lexical"], style="cartoon").load()
    (tmp_path / "manifest_nouns_realistic.json").write_text('{"items": [{"image_positive": "a.png"}]}')
    with pytest.raises(UserError, match="item 0 has no image_negative"):
        MachineDevBenchLexical(tmp_path).load()
    (tmp_path / "other").mkdir()
    for benchmark, name in ((MachineDevBenchLexical, "nouns"), (MachineDevBenchGrammatical, "grammatical_negation")):
        for folder in (tmp_path, tmp_path / "other"):
            (folder / f"manifest_{name}_realistic.json").write_text('{"items": [{}]}')
        with pytest.raises(UserError, match=rf"other/manifest_{name}_realistic\.json are both about (nouns|negation)"):
            benchmark(tmp_path).load()
