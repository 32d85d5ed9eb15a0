"""The matrix of ablations, as its YAML says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from babyvlm.config import CheckedParser, one_line
from babyvlm.errors import UserError

Value = bool | int | float | str | None
Options = dict[
    str, Value | list[Value] | dict[str, Value | list[Value]]
]  # as on the command line: ``trainer.max_steps: 500``


@dataclass(frozen=True)
class Step:
    """One call of ``fit``.

    Attributes:
        configs: overlays behind the matrix's ``base``; ``{mix}`` stands for the row's mix.
        begins: option -> the step that must come before, whose run's folder the option takes; or a file in that
            folder (``dino/backbone.safetensors``).
        options: settings beyond the overlays.
        seed: one for all rows; by default the row's.
    """

    configs: list[str]
    begins: dict[str, str] = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class Model:
    """Rows of one model, each called ``<model>-<mix>``.

    Attributes:
        step: the last of its chain of steps; what stands before it follows from ``begins``.
        mixes: a row each.
    """

    step: str
    mixes: list[str]


@dataclass(frozen=True)
class Quick:
    """The short form of a matrix.

    Attributes:
        seeds: fewer.
        options: by step, in place of the step's own.
    """

    seeds: list[int]
    options: dict[str, Options] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """All rows.

    Attributes:
        base: overlays that every step begins with.
        seeds: runs a row.
        steps: by name.
        models: by name.
        upper_bounds: row -> overlays that ``test`` is called with; they are trained elsewhere, and need no seed.
        quick: the short form.
    """

    base: list[str]
    seeds: list[int]
    steps: dict[str, Step]
    models: dict[str, Model]
    upper_bounds: dict[str, list[str]] = field(default_factory=dict)
    quick: Quick | None = None


def read_matrix(file: Path) -> Matrix:
    """Read a matrix.

    Raises:
        UserError: there is none, its YAML says something else, or a step is named that is none.
    """
    parser = CheckedParser(exit_on_error=False)
    parser.add_class_arguments(Matrix, "matrix")
    try:
        given = yaml.safe_load(file.read_text())
        matrix: Matrix = parser.instantiate_classes(parser.parse_object({"matrix": given})).matrix
    except FileNotFoundError:
        raise UserError(f"{file}: no such matrix") from None
    except Exception as error:
        raise UserError(f"{file}: {one_line(str(error))}") from None
    _check_names(file, matrix)
    return matrix


def _check_names(file: Path, matrix: Matrix) -> None:
    named = {f"models.{name}.step": model.step for name, model in matrix.models.items()}
    named |= {f"quick.options.{name}": name for name in (matrix.quick.options if matrix.quick else {})}
    for name, step in matrix.steps.items():
        named |= {f"steps.{name}.begins.{option}": source.split("/")[0] for option, source in step.begins.items()}
    for where, name in named.items():
        if name not in matrix.steps:
            raise UserError(f"{file}: {where}: no step is called {name}; there are {', '.join(matrix.steps)}")
    for name in matrix.steps:
        _check_no_circle(file, matrix, name, ())


def _check_no_circle(file: Path, matrix: Matrix, name: str, behind: tuple[str, ...]) -> None:
    if name in behind:
        raise UserError(f"{file}: steps that begin from each other: {' <- '.join([*behind, name])}")
    for source in matrix.steps[name].begins.values():
        _check_no_circle(file, matrix, source.split("/")[0], (*behind, name))
