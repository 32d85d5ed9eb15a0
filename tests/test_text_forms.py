"""Test the text form: splitters, remarks, and that texts in the form stay as they are."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyvlm.errors import UserError
from babyvlm.playroom import home
from babyvlm.playroom.topics import Household, random_stream
from babyvlm.text import RuleSplitter, SpacySplitter, find_splitter, normalize, remove_remarks, sentences

DATA = Path(__file__).parent / "data" / "child_directed_speech"
SPOKEN = (DATA / "sentences.txt").read_text().splitlines()
SPACY = json.loads((DATA / "spacy.json").read_text())  # made with spaCy 3.8 and en_core_web_sm 3.8


def words(found):
    return [[token for token in sentence if not token.isspace()] for sentence in found]


def test_rule_splitter_agrees_with_spacy_on_child_directed_speech():
    assert len(SPOKEN) >= 200
    different = [
        text
        for text, ours, theirs in zip(SPOKEN, RuleSplitter().split(SPOKEN), SPACY, strict=True)
        if words(ours) != theirs
    ]
    assert different == []


def test_spacy_splitter_gives_stored_sentences():
    assert [words(found) for found in find_splitter("spacy").split(SPOKEN)] == SPACY


def playroom_turns(recordings):
    for index in range(recordings):
        rng = random_stream(0, "transcript", index)
        recording = home.simulate_recording(random_stream(0, "home", index), Household(0, "S"), 50, 0.4, 1)
        for row in recording.rows:
            if row.caregiver:
                yield remove_remarks(home._typed_utterance(rng, row))


def test_rule_splitter_agrees_with_spacy_on_playroom():
    texts = list(playroom_turns(10))
    ours, theirs = (list(sentences(texts, splitter)) for splitter in (RuleSplitter(), find_splitter("spacy")))
    assert [" ".join(found) for found in ours] == [" ".join(found) for found in theirs]  # all tokens
    # spaCy's parser ends a sentence at other places now and then ("wow . pizza !"): 36 of 3,417 turns.
    assert sum(one != other for one, other in zip(ours, theirs, strict=True)) <= 0.02 * len(texts)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Don't touch it.", "do n't touch it ."),
        ("You're gonna fall, aren't you?", "you 're gon na fall , are n't you ?"),
        ('"Peekaboo", said the bear.', '" peekaboo " , said the bear .'),
        ("uh-oh, a choo-choo train", "uh - oh , a choo - choo train"),
        ("She's y'all's, isn't it 'cause o'clock", "she 's y' all 's , is n't it 'cause o'clock"),
        ("What?! No way!! Really...", "what ? ! no way ! ! really ..."),
        ("Mr. Bear and the babies' blankets", "mr. bear and the babies ' blankets"),
        ("it costs $5, 2.50 or 1,000 at 3:30 or 10am", "it costs $ 5 , 2.50 or 1,000 at 3:30 or 10 am"),
        ("Dont! Cant! Thats it, Im ill", "do nt ! ca nt ! that s it , i m ill"),
        ("the-- you- wait--what -ball", "the-- you- wait -- what -ball"),
        ("it’s “hot”… isn’t it", "it ’s “ hot ” … is n’t it"),
        ("a <unk> ball,<unk>", "a <unk> ball , <unk>"),
        ("  two   blanks\tand\na line ", "two blanks and a line"),
        ("", ""),
    ],
)
def test_normalize_gives_text_form(text, form):
    assert normalize(text) == form


@pytest.mark.parametrize("sentence", [" ".join(tokens).lower() for found in SPACY for tokens in found])
def test_normalize_keeps_text_in_the_form(sentence):
    assert normalize(sentence) == sentence


@given(st.text(st.sampled_from("aB é.?!*[]()-,'’\"_ 1\n…:;/<>$")))
def test_normalize_gives_lower_case_tokens_without_loss(text):
    form = normalize(text)
    assert form == form.lower() == " ".join(form.split())
    assert form.replace(" ", "") == "".join(text.lower().split())


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("*laughs* Look (red) [points].", " Look  ."),
        ("*a* word *b*", ""),
        ("Look (at that [red) ball] here.", "Look  ball] here."),
        ("It is *so (very* nice) today.", "It is  nice) today."),
        ("[inaudible] cup, inaudible *inaudible*", "INAUDIBLE cup, INAUDIBLE INAUDIBLE"),
        ("Inaudible inaudibles", "Inaudible inaudibles"),
        ("what is *that", "what is that"),
    ],
)
def test_remove_remarks_follows_authors(text, cleaned):
    assert remove_remarks(text) == cleaned


def test_missing_spacy_is_reported_with_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(
        UserError, match=r"^splitting text with spaCy needs spacy\. Install it with: pip install 'spacy>="
    ):
        next(SpacySplitter().split(["a"]))


def test_missing_spacy_model_is_reported_with_fix(monkeypatch):
    import spacy

    def load(name, **_):
        raise OSError(f"[E050] Can't find model '{name}'.")

    monkeypatch.setattr(spacy, "load", load)
    with pytest.raises(
        UserError, match=r"^spaCy's model en_core_web_sm is not installed. Install it with: python -m spacy download"
    ):
        next(SpacySplitter().split(["a"]))
