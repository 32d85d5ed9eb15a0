"""The command line: ``python -m babyvlm``. What a command needs is imported when it runs, not before."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

from babyvlm import __version__
from babyvlm.errors import UserError

LIGHTNING_COMMANDS = ("fit", "validate", "test", "predict")
RUN_COMMANDS = ("resume", "report", "compare")
DESCRIPTION = """From raw baby video to a benchmark table.

Training and testing, by PyTorch Lightning (each has its own --help; configs are YAML overlays, see configs/):
  fit        train a model; test its best checkpoint at the end
  validate   run the validation set and the dev halves of the benchmarks
  test       run the test set and the test halves of the benchmarks
  predict    run a model over a data set
  resume     go on with a run that was killed or stopped

What came out of runs:
  report     tables, figures, findings and one page of all tested runs: report LOGS --out FOLDER
  compare    two runs item by item: compare RUN_A RUN_B
"""


def _run_on_runs(command: str, *args: str) -> None:
    """A command whose folders of runs are named without an option."""
    from jsonargparse import auto_cli

    from babyvlm.cli.resume import resume
    from babyvlm.config import OneLineParser
    from babyvlm.report.command import compare, report

    functions: dict[str, Any] = {"resume": resume, "report": report, "compare": compare}
    auto_cli(functions[command], args=list(args), parser_class=OneLineParser, prog=f"python -m babyvlm {command}")


def _run_stage(args: list[str]) -> None:
    from jsonargparse import auto_cli

    from babyvlm.ablations.runner import run as run_ablations
    from babyvlm.ablations.status import status
    from babyvlm.benchmark_builder.assemble import assemble
    from babyvlm.benchmark_builder.labeled_s import labeled_s
    from babyvlm.benchmark_builder.negatives import negatives
    from babyvlm.benchmark_builder.phrase_pairs import phrase_pairs
    from babyvlm.benchmark_builder.review import review
    from babyvlm.cli.export import export as export_model
    from babyvlm.config import OneLineParser
    from babyvlm.curation.check_data.command import check_data
    from babyvlm.curation.clip_filter import filter_pairs
    from babyvlm.curation.decontaminate import check_contamination, decontaminate
    from babyvlm.curation.deduplicate import deduplicate
    from babyvlm.curation.embed import embed
    from babyvlm.curation.ingest.frames import frames
    from babyvlm.curation.ingest.released import released
    from babyvlm.curation.ingest.web import web
    from babyvlm.curation.matching.commands import match_arrays, match_stores, sample_random
    from babyvlm.curation.rewrite.stage import rewrite
    from babyvlm.curation.store.check import check
    from babyvlm.curation.store.export import export
    from babyvlm.curation.store.inspection import head, info, sample
    from babyvlm.curation.summarize import summarize
    from babyvlm.data.vocabulary import vocabulary
    from babyvlm.playroom.make import playroom

    curate: dict[str, Any] = {
        "_help": "Raw files to pair stores, a stage a command; each is whole or absent.",
        "frames": frames,
        "released": released,
        "web": web,
        "embed": embed,
        "filter": filter_pairs,
        "rewrite": rewrite,
        "match": match_stores,
        "match-arrays": match_arrays,
        "sample-random": sample_random,
        "deduplicate": deduplicate,
        "check-contamination": check_contamination,
        "decontaminate": decontaminate,
        "vocabulary": vocabulary,
        "summarize": summarize,
    }
    store: dict[str, Any] = {
        "_help": "Look into a pair store, check it, export it.",
        "info": info,
        "check": check,
        "head": head,
        "sample": sample,
        "export": export,
    }
    build: dict[str, Any] = {
        "_help": "Make the tests themselves, a step a command.",
        "labeled-s": labeled_s,
        "phrase-pairs": phrase_pairs,
        "review": review,
        "negatives": negatives,
        "assemble": assemble,
    }
    benchmark: dict[str, Any] = {"_help": "The tests.", "build": build}
    ablations: dict[str, Any] = {
        "_help": "The rows of the paper's tables: train and test all of them, see how far they are.",
        "run": run_ablations,
        "status": status,
    }
    commands: dict[str, Any] = {
        "playroom": playroom,
        "check-data": check_data,
        "curate": curate,
        "store": store,
        "benchmark": benchmark,
        "ablations": ablations,
        "export": export_model,
    }
    if args and not args[0].startswith("-") and args[0] not in commands:
        there_are = ", ".join([*LIGHTNING_COMMANDS, *RUN_COMMANDS, *commands])
        raise UserError(f"{args[0]}: no such command; there are {there_are}")
    auto_cli(
        commands,
        args=args or ["--help"],
        as_positional=False,
        parser_class=OneLineParser,
        prog="python -m babyvlm",
        version=__version__,
        description=DESCRIPTION,
    )


def main(args: list[str] | None = None) -> None:
    """Run one command.

    A user's mistake ends in one line on standard error and exit code 2; an interruption in 130.
    """
    from babyvlm.config import restrict_imports

    # Threads that wait should sleep, not spin: with loader workers on few cores spinning costs up to half of the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = sys.argv[1:] if args is None else args
    restrict_imports()
    try:
        if args and args[0] in LIGHTNING_COMMANDS:
            from babyvlm.cli.lightning import main as lightning_main

            lightning_main(args)
        elif args and args[0] in RUN_COMMANDS:
            _run_on_runs(*args)
        else:
            _run_stage(args)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on or starts anew", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains again
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        mistake = _mistake_behind(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)


# What a machine refuses, and its user can mend: no room, no permission.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def _mistake_behind(error: BaseException | None) -> str | None:
    """The message of what the user can mend, if that caused an error: jsonargparse wraps what a constructor raises."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            return f"{error.filename or 'the disk'}: {error.strerror}"
        error = error.__cause__ or error.__context__
    # From a loader's worker it comes inside that process's traceback, whose last line is the cause.
    return None if error is None else str(error).rpartition("UserError: ")[2].strip()


if __name__ == "__main__":
    main()
