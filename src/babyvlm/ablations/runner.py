"""``python -m babyvlm ablations run``: run every step of a matrix once, each in its own process."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from babyvlm.ablations import state
from babyvlm.ablations.gpus import VARIABLE, GpuPool, gpus_needed, gpus_of_machine
from babyvlm.ablations.plan import Plan, PlannedRun, Task
from babyvlm.errors import UserError
from babyvlm.io.files import atomic_write
from babyvlm.io.printing import Console, echo
from babyvlm.io.processes import available_cores
from babyvlm.training.signals import SIGNALS, SignalListener, asks_to_requeue, exit_code, requeue

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG_LINES = 5  # lines of a failed run's log to print

Outcome = Literal["done", "failed", "stopped"]


class _RunFailedError(Exception):
    """A run failed; the message is one line."""


class _StoppedError(Exception):
    """A run was stopped by a signal and can be resumed."""


@dataclass
class _Runner:
    """Runs tasks, possibly several at once in threads.

    Attributes:
        plan: the runs.
        launcher: command that each training is started by.
        replace: whether to replace stale runs.
        threads: CPU threads per run.
        gpus: GPUs of this machine; None if the launcher assigns them.
        progress: progress bars.
        signals: the signal that this process received.
        failures: run folder -> reason; rows that share a failed run do not try it again.
        step: the last step to run; by default that of the row.
        stopped_by: the signal that ended a training, whoever sent it.
    """

    plan: Plan
    launcher: list[str]
    replace: bool
    threads: int
    gpus: GpuPool | None
    progress: Progress
    signals: SignalListener = field(default_factory=SignalListener)
    failures: dict[Path, str] = field(default_factory=dict)
    step: str = ""
    stopped_by: int = 0

    def run_tasks(self, tasks: list[Task], num_workers: int) -> list[Outcome]:
        """Run tasks in threads and return their outcomes; signals are passed on to the trainings."""
        self.signals.listen()
        with ThreadPoolExecutor(num_workers) as pool:
            outcomes: list[Future[Outcome]] = [pool.submit(self._run_task, task) for task in tasks]
            try:
                wait(outcomes)
            except KeyboardInterrupt:
                self.signals.received = signal.SIGTERM
                raise
            finally:
                wait(outcomes)
                self.signals.restore()
        return [outcome.result() for outcome in outcomes]

    def exit_code(self, outcomes: list[Outcome]) -> int:
        """Return the exit code after requeueing the SLURM job if a signal ended it, even while it only waited."""
        received = self.signals.received or self.stopped_by
        if received:
            return exit_code(received, asks_to_requeue(received) and requeue())
        return int("failed" in outcomes)

    def _run_task(self, task: Task) -> Outcome:
        try:
            self._run_chain(task, self._last_run(task))
        except (_RunFailedError, UserError, OSError) as error:
            self._print(f"{task}: failed: {error}")
            return "failed"
        except _StoppedError:
            self._print(f"{task}: stopped. Run the same command again to continue")
            return "stopped"
        self._print(f"{task}: done")
        return "done"

    def _last_run(self, task: Task) -> PlannedRun:
        chain = self.plan.run(task).chain
        for run in chain:
            if run.name == self.step or (not self.step and run is chain[-1]):
                return run
        raise UserError(f"--step {self.step}: its steps are {', '.join(run.name for run in chain)}")

    def _run_chain(self, task: Task, run: PlannedRun) -> None:
        """Run a run and the runs that it starts from, unless they are done."""
        if self._is_done(run):
            return
        for parent in run.parents:
            self._run_chain(task, parent)
        if state.is_running(run):
            self._print(f"{task}: {run.folder}: another process is running it; waiting")
        with state.locked(run, on_wait=self._raise_if_signaled) as lock:
            self._raise_if_signaled()
            if run.folder in self.failures:
                raise _RunFailedError(f"{run.name}, which it starts from: {self.failures[run.folder]}")
            if not self._is_done(run):  # another process may have finished it meanwhile
                with self._device(run) as environment:
                    self._run_process(task, run, lock, environment)

    @contextmanager
    def _device(self, run: PlannedRun) -> Iterator[dict[str, str]]:
        """Wait for the GPUs that a run needs, and yield the environment in which it sees only these.

        Only a run that is about to start waits for GPUs, so that no GPU waits for a run.
        """
        if self.gpus is None:
            yield {}
            return
        needed = gpus_needed(run.settings["config"].get("trainer") or {}, len(self.gpus.ids))
        with self.gpus.take(needed, self._raise_if_signaled) as taken:
            yield {VARIABLE: ",".join(taken)}

    def _is_done(self, run: PlannedRun) -> bool:
        found = state.state_of(run)
        if found.status == "stale" and not self.replace:
            raise _RunFailedError(
                f"{run.folder}: {found.detail}. Move the folder away, or pass --replace true to rename it"
            )
        return found.status == "done"

    def _run_process(self, task: Task, run: PlannedRun, lock: int, environment: dict[str, str]) -> None:
        """Start or resume a run in its own process, which inherits the lock, and wait until it ends.

        Raises:
            _RunFailedError: the run failed.
            _StoppedError: a signal stopped it.
        """
        if state.state_of(run).status == "stale":
            run.folder.rename(run.folder.with_name(f"replaced-{run.folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
        device = f" on GPU {environment[VARIABLE]}" if environment.get(VARIABLE) else ""
        self._print(f"{task}: {run.name} in {run.folder}{device}")
        started_at = time.monotonic()
        started_before = (run.folder / "config.yaml").is_file()
        if started_before and run.command[0] == "test":  # an incomplete test is repeated
            shutil.rmtree(run.folder)
        state.record_settings(run)
        for file, content in run.overlays:
            with atomic_write(file) as overlay:
                overlay.write(content)
        resume = started_before and run.command[0] == "fit"
        with state.log_file(run).open("ab") as log:
            # In its own session, so that a Ctrl-C reaches only the runner, which then asks its children to save.
            process = subprocess.Popen(
                [
                    *self.launcher,
                    *(sys.executable, "-m", "babyvlm"),
                    *(("resume", str(run.folder)) if resume else run.command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"OMP_NUM_THREADS": str(self.threads)} | os.environ | environment,
                pass_fds=[lock],
                start_new_session=True,
            )
        bar = self.progress.add_task(escape(f"{task}: {run.name}"), total=state.total_steps(run))
        try:
            code = self._wait(run, process, bar)
        finally:
            self.progress.remove_task(bar)
        self._check_outcome(run, code)
        self._print(f"{task}: {run.name} took {time.monotonic() - started_at:,.0f} s")

    def _wait(self, run: PlannedRun, process: subprocess.Popen[bytes], bar: TaskID) -> int:
        """Wait for a process, pass signals on to it and update its progress bar; return its exit code."""
        passed_on, changed_at = 0, 0.0
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(state.POLL_SECONDS)
            if self.signals.received != passed_on:
                passed_on = self.signals.received
                # Launchers may not pass SIGTERM on: srun kills its tasks instead.
                process.send_signal(signal.SIGUSR2 if self.launcher and passed_on == signal.SIGTERM else passed_on)
            if state.metrics_changed_at(run) != changed_at:  # reading the metrics each time would be slow
                changed_at = state.metrics_changed_at(run)
                self.progress.update(bar, completed=state.steps_done(run))

    def _check_outcome(self, run: PlannedRun, code: int) -> None:
        if (run.folder / state.FINISHED).is_file():
            return
        ended_by = -code if code < 0 else code - 128
        if self.signals.received or ended_by in SIGNALS:
            self.stopped_by = ended_by
            raise _StoppedError
        lines = state.last_log_lines(run, LOG_LINES)
        reason = f"exit code {code}: {lines[-1] if lines else 'no output'}"
        state.record_settings(run, failure=reason)
        self.failures[run.folder] = reason
        self._print("\n".join([f"Last lines of {state.log_file(run)}:", *(f"  {line}" for line in lines)]))
        raise _RunFailedError(reason)

    def _raise_if_signaled(self) -> None:
        if self.signals.received:
            raise _StoppedError

    def _print(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


def run(
    matrix: Path = Path("configs/playroom/ablations.yaml"),
    rows: list[str] | None = None,
    seeds: list[int] | None = None,
    worlds: list[int] | None = None,
    quick: bool = False,
    task: int | None = None,
    num_workers: int = 1,
    log_dir: Path | None = None,
    launcher: str = "",
    replace: bool = False,
    step: str = "",
) -> None:
    """Train and test every row of a matrix with every seed, except those that are complete.

    After an interruption, run the same command again to continue. If a row fails, the others are still run and the
    exit code is 1.

    For example:
        python -m babyvlm ablations run --rows '[CVCL-filtered]' --seeds '[0,1]' --num_workers 2

    Args:
        matrix: YAML file with the rows.
        rows: run only these rows, `[a,b]`.
        seeds: run only these random seeds, `[0,1]`.
        worlds: run only these worlds of the matrix, `[0,1]`.
        quick: use the quick version of the matrix, with one seed and less training.
        task: run only the task with this number, for SLURM arrays; `ablations status` lists the numbers.
        num_workers: number of rows to run in parallel; they share the machine's cores, unless OMP_NUM_THREADS is set.
            Each run has the GPUs that its recipe asks for (trainer.devices) to itself, and waits until they are free.
        log_dir: folder of runs. Default: `lightning_logs`, or `lightning_logs/quick` for the quick version.
        launcher: command that starts each training, such as `srun`.
        replace: if a run has different settings than the matrix, rename it and train again. By default it is kept and
            the row is reported as failed.
        step: stop after this step of each row, such as a phase that other rows share.
    """
    if num_workers < 1:
        raise UserError(f"--num_workers {num_workers}: must be at least 1")
    plan = Plan(matrix, quick, log_dir)
    tasks = select_tasks(plan, rows, seeds, task, worlds)
    threads = max(1, available_cores() // num_workers)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        gpus = None if launcher else GpuPool(gpus_of_machine())
        runner = _Runner(plan, shlex.split(launcher), replace, threads, gpus, progress, step=step)
        outcomes = runner.run_tasks(tasks, num_workers)
    code = runner.exit_code(outcomes)
    names: tuple[Outcome, ...] = ("done", "failed", "stopped")
    counts = [f"{outcomes.count(name)} {name}" for name in names]
    echo(f"{len(tasks)} rows and seeds: {', '.join(counts)}")
    if code:
        raise SystemExit(code)


def select_tasks(
    plan: Plan,
    rows: list[str] | None,
    seeds: list[int] | None,
    number: int | None,
    worlds: list[int] | None = None,
) -> list[Task]:
    """Return the selected tasks of a plan.

    Raises:
        UserError: there is no such row, seed, world or number.
    """
    tasks = plan.tasks
    if number is not None:
        if not 0 <= number < len(tasks):
            raise UserError(f"--task {number}: {plan.file} has {len(tasks)} tasks, numbered 0 to {len(tasks) - 1}")
        tasks = tasks[number : number + 1]
    asked = {"rows": rows, "seeds": seeds, "worlds": worlds}
    for option, selected in asked.items():
        known = {getattr(task, option.removesuffix("s")) for task in tasks}
        if unknown := [name for name in selected or [] if name not in known]:
            raise UserError(f"--{option} {unknown[0]}: {plan.file} has only {', '.join(sorted(map(str, known)))}")
    return [
        task
        for task in tasks
        if (not rows or task.row in rows) and (not seeds or task.seed in seeds) and (not worlds or task.world in worlds)
    ]
