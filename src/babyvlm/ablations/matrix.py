"""The ablation matrix, as written in YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from babyvlm.config import CheckedParser, one_line
from babyvlm.errors import UserError
from babyvlm.io.files import join_inside, safe_name
from babyvlm.io.limits import load_yaml_file

# As on the command line, for example ``trainer.max_steps: 500``.
Value = bool | int | float | str | None
Options = dict[str, Value | list[Value] | dict[str, Value | list[Value]]]
OPTION = re.compile(r"[A-Za-z_]\w*(\.\w+)*\+?", re.ASCII)
# Not options of a config: they allow code, read further files, or are given by the runner.
NOT_OPTIONS = ("allow", "config", "help", "log_dir", "run_folder", "seed_everything")


@dataclass(frozen=True)
class Step:
    """One call of ``fit``.

    Attributes:
        configs: overlays that follow the matrix's ``base``; ``{mix}`` stands for the row's mix.
        start_from: option -> the step that must be run before and whose run folder is the option's value, or a file in
            that folder (``dino/backbone.safetensors``).
        options: settings that override the overlays.
        seed: random seed for all rows; by default the row's.
    """

    configs: list[str]
    start_from: dict[str, str] = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class Model:
    """Rows of one model, each called ``<model>-<mix>``.

    Attributes:
        step: the last step; earlier steps follow from ``start_from``.
        mixes: training mixes, one row each.
        home_fractions: shares of the home pairs (``PairMix.home``); one row for each and for each mix that has home
            pairs, called ``<model>-<mix>-home-<share>`` if it is less than 1. Steps that are not trained on pairs, such
            as the language model of phase 0, use all of their data.
    """

    step: str
    mixes: list[str]
    home_fractions: list[float] = field(default_factory=lambda: [1.0])


@dataclass(frozen=True)
class World:
    """A world of Playroom with its stores and its vocabulary.

    Attributes:
        folder: of the data, in place of the matrix's ``folder``.
        playroom: options of ``playroom`` that make the world: its seed, or a parameter such as ``style_gap``.
    """

    folder: str
    playroom: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Quick:
    """The quick form of a matrix: fewer seeds and less training.

    Attributes:
        seeds: random seeds.
        options: step -> options that override the step's.
        worlds: numbers of the worlds to train on; by default all.
        models: names of the models to train; by default all.
    """

    seeds: list[int]
    options: dict[str, Options] = field(default_factory=dict)
    worlds: list[int] | None = None
    models: list[str] | None = None


@dataclass(frozen=True)
class Matrix:
    """All rows of the ablations.

    Attributes:
        base: overlays that come first in every step.
        seeds: random seeds; one run per row and seed.
        steps: steps by name.
        models: models by name.
        upper_bounds: row -> overlays of a ``test``; these models are trained elsewhere and need no seed.
        quick: the quick form.
        worlds: every row is trained and tested on each of these; by default, on the data that the overlays name.
        folder: the data that the overlays name; for a world, paths in it are moved to the world's folder.
        corpus: chain that makes the data of the worlds (``ablations data``).
    """

    base: list[str]
    seeds: list[int]
    steps: dict[str, Step]
    models: dict[str, Model]
    upper_bounds: dict[str, list[str]] = field(default_factory=dict)
    quick: Quick | None = None
    worlds: list[World] = field(default_factory=list)
    folder: str = "data/playroom"
    corpus: Path | None = None


def read_matrix(file: Path) -> Matrix:
    """Read a matrix. ``extends: FILE`` takes the entries and steps that it does not have from another one.

    Raises:
        UserError: the file is missing or invalid, or names a step that does not exist.
    """
    parser = CheckedParser(exit_on_error=False)
    parser.add_class_arguments(Matrix, "matrix")
    try:
        given = load_yaml_file(file)
        if isinstance(given, dict) and "extends" in given:
            extended = load_yaml_file(Path(str(given.pop("extends"))))
            given = _extend(extended if isinstance(extended, dict) else {}, given)
        matrix: Matrix = parser.instantiate(parser.parse_object({"matrix": given})).matrix
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file. Pass a matrix with --matrix") from None
    except Exception as error:
        raise UserError(f"{file}: {one_line(str(error))}") from None
    _check_worlds(file, matrix)
    _check_names(file, matrix)
    _check_paths_and_options(file, matrix)
    return matrix


def _extend(extended: dict[str, object], given: dict[str, object]) -> dict[str, object]:
    inherited, own = extended.get("steps"), given.get("steps")
    steps = {"steps": inherited | own} if isinstance(inherited, dict) and isinstance(own, dict) else {}
    return extended | given | steps


def _check_worlds(file: Path, matrix: Matrix) -> None:
    if len({world.folder for world in matrix.worlds}) < len(matrix.worlds):
        raise UserError(f"{file}: worlds: two worlds have the same folder")
    for number in (matrix.quick.worlds if matrix.quick else None) or ():
        if not 0 <= number < len(matrix.worlds):
            raise UserError(f"{file}: quick.worlds: no world {number}. There are {len(matrix.worlds)}, from 0")


def _check_paths_and_options(file: Path, matrix: Matrix) -> None:
    """Check what becomes a folder, or an argument of another process."""
    for name, model in matrix.models.items():
        if wrong := [share for share in model.home_fractions if not 0 < share <= 1]:
            raise UserError(f"{file}: models.{name}.home_fractions: {wrong[0]} must be above 0 and at most 1")
    rows = [f"{name}-{mix}" for name, model in matrix.models.items() for mix in model.mixes]
    for row in (*rows, *matrix.upper_bounds, *matrix.steps):
        safe_name(row, f"{file}: name of a row or step")
    quick = matrix.quick.options if matrix.quick else {}
    for name, step in matrix.steps.items():
        for option in (*step.options, *step.start_from, *quick.get(name, {})):
            if not OPTION.fullmatch(option) or option.partition(".")[0].rstrip("+") in NOT_OPTIONS:
                raise UserError(f"{file}: steps.{name}: {option!r} is not an option that a matrix can set")
        for option, source in step.start_from.items():
            if join_inside(Path(), source) is None:
                raise UserError(f"{file}: steps.{name}.start_from.{option}: {source!r} leads out of the run's folder")


def _check_names(file: Path, matrix: Matrix) -> None:
    named = {f"models.{name}.step": model.step for name, model in matrix.models.items()}
    named |= {f"quick.options.{name}": name for name in (matrix.quick.options if matrix.quick else {})}
    for name, step in matrix.steps.items():
        named |= {
            f"steps.{name}.start_from.{option}": source.split("/")[0] for option, source in step.start_from.items()
        }
    for name in (matrix.quick.models if matrix.quick else None) or ():
        if name not in matrix.models:
            raise UserError(f"{file}: quick.models: no model named {name}. Models: {', '.join(matrix.models)}")
    for where, name in named.items():
        if name not in matrix.steps:
            raise UserError(f"{file}: {where}: no step named {name}. Steps: {', '.join(matrix.steps)}")
    for name in matrix.steps:
        _check_acyclic(file, matrix, name, ())


def _check_acyclic(file: Path, matrix: Matrix, name: str, path: tuple[str, ...]) -> None:
    if name in path:
        raise UserError(f"{file}: steps start from each other: {' <- '.join([*path, name])}")
    for source in matrix.steps[name].start_from.values():
        _check_acyclic(file, matrix, source.split("/")[0], (*path, name))
