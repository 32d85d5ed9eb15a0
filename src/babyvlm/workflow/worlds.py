"""``python -m babyvlm ablations data``: the data of every world of a matrix, by the chain that the matrix names."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from babyvlm.ablations.matrix import read_matrix
from babyvlm.errors import UserError
from babyvlm.io.printing import Console, echo
from babyvlm.io.processes import run_command, run_together
from babyvlm.workflow.corpus import Corpus, curation, read_corpus


def data(matrix: Path = Path("configs/study/ablations.yaml"), worlds: list[int] | None = None) -> None:
    """Make the data of every world of a matrix: the world, its stores, and its vocabulary.

    Each command is printed before it runs. Complete stages are skipped, so that an interrupted call can be repeated.

    For example:
        python -m babyvlm ablations data --matrix configs/study/ablations.yaml

    Args:
        matrix: YAML file with the worlds and their chain (`corpus`).
        worlds: only these worlds, `[0,1]`.
    """
    for number, corpus in enumerate(corpora(matrix)):
        if not worlds or number in worlds:
            run_commands(job.command for job in curation(corpus))


def corpora(file: Path) -> list[Corpus]:
    """Return the chain of each world of a matrix.

    Raises:
        UserError: the matrix has no worlds, or its chain is not one of Playroom in the matrix's folder.
    """
    matrix = read_matrix(file)
    if not matrix.worlds or matrix.corpus is None:
        raise UserError(f"{file}: has no worlds, or no corpus. Add `worlds:` and `corpus:` to it")
    corpus = read_corpus(matrix.corpus)
    if corpus.playroom is None or corpus.folder != matrix.folder:
        raise UserError(f"{matrix.corpus}: must make Playroom in {matrix.folder}, the folder of {file}")
    return [replace(corpus, folder=world.folder, playroom=corpus.playroom | world.playroom) for world in matrix.worlds]


def run_commands(commands: Iterable[Sequence[str]]) -> None:
    """Print and run commands of babyvlm, each in its own process, until one fails.

    Raises:
        SystemExit: with the exit code of the one that failed.
    """
    for words in commands:
        echo(_prompt(words), flush=True)
        if code := run_command(_program(words)):
            raise SystemExit(code)


def run_commands_together(commands: Sequence[Sequence[str]]) -> None:
    """Run commands of babyvlm at the same time; print each with its output, in their order.

    Raises:
        SystemExit: with the exit code of the first one that failed.
    """
    prompts = map(_prompt, commands)

    def show(output: str) -> None:
        echo(f"{next(prompts)}\n{output}", end="", flush=True)

    with Console(stderr=True).status(f"running {len(commands)} commands at the same time"):
        code = run_together([_program(words) for words in commands], show)
    if code:
        raise SystemExit(code)


def _program(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "babyvlm", *words]


def _prompt(words: Sequence[str]) -> str:
    return f"\n$ python -m babyvlm {shlex.join(words)}"
