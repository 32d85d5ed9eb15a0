import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from babyvlm.data.frame_mix import Crops, FrameMix
from babyvlm.data.pair_dataset import Mixed, Pairs, collate
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.data.transforms import Augmented, Plain, eval_transform
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError

GROUPS = ["u1", "u1", "u1", "u2", "u3", "u3", "v1"]
SAID = ["look at the ball"] * 3 + ["the dog"] + ["a red cup"] * 2 + ["the dog"]
SPLITS = ["train"] * 6 + ["val"]
KEYS = [f"k{number:05d}" for number in range(7)]


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(SAID, groups=GROUPS, splits=SPLITS)


@pytest.fixture(scope="module")
def words(vocabulary):
    return Vocabulary(vocabulary)


def frames(store, words, *, train=True, **kwargs):
    view = Augmented(16) if train else Plain(16)
    return Pairs(store, ["train"], view, words, **{"sample": "utterances"} | kwargs)


def test_item_is_utterance_with_one_of_its_frames(store, words):
    data = frames(store, words)
    assert len(data) == 3
    shown = [{data[index, epoch].key for epoch in range(40)} for index in range(3)]
    assert shown == [{"k00000", "k00001", "k00002"}, {"k00003"}, {"k00004", "k00005"}]
    assert [data[index, 0].utterance for index in range(3)] == ["look at the ball", "the dog", "a red cup"]


def test_item_is_pair(store, words):
    data = frames(store, words, sample="pairs")
    assert [data[index, epoch].key for epoch in range(2) for index in range(len(data))] == KEYS[:6] * 2
    assert [data[index, 0].utterance for index in range(6)] == SAID[:6]
    assert data.lengths().tolist() == [len(words.encode([text])[0]) for text in SAID[:6]]
    views = [data[index, 0].image_HWC for index in range(3)]  # frames of one utterance
    assert not np.array_equal(views[0], views[1])
    limited = frames(store, words, sample="pairs", limit=2)  # all pairs of two utterances
    assert {limited[index, 0].utterance for index in range(len(limited))} < set(SAID[:6])
    assert len(limited) in (3, 4, 5)


def test_item_is_first_frame_of_utterance(store, words):
    data = frames(store, words, sample="first_frames")
    assert [{data[index, epoch].key for epoch in range(9)} for index in range(len(data))] == [
        {"k00000"},
        {"k00003"},
        {"k00004"},
    ]


@pytest.mark.parametrize("sample", ["pairs", "utterances", "first_frames"])
def test_shuffled_utterances_exchange_all_texts(store, words, sample):
    data = frames(store, words, sample=sample)
    own = {data[index, 0].key: data[index, 0].utterance for index in range(len(data))}
    data.shuffle_utterances()
    items = [data[index, 0] for index in range(len(data))]
    assert all(item.utterance != own[item.key] for item in items)
    assert [item.utterance for item in items] == data.utterances()
    by_text = {}
    for item in items:
        by_text.setdefault(item.utterance, set()).add(GROUPS[KEYS.index(item.key)])
    assert [len(groups) for groups in by_text.values()] == [1, 1, 1]  # all frames of an utterance have one text
    assert items[0].tokens_L.tolist() == words.encode([items[0].utterance])[0]
    again = frames(store, words, sample=sample)
    again.shuffle_utterances()
    assert again.utterances() == data.utterances()


def test_single_utterance_cannot_be_shuffled(tiny_store, words):
    data = frames(tiny_store(["the dog"]), words)
    with pytest.raises(UserError, match="has one utterance, which cannot be exchanged"):
        data.shuffle_utterances()


def test_mix_shuffles_training_utterances_only(store, vocabulary):
    def mix(**options):
        made = PairMix("mix", store.path.parent, [Source(store.path.name)], store.path.name, vocabulary, **options)
        made.setup()
        return made

    plain, shuffled = mix(), mix(shuffle_utterances=True)
    assert plain.identity != shuffled.identity
    assert {mix(sample=sample).identity for sample in ("utterances", "first_frames")}.isdisjoint({plain.identity})
    assert plain._training.parts[0].utterances() != shuffled._training.parts[0].utterances()
    assert [batch.utterances for batch in plain.val_dataloader()] == [
        batch.utterances for batch in shuffled.val_dataloader()
    ]


def test_long_utterance_is_cut_with_or_without_end(store, words):
    """As written: CVCL takes the first 25 tokens of `<sos> words <eos>`."""
    complete = words.encode(["look at the ball"])[0]
    for keep, expected in ((True, [*complete[:3], 3]), (False, complete[:4])):
        for sample in ("pairs", "utterances"):
            data = frames(store, words, sample=sample, max_tokens=4, keep_eos=keep)
            assert data[0, 0].tokens_L.tolist() == expected
            assert data.lengths()[0] == 4
        assert frames(store, words, max_tokens=6, keep_eos=keep)[0, 0].tokens_L.tolist() == complete


def test_augmentation_depends_on_seed_epoch_and_utterance_only(store, words):
    torch.manual_seed(1)
    first = frames(store, words, seed=5)[1, 2].image_HWC
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = frames(store, words, seed=5)
    again[0, 9]  # reading another item before it changes nothing
    assert np.array_equal(again[1, 2].image_HWC, first)
    assert torch.equal(torch.get_rng_state(), state)  # the global random state is untouched
    assert not np.array_equal(again[1, 3].image_HWC, first)
    assert not np.array_equal(frames(store, words, seed=6)[1, 2].image_HWC, first)


def test_evaluation_image_is_constant(store, words):
    data = frames(store, words, train=False)
    assert np.array_equal(data[1, 0].image_HWC, data[1, 7].image_HWC)


def test_limit_samples_by_seed(store, words):
    drawn = {
        tuple(frames(store, words, seed=seed, limit=2)[index, 0].utterance for index in range(2)) for seed in range(20)
    }
    assert len(drawn) == 3
    with pytest.raises(UserError, match="5 utterances requested, but split train has 3"):
        frames(store, words, limit=5)


def test_mix_concatenates_its_stores(store, words):
    one, two = frames(store, words), frames(store, words, limit=2)
    mixed = Mixed([one, two])
    assert len(mixed) == 5
    keys = [mixed[index, 0].key for index in range(5)]
    assert keys == [one[index, 0].key for index in range(3)] + [two[index, 0].key for index in range(2)]


def test_collate_pads_on_the_right(store, words):
    data = frames(store, words, train=False)
    batch = collate([data[index, 0] for index in range(3)])
    assert batch.images_BCHW.shape == (3, 3, 16, 16)
    assert batch.images_BCHW.dtype == torch.float32
    assert batch.tokens_BL.shape == (3, 6)
    assert batch.tokens_BL[1].tolist() == [*words.encode(["the dog"])[0], 0, 0]


def test_broken_image_error_names_key(tiny_store, words):
    store = tiny_store(SAID, groups=GROUPS, splits=SPLITS)
    file = store.files[0]
    table = pq.read_table(file)
    images = table["image"].to_pylist()
    images[3] = images[3][:60]
    pq.write_table(
        table.set_column(table.schema.get_field_index("image"), "image", pa.array(images, pa.binary())), file
    )
    data = frames(store, words)
    data[0, 0]
    with pytest.raises(UserError, match="image of k00003 cannot be read"):
        data[1, 0]


def test_dataset_refuses_empty_split(tiny_store, words):
    with pytest.raises(UserError, match="split test is empty"):
        Pairs(tiny_store(), ["test"], Plain(16), words)


def test_normalization_is_imagenet():
    from PIL import Image

    grey = eval_transform(8)(Image.new("RGB", (20, 10), (128, 128, 128)))
    expected = (128 / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    assert grey.shape == (3, 8, 8)
    assert np.allclose(grey.mean((1, 2)), expected, atol=1e-5)


def test_copy_of_store_that_cannot_be_written_goes_to_another_folder(tmp_path, tiny_store, vocabulary):
    """A file in the place of the copy stands for a read-only disk, which does not stop root."""
    store = tiny_store(path=tmp_path / "stores" / "home")
    (store.path / "arrow").write_text("")
    before = sorted(path.name for path in store.path.iterdir())
    mix = PairMix("x", tmp_path / "stores", [Source("home")], "home", vocabulary, 2, 24)
    with pytest.raises(UserError, match=r"home/arrow: the memory-mapped copy .* cannot be written .* data\.cache_dir"):
        mix.prepare_data()
    mix = PairMix("x", tmp_path / "stores", [Source("home")], "home", vocabulary, 2, 24, cache_dir=tmp_path / "cache")
    mix.prepare_data()
    assert len(next(iter(mix.train_dataloader())).keys) == 2
    crops = Crops(local_count=1, local_size=16)
    frames = FrameMix("x", tmp_path / "stores", [Source("home")], 2, 24, crops, cache_dir=tmp_path / "cache")
    assert len(next(iter(frames.train_dataloader())).keys) == 2
    assert sorted(path.name for path in store.path.iterdir()) == before
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "cache").iterdir()] == ["home"]
