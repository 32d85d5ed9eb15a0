"""Run the jobs of a chain on this machine, without a workflow engine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from graphlib import TopologicalSorter
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from babyvlm.io.printing import Console, echo
from babyvlm.io.processes import available_cores, exit_code, signals_passed_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from babyvlm.workflow.corpus import Job

POLL_SECONDS = 0.05


def run_jobs(jobs: Sequence[Job]) -> None:
    """Run each job when those that it needs are complete, as many at a time as there are cores; print their commands.

    Jobs that run at the same time share the cores, unless ``OMP_NUM_THREADS`` is set, and each is printed with its
    output when it finishes. A job that runs alone is printed when it starts and shows its own progress. If a job fails,
    the others are stopped.

    Args:
        jobs: in the order in which they start if several can; their needs are among them.

    Raises:
        SystemExit: with the exit code of the job that failed.
    """
    code = 0
    graph = TopologicalSorter({job.id: job.needs for job in jobs})
    graph.prepare()
    ready: set[str] = set()
    running: list[_Running] = []
    processes: list[subprocess.Popen[bytes]] = []  # which signals are passed to
    status = Console(stderr=True).status("")
    try:
        with signals_passed_to(processes):
            while graph.is_active() and not code:
                ready.update(graph.get_ready())
                started = [job for job in jobs if job.id in ready][: available_cores() - len(running)]
                ready.difference_update(job.id for job in started)
                together = len(running) + len(started)
                running += [_Running.start(job, together) for job in started]
                processes[:] = [job.process for job in running]
                if together > 1:
                    status.update(" and ".join(f"python -m babyvlm {job.title}" for job in running))
                    status.start()
                ended = _wait_for_some(running)
                running = [job for job in running if job not in ended]
                status.stop()
                for job in ended:
                    code = code or job.finish()
                    graph.done(job.id)
    finally:
        status.stop()
        for job in running:
            job.process.terminate()  # no effect if it has already exited
            job.process.wait()
    if code:
        raise SystemExit(code)


@dataclass(frozen=True, eq=False)
class _Running:
    """A job's process, and the file that holds its output; None if it prints itself."""

    id: str
    title: str
    prompt: str
    process: subprocess.Popen[bytes]
    output: IO[str] | None

    @classmethod
    def start(cls, job: Job, together: int) -> _Running:
        """Start a job that is one of ``together`` at the same time."""
        words = [sys.executable, "-m", "babyvlm", *job.command]
        prompt = f"\n$ python -m babyvlm {shlex.join(job.command)}"
        title = " ".join(job.command[: 2 if job.command[0] == "curate" else 1])
        if together == 1:
            echo(prompt, flush=True)
            return cls(job.id, title, prompt, subprocess.Popen(words), None)
        threads = str(max(1, available_cores() // together))
        columns = str(shutil.get_terminal_size().columns)
        environment = {"OMP_NUM_THREADS": threads, "COLUMNS": columns, **os.environ}
        output = TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by finish
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        return cls(job.id, title, prompt, process, output)

    def finish(self) -> int:
        """Show the output of a job that has ended, and return its exit code."""
        if self.output:
            with self.output:
                self.output.seek(0)
                echo(f"{self.prompt}\n{self.output.read()}", end="", flush=True)
        return exit_code(self.process)


def _wait_for_some(running: Sequence[_Running]) -> list[_Running]:
    while True:
        if ended := [job for job in running if job.process.poll() is not None]:
            return ended
        time.sleep(POLL_SECONDS)
