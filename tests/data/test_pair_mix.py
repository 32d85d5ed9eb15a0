"""``PairMix`` in a notebook: without a Trainer."""

import io

import numpy as np
import pytest
import torch
from lightning import Trainer
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import write_store
from babyvlm.data.frame_mix import Crops, FrameMix, finished
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.data.text_mix import TextMix
from babyvlm.data.transforms import eval_transform
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


@pytest.fixture(scope="module")
def frames_and_web(tiny_store, tmp_path_factory):
    """Home: utterances of three frames, four to train on and one for validation. Web: six and two pairs."""
    folder = tmp_path_factory.mktemp("stores")
    groups = [f"u{number // 3}" for number in range(15)]
    tiny_store(
        [f"a red {group}" for group in groups],
        groups=groups,
        splits=["train"] * 12 + ["val"] * 3,
        path=folder / "home",
        source="saycam",
    )
    tiny_store(["the dog"] * 8, splits=["train"] * 6 + ["val"] * 2, path=folder / "web", source="cc3m")
    return folder


def content_of(mix):
    return [(part.store, part.items, part.utterances, round(part.share, 3), part.corpora) for part in mix.contents()]


def test_mix_prints_its_contents(frames_and_web, vocabulary):
    def made(sample, *sources):
        return PairMix("both", frames_and_web, list(sources), "home", vocabulary, 4, 32, sample=sample)

    pairs = made("pairs", Source("home"), Source("web"))
    assert content_of(pairs) == [("home", 12, 4, 0.667, {"saycam": 12}), ("web", 6, 6, 0.333, {"cc3m": 6})]
    assert len(pairs._training) == 18
    assert pairs.summary() == (
        "mix both: 18 pairs per epoch\n  home: 12 pairs of 4 utterances, 66.7%\n  web: 6 pairs, 33.3%"
    )
    utterances = made("utterances", Source("home"), Source("web", utterances=5, splits=("train", "val")))
    assert content_of(utterances) == [("home", 4, 4, 0.444, {"saycam": 4}), ("web", 5, 5, 0.556, {"cc3m": 5})]
    assert len(utterances._training) == 9
    requested = made("pairs", Source("web", splits=("train", "val", "test")))
    assert content_of(requested) == [("web", 8, 8, 1.0, {"cc3m": 8})]
    assert len({mix.identity for mix in (pairs, utterances, requested, made("pairs", Source("web")))}) == 4
    text = TextMix("both", frames_and_web, [Source("home"), Source("web")], "home", vocabulary, 1, 8)
    assert text.summary().splitlines()[1] == "  home: 4 utterances, 40.0%"
    dino = FrameMix("both", frames_and_web, [Source("home"), Source("web")])
    assert dino.summary().splitlines()[0] == f"mix both: {len(dino._training)} frames per epoch"


def test_validation_is_in_the_order_of_the_store(frames_and_web, vocabulary):
    mix = PairMix("home", frames_and_web, [Source("home")], "home", vocabulary, 4, 32, val_batch_size=2)
    assert [batch.keys for batch in mix.val_dataloader()] == [["k00012", "k00013", "k00014"]]
    one_frame = PairMix("home", frames_and_web, [Source("home")], "home", vocabulary, 4, 32, sample="utterances")
    (batch,) = one_frame.val_dataloader()
    assert len(batch.keys) == 1


def test_mix_refuses_store_that_was_matched_without_splits(tmp_path, draw_jpeg, vocabulary):
    row = {"key": "k", "image": draw_jpeg(0), "utterance": "the dog", "source": "web", "group": "k", "split": "train"}
    for name, arguments in (("old", {"command": "match"}), ("new", {"command": "match", "splits": "of the targets"})):
        write_store(tmp_path / name, [row], arguments=arguments, funnel=Funnel("tiny"), licensed=False)
    with pytest.raises(UserError, match=r"old: was matched by an earlier version.*splits: \[train, val, test\]"):
        PairMix("mix", tmp_path, [Source("old")], "old", vocabulary)
    PairMix("mix", tmp_path, [Source("old", splits=("train", "val", "test")), Source("new")], "old", vocabulary)


def test_squeezed_images_are_those_of_pillow(tmp_path, vocabulary):
    """As the authors' dataset: `Image.resize`, whose default is bicubic, before anything else."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    row = {"key": "k", "image": file.getvalue(), "utterance": "the dog", "source": "", "group": "k", "split": "train"}
    write_store(
        tmp_path / "home",
        [row, row | {"key": "v", "group": "v", "split": "val"}],
        arguments={},
        funnel=Funnel("tiny"),
        licensed=False,
    )
    expected = to_tensor_reference(Image.fromarray(pixels).resize((32, 32)))
    options = {"batch_size": 1, "image_size": 32, "resize": "squeeze"}
    mix = PairMix("mix", tmp_path, [Source("home")], "home", vocabulary, augment=False, **options)
    for loader in (mix.train_dataloader(), mix.val_dataloader()):
        torch.testing.assert_close(next(iter(loader)).images_BCHW[0], expected, atol=1e-6, rtol=0)
    squeezed = eval_transform(32, "squeeze")(Image.fromarray(pixels))
    torch.testing.assert_close(squeezed, expected, atol=1e-6, rtol=0)
    augmented = PairMix("mix", tmp_path, [Source("home")], "home", vocabulary, min_scale=1.0, **options)
    (view,) = next(iter(augmented.train_dataloader())).images_BCHW
    assert min((image - expected).abs().mean() for image in (view, view.flip(2))) < 0.5  # cropped from the square


def to_tensor_reference(pil_image):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values = (np.asarray(pil_image).astype(np.float32) / np.float32(255) - mean.astype(np.float32)) / std.astype(
        np.float32
    )
    return torch.from_numpy(values.astype(np.float32).transpose(2, 0, 1).copy())


def test_pair_mix_has_the_same_batches_with_and_without_trainer(stores, vocabulary):
    alone, trained = mix(stores, vocabulary), mix(stores, vocabulary)
    trained.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    for one, other in zip(alone.train_dataloader(), trained.train_dataloader(), strict=True):
        assert one.keys == other.keys
        assert other.images_BCHW.dtype == torch.uint8  # a quarter of the bytes until they are on the device
        assert torch.equal(one.images_BCHW, trained.on_after_batch_transfer(other, 0).images_BCHW)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_normalized_images_have_the_precision_of_the_run(stores, vocabulary, precision, dtype):
    options = {"logger": False, "enable_checkpointing": False}
    place, crops = ("frames", stores, [Source("home")], 4, 32), Crops(2, 16)
    frames, drawn = (FrameMix(*place, crops, views=views) for views in ("pillow", "device"))
    for data, name in ((mix(stores, vocabulary), "images_BCHW"), (frames, "large_VBCHW"), (drawn, "large_VBCHW")):
        data.trainer = Trainer(accelerator="cpu", devices=1, precision=precision, **options)
        batch = next(iter(data.train_dataloader()))
        moved = data.on_after_batch_transfer(data.trainer.precision_plugin.convert_input(batch), 0)
        assert getattr(moved, name).dtype == dtype
        if data is drawn:  # the draws are not rounded
            torch.testing.assert_close(moved.large_VBCHW.float(), finished(batch).large_VBCHW, atol=0.1, rtol=0.01)


def test_batches_are_pinned_for_a_gpu(stores, vocabulary, monkeypatch):
    """The loader pins what a run on a GPU gets; pinning itself needs one."""
    trained = mix(stores, vocabulary, num_workers=1)
    trained.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    loaders = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
    assert not any(getattr(trained, name)().pin_memory for name in loaders)
    batch = next(iter(trained.train_dataloader()))
    monkeypatch.setattr(type(trained.trainer.strategy), "root_device", torch.device("cuda"))
    assert all(getattr(trained, name)().pin_memory for name in loaders)
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    assert pin_memory(batch).keys == batch.keys
    assert {id(tensor) for tensor in pinned} == {id(batch.images_BCHW), id(batch.tokens_BL)}


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
