import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyvlm.contracts import UserError
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store import write_store
from babyvlm.data.vocabulary import EOS, SOS, SPECIALS, UNK, Vocabulary, vocabulary

SAID = {
    "a": ("train", "look at the ball"),
    "b": ("train", "the Ball, the ball! don't"),
    "c": ("train", "see the <unk> dog don't"),
    "d": ("val", "dog dog dog dog"),
    "e": ("train", "don't look at it"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("vocabulary")
    rows = [
        {"key": f"{group}{frame}", "image": b"", "utterance": text, "source": "test", "group": group, "split": split}
        for group, (split, text) in SAID.items()
        for frame in range(5)
    ]
    write_store(root / "store", rows, arguments={}, funnel=Funnel("test"), licensed=False)
    vocabulary([root / "store"], root / "vocabulary")
    return root


@pytest.fixture(scope="module")
def words(made):
    return Vocabulary(made / "vocabulary")


def test_holds_words_said_three_times_in_training(words):
    # Five frames share an utterance, which counts once; "dog" is frequent in validation only.
    assert words.words == [*SPECIALS, "the", "ball", "don't"]


def test_specials_have_fixed_places(words):
    assert words.encode(["<unk> ball"]) == [[SOS, UNK, words.words.index("ball"), EOS]]
    assert len(words) == 8


def test_a_text_cannot_spell_a_special(words):
    for text in ("<image> ball", "<eos> ball", "<pad> ball", "<sos> ball"):
        assert words.encode([text])[0] == [SOS, UNK, words.words.index("ball"), EOS]


def test_punctuation_goes_and_case_folds(words):
    assert words.encode(["THE, ball!?"]) == words.encode(["the ball"])


@given(st.lists(st.text(max_size=80), max_size=5), st.integers(3, 25))
def test_encodes_anything_within_bounds(words, texts, limit):
    for ids in words.encode(texts, limit):
        assert len(ids) <= limit
        assert ids[0] == SOS
        assert ids[-1] == EOS
        assert all(UNK <= i < len(words) and i not in (SOS, EOS, 4) for i in ids[1:-1])


def test_transformers_reads_it(made, words):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(made / "vocabulary")
    assert theirs("the ball don't fly").input_ids == words.encode(["the ball don't fly"])[0]
    assert (theirs.pad_token_id, theirs.eos_token_id) == (0, EOS)


def test_is_whole_or_absent_and_hashed(made, words, capsys):
    vocabulary([made / "store"], made / "vocabulary")
    assert "whole already" in capsys.readouterr().out
    with pytest.raises(UserError, match="made with other min_count"):
        vocabulary([made / "store"], made / "vocabulary", min_count=2)
    vocabulary([made / "store"], made / "other", min_count=2)
    other = Vocabulary(made / "other")
    assert "look" in other.words
    assert other.hash != words.hash


def test_notices_a_changed_tokenizer(made):
    vocabulary([made / "store"], made / "torn")
    file = made / "torn" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["ball"] = 5
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json: missing or changed"):
        Vocabulary(made / "torn")


def test_refuses_a_store_without_frequent_words(made):
    with pytest.raises(UserError, match="no word is seen 99 times"):
        vocabulary([made / "store"], made / "none", min_count=99)
    assert not (made / "none").exists()
