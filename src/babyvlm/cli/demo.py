"""``babyvlm demo``: the complete pipeline on Playroom, by the commands that a user types."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Literal

from babyvlm.cli.configs import copy
from babyvlm.errors import UserError
from babyvlm.workflow.corpus import Job, Resources, curation, read_corpus
from babyvlm.workflow.local import run_jobs

DATA = Path("data/playroom")  # which the configs of Playroom name
WORKFLOW = Path("configs/playroom/workflow.yaml")
# After the curation of the workflow: the upper bound, and CVCL on two mixes. With a frozen trunk, whose features are
# cached, both are trained until their scores no longer rise.
CLIP = "test --config configs/eval/playroom-clip.yaml --config configs/benchmarks/playroom.yaml"
CVCL = """fit --config configs/playroom/base.yaml --config configs/playroom/cvcl-frozen.yaml \
    --config configs/mix/{mix}.yaml --config configs/benchmarks/playroom.yaml"""
MIXES = ("filtered", "filtered-aug")


def jobs(data: Path = DATA, size: str = "default", train: bool = True) -> list[Job]:
    """Return the demo's jobs, each after those that it needs; reads the workflow in `configs`."""
    chain = curation(replace(read_corpus(WORKFLOW), folder=str(data), playroom={"size": size}))
    if not train:
        return chain
    world, vocabulary = chain[0].id, chain[-1].id
    models = [Job("fit", _words(CVCL, mix=mix), (vocabulary,), Resources(), n) for n, mix in enumerate(MIXES)]
    models.append(Job("test", _words(CLIP), (world,), Resources()))
    report = Job("report", ("report", "lightning_logs"), tuple(model.id for model in models), Resources())
    return [*chain, *models, report]


def _words(command: str, **values: str) -> tuple[str, ...]:
    return tuple(word.format(**values) for word in shlex.split(command))


def demo(data: Path = DATA, size: Literal["tiny", "default", "large"] = "default", train: bool = True) -> None:
    """Run the complete pipeline on Playroom in the current folder, from raw video to a results table.

    Generates Playroom, curates pair stores from it, evaluates Playroom-CLIP, and trains and tests CVCL on two mixes.
    Each command is printed; those that do not need each other run at the same time. The configs are copied to
    `configs` if they are not there. Takes less than 6 minutes on two CPU cores. After an interruption, run it again:
    completed curation stages are skipped, models are trained again.

    For example:
        python -m babyvlm demo

    Args:
        data: folder of the world, the stores and the vocabulary. The configs name the default, so that another folder
            needs `--train false`.
        size: size of the world; `tiny` needs `--train false`.
        train: also train and evaluate; otherwise stop when the stores and the vocabulary are complete.
    """
    if train and data != DATA:
        raise UserError(f"--data {data}: the configs name {DATA}. Pass --train false, or leave out --data")
    if train and size == "tiny":
        raise UserError("--size tiny: too small to train on. Pass --train false, or leave out --size")
    copy()
    run_jobs(jobs(data, size, train))
