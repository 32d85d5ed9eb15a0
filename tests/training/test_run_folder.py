"""A run's folder belongs to one process at a time, until that has ended."""

import os
import signal
import time

import pytest

from babyvlm.errors import UserError
from babyvlm.training.run_folder import lock_run


@pytest.fixture
def holder(tmp_path):
    """A process that has the folder, and a child of its own, as a loader has workers."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        lock_run(tmp_path)
        worker = os.fork()
        if worker == 0:
            time.sleep(100)
        os.write(write, str(worker).encode())
        time.sleep(100)
    worker = int(os.read(read, 20))
    yield process
    os.kill(worker, signal.SIGKILL)


def test_lock_run_refuses_second_process_until_first_is_killed(tmp_path, holder):
    with pytest.raises(UserError, match=f"{tmp_path}: process {holder} on .* is working on this run"):
        lock_run(tmp_path)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    lock_run(tmp_path)  # its child lives on
    lock_run(tmp_path)  # as often as it likes
    assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")
