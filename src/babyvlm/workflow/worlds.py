"""``python -m babyvlm ablations data``: the data of every world of a matrix, by the chain that the matrix names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from babyvlm.ablations.matrix import read_matrix
from babyvlm.errors import UserError
from babyvlm.workflow.corpus import Corpus, curation, read_corpus
from babyvlm.workflow.local import run_jobs


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
            run_jobs(curation(corpus))


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
