"""Children, ages and shares of a mix; the stream of recordings: its order, on ranks, and after a resume."""

import re
from itertools import chain

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import RECORDING_FIELDS, write_store
from babyvlm.data.frame_mix import FrameMix
from babyvlm.data.pair_dataset import Subset
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.data.text_mix import TextMix
from babyvlm.errors import UserError
from babyvlm.models.cvcl import CVCL
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.training.csv_logger import AppendingCSVLogger
from babyvlm.training.recovery import Recovery, SeedEachBatch, checkpoints

# Video: child, age. The store lists them in another order than they were recorded in.
VIDEOS = {
    "A_20140301_1000_01": ("A", 9.0),
    "S_20140105_1803_01": ("S", 8.0),
    "S_20130701_0914_01": ("S", 6.0),
    "A_20131224_0900_01": ("A", 7.0),
}
FRAMES = ["999_00", "999_01", "1000_00"]  # utterance and frame: sorted as text, 1000 would come first
WORDS = ["ball", "dog", "cup", "red"]


@pytest.fixture(scope="module")
def place(draw_jpeg, tiny_store, make_vocabulary, tmp_path_factory):
    """Home: 4 videos with 3 training pairs and one for validation each. Web: 12 pairs. Old: without recordings."""
    folder = tmp_path_factory.mktemp("stream")
    rows = []
    for number, (video, (child, age)) in enumerate(VIDEOS.items()):
        for place, suffix in enumerate([FRAMES[2], FRAMES[0], FRAMES[1], "1001_00"]):
            rows.append(
                {
                    "key": f"{video}_{suffix}",
                    "image": draw_jpeg(4 * number + place),
                    "utterance": f"the {WORDS[place]} {WORDS[number]}",
                    "source": "saycam",
                    "group": f"{video}_{suffix[:-3]}",
                    "split": "val" if suffix == "1001_00" else "train",
                    "child": child,
                    "date": f"{video[2:6]}-{video[6:8]}-{video[8:10]}",
                    "age_months": age,
                }
            )
    options = {"arguments": {}, "funnel": Funnel("tiny"), "licensed": False}
    home = write_store(folder / "home", rows, **options, extra_fields=RECORDING_FIELDS)
    rows[5]["date"] = rows[5]["age_months"] = None
    write_store(folder / "gaps", rows, **options, extra_fields=RECORDING_FIELDS)
    web = tiny_store([f"the {WORDS[n % 4]}" for n in range(12)], path=folder / "web", source="cc3m")
    tiny_store([f"the {WORDS[n % 4]}" for n in range(12)], splits=["train"] * 9 + ["val"] * 3, path=folder / "old")
    return folder, make_vocabulary(home, web)


def make(place, *sources, validation="home", batch_size=2, **options):
    folder, vocabulary = place
    used = [one if isinstance(one, Source) else Source(one) for one in sources]
    return PairMix("x", folder, used, validation, vocabulary, batch_size, 24, augment=False, **options)


def keys(mix):
    mix.setup()
    return [key for batch in mix.train_dataloader() for key in batch.keys]


def chronological():
    return [f"{video}_{suffix}" for video in sorted(VIDEOS, key=lambda name: name[2:]) for suffix in FRAMES]


def test_stream_follows_date_or_age(place):
    assert keys(make(place, "home", order="date")) == chronological()
    by_age = sorted(VIDEOS, key=lambda video: VIDEOS[video][1])
    assert keys(make(place, "home", order="age")) == [f"{video}_{suffix}" for video in by_age for suffix in FRAMES]
    one_frame = keys(make(place, "home", order="date", sample="utterances"))
    assert [key[:-3] for key in one_frame] == [key[:-3] for key in chronological() if key[-6:] != "999_01"]


def test_stream_spreads_web_pairs_evenly(place):
    found = keys(make(place, "home", "web", order="date"))
    assert [key for key in found if key[0] != "k"] == chronological()
    assert all(sum(key[0] == "k" for key in found[start : start + 4]) == 2 for start in range(0, 24, 4))
    web = [key for key in found if key[0] == "k"]
    assert sorted(web) != web
    assert [key for key in keys(make(place, "home", "web", order="date", seed=1)) if key[0] == "k"] != web


def test_stream_refuses_stores_without_recordings(place):
    with pytest.raises(UserError, match="order date: the date of the recording is not known for any source"):
        keys(make(place, "old", validation="old", order="date"))
    with pytest.raises(UserError, match=r"age_months is not known for 1 pairs, for example S_20140105_1803_01_999_00"):
        keys(make(place, "gaps", validation="gaps", order="age"))
    with pytest.raises(UserError, match="batches of similar length"):
        make(place, "home", order="date", bucket_by_length=True)


def test_subset_chooses_children_ages_and_nested_shares(place):
    both = make(place, "home", "web", home=Subset(children=("A",)), held_out=Subset(children=("S",)))
    found = keys(both)
    assert {key[0] for key in found} == {"A", "k"}
    assert len(found) == 6 + 12
    assert {key[0] for batch in both.val_dataloader() for key in batch.keys} == {"S"}
    assert both.held_out_pairs("val") == 2
    assert [(part.store, part.items) for part in both.contents()] == [("home", 6), ("web", 12)]
    young = make(place, "home", home=Subset(months=(6, 8)))
    assert {key.rpartition("_")[0][:20] for key in keys(young)} == {"S_20130701_0914_01_9", "A_20131224_0900_01_9"} | {
        "S_20130701_0914_01_1",
        "A_20131224_0900_01_1",
    }
    shares = [set(keys(make(place, "home", batch_size=1, home=Subset(fraction=share)))) for share in (0.25, 0.5, 1)]
    assert shares[0] < shares[1] < shares[2]
    assert [len({key[:-3] for key in share}) for share in shares] == [2, 4, 8]  # of 8 utterances
    other_seed = set(keys(make(place, "home", batch_size=1, seed=5, home=Subset(fraction=0.5))))
    assert other_seed != shares[1]
    per_source = make(place, Source("home", subset=Subset(children=("A",))), "web")
    assert sorted(keys(per_source)) == sorted(found)
    assert per_source.identity == make(place, "home", "web", home=Subset(children=("A",))).identity


def test_subset_applies_to_text_and_frames(place):
    folder, vocabulary = place
    of_child = [Source("home", subset=Subset(children=("A",)))]
    text = TextMix("x", folder, of_child, "home", vocabulary, 1, 8)
    assert [part.items for part in text.contents()] == [4]
    assert len(text.train_dataloader().dataset.tokens_N) == 4 * 5
    frames = FrameMix("x", folder, of_child, 2, 24)
    frames.setup()
    assert len(frames.train_dataloader().dataset) == 6


def test_mix_identity_is_that_of_earlier_versions_without_subset(place):
    plain, again = make(place, "home"), make(place, "home", home=Subset(), held_out=Subset(), order="shuffled")
    assert plain.identity == again.identity
    changed = [make(place, "home", **one) for one in ({"order": "date"}, {"home": Subset(fraction=0.5)})]
    assert len({mix.identity for mix in (plain, *changed)}) == 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: make(p, "web", home=Subset(fraction=0.5)), "data.home: no source is the home store, home"),
        (lambda p: keys(make(p, "home", home=Subset(children=("Y",)))), "no utterance of the child Y, only of A, S"),
        (lambda p: keys(make(p, "home", home=Subset(months=(20, 24)))), "at 20 to 24 months; ages are 6.0 to 9.0"),
        (
            lambda p: keys(make(p, "old", validation="old", home=Subset(months=(6, 8)))),
            "age_months is not known for its pairs. Add it",
        ),
        (
            lambda p: make(p, "home", held_out=Subset(children=("Y",))).check_split("val"),
            "no utterance of the child Y",
        ),
        (lambda _: Subset(months=(9, 9)), "must be two ascending ages"),
        (lambda _: Subset(fraction=0), "fraction 0: must be above 0"),
    ],
)
def test_subset_refuses_what_leaves_nothing(place, build, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(place)


class Witness(Callback):
    """Writes down the keys that each rank is given."""

    def __init__(self, folder):
        self.folder, self.keys = folder, []

    def on_train_batch_start(self, trainer, model, batch, *_):
        self.keys.append(batch.keys)

    def on_train_end(self, trainer, model):
        torch.save(self.keys, self.folder / f"{trainer.global_rank}.pt")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)  # Adam makes steps of rounding errors


def fit(place, folder, devices=1, ckpt_path=None, **options):
    folder.mkdir()
    torch.manual_seed(0)
    mix = make(place, "home", "web", order="date", batch_size=4)
    size = {"img_size": 24, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    trunk = VisionEncoder("vit_tiny_patch16_224", size)  # without batch norm, whose statistics would be of a rank's own
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        logger=[AppendingCSVLogger(folder, "run", 0)],
        callbacks=[Witness(folder), SeedEachBatch(3), Recovery(0.0)],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 1, **options},
    )
    model = CVCL(mix.vocabulary.path, trunk, width=8, image_size=24, optimizer=sgd)
    trainer.fit(model, mix, ckpt_path=ckpt_path, weights_only=True)
    return [torch.load(folder / f"{rank}.pt") for rank in range(devices)], model.state_dict()


def test_stream_resumes_in_the_middle_with_equal_weights(place, tmp_path):
    """On one rank, and on one rank what two have begun."""
    (whole,), weights = fit(place, tmp_path / "whole")
    expected = keys(make(place, "home", "web", order="date", batch_size=4))
    assert list(chain.from_iterable(whole)) == expected
    fit(place, tmp_path / "cut", max_steps=4)
    saved = checkpoints(tmp_path / "cut/run/version_0")
    number = int(saved[0].stem.rpartition("-")[2])
    assert 0 < number < 6
    (rest,), resumed = fit(place, tmp_path / "rest", ckpt_path=saved[0])
    assert rest == whole[number:]
    torch.testing.assert_close(resumed, weights, rtol=0, atol=0)
    (even, odd), both = fit(place, tmp_path / "two", devices=2)
    together = [list(chain.from_iterable(zip(*shares, strict=True))) for shares in zip(even, odd, strict=True)]
    assert together == whole
    torch.testing.assert_close(both, weights, rtol=1e-4, atol=1e-6)
    fit(place, tmp_path / "cut-two", devices=2, max_steps=4)
    saved = checkpoints(tmp_path / "cut-two/run/version_0")
    (rest,), _ = fit(place, tmp_path / "rest-one", ckpt_path=saved[0])
    assert rest == whole[int(saved[0].stem.rpartition("-")[2]) :]


@pytest.mark.parametrize("options", [{"max_epochs": 2}, {"max_epochs": None, "max_steps": 7}, {"max_epochs": -1}])
def test_stream_ends_after_single_pass(place, tmp_path, options):
    with pytest.raises(UserError, match="ends after 6 steps and does not begin again"):
        fit(place, tmp_path / "run", **options)


def test_stream_differs_from_shuffled_order_only_in_order(place):
    shuffled, stream = keys(make(place, "home", "web")), keys(make(place, "home", "web", order="date"))
    assert sorted(shuffled) == sorted(stream)
    assert shuffled != stream
    assert np.corrcoef(range(24), [sorted(stream).index(key) for key in shuffled])[0, 1] < 0.9
