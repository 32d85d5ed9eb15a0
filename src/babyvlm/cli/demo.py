"""``babyvlm demo``: the complete pipeline on Playroom, by the commands that a user types."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Literal

from babyvlm.cli.configs import copy
from babyvlm.errors import UserError
from babyvlm.workflow.corpus import curation, read_corpus
from babyvlm.workflow.worlds import run_commands, run_commands_together

DATA = Path("data/playroom")  # which the configs of Playroom name
WORKFLOW = Path("configs/playroom/workflow.yaml")
# After the curation of the workflow: the upper bound, and CVCL on two mixes. With a frozen trunk, whose features are
# cached, both are trained until their scores no longer rise.
TRAINING = """
test --config configs/eval/playroom-clip.yaml --config configs/benchmarks/playroom.yaml
fit --config configs/playroom/base.yaml --config configs/playroom/cvcl-frozen.yaml \
    --config configs/mix/filtered.yaml --config configs/benchmarks/playroom.yaml
fit --config configs/playroom/base.yaml --config configs/playroom/cvcl-frozen.yaml \
    --config configs/mix/filtered-aug.yaml --config configs/benchmarks/playroom.yaml
report lightning_logs
"""


def commands(data: Path = DATA, size: str = "default", train: bool = True) -> list[list[str]]:
    """Return the demo's commands as lists of words, without the program's name; reads the workflow in `configs`."""
    return [*_curation(data, size), *(_training() if train else [])]


def _curation(data: Path, size: str) -> list[list[str]]:
    corpus = replace(read_corpus(WORKFLOW), folder=str(data), playroom={"size": size})
    return [list(job.command) for job in curation(corpus)]


def _training() -> list[list[str]]:
    return list(map(shlex.split, TRAINING.strip().splitlines()))


def demo(data: Path = DATA, size: Literal["tiny", "default", "large"] = "default", train: bool = True) -> None:
    """Run the complete pipeline on Playroom in the current folder, from raw video to a results table.

    Generates Playroom, curates pair stores from it, evaluates Playroom-CLIP, and trains and tests CVCL on two mixes.
    Each command is printed. The models are trained and tested at the same time. The configs are copied to `configs` if
    they are not there. Takes 7 to 8 minutes on two CPU cores. After an interruption, run it again: completed curation
    stages are skipped, models are trained again.

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
    run_commands(_curation(data, size))
    if train:
        *models, report = _training()
        run_commands_together(models)  # each alone would leave half of two cores idle
        run_commands([report])
