"""``PairMix`` in a notebook: without a Trainer."""

import pytest
import torch
from lightning import Trainer
from matplotlib.figure import Figure

from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.errors import UserError
from babyvlm.types import Batch

UTTERANCES = [f"look at the {word}" for word in ("ball", "dog", "cup")] * 4


@pytest.fixture(scope="module")
def stores(tiny_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    tiny_store(UTTERANCES, splits=["train"] * 8 + ["val"] * 2 + ["test"] * 2, path=folder / "home")
    return folder


def mix(stores, vocabulary, **options):
    return PairMix("mix", stores, [Source("home")], "home", vocabulary, 4, 32, **options)


def test_pair_mix_works_without_trainer(stores, vocabulary):
    alone = mix(stores, vocabulary)
    alone.setup()
    batch = next(iter(alone.train_dataloader()))
    assert batch.images_BCHW.shape == (4, 3, 32, 32)
    assert (alone.rank, alone.world_size, alone.batches_per_epoch) == (0, 1, 2)
    held_out = [
        key for loader in (alone.val_dataloader(), alone.test_dataloader()) for batch in loader for key in batch.keys
    ]
    assert sorted(held_out) == ["k00008", "k00009", "k00010", "k00011"]
    assert [batch.keys for batch in alone.predict_dataloader()] == [["k00010", "k00011"]]


def test_pair_mix_has_the_same_batches_with_and_without_trainer(stores, vocabulary):
    alone, trained = mix(stores, vocabulary), mix(stores, vocabulary)
    trained.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    for one, other in zip(alone.train_dataloader(), trained.train_dataloader(), strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.images_BCHW, other.images_BCHW)


def test_pair_mix_reads_images_without_trainer_where_features_are_configured(stores, vocabulary, tmp_path):
    cached = mix(stores, vocabulary, augment=False, features=tmp_path / "features")
    cached.setup()
    assert next(iter(cached.train_dataloader())).images_BCHW.shape == (4, 3, 32, 32)
    assert not (tmp_path / "features").exists()


def test_plot_shows_each_image_with_its_utterance(stores, vocabulary):
    alone = mix(stores, vocabulary, augment=False)
    batch = next(iter(alone.train_dataloader()))
    figure = alone.plot(batch, columns=3)
    assert isinstance(figure, Figure)
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in shown] == batch.utterances
    pixels = shown[0].images[0].get_array()
    assert pixels.shape == (32, 32, 3)
    assert 0 <= pixels.min() < pixels.max() <= 1


def test_plot_refuses_cached_features(stores, vocabulary):
    batch = Batch(["k"], torch.empty(1, 0), torch.zeros(1, 1), ["look"], torch.zeros(1, 3))
    with pytest.raises(UserError, match="cached features"):
        mix(stores, vocabulary).plot(batch)
