"""A fake SLURM: small programs on ``PATH`` with real processes.

``sbatch FILE ARGS`` runs all tasks of the file's array at once, sets SLURM's environment variables and prints the job
id. ``srun`` starts ``SLURM_NTASKS`` processes and passes signals on; on SIGTERM it kills them. ``scontrol`` writes its
arguments to ``scontrol.txt``, ``squeue`` prints ``queue.txt``; both files are in the job's working directory.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

JOB = "17"


def install(folder, launcher):
    """Write the programs to ``folder``; return the environment that finds them and a Python started by ``launcher``."""
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol", "squeue"):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
    (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.join(launcher)} python "$@"\n')
    for file in folder.iterdir():
        file.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return {"PATH": path, "PYTHON": str(folder / "python"), "FORKED_BY": shlex.join(launcher)}


def directives(file):
    """Return the ``#SBATCH`` options of a file."""
    lines = re.findall(r"^#SBATCH --(\S+)$", Path(file).read_text(), re.M)
    return dict(line.split("=", 1) if "=" in line else (line, "") for line in lines)


def sbatch(*args):
    over = dict(arg[2:].split("=", 1) for arg in args if arg.startswith("--") and "=" in arg)
    file, *rest = [arg for arg in args if not (arg.startswith("--") and "=" in arg)]
    options = directives(file) | over
    first, _, last = options["array"].partition("-")
    nodes, tasks = int(options["nodes"]), int(options["ntasks-per-node"])
    slurm = {
        "SLURM_JOB_NAME": options["job-name"],
        "SLURM_NNODES": nodes,
        "SLURM_NTASKS": nodes * tasks,
        "SLURM_NTASKS_PER_NODE": tasks,
        "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
        "SLURM_ARRAY_JOB_ID": JOB,
        "SLURM_NODELIST": "127.0.0.1",
    }
    for number in range(int(first), int(last or first) + 1):
        own = {"SLURM_JOB_ID": int(JOB) + number, "SLURM_ARRAY_TASK_ID": number}
        environment = os.environ | {name: str(value) for name, value in (slurm | own).items()}
        log = Path(options["output"].replace("%A", JOB).replace("%a", str(number)))
        with log.open("a" if options.get("open-mode") == "append" else "w") as output:
            process = subprocess.Popen(["bash", file, *rest], stdout=output, stderr=output, env=environment)
        with Path("tasks.txt").open("a") as file:
            file.write(f"{number} {process.pid}\n")
    print(f"Submitted batch job {JOB}")


def srun(*command):
    nodes = int(os.environ["SLURM_NNODES"])
    here = shlex.split(os.environ["FORKED_BY"])
    ranks = range(int(os.environ["SLURM_NTASKS"]))
    places = [{"SLURM_PROCID": rank, "SLURM_NODEID": rank % nodes, "SLURM_LOCALID": rank // nodes} for rank in ranks]
    processes = [
        subprocess.Popen([*here, *command], env=os.environ | {name: str(value) for name, value in place.items()})
        for place in places
    ]
    for number, passed_on in ((signal.SIGUSR1,) * 2, (signal.SIGUSR2,) * 2, (signal.SIGTERM, signal.SIGKILL)):
        signal.signal(number, lambda *_, passed_on=passed_on: [each.send_signal(passed_on) for each in processes])
    codes = [process.wait() for process in processes]
    sys.exit(max(128 - code if code < 0 else code for code in codes))  # srun reports a signal as 128 + its number


def scontrol(*args):
    with Path("scontrol.txt").open("a") as file:
        file.write(" ".join(args) + "\n")


def squeue(*_):
    print(Path("queue.txt").read_text(), end="")


if __name__ == "__main__":
    {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "squeue": squeue}[sys.argv[1]](*sys.argv[2:])
