import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store.pair_store import write_store
from babyvlm.data.vocabulary import EOS, PAD, SOS, SPECIALS, UNK, Vocabulary, create_vocabulary
from babyvlm.errors import UserError

SAID = {
    "a": ("train", "look at the ball"),
    "b": ("train", "the Ball , the ball ! do n't"),
    "c": ("train", "see the <unk> dog , do n't !"),
    "d": ("val", "dog dog dog dog"),
    "e": ("train", "do n't look at it , !"),
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
    create_vocabulary(root / "vocabulary", [root / "store"])
    return root


@pytest.fixture(scope="module")
def words(made):
    return Vocabulary(made / "vocabulary")


def test_vocabulary_contains_words_with_three_training_uses(words):
    # Five frames share an utterance, which counts once; "dog" is frequent in validation only.
    assert words.words == [*SPECIALS, "the", "!", ",", "ball", "do", "n't"]


def test_special_tokens_have_fixed_ids(words):
    assert words.encode(["<unk> ball"]) == [[SOS, UNK, words.words.index("ball"), EOS]]
    assert len(words) == 11


def test_encode_reads_no_special_tokens_from_text(words):
    for text in ("<image> ball", "<eos> ball", "<pad> ball", "<sos> ball"):
        assert words.encode([text])[0] == [SOS, UNK, words.words.index("ball"), EOS]


def test_encode_splits_at_blanks_and_ignores_case(words):
    assert words.encode(["DO n't ,  Ball"]) == [[SOS, *map(words.words.index, ["do", "n't", ",", "ball"]), EOS]]
    assert words.encode(["ball!"]) == [[SOS, UNK, EOS]]


def published(path, words):
    path.write_text(json.dumps({word: index for index, word in enumerate(words)}))
    return path


def test_published_vocabulary_keeps_its_ids(tmp_path):
    # As many words as CVCL's, with their kinds of tokens, in an order that no count would give.
    signs = [".", ",", "?", "'s", '"', "!", "n't", "...", "-", "…", "’s", "'", "--", "'cause", "the--", "you-", "2"]
    theirs = [*SPECIALS[:4], *signs, "i.", "it's", "/", "~", *(f"word{number}" for number in range(2325))]
    create_vocabulary(tmp_path / "words", from_json=published(tmp_path / "vocab.json", theirs))
    words = Vocabulary(tmp_path / "words")
    assert len(theirs) == 2350
    assert words.words == [*theirs, "<image>"]
    assert words.image_token == 2350
    assert words.encode(theirs[4:], 25) == [[SOS, index, EOS] for index in range(4, 2350)]
    assert words.encode([" ".join(theirs[4:])], None)[0][1:-1] == list(range(4, 2350))
    assert words.encode(["<image> <eos> The--"]) == [[SOS, UNK, UNK, theirs.index("the--"), EOS]]


def test_published_vocabulary_with_capitals_is_not_lower_cased(tmp_path):
    theirs = [*SPECIALS[:4], "Sam", "sam"]
    create_vocabulary(tmp_path / "words", from_json=published(tmp_path / "vocab.json", theirs))
    assert Vocabulary(tmp_path / "words").encode(["Sam sam SAM"]) == [[SOS, 4, 5, UNK, EOS]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "not a vocabulary"),
        ('{"<pad>": "0"}', "not a vocabulary"),
        ('{"<pad>": 0, "<unk>": 1, "<sos>": 2, "<eos>": 3, "a": 5}', "the ids are not 0 to 4, each once"),
        ('{"<unk>": 0, "<pad>": 1, "<sos>": 2, "<eos>": 3}', "begins with '<unk>', '<pad>'"),
        ("{", "not readable as JSON"),
    ],
)
def test_published_vocabulary_of_another_kind_is_refused(tmp_path, content, message):
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(UserError, match=message):
        create_vocabulary(tmp_path / "words", from_json=tmp_path / "vocab.json")
    assert not (tmp_path / "words").exists()


def test_vocabulary_needs_stores_or_json(tmp_path, made):
    for stores, file in ((None, None), ([], None), ([made / "store"], tmp_path / "vocab.json")):
        with pytest.raises(UserError, match="pass either --stores, with at least one store, or --from_json"):
            create_vocabulary(tmp_path / "words", stores, from_json=file)


@given(st.lists(st.text(max_size=80), max_size=5), st.integers(3, 25))
def test_encode_accepts_any_text_within_bounds(words, texts, limit):
    for ids in words.encode(texts, limit):
        assert len(ids) <= limit
        assert ids[0] == SOS
        assert ids[-1] == EOS
        assert all(UNK <= i < len(words) and i not in (SOS, EOS, 4) for i in ids[1:-1])


def test_transformers_reads_word_vocabulary(made, words):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(made / "vocabulary")
    assert theirs("the ball , do n't fly").input_ids == words.encode(["the ball , do n't fly"])[0]
    assert (theirs.pad_token_id, theirs.eos_token_id) == (0, EOS)


def test_vocabulary_folder_is_atomic_and_hashed(made, words, capsys):
    create_vocabulary(made / "vocabulary", [made / "store"])
    assert "already complete, skipping" in capsys.readouterr().out
    with pytest.raises(UserError, match="built with different arguments: min_count"):
        create_vocabulary(made / "vocabulary", [made / "store"], min_count=2)
    create_vocabulary(made / "other", [made / "store"], min_count=2)
    other = Vocabulary(made / "other")
    assert "look" in other.words
    assert other.hash != words.hash


def test_vocabulary_refuses_changed_tokenizer(made):
    create_vocabulary(made / "torn", [made / "store"])
    file = made / "torn" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["ball"] = 9
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json: missing or changed"):
        Vocabulary(made / "torn")


def test_vocabulary_refuses_store_without_frequent_words(made):
    with pytest.raises(UserError, match="no word occurs 99 times"):
        create_vocabulary(made / "none", [made / "store"], min_count=99)
    assert not (made / "none").exists()


@pytest.fixture(scope="module")
def pieces(made):
    create_vocabulary(made / "bpe", [made / "store"], kind="bpe", vocabulary_size=300, min_count=2)
    return Vocabulary(made / "bpe")


def test_bpe_has_special_tokens_bytes_and_frequent_merges(pieces, made):
    assert pieces.words[:5] == SPECIALS
    assert len({*pieces.words[5:261]}) == 256
    assert all(len(word) == 1 for word in pieces.words[5:261])
    assert "\u0120ball" in pieces.words  # with the space before it, as GPT-2 writes it
    assert "\u0120dog" not in pieces.words  # frequent in validation only
    assert len(pieces) <= 300
    create_vocabulary(made / "smaller", [made / "store"], kind="bpe", vocabulary_size=263, min_count=2)
    assert Vocabulary(made / "smaller").words == pieces.words[:263]


# Letters of this Python's Unicode version; the tokenizer's is newer and lower-cases more of them.
KNOWN = st.characters(codec="utf-8", exclude_categories=["Cn"])


@given(st.text(KNOWN, max_size=60))
def test_bpe_decodes_any_text_in_lower_case(pieces, text):
    text = text.lower().replace("<unk>", "")
    [ids] = pieces.encode([text], None)
    assert pieces.decode(ids) == text
    assert (ids[0], ids[-1]) == (SOS, EOS)
    assert not {PAD, UNK, SOS, EOS, SPECIALS.index("<image>")} & set(ids[1:-1])


@given(st.lists(st.sampled_from(["ball", " ", "<image>", "<eos>", "<sos>", "<pad>", "<unk>", "<", ">", "...", "x"])))
def test_bpe_reads_no_special_token_but_unknown(pieces, parts):
    text = "".join(parts)
    ids = pieces.encode([text], None)[0][1:-1]
    assert not {PAD, SOS, EOS, SPECIALS.index("<image>")} & set(ids)
    assert ids.count(UNK) == text.count("<unk>")
    assert pieces.decode(ids) == text.replace("<unk>", "")


def test_transformers_reads_bpe_vocabulary(made, pieces):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(made / "bpe")
    for text in ("The ball, don't fly!", "an  <unk>zebra <unk>", ""):
        assert theirs(text).input_ids == pieces.encode([text])[0]
    assert theirs.decode(pieces.encode(["a ball!"])[0], skip_special_tokens=True) == "a ball!"


def test_bpe_refuses_other_kind_and_small_size(made, pieces):
    with pytest.raises(UserError, match="built with different arguments: kind"):
        create_vocabulary(made / "vocabulary", [made / "store"], kind="bpe")
    with pytest.raises(UserError, match="--vocabulary_size 200: must be at least 261"):
        create_vocabulary(made / "none", [made / "store"], kind="bpe", vocabulary_size=200)
    assert not (made / "none").exists()


def test_encode_truncates_only_with_limit(words, pieces):
    for vocabulary in (words, pieces):
        assert len(vocabulary.encode(["ball " * 40], None)[0]) > 40
        assert len(vocabulary.encode(["ball " * 40])[0]) == 25  # independent of earlier calls
