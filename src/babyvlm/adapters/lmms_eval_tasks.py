"""``python -m babyvlm lmms-eval-tasks``: the four benchmarks as tasks of lmms-eval, with the same judgement.

A document is one option of a trial: an image and a text. Its score is judged together with those of the other options
of the trial, by the rules of the benchmark's class, when lmms-eval aggregates. A document of SAYCam Caption is an image
with all of its references. The task files name the functions below.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from babyvlm.benchmarks.base import ScoreBenchmark
from babyvlm.benchmarks.labeled_s import LabeledS
from babyvlm.benchmarks.saycam_caption import SAYCamCaption
from babyvlm.benchmarks.trials import Trial
from babyvlm.benchmarks.vtwt import VTWT
from babyvlm.benchmarks.winoground import BabyWinoground
from babyvlm.errors import UserError
from babyvlm.io.images import open_rgb
from babyvlm.io.printing import echo

TEMPLATES = Path(__file__).parent / "tasks"
SCORED: dict[str, type[ScoreBenchmark]] = {"labeled_s": LabeledS, "vtwt": VTWT, "baby_winoground": BabyWinoground}
CAPTION = "saycam_caption"
Document = dict[str, Any]
Captioned = tuple[str, str, list[str]]  # trial, generated caption, references


def write_tasks(
    out: Path,
    labeled_s: Path | None = None,
    vtwt: Path | None = None,
    baby_winoground: Path | None = None,
    saycam_caption: Path | None = None,
    images: Path | None = None,
) -> None:
    """Write benchmark lists as tasks of lmms-eval, for `--include_path OUT`.

    The tasks are called `babyvlm_labeled_s`, `babyvlm_vtwt`, `babyvlm_baby_winoground`, and `babyvlm_saycam_caption`.
    They give the same numbers as this package, for any model of lmms-eval that returns likelihoods or captions. The
    documents name the images of the lists, which are not copied.

    For example:
        python -m babyvlm lmms-eval-tasks --out tasks --vtwt data/saycam/trials/vtwt.csv

    Args:
        out: folder to create.
        labeled_s: list of Labeled-S.
        vtwt: list of VTWT.
        baby_winoground: list of Baby Winoground.
        saycam_caption: list of SAYCam Caption.
        images: folder that image paths in the lists start from; by default the folder of each list.
    """
    lists = {"labeled_s": labeled_s, "vtwt": vtwt, "baby_winoground": baby_winoground, CAPTION: saycam_caption}
    if not any(lists.values()):
        raise UserError("pass at least one list, such as --vtwt data/saycam/trials/vtwt.csv")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: already exists. Delete it or pass a different --out")
    documents: dict[str, list[Document]] = {}
    for name, path in lists.items():
        if path is not None:
            benchmark = SAYCamCaption(path, images) if name == CAPTION else SCORED[name](path, images)
            trials = [trial for trial in benchmark.load()[0] if trial.split == "test"]
            found = [_documents(trial, benchmark.images) for trial in trials]
            documents[name] = [one for own in found for one in (own[:1] if name == CAPTION else own)]
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in documents.items():
        file = out.absolute() / f"{name}.json"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        template = (TEMPLATES / f"{name}.yaml").read_text().replace("DOCUMENTS", json.dumps(str(file)))
        (out / f"babyvlm_{name}.yaml").write_text(template)
        echo(f"{out}: babyvlm_{name}, {len({row['trial'] for row in rows}):,} test trials")
    (out / "functions.py").write_text("from babyvlm.adapters.lmms_eval_tasks import *  # noqa: F403\n")


def _documents(trial: Trial, folder: Path) -> list[Document]:
    return [
        {
            "trial": trial.item,
            "option": number,
            "options": len(trial.options),
            "answer": trial.answer,
            "image": str((folder / image).absolute()),
            "text": text,
            "texts": [other for _, other in trial.options],
        }
        for number, (image, text) in enumerate(trial.options)
    ]


# Called by lmms-eval, by the names in the task files.


def visual(document: Document) -> list[Any]:
    """Return the image of a document."""
    return [open_rgb(Path(document["image"]))]


def target(document: Document) -> str:
    """Return the text of a document."""
    return str(document["text"])


def answered(document: Document, results: Sequence[Any]) -> dict[str, Any]:
    """Return the score of a document, which models of lmms-eval return as a loss, for all measures."""
    found = results[0]
    if isinstance(found, str):  # lmms-eval 0.7 turns (loss, is_greedy) into text (``unwrap_generation_output``)
        found = ast.literal_eval(found)
    loss = found[0] if isinstance(found, Sequence) else found
    entry = (document["trial"], document["option"], document["options"], document["answer"], -float(loss))
    return dict.fromkeys(("accuracy", "overall", "text", "image"), entry)


def captioned(document: Document, results: Sequence[str]) -> dict[str, Any]:
    """Return the caption of a document beside its references."""
    entry = (document["trial"], str(results[0]), list(document["texts"]))
    return dict.fromkeys(("meteor_15", "meteor_nltk"), entry)


def _mean(benchmark: type[ScoreBenchmark], measure: str, entries: Sequence[tuple[Any, ...]]) -> float:
    """Return the mean credit by one measure; documents that a sampler repeats count once."""
    by_trial: dict[str, dict[int, float]] = {}
    facts: dict[str, tuple[int, int]] = {}
    for trial, option, options, answer, score in entries:
        by_trial.setdefault(trial, {})[option] = score
        facts[trial] = (options, answer)
    judge = benchmark(Path()).judge
    credits = []
    for item, scores in by_trial.items():
        count, answer = facts[item]
        if len(scores) == count:  # with --limit, the last trial may be incomplete
            blank = Trial(item, "test", "", tuple(("", "") for _ in range(count)), answer)
            given = tuple(scores[number] for number in range(count))
            credits += [one.credit for one in judge(blank, given) if one.measure == measure]
    if not credits:
        raise UserError(f"no trial of {benchmark.name} is complete. Raise --limit to at least {facts[item][0]}")
    return sum(credits) / len(credits)


def labeled_s_accuracy(entries: Sequence[tuple[Any, ...]]) -> float:
    """Return the accuracy on Labeled-S."""
    return _mean(LabeledS, "accuracy", entries)


def vtwt_accuracy(entries: Sequence[tuple[Any, ...]]) -> float:
    """Return the accuracy on VTWT."""
    return _mean(VTWT, "accuracy", entries)


def winoground_overall(entries: Sequence[tuple[Any, ...]]) -> float:
    """Return Baby Winoground's overall score."""
    return _mean(BabyWinoground, "overall", entries)


def winoground_text(entries: Sequence[tuple[Any, ...]]) -> float:
    """Return Baby Winoground's text score."""
    return _mean(BabyWinoground, "text", entries)


def winoground_image(entries: Sequence[tuple[Any, ...]]) -> float:
    """Return Baby Winoground's image score."""
    return _mean(BabyWinoground, "image", entries)


def _mean_meteor(meteor: Callable[[list[str], list[str]], list[float]], entries: Sequence[Captioned]) -> float:
    """Return the mean over images of the METEOR with the closest reference; repeated documents count once."""
    of_trial = {trial: (caption, texts) for trial, caption, texts in entries}
    pairs = list(dict.fromkeys((caption, text) for caption, texts in of_trial.values() for text in texts))
    captions, references = map(list, zip(*pairs, strict=True))
    score = dict(zip(pairs, meteor(captions, references), strict=True))
    return mean(max(score[caption, text] for text in texts) for caption, texts in of_trial.values())


def mean_meteor_15(entries: Sequence[Captioned]) -> float:
    """Return the mean METEOR 1.5 of captions."""
    from babyvlm.benchmarks.meteor_jar import meteor_15

    return _mean_meteor(meteor_15, entries)


def mean_meteor_nltk(entries: Sequence[Captioned]) -> float:
    """Return the mean METEOR of captions by NLTK."""
    from babyvlm.benchmarks.meteor import meteor_nltk

    return _mean_meteor(meteor_nltk, entries)
