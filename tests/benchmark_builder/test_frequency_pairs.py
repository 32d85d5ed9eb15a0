"""Minimal pairs of nouns of equal frequency, drawn by Playroom."""

import json

import pytest
from PIL import Image

from babyvlm.__main__ import main
from babyvlm.benchmark_builder.frequency_pairs import pairs_by_frequency
from babyvlm.benchmarks import MachineDevBenchLexical

SAID = ["a ball"] * 4 + ["the cup"] * 5 + ["a dog", "a cat", "cups", "xyzzy"] + ["a spoon"] * 9


def build(store, out, *options):
    main(["benchmark", "build", "frequency-pairs", "--store", str(store.path), "--out", str(out), *options])


def test_nouns_are_paired_within_their_frequency_bin(tmp_path, tiny_store, capsys):
    splits = ["train"] * len(SAID)
    store = tiny_store([*SAID, "a dog", "a dog"], splits=[*splits, "val", "test"])  # only training counts
    build(store, tmp_path / "out")
    nouns = tmp_path / "out" / "Lexical" / "Nouns"
    items = json.loads((nouns / "manifest_nouns_playroom.json").read_text())["items"]
    shown = [(one["word"], one["image_negative"], one["frequency_bin"]) for one in items]
    assert shown == [
        ("cat", "playroom/dog.png", "[1,2)"),
        ("dog", "playroom/cat.png", "[1,2)"),
        ("ball", "playroom/cup.png", "[4,8)"),
        ("cup", "playroom/ball.png", "[4,8)"),
    ]
    assert len({Image.open(nouns / one["image_positive"]).tobytes() for one in items}) == 4
    assert "1 alone in its frequency bin" in capsys.readouterr().out.replace("  ", " ")
    benchmark = MachineDevBenchLexical(tmp_path / "out", style="playroom")
    trials, missing = benchmark.load()
    assert (len(trials), missing) == (4, 0)
    assert {trial.category for trial in trials} == {"[1,4)", "[4,8)"}
    build(store, tmp_path / "out")
    assert "already complete, skipping" in capsys.readouterr().out


def test_every_bin_is_a_circle():
    counts = {f"w{number}": count for number, count in enumerate([1, 1, 2, 3, 3, 8, 15, 16])}
    items = pairs_by_frequency(counts, "x")
    assert [one["word"] for one in items] == [f"w{number}" for number in range(7)]
    for item in items:
        low, high = map(int, item["frequency_bin"].strip("[)").split(","))
        other = item["image_negative"].removeprefix("x/").removesuffix(".png")
        assert other != item["word"]
        assert all(low <= counts[word] < high for word in (item["word"], other))
    assert sorted(one["image_negative"] for one in items) == sorted(one["image_positive"] for one in items)


def test_store_without_pairs_is_user_error(tmp_path, tiny_store, capsys):
    with pytest.raises(SystemExit) as end:
        build(tiny_store(["a ball", "the cup", "the cup"]), tmp_path / "out")
    assert end.value.code == 2
    assert "no frequency bin has two nouns with pictures" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
