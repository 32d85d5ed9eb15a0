"""Options of the authors' evaluation: CVCL's Labeled-S, two folders of images, word classes, the phrase prior."""

import csv
import json
import random
from collections import Counter
from fractions import Fraction

import pytest
import torch
from PIL import Image

from babyvlm.benchmarks import VTWT, BabyWinoground, LabeledS
from babyvlm.benchmarks.evaluate import evaluate
from babyvlm.benchmarks.vtwt import phrase_prior
from babyvlm.benchmarks.word_classes import CLASSES, FILE, pair_key, reviewed_class
from babyvlm.errors import UserError

THINGS = ["cat", "ball", "dog", "cup", "bed"]


class Namer:
    """Scores 1 if the text names the thing that an image's shade of gray stands for; a cat is called kitty too."""

    def preprocess(self, image):
        return torch.tensor([[[float(image.getpixel((0, 0))[0])]]])

    def score(self, images_BCHW, texts, wanted_BT=None):
        shown = [THINGS[round(float(image) / 40)] for image in images_BCHW]
        return torch.tensor(
            [[float(text in (thing, {"cat": "kitty"}.get(thing))) for text in texts] for thing in shown]
        )


@pytest.fixture
def frames(tmp_path):
    """A picture of each thing in a folder of its name, as CVCL's frames are."""
    for number, thing in enumerate(THINGS):
        (tmp_path / "frames" / thing).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number * 40,) * 3).save(tmp_path / "frames" / thing / f"{thing}_1.png")
    return tmp_path / "frames"


def trial(number, target, *foils):
    return {
        "trial_num": number,
        "target_category": target,
        "target_img_filename": f"/misc/shared/S_multimodal/eval/test/{target}/{target}_1.png",
        "foil_categories": list(foils),
        "foil_img_filenames": [f"/misc/shared/S_multimodal/eval/test/{foil}/{foil}_1.png" for foil in foils],
    }


@pytest.fixture
def trials(tmp_path):
    path = tmp_path / "eval_test.json"
    rows = [
        trial(0, "cat", "ball", "dog", "cup"),
        trial(0, "ball", "cat", "dog", "bed"),
        trial(1, "dog", "cat", "cup", "bed"),
    ]
    path.write_text(json.dumps({"data": rows}))
    return path


def test_labeled_s_reads_trials_of_cvcl(trials, frames):
    result = evaluate(Namer(), LabeledS(trials, frames))
    assert result.mean == 1
    assert [one.item for one in result.results if not one.control] == ["0", "1", "2"]
    (first, *_) = LabeledS(trials, frames).read(trials)
    assert first.options == tuple((f"{thing}/{thing}_1.png", "cat") for thing in ("cat", "ball", "dog", "cup"))
    assert "options" not in result.facts


def test_labeled_s_chooses_among_words(trials, frames):
    benchmark = LabeledS(trials, frames, choose="word", use_kitty_label=True)
    first, second, _ = benchmark.read(trials)
    assert first.options == tuple(("cat/cat_1.png", word) for word in ("kitty", "ball", "dog", "cup"))
    assert [text for _, text in second.options] == ["ball", "cat", "dog", "bed"]  # a foil keeps its name
    assert first.category == "cat"
    result = evaluate(Namer(), benchmark, controls=False)
    assert result.mean == 1
    assert result.facts["options"] == "kitty for cat, one image and four words"
    assert "options: kitty for cat, one image and four words" in str(result)


def test_labeled_s_asks_for_kitty(trials, frames):
    first, second, _ = LabeledS(trials, frames, use_kitty_label=True).read(trials)
    assert {text for _, text in first.options} == {"kitty"}
    assert {text for _, text in second.options} == {"ball"}


def test_labeled_s_keeps_subset(trials, frames, tmp_path):
    (frames / "cup" / "cup_1.png").rename(tmp_path / "elsewhere.png")
    whole = LabeledS(trials, frames, subset=frames)
    assert [one.item for one in whole.read(trials)] == ["1"]
    assert whole.facts() == {"options": "subset of the trials"}
    (tmp_path / "kept.txt").write_text("\n".join(f"any/{thing}_1.png" for thing in ("dog", "cat", "cup", "bed")))
    assert [one.item for one in LabeledS(trials, frames, subset=tmp_path / "kept.txt").read(trials)] == ["2"]
    (tmp_path / "none.txt").write_text("x.png")
    with pytest.raises(UserError, match="no trial has all of its images in the subset"):
        LabeledS(trials, frames, subset=tmp_path / "none.txt").read(trials)
    with pytest.raises(UserError, match=r"subset .*: cannot be read"):
        LabeledS(trials, frames, subset=tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be read as JSON"),
        ("[]", "has no trials"),
        ('{"data": [{"target_category": "cat"}]}', "trial 0 has no target_img_filename"),
        (json.dumps({"data": [trial(0, "cat", "dog") | {"foil_categories": []}]}), "do not match"),
        (json.dumps({"data": [trial(0, "cat", "dog")]}), "trial 0 has 2 rows"),
    ],
)
def test_labeled_s_names_broken_trials_of_cvcl(tmp_path, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(UserError, match=message):
        LabeledS(tmp_path / "t.json").read(tmp_path / "t.json")


def test_winoground_takes_two_folders(tmp_path):
    for folder, shade in {"positive_images": 1, "negative_images": 3}.items():
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8), (40 * shade,) * 3).save(tmp_path / "set" / folder / "same_name.png")
    rows = ["instance_id,positive_phrase,negative_phrase,image,image_tag"]
    rows += [f"0,ball,cup,same_name.png,{tag}" for tag in ("positive", "negative")]
    (tmp_path / "w.csv").write_text("\n".join(rows))
    folders = [tmp_path / "set" / "positive_images", tmp_path / "set" / "negative_images"]
    result = evaluate(Namer(), BabyWinoground(tmp_path / "w.csv", folders), controls=False)
    assert result.mean == 1
    with pytest.raises(UserError, match="images: 3 folders"):
        BabyWinoground(tmp_path / "w.csv", [*folders, tmp_path])
    swapped = evaluate(Namer(), BabyWinoground(tmp_path / "w.csv", folders[::-1]), controls=False)
    assert swapped.mean == 0


def test_class_file_has_only_hashes_and_classes():
    rows = list(csv.reader(FILE.open()))
    assert rows[0] == ["pair", "word_class"]
    assert len(rows) == 862
    assert all(len(key) == 16 and int(key, 16) >= 0 for key, _ in rows[1:])
    assert Counter(found for _, found in rows[1:]) == {
        "both": 354,
        "verb": 221,
        "noun": 137,
        "adjective": 125,
        "other": 24,
    }
    assert set(CLASSES) == {found for _, found in rows[1:]}


def test_reviewed_class_knows_pairs_in_either_order():
    # Pairs that the lexicon of derived classes cannot decide.
    assert reviewed_class("close door", "open door") == reviewed_class("open door", "CLOSE  door") == "verb"
    assert reviewed_class("car inside", "car outside") == "other"
    assert reviewed_class("drop frog", "hold frog") is None
    assert pair_key("a b", "c d") != pair_key("a", "b c d")


def test_vtwt_prefers_the_list_then_reviewed_then_derived_classes(tmp_path):
    path = tmp_path / "vtwt.csv"
    rows = ["image,positive_phrase,negative_phrase,word_class", "a.png,close door,open door,noun"]
    path.write_text("\n".join(rows))
    benchmark = VTWT(path)
    assert [one.category for one in benchmark.read(path)] == ["noun"]
    path.write_text("image,positive_phrase,negative_phrase\na.png,open door,close door\n")
    assert [one.category for one in benchmark.read(path)] == ["verb"]
    assert benchmark.facts() == {}
    path.write_text("image,positive_phrase,negative_phrase\na.png,red frog,blue frog\n")
    assert [one.category for one in benchmark.read(path)] == ["adjective"]
    assert benchmark.facts() == {"derived_categories": "true"}


def test_phrase_prior_is_printed(tmp_path):
    for number in range(2):
        Image.new("RGB", (8, 8), (40 * (number + 1),) * 3).save(tmp_path / f"{number}.png")
    rows = ["image,positive_phrase,negative_phrase", "0.png,ball,cup", "0.png,ball,dog", "1.png,dog,ball"]
    (tmp_path / "vtwt.csv").write_text("\n".join(rows))
    result = evaluate(Namer(), VTWT(tmp_path / "vtwt.csv"), controls=False)
    # In the other pairs, `ball` is right as often as wrong, so that item 1 ties. Items 2 and 3 are one group: without
    # it, `ball` leads, which is right once.
    assert phrase_prior([("ball", "cup"), ("ball", "dog"), ("dog", "ball")]) == 0.5
    assert float(result.facts["prior"]) == 0.5
    assert "prior, no image  0.500" in str(result)


def test_phrase_prior_leaves_out_all_items_about_the_same_phrases():
    """Against its definition: for every item, count again over the items about other pairs."""
    draw = random.Random(0)
    phrases = ["see dog", "see cat", "wash cup", "eat cup", "open door"]
    for size in (1, 2, 7, 40):
        pairs = [tuple(draw.sample(phrases, 2)) for _ in range(size)]
        credit = Fraction(0)
        for pair in pairs:
            others = [other for other in pairs if sorted(other) != sorted(pair)]
            right, wrong = (
                sum(other[0] == phrase for other in others) - sum(other[1] == phrase for other in others)
                for phrase in pair
            )
            credit += Fraction(1, 2) if right == wrong else int(right > wrong)
        assert phrase_prior(pairs) == pytest.approx(float(credit / size), abs=1e-12)
    mirrored = [pair for pair in pairs for pair in (pair, pair[::-1])]
    assert phrase_prior(mirrored) == 0.5  # a prior cannot know which of two orders an image shows
