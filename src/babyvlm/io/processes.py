"""Work on many inputs at once, each in a process of its own.

A decoder that crashes takes no other input with it, and what it leaked goes when its process ends. The processes are
forked from a server that has made the imports, and has no threads whose locks a fork would copy.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
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
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

Task = TypeVar("Task")
# What hostile bytes may do to a decoder. Any other signal comes from outside, and says nothing about the input.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)


def run_in_processes(
    tasks: Iterable[Task], work: Callable[[Task], None], workers: int, imports: Iterable[str]
) -> Iterator[tuple[Task, str]]:
    """Do ``work`` on each task, ``workers`` at a time.

    Args:
        tasks: picklable.
        work: a function of a module, for it is named to the other process.
        workers: processes; with 1 the work is done in this one, where a crash is the end.
        imports: modules that the work needs, imported once for all.

    Yields:
        Each task when it is done, with the name of the signal that its process died of, or "".

    Raises:
        UserError: a process was ended from outside.
        Exception: what ``work`` raised.
    """
    if workers == 1:
        for task in tasks:
            work(task)
            yield task, ""
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *imports])
    waiting = iter(tasks)
    under_way: list[_Worker[Task]] = []
    try:
        while True:
            under_way += [_Worker.start(context, work, task) for task in islice(waiting, workers - len(under_way))]
            if not under_way:
                return
            ended = wait([worker.process.sentinel for worker in under_way])
            done = [worker for worker in under_way if worker.process.sentinel in ended]
            under_way = [worker for worker in under_way if worker not in done]
            for worker in done:
                yield worker.task, worker.finish()
    finally:
        for worker in under_way:
            worker.process.kill()


@contextmanager
def process_pool(workers: int, imports: Iterable[str]) -> Iterator[Callable[..., Iterable[Any]]]:
    """``map``, by several processes: what they make of each task, in the tasks' order.

    Raises:
        UserError: a process was ended from outside.
    """
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *imports])
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
        try:
            yield pool.map
        except (BrokenProcessPool, BrokenPipeError):  # the latter while a process is being told what to do
            raise killed_from_outside() from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error nobody waits for the rest


def killed_from_outside() -> UserError:
    """What to tell when a worker process is gone, and no input is to blame."""
    return UserError(
        "a worker process was ended from outside, as systems do when memory runs out; the same command goes on or "
        "starts anew: give it fewer workers"
    )


@contextmanager
def bounded_memory(extra: int) -> Iterator[None]:
    """Let this process take at most so many bytes more than now: what asks for more gets a ``MemoryError``.

    Where the system does not tell what a process has (it is not Linux), there is no bound.
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
    """A process that works on one task."""

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
        """Name the signal of a crash, if it was one; raise what the process raised."""
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
    except Exception as error:  # raised again where the user sees it
        sender.send(error)


def end_with_parent() -> None:
    """Let this process end when its parent does, and only then: a parent that is killed cannot end its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends us
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
