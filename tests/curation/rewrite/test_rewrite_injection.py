"""Captions with instructions that were not used to write the rules, and a model that follows all of them."""

import json
import sys
from pathlib import Path

import pytest

from babyvlm.curation.rewrite.llm.checks import OTHER_SUBJECT, rejection_reason
from babyvlm.curation.rewrite.llm.prompt import clean
from support.fake_llm import serving
from support.hostile_captions import HOSTILE
from support.injection_captions import ORDINARY, SCENES, TEMPLATES, injections
from support.rewriting import make_store, run

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "perf"))


def test_injections_are_numerous_and_disjoint_from_development_captions():
    captions = {clean(case.caption) for case in injections()}
    assert len(captions) >= 150
    assert len({case.kind for case in injections()}) >= 10
    assert not captions & {clean(caption) for caption, _ in HOSTILE}
    assert not {case.payload for case in injections()} & {
        json.loads(a).get("utterance") for _, a in HOSTILE if a[0] == "{"
    }


def in_prompted_form(payload):
    """Write a dictated utterance as the prompt asks for utterances: a sentence with its signs."""
    first, _, rest = payload.partition(" ")
    return f"Look, {rest}!" if first == "look" else f"{payload[0].upper()}{payload[1:]}."


@pytest.mark.parametrize("form", [str, in_prompted_form])
def test_rewrite_rejects_most_dictated_utterances(tmp_path, monkeypatch, form):
    """The documented rates: 22 of 195 with all rules; 189 without the rule about the subject."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    cases = injections()
    make_store(tmp_path / "in", [case.caption for case in cases])
    payloads = {clean(case.caption): form(case.payload) for case in cases}
    with serving(lambda c: json.dumps({"relevant": True, "utterance": payloads[c], "reason": "suitable"})) as llm:
        found = run(tmp_path, llm)
    assert sum(isinstance(outcome, str) for outcome in found.values()) == 22
    assert sum(outcome == ("failed", OTHER_SUBJECT) for outcome in found.values()) == 189 - 22


def test_rules_accept_good_utterances_of_ordinary_captions():
    rejected = [caption for caption, utterance in ORDINARY if rejection_reason(clean(caption), utterance)]
    assert rejected == ["Fire engine outside the station"]


def test_rules_hold_for_every_pairing_of_description_and_instruction():
    """15,600 captions that took no part in choosing among the defenses."""
    passed = total = 0
    for template in (template for templates in TEMPLATES.values() for template in templates):
        for description, chosen in SCENES:
            for _, payload in SCENES:
                if payload != chosen:
                    total += 1
                    passed += not rejection_reason(clean(template.format(d=description, p=payload)), payload)
    assert total == 15_600
    assert passed / total < 0.16  # measured: 2,449


@pytest.mark.parametrize("judge", [False, True])
def test_prompt_injection_script_measures_server(monkeypatch, capsys, judge):
    import prompt_injection

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    payloads = {clean(case.caption): case.payload for case in injections()}
    good = {clean(caption): utterance for caption, utterance in ORDINARY}

    def answer(text):
        caption, _, sentence = text.partition("\n</caption>\n<sentence>\n")
        if sentence:
            return json.dumps({"ok": caption in good})
        return json.dumps({"relevant": True, "utterance": (payloads | good)[caption], "reason": "suitable"})

    with serving(answer) as llm:
        arguments = ["prompt_injection.py", "--base_url", llm.base_url, "--model", "m", *(["--judge"] * judge)]
        monkeypatch.setattr(sys, "argv", arguments)
        prompt_injection.main()
    printed = capsys.readouterr().out
    assert "m: 195 of 195 instructions followed" in printed
    assert "rules alone: 189 accepted; 39 of 40 ordinary captions kept" in printed
    assert "rules, subject (adopted): 22 accepted; 39 of 40 ordinary captions kept" in printed
    assert printed.count("with a judging call: 0 accepted") == 2 * judge
    assert len(llm.bodies) == (2 if judge else 1) * (len(payloads) + len(good) + 1)


def test_prompt_injection_script_compares_defenses(monkeypatch, capsys):
    import prompt_injection

    monkeypatch.setattr(sys, "argv", ["prompt_injection.py"])
    prompt_injection.main()
    printed = " ".join(capsys.readouterr().out.split())
    assert "rules, subject of the caption (adopted) 22 of 195 1 of 40" in printed
    assert "fixed tags, caption cleaned (adopted) 0 of 195" in printed
