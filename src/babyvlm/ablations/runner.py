"""Runs a matrix: each step a process of its own, none twice, none at the same time as another of its kind."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from babyvlm.ablations import state
from babyvlm.ablations.plan import Plan, Run, Task
from babyvlm.errors import UserError
from babyvlm.training.signals import SIGNALS, SignalNote, exit_code, requeue

TAIL = 5  # lines of a failed run's log that are shown
POLL = 0.5  # seconds


class _FailedError(Exception):
    """A run failed; the message is one line."""


class _StoppedError(Exception):
    """A run was told to stop and can go on."""


@dataclass
class _Runner:
    """Runs tasks, several at once if asked."""

    plan: Plan
    launcher: list[str]
    replace: bool
    threads: int
    progress: Progress
    note: SignalNote = field(default_factory=SignalNote)
    failed: dict[Path, str] = field(default_factory=dict)  # folder -> why; rows that share it are not tried again
    stopped_by: int = 0  # the signal that ended a training which was told to stop, by whomever

    def task(self, task: Task) -> Literal["done", "failed", "stopped"]:
        """Run what of a row is not done; say how it came out."""
        try:
            self._need(task, self.plan.run(task))
        except (_FailedError, UserError, OSError) as error:
            self._say(f"{task}: failed: {error}")
            return "failed"
        except _StoppedError:
            self._say(f"{task}: stopped; the same command goes on")
            return "stopped"
        self._say(f"{task}: done")
        return "done"

    def _need(self, task: Task, run: Run) -> None:
        """Run it, and before it what it begins from, unless it is done."""
        if self._is_done(run):
            return
        for before in run.before:
            self._need(task, before)
        if not state.is_free(run):
            self._say(f"{task}: waiting for {run.folder}, which another process has")
        with state.claimed(run, self._stop_if_told_to) as lock:
            self._stop_if_told_to()
            self._refuse_failed(run)
            if not self._is_done(run):  # by now
                self._run(task, run, lock)

    def _run(self, task: Task, run: Run, lock: int) -> None:
        if state.state_of(run).word == "stale":
            run.folder.rename(run.folder.with_name(f"replaced-{run.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
        self._say(f"{task}: {run.name} in {run.folder}")
        began = time.monotonic()
        bar = self.progress.add_task(f"{task}: {run.name}", total=state.steps_wanted(run))
        try:
            self._judge(run, self._call(run, lock, bar))
        finally:
            self.progress.remove_task(bar)
        self._say(f"{task}: {run.name} took {time.monotonic() - began:,.0f} s")

    def _is_done(self, run: Run) -> bool:
        """Whether there is nothing to do; what is stale is refused, unless it is to be replaced."""
        found = state.state_of(run)
        if found.word == "stale" and not self.replace:
            raise _FailedError(f"{run.folder}: {found.detail}; move it away, or let --replace true do so")
        return found.word == "done"

    def _call(self, run: Run, lock: int, bar: TaskID) -> int:
        """Run its process to the end, its signals passed on; the exit code."""
        begun = (run.folder / "config.yaml").is_file()
        if begun and run.command[0] == "test":  # nothing of it is worth going on with
            shutil.rmtree(run.folder)
        state.begin(run)
        command = ("resume", str(run.folder)) if begun and run.command[0] == "fit" else run.command
        environment = {"OMP_NUM_THREADS": str(self.threads)} | os.environ
        with state.log_file(run).open("ab") as log:
            # A session of its own: a Ctrl-C reaches the runner alone, which tells its children to save.
            process = subprocess.Popen(
                [*self.launcher, sys.executable, "-m", "babyvlm", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[lock],
                start_new_session=True,
            )
        told, logged = 0, 0.0
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(POLL)
            if self.note.received != told:
                told = self.note.received
                process.send_signal(self._passed_on(told))
            if state.logged_at(run) != logged:  # reading all of a long run's rows twice a second would cost it a core
                logged = state.logged_at(run)
                self.progress.update(bar, completed=state.steps_done(run))

    def _passed_on(self, received: int) -> int:
        """What a process is told: a launcher may not pass SIGTERM on; srun kills its tasks instead."""
        return signal.SIGUSR2 if self.launcher and received == signal.SIGTERM else received

    def _judge(self, run: Run, code: int) -> None:
        """Take note of how its process ended.

        Raises:
            _FailedError: of itself.
            _StoppedError: it was told to.
        """
        if (run.folder / state.FINISHED).is_file():
            return
        by = -code if code < 0 else code - 128
        if self.note.received or by in SIGNALS:
            self.stopped_by = by
            raise _StoppedError
        lines = state.last_lines(run, TAIL)
        reason = f"exit code {code}: {lines[-1] if lines else 'nothing was printed'}"
        state.fail(run, reason)
        self.failed[run.folder] = reason
        self._say("\n".join([f"{state.log_file(run)} ends:", *(f"  {line}" for line in lines)]))
        raise _FailedError(reason)

    def _refuse_failed(self, run: Run) -> None:
        if run.folder in self.failed:
            raise _FailedError(f"{run.name}, which it begins from: {self.failed[run.folder]}")

    def _stop_if_told_to(self) -> None:
        if self.note.received:
            raise _StoppedError

    def _say(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def run(
    matrix: Path = Path("configs/playroom/ablations.yaml"),
    rows: list[str] | None = None,
    seeds: list[int] | None = None,
    quick: bool = False,
    task: int | None = None,
    jobs: int = 1,
    log_dir: Path | None = None,
    launcher: str = "",
    replace: bool = False,
) -> None:
    """Run every row of a matrix with every seed, and nothing that is done already.

    Called again after a kill, it goes on. A row that fails is reported, and the others go on; the exit code is then 1.

    For example:
        python -m babyvlm ablations run --rows '[CVCL-filtered]' --seeds '[0,1]' --jobs 2

    Args:
        matrix: which rows there are.
        rows: only these.
        seeds: only these.
        quick: the matrix's short form.
        task: only the one of this number, for an array of jobs; `ablations status` numbers them.
        jobs: rows at once; the machine's cores are divided among them, unless OMP_NUM_THREADS is set.
        log_dir: where runs are written: `lightning_logs` by default, `lightning_logs/quick` of the short form.
        launcher: what each training is started by, such as `srun`.
        replace: rename a run that was made with other settings, and make it anew; by default it is left and reported.
    """
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: at least 1")
    plan = Plan(matrix, quick, log_dir)
    tasks = chosen(plan, rows, seeds, task)
    threads = max(1, _cores() // jobs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        runner = _Runner(plan, shlex.split(launcher), replace, threads, progress)
        outcomes = _run_all(runner, tasks, jobs)
    counts = [f"{outcomes.count(word)} {word}" for word in ("done", "failed", "stopped")]
    code = _code(runner, failed="failed" in outcomes)
    print(f"{len(tasks)} rows and seeds: {', '.join(counts)}")
    if code:
        raise SystemExit(code)


def _cores() -> int:
    """Cores that this process may use: a job's share of its machine, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen(plan: Plan, rows: list[str] | None, seeds: list[int] | None, number: int | None) -> list[Task]:
    """The tasks of a plan that are asked for.

    Raises:
        UserError: there is no such row, seed or number.
    """
    tasks = plan.tasks
    if number is not None:
        if not 0 <= number < len(tasks):
            raise UserError(f"--task {number}: {plan.file} has {len(tasks)} tasks, 0 to {len(tasks) - 1}")
        tasks = tasks[number : number + 1]
    for what, wanted, there in (("rows", rows, {t.row for t in tasks}), ("seeds", seeds, {t.seed for t in tasks})):
        if unknown := [name for name in wanted or [] if name not in there]:
            raise UserError(f"--{what} {unknown[0]}: {plan.file} has {', '.join(sorted(map(str, there)))}")
    return [t for t in tasks if (not rows or t.row in rows) and (not seeds or t.seed in seeds)]


def _run_all(runner: _Runner, tasks: list[Task], jobs: int) -> list[str]:
    runner.note.listen()
    with ThreadPoolExecutor(jobs) as pool:
        outcomes: list[Future[Literal["done", "failed", "stopped"]]] = [pool.submit(runner.task, t) for t in tasks]
        try:
            wait(outcomes)
        except KeyboardInterrupt:
            runner.note.received = signal.SIGTERM
            raise
        finally:
            wait(outcomes)
            runner.note.give_back()
    return [outcome.result() for outcome in outcomes]


def _code(runner: _Runner, failed: bool) -> int:
    """Exit code; SLURM is asked for another turn, which also a task that was only waiting needs."""
    received = runner.note.received or runner.stopped_by
    if received:
        return exit_code(received, received != signal.SIGTERM and requeue())
    return int(failed)
