"""Phrase pairs: proposed by rules or by a language model, checked, balanced."""

import base64
import itertools
import json
import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyvlm.__main__ import main
from babyvlm.benchmark_builder import llm_proposals
from babyvlm.benchmark_builder.items import Items
from babyvlm.benchmark_builder.phrase_pairs import add_mirrored, phrase_pairs, propose_by_rules
from babyvlm.benchmarks.phrases import PhrasePair, balance, derived_class, extract_phrase, rejection_reason
from babyvlm.benchmarks.vtwt import VTWT
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError
from support import fake_llm

SAID = [
    "wash the cup",
    "fill the cup",
    "look a red ball",
    "thats a blue ball",
    "were washing the dog",
    "the ball is red",
    "can you fill the cup",
    "two dogs",
    "good job",
    "look at the cup",
    "big dog",
    "red cup",
    "blue cup",
]


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(SAID, splits=["test"] * (len(SAID) - 1) + ["train"])


@pytest.fixture(scope="module")
def words(tiny_store, make_vocabulary):
    return make_vocabulary(tiny_store([*SAID, "wash fill kick spoon mug dogs large ball"]))


@pytest.mark.parametrize(
    ("utterance", "phrase"),
    [
        ("can you wash the cup", ("wash cup", "verb")),
        ("mommy is washing the cup", ("wash cup", "verb")),
        ("you like brushing the cat", ("brush cat", "verb")),
        ("paint door", ("paint door", "verb")),
        ("look thats a red ball", ("red ball", "adjective")),
        ("see how blue the sock is", ("blue sock", "adjective")),
        ("your sock is blue", ("blue sock", "adjective")),
        ("i see two ducks <unk>", ("two ducks", "adjective")),
        ("look at the ball", None),  # looking cannot be seen
        ("what a nice bed", None),
        ("give mommy the hat", None),
        ("good job", None),
        ("", None),
    ],
)
def test_extract_phrase_from_utterance(utterance, phrase):
    assert extract_phrase(utterance) == phrase


@pytest.mark.parametrize(
    ("positive", "negative", "word_class"),
    [
        ("wash cup", "wash dog", "noun"),
        ("frobbing zorp", "frobbing blick", "noun"),  # no list is asked
        ("wash cup", "kick ball", "both"),
        ("washing cup", "holding cup", "verb"),
        ("look cup", "kick cup", "verb"),
        ("Big dog", "little  dog", "adjective"),
        ("two cups", "red cups", "adjective"),
        ("frob cup", "wash cup", "verb"),  # as the one that the list has
        ("frob cup", "zorp cup", "unknown"),
        ("wash cup", "red cup", "unknown"),
        ("wash cup", "wash cup", "unknown"),
        ("wash the cup", "kick the cup", "unknown"),
    ],
)
def test_derived_class_of_unlabeled_pair(positive, negative, word_class):
    assert derived_class(positive, negative) == derived_class(negative, positive) == word_class


@pytest.mark.parametrize(
    ("contrast", "reason"),
    [
        (("wash cup", "fill cup", "verb"), ""),
        (("wash cup", "wash spoon", "noun"), ""),
        (("red ball", "blue ball", "adjective"), ""),
        (("wash cup", "kick ball", "both"), ""),
        (("wash the cup", "fill cup", "verb"), "phrase is not two lower-case words"),
        (("Wash cup", "fill cup", "verb"), "phrase is not two lower-case words"),
        (("wash cup", "fill cup", "colour"), "unknown word class"),
        (("wash cup", "wash giraffe", "noun"), "out-of-vocabulary word"),
        (("wash cup", "fill cup", "noun"), "phrases do not differ as labeled"),
        (("wash cup", "fill ball", "verb"), "phrases do not differ as labeled"),
        (("wash cup", "wash ball", "both"), "phrases do not differ as labeled"),
        (("wash cup", "wash cup", "verb"), "phrases do not differ as labeled"),
        (("red ball", "blue ball", "verb"), "first words are not of the labeled class"),
        (("wash ball", "red ball", "adjective"), "first words are not of the labeled class"),
        (("wash ball", "red cup", "both"), "first words are not of the labeled class"),
        (("wash red", "wash blue", "noun"), "second word is not a noun"),
        (("wash dog", "wash dogs", "noun"), "differing words have the same root"),
        (("big ball", "large ball", "adjective"), "differing words have the same root"),
        (("red ball", "wash cup", "both"), "first words are not of the labeled class"),
        (("two dogs", "two cup", "noun"), "utterance contains the negative phrase"),
    ],
)
def test_rejection_reason_of_invalid_pairs(contrast, reason, words):
    assert rejection_reason(PhrasePair(*contrast), "two dogs and a cup", Vocabulary(words)) == reason


phrases = st.sampled_from("abcdef")


@given(st.lists(st.tuples(phrases, phrases).filter(lambda pair: pair[0] != pair[1]), max_size=9))
def test_balance_keeps_as_many_as_any_choice_could(pairs):
    keep = balance(pairs)
    assert len(keep) == len(pairs)

    def is_balanced(chosen):
        return Counter(p for p, _ in chosen) == Counter(n for _, n in chosen)

    kept = list(itertools.compress(pairs, keep))
    assert is_balanced(kept)
    most = max(
        sum(choice)
        for choice in itertools.product((0, 1), repeat=len(pairs))
        if is_balanced(list(itertools.compress(pairs, choice)))
    )
    assert len(kept) == most


def test_mirrors_serve_frames_that_the_other_phrase_fits():
    proposed = {"f": [PhrasePair("a b", "c b", "verb")], "g": [PhrasePair("c b", "x b", "verb")], "h": []}
    assert add_mirrored(proposed) == {
        "f": [PhrasePair("a b", "c b", "verb")],
        "g": [PhrasePair("c b", "x b", "verb"), PhrasePair("c b", "a b", "verb")],
        "h": [],
    }
    assert add_mirrored(add_mirrored(proposed)) == add_mirrored(proposed)


def test_rules_contrast_a_frame_with_what_other_frames_say():
    frames = {str(n): {"utterance": text} for n, text in enumerate(SAID)}
    proposed = propose_by_rules(frames, per_frame=3, seed=0)
    assert {contrast.positive for contrasts in proposed.values() for contrast in contrasts} == {
        phrase[0] for text in SAID if (phrase := extract_phrase(text))
    }
    assert all(len(contrasts) <= 3 and len(set(contrasts)) == len(contrasts) for contrasts in proposed.values())
    assert {contrast.word_class for contrast in proposed["0"]} == {"noun", "verb"}  # wash dog, fill cup; none of both
    assert proposed == propose_by_rules(frames, per_frame=3, seed=0)


def test_phrase_pairs_builds_balanced_items_that_benchmark_reads(store, words, tmp_path, capsys):
    out = tmp_path / "pairs"
    main(
        [
            "benchmark",
            "build",
            "phrase-pairs",
            "--store",
            str(store.path),
            "--vocabulary",
            str(words),
            "--out",
            str(out),
        ]
    )
    items = list(Items(out).rows.values())
    assert Counter(item.positive for item in items) == Counter(item.negative for item in items)
    assert {item.word_class for item in items} >= {"verb", "adjective", "both"}
    rows = {row["key"]: row for row in store.rows()}
    for item in items:
        row = rows[item.notes["key"]]
        assert (out / item.image).read_bytes() == row["image"]
        assert item.notes["utterance"] == row["utterance"]
        assert extract_phrase(row["utterance"])[0] == item.positive
        assert row["split"] == "test"
    assert len({(item.notes["key"], item.positive, item.negative) for item in items}) == len(items)
    assert len(VTWT(out / "items.csv").read(out / "items.csv")) == len(items)
    funnel = Items(out).manifest["funnel"]
    assert funnel["kept"] == len(items)
    assert funnel["in"] == len(items) + sum(funnel["dropped"].values())
    phrase_pairs(store.path, words, out)
    assert "already complete" in capsys.readouterr().out


PAIRS = {
    "wash the cup": [("wash cup", "fill cup", "verb")],
    "can you fill the cup": [("fill cup", "wash cup", "verb"), ("fill cup", "fill giraffe", "noun")],
    "look a red ball": [("red ball", "blue ball", "noun")],
}


def answer(caption):
    said = caption[0]["text"].split("\n")[1] if caption[0]["type"] == "text" else "wash the cup"
    keys = ("positive", "negative", "differs")
    return json.dumps({"pairs": [dict(zip(keys, pair, strict=True)) for pair in PAIRS.get(said, [])]})


@pytest.fixture
def serving(monkeypatch):
    """The fake server, for bodies whose user content is a list of parts."""
    monkeypatch.setattr(fake_llm, "caption_of", lambda body: Parts(body["messages"][1]["content"]))
    with fake_llm.serving(answer) as mind:
        yield mind


class Parts(list):
    """Parts of a message, to be counted by."""

    def __hash__(self):
        return hash(json.dumps(list(self)))


def test_llm_proposals_pass_the_same_checks(store, words, tmp_path, serving, capsys):
    def build(**options):
        return phrase_pairs(
            store.path, words, tmp_path / "out", method="llm", model="m", base_url=serving.base_url, **options
        )

    build()
    made = [(item.positive, item.negative, item.word_class) for item in Items(tmp_path / "out").rows.values()]
    assert sorted(made) == [("fill cup", "wash cup", "verb"), ("wash cup", "fill cup", "verb")]
    said = capsys.readouterr().out
    assert "1  out-of-vocabulary word" in said
    assert "1  phrases do not differ as labeled" in said
    asked = [body["messages"][1]["content"][0]["text"].split("\n")[1] for body in serving.bodies]
    assert sorted(asked) == sorted(SAID[:-1])  # the last is of the training part
    assert serving.bodies[0]["response_format"]["json_schema"]["strict"] is True
    (tmp_path / "out").rename(tmp_path / "before")
    build()
    assert len(serving.bodies) == len(asked)  # from the ledger: nothing is paid for twice
    assert (tmp_path / "out/items.csv").read_bytes() == (tmp_path / "before/items.csv").read_bytes()


def test_llm_proposals_show_frame(store, words, tmp_path, serving):
    with pytest.raises(UserError, match="no pair is left"):  # all say "wash cup": nothing can be balanced
        phrase_pairs(
            store.path,
            words,
            tmp_path / "out",
            method="llm",
            model="m",
            base_url=serving.base_url,
            show="frame",
            limit=3,
        )
    images = {row["image"] for row in store.rows()}
    for body in serving.bodies:
        (part,) = body["messages"][1]["content"]
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        assert base64.b64decode(data) in images
    assert len(serving.bodies) == 3


def test_llm_proposals_refuse_remote_server_for_licensed_store(tiny_store, words, tmp_path, serving):
    licensed = tiny_store(SAID, splits=["test"] * len(SAID), licensed=True)
    for show in ("utterance", "frame"):
        with pytest.raises(UserError, match="is licensed"):
            phrase_pairs(
                licensed.path,
                words,
                tmp_path / "out",
                method="llm",
                model="m",
                show=show,
                base_url="http://example.com/v1",
            )
    assert not (tmp_path / "out").exists()
    phrase_pairs(licensed.path, words, tmp_path / "out", method="llm", model="m", base_url=serving.base_url)
    assert Items(tmp_path / "out").licensed


def test_llm_proposals_reject_invalid_answer_and_pay_once(store, words, tmp_path, serving):
    serving.answer = lambda _: '{"pairs": [{"positive": "wash cup"}]}'
    with pytest.raises(UserError, match=r"the first 5 answers of m .*Use a model that follows the schema$"):
        phrase_pairs(store.path, words, tmp_path / "out", method="llm", model="m", base_url=serving.base_url)
    with closing(sqlite3.connect(tmp_path / "phrase_pairs.sqlite")) as db:
        reasons = {row[0] for row in db.execute("SELECT reason FROM calls")}
    assert reasons == {"answer violates the schema"}
    assert sum(serving.paid.values()) == 5


def test_schema_equals_proposal_model():
    pair = llm_proposals.SCHEMA["properties"]["pairs"]["items"]
    assert set(pair["required"]) == set(pair["properties"]) == llm_proposals.ProposedPair.model_fields.keys()
    assert pair["properties"]["differs"]["enum"] == ["noun", "verb", "adjective", "both"]
    assert len({llm_proposals.prompt_id(show) for show in ("utterance", "frame", "both")}) == 3
