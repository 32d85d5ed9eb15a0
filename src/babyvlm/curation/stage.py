"""The decorator that every command which builds an artifact shares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeGuard

from babyvlm.curation.funnel import Funnel
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.printing import echo

P = ParamSpec("P")
MIN_FRACTION = 0.5  # default of `--min_fraction` of the stages that read raw data: our choice


class Input(Protocol):
    """An artifact that a stage reads, such as a ``PairStore``."""

    @property
    def fingerprint(self) -> str:
        """Hash of its contents."""
        ...

    @property
    def lineage(self) -> dict[str, artifacts.Manifest]:
        """The artifact and all that it was built from, by fingerprint."""
        ...


class UsualYield(NamedTuple):
    """The shares between which a selecting stage usually keeps its input, and what to check otherwise."""

    lowest: float
    highest: float
    advice: str


@dataclass
class Artifact:
    """What a stage builds: it identifies the result, so that a second call finds it complete.

    Attributes:
        kind: names the manifest, ``<kind>.json``.
        arguments: everything that determines the contents, with the name of the command. A value may be an ``Input`` or
            a list of them: its fingerprint is compared and its lineage recorded.
        funnel: counts of what the stage keeps and drops; recorded and printed at the end.
        manifest: further entries of the manifest. The stage may add entries while it builds.
        ancestors: lineage of inputs that are not in ``arguments``.
        resumable: keep the unfinished folder when the stage is interrupted. The stage finds in it what was left by a
            call with the same arguments; what is needed only to resume belongs in its subfolder ``SCRATCH``.
        state: a folder of the stage's own, needed only to resume; removed once the artifact is complete. The
            stage creates it with ``create_marked``.
        lock: hold the lock while building; False on all but one rank of a distributed stage.
        min_fraction: share of the wanted input that a stage must be able to read; below it nothing is built.
        input_list: the file that lists what could not be read, for the message.
        usual_yield: prints a warning if a stage that selects keeps an unusual share.
    """

    kind: str
    arguments: Mapping[str, Any]
    funnel: Funnel | None = None
    manifest: artifacts.Manifest = field(default_factory=dict)
    ancestors: Mapping[str, artifacts.Manifest] = field(default_factory=dict)
    resumable: bool = False
    state: Path | None = None
    lock: bool = True
    min_fraction: float = 0
    input_list: Path | None = None
    usual_yield: UsualYield | None = None

    def __post_init__(self) -> None:
        ancestors = dict(self.ancestors)
        for value in self.arguments.values():
            for one in value if isinstance(value, list) else [value]:
                if _is_input(one):
                    ancestors |= one.lineage
        self.arguments = {name: _fingerprints(value) for name, value in self.arguments.items()}
        self.ancestors = ancestors

    def check_yield(self, out: Path, funnel: Funnel) -> None:
        """Compare the counts of the stage with what is expected.

        Raises:
            UserError: it could read less than ``min_fraction`` of what is wanted.
        """
        share = funnel.kept / funnel.wanted if funnel.wanted else 1
        if share < self.min_fraction:
            lost = {reason: count for reason, count in funnel.dropped.most_common() if reason not in funnel.unwanted}
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in islice(lost.items(), 3))
            raise UserError(
                f"{out}: only {funnel.kept:,} of {funnel.wanted:,} {funnel.unit} can be used ({reasons}; all are listed"
                f" in {self.input_list}). Fix the input, or accept the loss: --min_fraction {int(100 * share) / 100:g}"
            )
        usual = self.usual_yield
        if usual and not usual.lowest <= share <= usual.highest:
            echo(
                f"warning: {funnel.stage} kept {share:.1%} of the {funnel.unit}; {usual.lowest:.0%} to"
                f" {usual.highest:.0%} are usual. {usual.advice}",
                file=sys.stderr,
            )


Stage = Generator[Artifact, Path, str]


def parts_folder(out: Path) -> Path:
    """Return the folder of the parts of an unfinished artifact; a stage passes it as ``Artifact.state``."""
    return out.with_name(f"{out.name}.parts")


def slice_of_share(share: str) -> slice:
    """Return the parts of one of several jobs, such as those of ``2/16``; "" stands for all parts.

    The jobs of all shares may run at the same time, also on machines that do not see each other's locks: each part
    belongs to one share, and is renamed into place when it is complete.

    >>> list("abcdefg")[slice_of_share("2/3")]
    ['b', 'e']

    Raises:
        UserError: it is not a share.
    """
    if not share:
        return slice(None)
    number, _, count = share.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--share {share}: expected NUMBER/COUNT, such as 1/16 for the first of 16 jobs")
    return slice(int(number) - 1, None, int(count))


def stage(function: Callable[P, Stage]) -> Callable[P, None]:
    """Turn a generator function into a command that builds the artifact ``out`` completely or not at all.

    The function checks its options, opens its inputs and yields the ``Artifact`` once. If ``out`` is complete, the
    function ends there. Otherwise it receives the folder to fill, and returns a summary of what it built. The command
    holds the lock of ``out`` while the function builds, then prints the funnel and the summary. A function that only
    prepares ``out``, such as one of several jobs that share the work, returns its summary without yielding.

    For example:
        @stage
        def copy(store: Path, out: Path) -> Stage:
            source = PairStore(store)
            artifact = Artifact("store", {"command": "copy", "store": source}, Funnel("copy"))
            folder = yield artifact
            artifact.manifest |= write_pairs(folder, source.rows(), funnel=artifact.funnel, licensed=source.licensed)
            return f"{len(source):,} pairs"

    The command raises a ``UserError`` if ``out`` exists and was built from other arguments.
    """
    parameters = signature(function)

    @wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> None:
        out: Path = parameters.bind(*args, **kwargs).arguments["out"]
        steps = function(*args, **kwargs)
        try:
            artifact = next(steps)
        except StopIteration as end:
            echo(f"{out}: {end.value}")
            return
        with artifacts.exclusive(out) if artifact.lock else nullcontext():
            if artifacts.is_complete(out, artifact.kind, artifact.arguments):
                steps.close()
                counts = artifacts.read_manifest(out, artifact.kind).get("funnel")
                if counts and artifact.funnel:
                    artifact.check_yield(out, replace(Funnel.from_dict(counts), unwanted=artifact.funnel.unwanted))
                summary = "already complete, skipping"
            else:
                summary = _build(steps, artifact, out)
            if artifact.state and artifacts.is_marked(artifact.state):
                artifacts.remove_marked(artifact.state)
        echo(f"{out}: {summary}")

    return command


def _build(steps: Stage, artifact: Artifact, out: Path) -> str:
    manifest = artifact.manifest
    manifest |= {"arguments": dict(artifact.arguments), "ancestors": dict(artifact.ancestors)}
    with artifacts.create(out, artifact.kind, manifest, keep_partial=artifact.resumable) as folder:
        try:
            steps.send(folder)
        except StopIteration as end:
            summary = str(end.value)
        else:
            raise RuntimeError("a stage must yield exactly once")
        if artifact.funnel:
            manifest["funnel"] = artifact.funnel.as_dict()
            artifact.check_yield(out, artifact.funnel)
    if artifact.funnel:
        echo(artifact.funnel)
    return summary


def _fingerprints(value: object) -> object:
    if isinstance(value, list):
        return [_fingerprints(one) for one in value]
    return value.fingerprint if _is_input(value) else value


def _is_input(value: object) -> TypeGuard[Input]:
    return hasattr(type(value), "lineage")  # not of the value itself, which would read it from disk
