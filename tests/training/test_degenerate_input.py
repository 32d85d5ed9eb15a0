"""Input from which nothing can be learned or measured is refused or reported before training starts."""

import csv
import re

import pytest
import torch
from lightning import Trainer
from PIL import Image

from babyvlm.benchmarks import VTWT, EvaluationCallback
from babyvlm.benchmarks.evaluate import evaluate
from babyvlm.curation.clip import load_clip
from babyvlm.data.frame_mix import Crops, FrameMix
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.data.sampler import GlobalBatchSampler
from babyvlm.data.text_mix import TextMix
from babyvlm.data.transforms import Augmented, eval_transform
from babyvlm.errors import UserError
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.models.optimization import CosineWithWarmup
from babyvlm.training.recovery import Recovery

WORDS = ["see the ball", "the dog runs", "wash the cup", "a red ball"]


@pytest.fixture(scope="module")
def place(tiny_store, make_vocabulary, tmp_path_factory):
    """Stores whose text is known, unknown, mostly unknown or empty, and one with a single validation pair."""
    root = tmp_path_factory.mktemp("degenerate")
    splits = ["train"] * 8 + ["val"] * 3 + ["test"]
    known = tiny_store(WORDS * 3, splits=splits, path=root / "known")
    tiny_store(WORDS * 3, splits=["train"] * 9 + ["val", "test", "test"], path=root / "one")
    tiny_store(["zig zag zug"] * 12, splits=splits, path=root / "unknown")
    tiny_store(["ball zig zag zug"] * 12, splits=splits, path=root / "mostly")
    tiny_store([""] * 12, splits=splits, path=root / "empty")
    (root / "vocabulary").symlink_to(make_vocabulary(known))
    Image.new("RGB", (32, 32), "red").save(root / "a.png")
    return root


QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def cvcl(place):
    return CVCL(place / "vocabulary", VisionEncoder("test_resnet"), width=8, image_size=32)


def fit(place, store, *callbacks, **options):
    options = {"batch_size": 4, "image_size": 32} | options
    mix = PairMix("x", place, [Source(store)], store, place / "vocabulary", **options)
    trainer = Trainer(max_steps=1, accelerator="cpu", callbacks=list(callbacks), default_root_dir=place, **QUIET)
    trainer.fit(cvcl(place), mix)


@pytest.mark.parametrize(
    ("store", "options", "message"),
    [
        ("known", {"batch_size": 1}, r"data\.batch_size 1: a contrastive loss needs other pairs as negatives"),
        ("known", {"val_batch_size": 1}, r"data\.val_batch_size 1: a contrastive loss"),
        ("one", {}, "validation split has one pair: a contrastive loss"),
        ("unknown", {}, "unknown: the vocabulary .* has none of its words"),
        ("empty", {}, "empty: all texts are empty"),
    ],
)
def test_fit_refuses_input_before_training(place, store, options, message):
    with pytest.raises(UserError, match=message):
        fit(place, store, **options)


def pair_mix(**options):
    return lambda place: PairMix("x", place, [Source("known")], "known", place / "vocabulary", **options)


def frame_mix(**options):
    return lambda place: FrameMix("x", place, [Source("known")], **options)


def cvcl_with(**options):
    vision = VisionEncoder("test_resnet")
    return lambda place: CVCL(place / "vocabulary", vision, **{"image_size": 32} | options)


OUT_OF_RANGE = {
    "min_scale 2.0": pair_mix(min_scale=2.0),
    "min_scale 0.0": pair_mix(min_scale=0.0),
    "min_scale nan": pair_mix(min_scale=float("nan")),
    "num_workers -1": pair_mix(num_workers=-1),
    "batch_size 0": pair_mix(batch_size=0),
    "val_batch_size 0": pair_mix(val_batch_size=0),
    "image_size 0": pair_mix(image_size=0),
    "max_tokens 2": pair_mix(max_tokens=2),
    "seed -1": pair_mix(seed=-1),
    "utterances 0": lambda place: Source("known", utterances=0),
    "max_tokens 1": lambda place: TextMix("x", place, [Source("known")], "known", place / "vocabulary", max_tokens=1),
    "image_size -1": frame_mix(image_size=-1),
    "num_workers -2": frame_mix(num_workers=-2),
    "local_count -1": lambda place: Crops(local_count=-1),
    "grayscale 1.5": lambda place: Crops(grayscale=1.5),
    "local_scale (0.5, 0.1)": lambda place: Crops(local_scale=(0.5, 0.1)),
    "blur (-1, 2)": lambda place: Crops(blur=(-1, 2)),
    "batch_size -4": lambda place: GlobalBatchSampler(5, -4, seed=0),
    "min_scale 1.1": lambda place: Augmented(32, min_scale=1.1),
    "image_size -8": lambda place: eval_transform(-8),
    "temperature 0.0": cvcl_with(temperature=0.0),
    "temperature nan": cvcl_with(temperature=float("nan")),
    "width 0": cvcl_with(width=0),
    "heads 0": lambda place: LanguageShape(heads=0),
    "dropout -0.1": lambda place: LanguageShape(dropout=-0.1),
    "warmup 3": lambda place: CosineWithWarmup(None, 10, warmup=3),
    "dev_fraction 2": lambda place: VTWT(place / "vtwt.csv", dev_fraction=2),
    "batch_size -1": lambda place: EvaluationCallback([], batch_size=-1),
    "seed -2": lambda place: evaluate(None, "vtwt", seed=-2),
    "every_seconds -1": lambda place: Recovery(every_seconds=-1),
}


@pytest.mark.parametrize("number", OUT_OF_RANGE)
def test_classes_in_python_refuse_numbers_out_of_range(place, number):
    with pytest.raises(UserError, match=rf"{re.escape(number)}: must be (at least|above|between|two)"):
        OUT_OF_RANGE[number](place)


def test_mix_in_python_refuses_empty_list_of_sources(place):
    with pytest.raises(UserError, match="is empty"):
        PairMix("x", place, [], "known", place / "vocabulary")


def test_fit_reports_mostly_unknown_words(place, capsys):
    fit(place, "mostly")
    assert "mostly: 75% of the words are not in the vocabulary" in capsys.readouterr().err


def test_contrastive_loss_refuses_batch_of_one_pair(place):
    """Whatever data module has made it."""
    model = cvcl(place)
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=place)
    one = torch.nn.functional.normalize(torch.randn(1, 8))
    with pytest.raises(UserError, match="a batch has one pair"):
        model.global_loss(one, one, 0.07)


@pytest.mark.parametrize(("store", "message"), [("unknown", "none of its words"), ("empty", "all texts are empty")])
def test_text_mix_refuses_unknown_and_empty_text(place, store, message):
    mix = TextMix("x", place, [Source(store)], store, place / "vocabulary", batch_size=1, max_tokens=2)
    with pytest.raises(UserError, match=message):
        mix.train_dataloader()


def vtwt(place, name, rows, **columns):
    with (place / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "positive_phrase", "negative_phrase", *columns])
        writer.writerows(["a.png", *row, *columns.values()] for row in rows)
    return VTWT(place / name)


def test_lists_of_dev_trials_are_reported(place, capsys):
    benchmark = vtwt(place, "dev.csv", [("red ball", "wash cup")], half="dev")
    fit(place, "known", EvaluationCallback([benchmark]))
    assert "dev.csv: all trials are in the dev split; none will be tested" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("red ball", "Red  ball")], "1 of 1 trials have two options that are the same, so that every model ties"),
        ([("zig zag", "zug zug")], "the vocabulary .* has none of its words"),
    ],
)
def test_lists_that_measure_nothing_are_refused(place, rows, message):
    benchmark = vtwt(place, "nothing.csv", rows)
    with pytest.raises(UserError, match=rf"nothing\.csv: {message}"):
        fit(place, "known", EvaluationCallback([benchmark]))
    with pytest.raises(UserError, match=rf"nothing\.csv: {message}"):
        evaluate(cvcl(place), benchmark)


def test_list_with_some_equal_phrases_is_reported(place, capsys):
    benchmark = vtwt(place, "some.csv", [("red ball", "red ball"), ("red ball", "wash cup")])
    model = cvcl(place)
    assert evaluate(model, benchmark, controls=False).results[0].credit == 0.5
    assert "some.csv: 1 of 2 trials have two options that are the same, such as 2:a.png" in capsys.readouterr().err


def test_score_refuses_one_string(place):
    model = cvcl(place)
    for scorer in (model.eval(), load_clip("playroom")):
        images = torch.zeros(1, 3, 64, 64)
        assert scorer.score(images, ["ball"]).shape == (1, 1)
        with pytest.raises(TypeError, match=r"texts must be a list of strings, such as \['ball'\], not one string"):
            scorer.score(images, "ball")
