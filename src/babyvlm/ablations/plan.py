"""The runs of a matrix, each identified by a hash of everything that its outcome depends on."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

import babyvlm.playroom
from babyvlm.ablations.matrix import Model, Options, Quick, Step, read_matrix
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError, first_line
from babyvlm.io import artifacts
from babyvlm.io.limits import load_yaml_file

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

Config = dict[str, Any]
HOME_FRACTION = "data.home.fraction"
TEST = "test"  # the only step of an upper bound
PHASES = "phases"  # folder of earlier steps, which rows share
SHIPPED = Path(babyvlm.playroom.__file__).parent  # models shipped with Playroom, named ``playroom`` in configs


@dataclass(frozen=True)
class PlannedRun:
    """One call of ``fit`` or ``test``.

    Attributes:
        name: name of the step.
        folder: run folder.
        command: arguments of ``python -m babyvlm``.
        settings: everything that its outcome depends on: the merged overlays and options, the seed, the hashes of the
            runs that it starts from, and the hashes of the stores, vocabularies and files that its config names.
        parents: runs that it starts from.
        overlays: files that its command names and that must be written before: overlays with the paths of a world.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    settings: Config = field(hash=False)
    parents: tuple[PlannedRun, ...] = ()
    overlays: tuple[tuple[Path, str], ...] = ()

    @cached_property
    def hash(self) -> str:
        """Hash of the settings."""
        return settings_hash(self.settings)

    @property
    def chain(self) -> list[PlannedRun]:
        """All runs that lead to this one in order, with this one last."""
        runs = [run for parent in self.parents for run in parent.chain]
        return [*dict.fromkeys(runs), self]


@dataclass(frozen=True)
class Task:
    """A row with a seed and a world, which is one task of a SLURM array.

    Attributes:
        row: name of the row.
        model: name of the model.
        mix: training mix; None for an upper bound.
        seed: random seed.
        home: share of the home pairs.
        world: number of the world in the matrix; None if the matrix has none.
    """

    row: str
    model: str
    mix: str | None
    seed: int
    home: float = 1.0
    world: int | None = None

    def __str__(self) -> str:
        return f"{self.row} seed {self.seed}" + ("" if self.world is None else f" world {self.world}")


class PlannedStep(NamedTuple):
    """A step that one or several rows share, as known before the data exist.

    Attributes:
        key: identifies the step.
        task: number of a task that contains it.
        step: its name.
        needs: keys of the steps that it starts from.
    """

    key: Hashable
    task: int
    step: str
    needs: tuple[Hashable, ...]


class Plan:
    """The runs of a matrix.

    Args:
        file: the matrix.
        quick: use its quick form.
        log_dir: folder of runs: a row's last run is written to ``<row>/seed_<n>``, or ``<row>/world_<n>-seed_<n>``, its
            earlier steps to ``phases/<step>-<hash>``, and the overlays of a world to ``worlds/<n>``. By default
            ``lightning_logs``, for the quick form ``lightning_logs/quick``.

    Raises:
        UserError: the matrix is invalid, or an overlay cannot be read.
    """

    def __init__(self, file: Path, quick: bool = False, log_dir: Path | None = None) -> None:
        self.file, self.matrix = file, read_matrix(file)
        self._read, self._sha256 = cache(_read), cache(artifacts.sha256_file)  # rows share files
        self.log_dir = log_dir or Path("lightning_logs/quick" if quick else "lightning_logs")
        if quick and self.matrix.quick is None:
            raise UserError(f"{file}: has no quick form. Add `quick:` to it")
        self.form: Quick = self.matrix.quick if quick and self.matrix.quick else Quick(self.matrix.seeds)
        self._check_overlays()

    @cached_property
    def tasks(self) -> list[Task]:
        """Every row with every seed; the position in this list is the number in a SLURM array."""
        trained = [
            Task(f"{name}-{mix}{'' if home == 1 else f'-home-{home:g}'}", name, mix, seed, home, world)
            for name, model in self.matrix.models.items()
            if self.form.models is None or name in self.form.models
            for mix in model.mixes
            for home in self._home_fractions(model, mix)
            for world in self.worlds
            for seed in self.form.seeds
        ]
        return trained + [
            Task(row, row, None, 0, world=world) for row in self.matrix.upper_bounds for world in self.worlds
        ]

    @property
    def worlds(self) -> list[int] | list[None]:
        """Numbers of the worlds to train on; [None] if the matrix has none."""
        if not self.matrix.worlds:
            return [None]
        return list(range(len(self.matrix.worlds))) if self.form.worlds is None else self.form.worlds

    def run(self, task: Task) -> PlannedRun:
        """Return the last run of a row.

        Raises:
            UserError: its data are missing, or its overlays do not form a config.
        """
        world = "" if task.world is None else f"world_{task.world}-"
        folder = Path(task.row, f"{world}seed_{task.seed}")
        try:
            if task.mix is None:
                return self._test(self.matrix.upper_bounds[task.row], folder, task.world)
            return self._fit(self.matrix.models[task.model].step, task, task.seed, folder)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{self.file}: the overlays of {task.row} do not form a config ({reason})") from None

    def steps(self) -> list[PlannedStep]:
        """Return every step of every task once, each after those that it starts from."""
        found: dict[Hashable, PlannedStep] = {}

        def visit(number: int, name: str, task: Task, seed: int, row: str) -> Hashable:
            mix = task.mix or ""
            step = self.matrix.steps[name]
            seed = seed if step.seed is None else step.seed
            sources = dict.fromkeys(source.split("/")[0] for source in step.start_from.values())
            needs = tuple(visit(number, source, task, seed, "") for source in sources)
            home = task.home if task.home != 1 and self._has_home(step, mix) else 1.0
            key = (row, name, tuple(self._overlays(step, mix)), seed, home, task.world, needs)
            found.setdefault(key, PlannedStep(key, number, name, needs))
            return key

        for number, task in enumerate(self.tasks):
            if task.mix is None:
                found[task.row, task.world] = PlannedStep((task.row, task.world), number, TEST, ())
            else:
                visit(number, self.matrix.models[task.model].step, task, task.seed, task.row)
        return list(found.values())

    def recipes(self, overlays: list[str]) -> Iterator[tuple[str, Config]]:
        """Yield the name and the merged settings of every step that a row needs, with the row's first mix.

        Args:
            overlays: further configs that follow those of each step.
        """
        seen: set[str] = set()

        def visit(name: str, mix: str) -> Iterator[tuple[str, Config]]:
            step = self.matrix.steps[name]
            for source in step.start_from.values():
                yield from visit(source.split("/")[0], mix)
            if name not in seen:
                seen.add(name)
                config = self._merged([*self._overlays(step, mix), *overlays])
                for option, value in (step.options | self.form.options.get(name, {})).items():
                    _set_option(config, option.split("."), value)
                yield name, config

        for model in self.matrix.models.values():
            yield from visit(model.step, model.mixes[0])
        for name in self.matrix.steps:
            yield from visit(name, next(iter(self.matrix.models.values())).mixes[0])

    def data_settings(self) -> Iterator[tuple[Path, Config]]:
        """Yield the settings of the data module of every trained row, with the file of the matrix."""
        for model in self.matrix.models.values():
            config = self._merged(self._overlays(self.matrix.steps[model.step], model.mixes[0]))
            yield self.file, (config.get("data") or {}).get("init_args") or {}

    def _check_overlays(self) -> None:
        for configs in self.matrix.upper_bounds.values():
            self._merged(configs)
        for mix in {mix for model in self.matrix.models.values() for mix in model.mixes}:
            for step in self.matrix.steps.values():
                self._merged(self._overlays(step, mix))

    def _fit(self, name: str, task: Task, seed: int, folder: Path | None = None) -> PlannedRun:
        step, mix, world = self.matrix.steps[name], task.mix or "", task.world
        seed = seed if step.seed is None else step.seed
        files: list[str] = self._overlays(step, mix)
        options: Options = self._moved(step.options | self.form.options.get(name, {}), world)
        if task.home != 1 and self._has_home(step, mix):
            options = options | {HOME_FRACTION: task.home}
        sources = {  # option -> the run that it names, and a file in its folder
            option: (self._fit(source.split("/")[0], task, seed), source.partition("/")[2])
            for option, source in step.start_from.items()
        }
        settings = self._settings(files, options, seed, world)
        settings["start_from"] = {option: f"{run.hash}/{file}" for option, (run, file) in sources.items()}
        folder = folder or Path(PHASES, f"{name}-{settings_hash(settings)[:8]}")
        given = options | {option: str(run.folder / file) for option, (run, file) in sources.items()}
        # One argument each, so that no value, whatever it begins with, is taken for an option.
        flags = [f"--seed_everything={seed}"]
        flags += [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()]
        parents = tuple(run for run, _ in sources.values())
        files, overlays = self._written(files, world)
        command = self._command("fit", files, folder, flags)
        return PlannedRun(name, self.log_dir / folder, command, settings, parents, overlays)

    def _test(self, configs: list[str], folder: Path, world: int | None) -> PlannedRun:
        settings = self._settings(configs, {}, 0, world)
        files, overlays = self._written(configs, world)
        command = self._command("test", files, folder, [])
        return PlannedRun(TEST, self.log_dir / folder, command, settings, overlays=overlays)

    def _home_fractions(self, model: Model, mix: str) -> list[float]:
        shares = model.home_fractions
        return shares if shares == [1.0] or self._has_home(self.matrix.steps[model.step], mix) else [1.0]

    def _has_home(self, step: Step, mix: str) -> bool:
        """Return whether a step is trained on pairs of the home store, which is the one that losses are measured on."""
        try:
            data = self._merged(self._overlays(step, mix)).get("data") or {}
            options = data.get("init_args") or {}
            stores = [source.get("store") for source in options.get("sources", [])]
        except (AttributeError, TypeError):  # the run itself reports overlays that form no config
            return False
        return str(data.get("class_path")).endswith(".PairMix") and options.get("validation") in stores

    def _overlays(self, step: Step, mix: str) -> list[str]:
        return [*self.matrix.base, *(config.replace("{mix}", mix) for config in step.configs)]

    def _moved(self, value: Any, world: int | None) -> Any:  # noqa: ANN401 - settings of any form
        """Return settings in which paths below the matrix's folder are moved to the folder of a world."""
        if world is None:
            return value
        if isinstance(value, dict):
            return {key: self._moved(inner, world) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._moved(inner, world) for inner in value]
        folder = self.matrix.folder
        if isinstance(value, str) and (value == folder or value.startswith(f"{folder}/")):
            return self.matrix.worlds[world].folder + value.removeprefix(folder)
        return value

    def _written(self, files: list[str], world: int | None) -> tuple[list[str], tuple[tuple[Path, str], ...]]:
        """Return the overlays of a world that a command names, with their content; those of the matrix without one."""
        if world is None:
            return files, ()
        overlays = []
        for file in files:
            text = yaml.safe_dump(self._moved(self._read(Path(file)), world), sort_keys=False)
            content = f"# {file} with the paths of world {world}\n{text}"
            place = Path(file).relative_to(Path(file).anchor)
            overlays.append((self.log_dir / "worlds" / str(world) / place, content))
        return [str(file) for file, _ in overlays], tuple(overlays)

    def _settings(self, files: list[str], options: Options, seed: int, world: int | None) -> Config:
        config: Config = self._moved(self._merged(files), world)
        for option, value in options.items():
            _set_option(config, option.split("."), value)
        return {"config": config, "seed": seed, "inputs": _inputs(config, self._sha256)}

    def _merged(self, files: list[str]) -> Config:
        config: Config = {}
        for file in files:
            try:
                _merge(config, copy.deepcopy(self._read(Path(file))))
            except (OSError, yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
                raise UserError(f"{self.file}: {file} cannot be read ({' '.join(str(error).split())})") from None
        return config

    def _command(self, command: str, files: list[str], folder: Path, flags: list[str]) -> tuple[str, ...]:
        overlays = [f"--config={file}" for file in files]
        location = [f"--log_dir={self.log_dir}", f"--run_folder={folder}"]
        # The runner requeues the job, so that the training must not.
        return (command, *overlays, *location, "--recovery.requeue=false", *flags)


def settings_hash(settings: Config) -> str:
    """Return the hash of a run's settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def changed_settings(planned: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of the settings that differ."""
    one, other = dict(_leaves(planned)), dict(_leaves(recorded))
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _read(file: Path) -> Config:
    config = load_yaml_file(file) or {}
    if not isinstance(config, dict):
        raise yaml.YAMLError("not a mapping of settings")
    return config


def _merge(config: Config, overlay: Config) -> None:
    """Apply an overlay as LightningCLI does: mappings are merged, ``key+`` appends, anything else replaces."""
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        elif isinstance(key, str) and key.endswith("+"):
            config[key[:-1]] = [*(config.get(key[:-1]) or []), *(value if isinstance(value, list) else [value])]
        else:
            config[key] = value


def _set_option(config: Config, keys: list[str], value: object) -> None:
    """Set an option as the command line does, where ``init_args`` may be left out of its name."""
    for key in keys[:-1]:
        config = config.setdefault(key, {})
        if isinstance(config.get("init_args"), dict) and "init_args" not in keys:
            config = config["init_args"]
    config[keys[-1]] = value


def _inputs(config: Config, sha256: Callable[[Path], str]) -> dict[str, str]:
    """Return path -> content hash of the stores, vocabularies, files and shipped models that a config names."""
    data: Config = (config.get("data") or {}).get("init_args") or {}
    stores = {source["store"] for source in data.get("sources", [])}
    if data.get("validation"):
        stores.add(data["validation"])
    found = {
        path: PairStore(Path(path)).fingerprint for path in (f"{data['stores']}/{name}" for name in sorted(stores))
    }
    for _, value in _leaves(config):
        if value == "playroom":
            found |= {str(file.relative_to(SHIPPED)): sha256(file) for file in sorted(SHIPPED.glob("*/*.safetensors"))}
        elif isinstance(value, str) and Path(value, "vocabulary.json").is_file():
            found[value] = artifacts.fingerprint(Path(value), "vocabulary")
        elif isinstance(value, str) and Path(value).is_file():
            found[value] = sha256(Path(value))
    return found


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values in nested mappings and lists with their dotted names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{number}")
    else:
        yield name, value
