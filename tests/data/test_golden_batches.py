"""The batches of version 0.1.0, written by ``tests/data/version_0_1_0/make.py``: order and contents must not change."""

import hashlib
import json
import shutil

import pytest

from babyvlm.data.frame_mix import Crops, FrameMix
from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.data.text_mix import TextMix
from support.golden import GOLDEN, SIZE

EXPECTED = json.loads((GOLDEN / "golden.json").read_text())["first_batches"]
IDENTITY = 2726368102004376660
WORDS = GOLDEN / "vocabulary"
MIXES = {
    "augmented": lambda *place: PairMix(*place, "home", WORDS, 4, SIZE, sample="utterances", seed=3),
    "plain": lambda *place: PairMix(*place, "home", WORDS, 4, SIZE, sample="utterances", augment=False, seed=3),
    "bucketed": lambda *place: PairMix(
        *place, "home", WORDS, 4, SIZE, sample="utterances", bucket_by_length=True, seed=3
    ),
    "text": lambda *place: TextMix(*place, "home", WORDS, 4, max_tokens=8, seed=3),
    "frames": lambda *place: FrameMix(*place, 4, SIZE, crops=Crops(2, 16), seed=3),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return shutil.copytree(GOLDEN / "stores", tmp_path_factory.mktemp("golden") / "stores")


@pytest.mark.parametrize("name", MIXES)
def test_mix_has_batches_of_0_1_0(stores, name):
    expected = EXPECTED[name]
    mix = MIXES[name]("mix", stores, [Source("home", 12)])
    mix.identity = IDENTITY  # of this store in 0.1.0: the order depends on the contents, not on the manifest's format
    mix.setup()
    loader = mix.train_dataloader()
    batches = [*loader, *loader]  # two epochs
    assert [batch.keys for batch in batches] == expected["keys"]
    for field in expected.keys() - {"keys", "val"}:
        tensors = [getattr(batch, field).contiguous() for batch in batches]
        assert [hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in tensors] == expected[field]
    if name in ("augmented", "plain", "bucketed"):  # the same frames; since 0.3 in the order of the store
        found = [key for batch in mix.val_dataloader() for key in batch.keys]
        assert sorted(found) == sorted(key for batch in expected["val"] for key in batch)
    elif "val" in expected:
        assert [batch.keys for batch in mix.val_dataloader()] == expected["val"]
