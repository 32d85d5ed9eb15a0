"""Process many inputs in parallel, each in its own process.

If a decoder crashes, no other input is affected, and memory that it leaked is freed when its process ends. The
processes are forked from a server that has done the imports and has no threads whose locks a fork would copy.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from babyvlm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from types import FrameType

Task = TypeVar("Task")
# Signals that hostile bytes can cause in a decoder. Any other signal comes from outside and is not due to the input.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)


def available_cores() -> int:
    """Return the number of cores that this process may use, which SLURM may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_command(words: Sequence[str]) -> int:
    """Run a program until it ends, pass signals on to it, and return its exit code; 128 + N if signal N killed it."""
    process = subprocess.Popen(words)
    with signals_passed_to([process]):
        return exit_code(process)


def exit_code(process: subprocess.Popen[bytes]) -> int:
    """Wait for a program; return its exit code, or 128 + N if signal N killed it."""
    code = process.wait()
    return 128 - code if code < 0 else code


@contextmanager
def signals_passed_to(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass signals on to the processes of a list, which can change, but not SIGINT: the terminal sends it to them."""

    def pass_on(number: int, _: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_in_processes(
    tasks: Iterable[Task], work: Callable[[Task], None], num_workers: int, imports: Iterable[str]
) -> Iterator[tuple[Task, str]]:
    """Call ``work`` on each task, ``num_workers`` at a time.

    Args:
        tasks: picklable.
        work: a module-level function, because it is pickled by name.
        num_workers: processes; with 1 the work is done in this process, where a crash ends the command.
        imports: modules that the work needs, imported once for all processes.

    Yields:
        Each task when it is done, with the name of the signal that killed its process, or "".

    Raises:
        UserError: a process was killed from outside.
        Exception: what ``work`` raised.
    """
    if num_workers == 1:
        for task in tasks:
            work(task)
            yield task, ""
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *imports])
    remaining = iter(tasks)
    running: list[_Worker[Task]] = []
    try:
        while True:
            running += [_Worker.start(context, work, task) for task in islice(remaining, num_workers - len(running))]
            if not running:
                return
            ended = wait([worker.process.sentinel for worker in running])
            done = [worker for worker in running if worker.process.sentinel in ended]
            running = [worker for worker in running if worker not in done]
            for worker in done:
                yield worker.task, worker.finish()
    finally:
        for worker in running:
            worker.process.kill()


@contextmanager
def process_pool(num_workers: int, imports: Iterable[str]) -> Iterator[Callable[..., Iterable[Any]]]:
    """Yield a ``map`` that uses several processes and returns the results in the order of the tasks.

    Raises:
        UserError: a process was killed from outside.
    """
    if num_workers == 1:
        yield map
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *imports])
    with ProcessPoolExecutor(num_workers, context, initializer=end_with_parent) as pool:
        try:
            yield pool.map
        except (BrokenProcessPool, BrokenPipeError):  # the latter while a task is sent to a process
            raise killed_from_outside() from None
        except OSError as error:
            if error.errno == errno.EBADF:  # the pool was closed while its next process started
                raise killed_from_outside() from None
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error, do not wait for the rest


def killed_from_outside() -> UserError:
    """Return the error for a worker process that was killed, but not because of its input."""
    return UserError(
        "a worker process was killed from outside, as the system does when memory runs out. Run the same command again "
        "with a smaller --num_workers"
    )


@contextmanager
def bounded_memory(extra: int) -> Iterator[None]:
    """Limit the memory of this process to ``extra`` bytes more than now; beyond it, allocation raises ``MemoryError``.

    There is no limit on systems without /proc, such as macOS.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@dataclass(frozen=True)
class _Worker(Generic[Task]):
    """A process for one task."""

    task: Task
    process: BaseProcess
    errors: Connection

    @classmethod
    def start(
        cls, context: multiprocessing.context.ForkServerContext, work: Callable[[Task], None], task: Task
    ) -> _Worker[Task]:
        errors, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(work, task, sender), daemon=True)
        try:
            process.start()
        except BrokenPipeError:
            raise killed_from_outside() from None
        sender.close()
        return cls(task, process, errors)

    def finish(self) -> str:
        """Return the name of the signal of a crash, or ""; raise what the process raised."""
        self.process.join()
        code = self.process.exitcode or 0
        with suppress(EOFError), self.errors:
            raise self.errors.recv()
        if -code in CRASHES:
            return signal.Signals(-code).name
        if code:
            raise killed_from_outside()
        return ""


def _work(work: Callable[[Task], None], task: Task, sender: Connection) -> None:
    end_with_parent()
    try:
        work(task)
    except Exception as error:  # raised again in the parent process
        sender.send(error)


def end_with_parent() -> None:
    """End this process when its parent ends, because a parent that is killed cannot end its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and ends its children
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
