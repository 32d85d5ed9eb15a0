"""The chain of a corpus, as written in YAML, and its jobs in the only order that is right.

Every store is decontaminated against all lists before it is filtered or matched, and the vocabulary comes after. The
jobs are commands that a user could type: they alone decide what is complete and what is resumed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from babyvlm.ablations.matrix import Options
from babyvlm.ablations.plan import Plan
from babyvlm.config import CheckedParser, one_line
from babyvlm.errors import UserError
from babyvlm.io.limits import load_yaml_file

ROWS, SHARE = "rows", "_share"
SHARED = (
    "frames",
    "released",
    "web",
    "decontaminate_frames",
    "decontaminate_web",
    "rewrite",
    "embed_frames",
    "embed_web",
)


@dataclass(frozen=True)
class Resources:
    """What a job needs.

    Attributes:
        shares: jobs that share the parts of the stage; only for the stages in `SHARED`.
        cores: CPU cores.
        gpus: GPUs.
        memory_gb: host memory in GB.
        hours: time limit. A job that reaches it is submitted again and resumes.
    """

    shares: int = 1
    cores: int = 2
    gpus: int = 0
    memory_gb: int = 8
    hours: float = 24


@dataclass(frozen=True)
class Corpus:
    """The paths and options of a chain. A stage's options are those of its command; ``{folder}`` stands for ``folder``.

    Attributes:
        folder: of the stores, the embeddings, the vocabulary and the completion markers.
        trials: lists of all benchmarks; every store is decontaminated against them.
        web: options of `curate web`.
        frames: options of `curate frames`; either this or `released`.
        released: options of `curate released`.
        playroom: options of `playroom`, for the synthetic corpus; it is written to `{folder}/world`.
        decontaminate: options of `curate decontaminate`.
        embed: options of `curate embed`.
        filter: options of `curate filter`.
        rewrite: options of `curate rewrite`.
        match: options of `curate match`.
        random_captions: whether the random pairs have the web captions as they are, or as they are rewritten.
        random: options of `curate sample-random`.
        controls: also make the stores that tell matching and rewriting apart: `aug-raw`, matched by the web captions as
            they are, and `random-rewritten` or `random-raw`, random pairs with the captions that `random` lacks.
        vocabulary: options of `curate vocabulary`.
        matrix: rows to train; none if the chain ends with the vocabulary.
        log_dir: folder of the runs.
        report: folder of the report.
        resources: job -> what it needs; `rows` stands for all steps of the matrix that are not named themselves.
    """

    folder: str
    trials: list[str]
    web: Options
    frames: Options | None = None
    released: Options | None = None
    playroom: Options | None = None
    decontaminate: Options = field(default_factory=dict)
    embed: Options = field(default_factory=dict)
    filter: Options = field(default_factory=dict)
    rewrite: Options = field(default_factory=dict)
    match: Options = field(default_factory=dict)
    random_captions: Literal["raw", "rewritten"] = "raw"
    random: Options = field(default_factory=dict)
    controls: bool = False
    vocabulary: Options = field(default_factory=dict)
    matrix: Path | None = None
    log_dir: str = "lightning_logs"
    report: str = "report"
    resources: dict[str, Resources] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One command of the chain.

    Attributes:
        name: name of the stage; the engine's rule.
        command: words after `python -m babyvlm`.
        needs: ids of the jobs that must be complete.
        resources: what it needs.
        number: distinguishes the jobs of one name.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...]
    resources: Resources
    number: int = 0

    @property
    def id(self) -> str:
        """Name and number."""
        return f"{self.name}-{self.number}"


def read_corpus(file: Path) -> Corpus:
    """Read the chain of a corpus.

    Raises:
        UserError: the file is missing or invalid.
    """
    parser = CheckedParser(exit_on_error=False)
    parser.add_class_arguments(Corpus, "corpus")
    try:
        given = load_yaml_file(file)
        corpus: Corpus = parser.instantiate(parser.parse_object({"corpus": given})).corpus
    except FileNotFoundError:
        raise UserError(
            f"{file}: no such file. Copy the shipped configs with: python -m babyvlm configs copy"
        ) from None
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{file}: {one_line(str(error))}") from None
    if (corpus.frames is None) == (corpus.released is None):
        raise UserError(f"{file}: needs either `frames` (raw videos) or `released` (extracted frames)")
    if not corpus.trials:
        raise UserError(f"{file}: trials: name the lists of all benchmarks, so that no training image is in them")
    return corpus


def read_jobs(file: Path, *, quick: bool = False) -> tuple[Corpus, list[Job]]:
    """Read the chain of a corpus, and return it with all its jobs, each after those that it needs.

    Raises:
        UserError: the file or the matrix is missing or invalid.
    """
    corpus = read_corpus(file)
    jobs = [*curation(corpus), *training(corpus, quick=quick)]
    names = dict.fromkeys(job.name for job in jobs if not job.name.endswith(SHARE))
    for name, resources in corpus.resources.items():
        if name not in {ROWS, *names}:
            raise UserError(f"{file}: resources.{name}: no such job. Jobs: {', '.join(names)}, or {ROWS} for all steps")
        if resources.shares < 1 or (resources.shares > 1 and name not in SHARED):
            raise UserError(
                f"{file}: resources.{name}.shares: {resources.shares}. Only {', '.join(SHARED)} have shares"
            )
    return corpus, jobs


def curation(corpus: Corpus) -> list[Job]:
    """Return the jobs from raw data to the vocabulary, in an order in which they can run one after another."""
    home = "frames" if corpus.frames is not None else "released"
    chain = _Chain(corpus)
    if corpus.playroom is not None:
        chain.add("playroom", "playroom", corpus.playroom, (), out="{folder}/world")
    start = tuple(job.id for job in chain.jobs)
    store, vectors = "{folder}/stores/", "{folder}/embeddings/"
    raw = chain.add(home, f"curate {home}", corpus.frames or corpus.released or {}, start, f"{store}raw/frames")
    lists: Options = {"trials": list(corpus.trials), **corpus.decontaminate}
    clean = "curate decontaminate"
    frames = chain.add("decontaminate_frames", clean, {"store": f"{store}raw/frames", **lists}, raw, f"{store}frames")
    embedded = chain.add(
        "embed_frames", "curate embed", {"store": f"{store}frames", **corpus.embed}, frames, f"{vectors}frames"
    )
    filtered = chain.add(
        "filter",
        "curate filter",
        {"store": f"{store}frames", "embeddings": f"{vectors}frames", **corpus.filter},
        embedded,
        f"{store}filtered",
    )
    raw = chain.add("web", "curate web", corpus.web, start, f"{store}raw/web")
    web = chain.add("decontaminate_web", clean, {"store": f"{store}raw/web", **lists}, raw, f"{store}web")
    rewritten = chain.add(
        "rewrite", "curate rewrite", {"store": f"{store}web", **corpus.rewrite}, web, f"{store}rewritten"
    )
    candidates = chain.add(
        "embed_web",
        "curate embed",
        {"store": f"{store}rewritten", **corpus.embed},
        rewritten,
        f"{vectors}rewritten",
    )
    matching: Options = {
        "targets": f"{store}filtered",
        "target_embeddings": f"{vectors}frames",
        "candidates": f"{store}rewritten",
        "candidate_embeddings": f"{vectors}rewritten",
    }
    aug = chain.add("match", "curate match", matching | corpus.match, (*filtered, *candidates), f"{store}aug")
    drawn: Options = {
        "candidates": f"{store}{'web' if corpus.random_captions == 'raw' else 'rewritten'}",
        "like": f"{store}aug",
    }
    random = chain.add("random", "curate sample-random", drawn | corpus.random, aug, f"{store}random")
    names, last = ["filtered", "aug", "random"], random
    if corpus.controls:
        candidates = chain.add(
            "embed_raw_web", "curate embed", {"store": f"{store}web", **corpus.embed}, web, f"{vectors}web"
        )
        matching |= {"candidates": f"{store}web", "candidate_embeddings": f"{vectors}web"}
        last += chain.add(
            "match_raw", "curate match", matching | corpus.match, (*filtered, *candidates), f"{store}aug-raw"
        )
        other = "rewritten" if corpus.random_captions == "raw" else "raw"
        drawn["candidates"] = f"{store}{'rewritten' if other == 'rewritten' else 'web'}"
        last += chain.add(
            f"random_{other}", "curate sample-random", drawn | corpus.random, aug, f"{store}random-{other}"
        )
        names += ["aug-raw", f"random-{other}"]
    stores: Options = {"stores": [f"{store}{name}" for name in names]}
    chain.add("vocabulary", "curate vocabulary", stores | corpus.vocabulary, last, "{folder}/vocabulary")
    return chain.jobs


def training(corpus: Corpus, *, quick: bool = False) -> list[Job]:
    """Return the jobs of the matrix, each a step that needs the steps it starts from, and the report.

    Raises:
        UserError: the matrix is invalid, or trains on other stores than those of the chain.
    """
    if corpus.matrix is None:
        return []
    plan = Plan(corpus.matrix, quick, Path(corpus.log_dir, "quick") if quick else Path(corpus.log_dir))
    if plan.matrix.worlds:
        raise UserError(f"{corpus.matrix}: has worlds. Make their data with `ablations data`, then use `ablations run`")
    _check_paths(corpus, plan)
    shared: tuple[str, ...] = ("ablations", "run", "--matrix", str(corpus.matrix), "--log_dir", str(plan.log_dir))
    shared += ("--quick", "true") if quick else ()
    jobs: dict[object, Job] = {}
    for planned in plan.steps():
        needs = tuple(jobs[key].id for key in planned.needs) or ("vocabulary-0",)
        command = (*shared, "--task", str(planned.task), "--step", planned.step)
        name = f"step_{planned.step}".replace("-", "_")
        number = sum(job.name == name for job in jobs.values())
        resources = corpus.resources.get(name, corpus.resources.get(ROWS, Resources()))
        jobs[planned.key] = Job(name, command, needs, resources, number)
    last = tuple(job.id for job in jobs.values())
    report = Job(
        "report",
        ("report", str(plan.log_dir), "--out", corpus.report),
        last,
        corpus.resources.get("report", Resources()),
    )
    return [*jobs.values(), report]


def _check_paths(corpus: Corpus, plan: Plan) -> None:
    for file, data in plan.data_settings():
        for option, expected in (("stores", "stores"), ("vocabulary", "vocabulary")):
            if option in data and Path(data[option]) != Path(corpus.folder, expected):
                raise UserError(
                    f"{file}: data.{option} is {data[option]}, but the chain writes {Path(corpus.folder, expected)}"
                )


class _Chain:
    """The jobs so far, and how a stage becomes one."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.jobs: list[Job] = []

    def add(self, name: str, command: str, options: Options, needs: tuple[str, ...], out: str) -> tuple[str, ...]:
        """Add the jobs that share the parts of a stage, if any, and the one that completes it; return its id."""
        resources = self.corpus.resources.get(name, Resources())
        words = (*command.split(), *self._flags(options | {"out": out}))
        if resources.shares > 1:
            shares = [
                Job(f"{name}{SHARE}", (*words, "--share", f"{number}/{resources.shares}"), needs, resources, number)
                for number in range(1, resources.shares + 1)
            ]
            self.jobs += shares
            needs = tuple(job.id for job in shares)
        self.jobs.append(Job(name, words, needs, replace(resources, shares=1)))
        return (self.jobs[-1].id,)

    def _flags(self, options: Options) -> list[str]:
        flags = []
        for option, value in options.items():
            text = value if isinstance(value, str) else json.dumps(value)
            flags += [f"--{option}", text.replace("{folder}", self.corpus.folder)]
        return flags
