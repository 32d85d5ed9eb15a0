"""``python -m babyvlm workflow run``: run the chain of a corpus with Snakemake, on this machine or on SLURM."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Literal

from babyvlm.errors import UserError, require_at_least
from babyvlm.io import artifacts
from babyvlm.io.extras import require_extra
from babyvlm.io.printing import echo
from babyvlm.io.processes import run_command
from babyvlm.workflow.corpus import read_jobs

SNAKEFILE = Path(__file__).with_name("Snakefile")


def run(
    corpus: Path = Path("configs/playroom/workflow.yaml"),
    quick: bool = False,
    executor: Literal["local", "slurm"] = "local",
    cores: int = 0,
    jobs: int = 100,
    retries: int = 0,
    dry_run: bool = False,
    engine_options: str = "",
) -> None:
    """Run the complete chain of a corpus, from raw data to the report, with Snakemake.

    The jobs are the commands that `--dry_run true` prints. Each of them decides what is complete and what it resumes,
    so that after an interruption or a change the same command continues: complete stages are asked again and skipped.
    If a row fails, the others are still run.

    For example:
        python -m babyvlm workflow run --corpus configs/saycam/workflow.yaml --executor slurm

    Args:
        corpus: paths and options of the chain.
        quick: train the quick version of the matrix, with one seed and less training.
        executor: `local` runs the jobs on this machine, those with GPUs one after the other. `slurm` submits each of
            them. Run it where `sbatch` works, for example in tmux.
        cores: CPU cores for local jobs; 0 for all.
        jobs: maximum number of jobs in SLURM's queue.
        retries: submit a failed job again this many times. On SLURM, it then continues after its time limit.
        dry_run: print the jobs without running them.
        engine_options: further options of Snakemake, such as `--default-resources slurm_account=lab
            slurm_partition=gpu`.

    Raises:
        UserError: the config or the matrix is invalid.
    """
    require_at_least(0, cores=cores, retries=retries)
    require_at_least(1, jobs=jobs)
    chain, listed = read_jobs(corpus, quick=quick)  # in this process, so that an error is one line
    if dry_run:
        for job in listed:
            echo(f"python -m babyvlm {shlex.join(job.command)}")
        echo(f"{len(listed)} jobs")
        return
    with require_extra("workflow", "workflow run"):
        import snakemake  # noqa: F401 - started as a process of its own
    needed = max(job.resources.gpus for job in listed)
    # Snakemake does not say which GPUs a local job has, so that two jobs would use the same one.
    limits = ["--cores", str(cores or "all"), "--resources", f"gpu={needed}", "gpu_job=1"]
    if executor == "slurm":
        limits = ["--executor", "slurm", "--jobs", str(jobs)]
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE)),
        *("--config", f"corpus={corpus}", f"quick={str(quick).lower()}"),
        *limits,
        *("--retries", str(retries), "--forceall", "--keep-going", "--rerun-incomplete", "--nolock", "--drop-metadata"),
        *shlex.split(engine_options),
    ]
    # Instead of Snakemake's lock, which a kill leaves behind.
    with artifacts.exclusive(Path(chain.folder, "workflow")):
        code = run_command(command)
    if code:
        raise UserError(f"{corpus}: not complete (exit code {code}). Fix what failed above, then run the same command")
    echo(f"{chain.report}: the report" if chain.matrix else f"{chain.folder}: stores and vocabulary are complete")
