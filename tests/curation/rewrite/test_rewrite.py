"""Rewriting by rules."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.rules.lexicon import SECTIONS, ing_of, lexicon, plural_of
from babyvlm.curation.rewrite.rules.rewriter import MAX_WORDS, TEMPLATES, rewrite_caption
from babyvlm.curation.rewrite.stage import rewrite
from babyvlm.curation.store.pair_store import PairStore, write_store
from babyvlm.text import normalize

ALL_TEMPLATES = [template for templates in TEMPLATES.values() for template in templates]
KNOWN = {word for template in ALL_TEMPLATES for word in template.split()} - {"{a}", "{the}", "{verb}"}
KNOWN |= {"a", "an", "the", "some", "in", "on", "under", "near", "behind", "by", "at", "beside", "inside"}
KNOWN |= {part for words in lexicon().values() for word in words for part in word.text.split()}
NOUNS = sorted({w.text for words in lexicon().values() for w in words if w.kind == "thing" and not w.plural})


def without_template(caption):
    """Return the utterance without the opening words and the final sign of its template."""
    utterance = rewrite_caption(caption).utterance
    assert utterance[-2:] in (" .", " ?", " !")
    utterance = utterance[:-2]
    openings = sorted({template.split("{")[0] for template in ALL_TEMPLATES}, key=len, reverse=True)
    return next(utterance.removeprefix(opening) for opening in openings if utterance.startswith(opening))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Vector illustration of a red ball, isolated on white background", "red ball"),
        ("Close-up of fresh organic strawberries in a bowl", "nice strawberries in the bowl"),
        ("Three small yellow ducks, stock photo #2345", "three little yellow ducks"),
        ("Men's blue jeans", "blue jeans"),
        ("big red fire truck toy", "big red fire truck"),
        ("hot air balloon", "hot air balloon"),
        ("infant in crib", "baby in the crib"),
        ("cup, red", "cup"),
        ("soccer ball on grass", "ball on the grass"),
        ("A glass of milk", "glass"),
        ("Two automobiles", "two cars"),
        ("women", "ladies"),
        ("one cats", "cats"),
        ("three ball", "ball"),
        ("ball blue 512x512 px", "blue ball"),
    ],
)
def test_rewrite_caption_names_subject(caption, expected):
    phrase = without_template(caption)
    assert phrase.removeprefix("a ").removeprefix("an ").removeprefix("the ").removeprefix("some ") == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("someone washing a cup", ["somebody", "washing a cup"]),
        ("two cats sleeping on a bed", ["the two cats", "sleeping on the bed"]),
        ("Young woman kicks ball", ["the lady", "kicking a ball"]),
        ("a baby is sitting", ["the baby", "sitting"]),
    ],
)
def test_rewrite_caption_keeps_verb_object_and_place(caption, expected):
    utterance = rewrite_caption(caption).utterance
    assert all(part in utterance for part in expected)
    assert " is " not in utterance or "two" not in utterance


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("Dog collar, brown leather", "no word a toddler knows"),
        ("Flag of France on a house", "adult topic"),
        ("A glass of wine", "adult topic"),
        ("quarterly results 2019", "no word a toddler knows"),
        ("#1234 !!", "no words"),
        ("", "no words"),
        ("Balance scale, thermostat and a cup", "mostly about other things"),
        ("photo of a credit cards", "adult topic"),
    ],
)
def test_rewrite_caption_rejects_unsuitable_captions(caption, reason):
    result = rewrite_caption(caption)
    assert (result.utterance, result.reason) == (None, reason)


WORDS = st.sampled_from(
    [*sorted(lexicon()), "a", "the", "of", "with", "on", ",", ".", "stock photo", "zyx", "in", "is", "5"]
)


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=12).map(" ".join)))
def test_rewrite_caption_is_deterministic_short_and_uses_known_words(caption):
    result = rewrite_caption(caption)
    assert result == rewrite_caption(caption)
    assert bool(result.utterance) == (not result.reason)
    if result.utterance:
        words = result.utterance.split(" ")
        assert len(words) <= MAX_WORDS
        assert set(words) <= KNOWN
        assert normalize(result.utterance) == result.utterance


@given(st.sampled_from(NOUNS))
def test_rewrite_caption_ignores_stock_photo_phrases(noun):
    for caption in (
        "{} isolated on white background",
        "Stock photo of a {}",
        "{} royalty-free vector illustration",
        "a {} clipart 512x512",
        "Cute cartoon {} sticker #88213",
        "A {} - stock photo 17184",
    ):
        assert noun in rewrite_caption(caption.format(noun)).utterance
    assert rewrite_caption(f"{noun.replace(' ', '_')}.jpg").reason == "no words"


def test_lexicon_has_at_least_600_words():
    words = {kind: {w.text for ws in lexicon().values() for w in ws if w.kind == kind} for kind in SECTIONS.values()}
    others = ("mass", "people", "verb", "color", "adjective", "number")
    assert len(NOUNS) + sum(len(words[kind]) for kind in others) >= 600
    assert {"red", "blue", "green", "yellow"} <= words["color"]
    assert not {spelling for spelling in lexicon() if "_" in spelling or spelling != spelling.lower()}


def test_rewrite_caption_varies_template_with_caption():
    assert len({rewrite_caption(f"a ball {sign}").utterance for sign in "?!.;:,"}) > 2


@pytest.mark.parametrize("sign", [*"?!.;:,()[]=+"])
def test_rewrite_caption_shortens_long_captions(sign):
    many = "two big red hot air balloons pulling five little brown hot air balloons in a police car"
    utterance = rewrite_caption(f"{many} {sign}").utterance
    assert "hot air balloons" in utterance
    assert "pulling" in utterance
    assert len(utterance.split()) <= MAX_WORDS


@pytest.mark.parametrize(
    ("singular", "plural"), [("box", "boxes"), ("berry", "berries"), ("boy", "boys"), ("dish", "dishes")]
)
def test_plural_of_follows_spelling_rules(singular, plural):
    assert plural_of(singular) == plural


@pytest.mark.parametrize(("base", "ing"), [("run", "running"), ("lie", "lying"), ("ride", "riding"), ("eat", "eating")])
def test_ing_of_follows_spelling_rules(base, ing):
    assert ing_of(base) == ing


def test_rewrite_writes_store_with_original_captions(tmp_path, capsys):
    captions = ["A red ball, stock photo", "Quarterly results", "Flag", "two cats"]
    rows = [
        {"key": f"w/{i}", "image": b"i", "utterance": c, "source": "w", "group": f"w/{i}", "split": "train", "n": i}
        for i, c in enumerate(captions)
    ]
    write_store(tmp_path / "in", rows, arguments={}, funnel=Funnel("x"), licensed=False, extra_fields={"n": pa.int8()})
    rewrite(tmp_path / "in", tmp_path / "out")
    out = PairStore(tmp_path / "out")
    assert [(row["original_caption"], row["n"]) for row in out.rows()] == [(captions[0], 0), (captions[3], 3)]
    assert [row["utterance"] for row in out.rows()] == [rewrite_caption(captions[i]).utterance for i in (0, 3)]
    assert not out.licensed
    assert out.manifest["funnel"]["dropped"] == {"adult topic": 1, "no word a toddler knows": 1}
    rewrite(tmp_path / "in", tmp_path / "out")
    assert "already complete, skipping" in capsys.readouterr().out
    rewrite(tmp_path / "out", tmp_path / "again")  # starts from the original captions again
    again = [(row["utterance"], row["original_caption"]) for row in PairStore(tmp_path / "again").rows()]
    assert again == [(row["utterance"], row["original_caption"]) for row in out.rows()]
