"""A fake SLURM for Snakemake's executor: programs on ``PATH`` that run jobs at once, as processes of this machine.

``sbatch --wrap COMMAND`` starts a job and prints its id, ``sacct`` and ``squeue`` print the states of all jobs,
``scancel`` ends jobs, ``srun`` runs a command. Every call of ``sbatch`` is recorded in ``calls.txt``.
"""

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("sbatch", "sacct", "squeue", "scancel", "srun", "sinfo", "scontrol", "sacctmgr")
# Runs a job in its own session, and records its state even if the job is killed.
SUPERVISOR = """
import subprocess, sys
from pathlib import Path
state, log, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with open(log, "a") as output:
    code = subprocess.call(["sh", "-c", command], stdout=output, stderr=output)
state.write_text("COMPLETED" if code == 0 else "FAILED")
"""


def install(folder):
    """Write the programs to a folder; return the environment that finds them."""
    folder.mkdir()
    (folder / "jobs").mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "FAKE_SLURM": str(folder)}


def _folder():
    return Path(os.environ["FAKE_SLURM"])


def _options(args):
    """Return ``--name value`` and ``--name=value`` as a dictionary."""
    found = {}
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.startswith("-"):
            following = args[index + 1] if index + 1 < len(args) else ""
            found[name] = value if equals else "" if following.startswith("-") else following
    return found


def sbatch(*args):
    options = _options(args)
    jobs = _folder() / "jobs"
    number = 1
    while True:  # calls that come at the same time get different numbers
        try:
            (jobs / str(number)).touch(exist_ok=False)
            break
        except FileExistsError:
            number += 1
    (jobs / str(number)).write_text("RUNNING")
    log = Path(options["--output"].replace("%j", str(number)))
    log.parent.mkdir(parents=True, exist_ok=True)
    with (_folder() / "calls.txt").open("a") as calls:
        calls.write(shlex.join(args) + "\n")
    environment = os.environ | {"SLURM_JOB_ID": str(number), "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "chain"}
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(jobs / str(number)), str(log), options["--wrap"]],
        cwd=options["-D"],
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (_folder() / f"process-{number}").write_text(str(process.pid))
    print(number)


def sacct(*args):
    if "-o" in args:  # Account
        print("lab")
        return
    for job in sorted((_folder() / "jobs").iterdir()):
        print(f"{job.name}|{job.read_text()}")


squeue = sacct


def scancel(*args):
    for number in args:
        if number.isdecimal():
            with suppress(ProcessLookupError):
                os.killpg(int((_folder() / f"process-{number}").read_text()), signal.SIGTERM)
            (_folder() / "jobs" / number).write_text("CANCELLED")


def srun(*args):
    command = list(args)
    while command[0].startswith("-"):
        command.pop(0)
    os.execvp(command[0], command)


def sinfo(*_):
    print("PARTITION\nmain*")


def scontrol(*_):
    print("MaxArraySize = 1001\nMinJobAge = 300 sec")


def sacctmgr(*_):
    print("lab")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
