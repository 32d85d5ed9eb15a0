"""The command line: ``babyvlm`` or ``python -m babyvlm``. A command's module is imported when it runs, not before."""

from __future__ import annotations

import errno
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from babyvlm import __version__
from babyvlm.errors import UserError, first_line
from babyvlm.io.extras import missing_package
from babyvlm.io.printing import echo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = "python -m babyvlm"


class Command(NamedTuple):
    """A command's function and its one-line description.

    Attributes:
        function: ``module:function``; its signature is the command's options, its docstring the command's help.
        summary: shown in the list of commands.
        positional: whether required arguments are given without an option's name.
    """

    function: str
    summary: str
    positional: bool = False


LIGHTNING = {
    "fit": "train a model, then test its best checkpoint",
    "validate": "evaluate on the validation split and the benchmarks' dev splits",
    "test": "evaluate on the test split and the benchmarks' test splits",
    "predict": "compute the embeddings of the test split",
}
COMMANDS = {
    "resume": Command("babyvlm.cli.resume:resume", "continue an interrupted training run", positional=True),
    "report": Command("babyvlm.report.command:report", "print or write the results of all tested runs", True),
    "compare": Command("babyvlm.report.command:compare", "compare two runs item by item", positional=True),
    "saliency": Command("babyvlm.cli.saliency:saliency", "show where in pictures models find words, as a page"),
    "reproduce": Command("babyvlm.cli.reproduce:reproduce", "compare models with their published results"),
    "export": Command("babyvlm.cli.export:export", "export a run's best checkpoint, tokenizer, config and model card"),
    "memory": Command("babyvlm.cli.memory:memory", "print the GPU memory that each step of a matrix needs"),
    "demo": Command("babyvlm.cli.demo:demo", "run the complete pipeline on Playroom, from raw video to results table"),
    "configs list": Command("babyvlm.cli.configs:show", "list the shipped configs"),
    "configs copy": Command("babyvlm.cli.configs:copy", "copy the shipped configs into the current folder"),
    "playroom": Command("babyvlm.playroom.make:playroom", "generate Playroom, the synthetic dataset"),
    "check-data": Command("babyvlm.curation.check_data.command:check_data", "check raw data before curating it"),
    "curate frames": Command("babyvlm.curation.ingest.frames:frames", "extract frames and utterances from raw video"),
    "curate released": Command("babyvlm.curation.ingest.released:released", "import frames that are already extracted"),
    "curate web": Command("babyvlm.curation.ingest.web:web", "import web corpora of images and captions"),
    "curate add-recordings": Command(
        "babyvlm.curation.ingest.recordings:add_recordings", "add child, date and age to the pairs of a store"
    ),
    "curate embed": Command("babyvlm.curation.embed:embed", "compute CLIP embeddings of a store"),
    "curate filter": Command("babyvlm.curation.clip_filter:filter_pairs", "keep pairs whose CLIP similarity is high"),
    "curate rewrite": Command(
        "babyvlm.curation.rewrite.stage:rewrite", "rewrite captions as child-directed utterances"
    ),
    "curate match": Command("babyvlm.curation.matching.commands:match_stores", "match a web store to a home store"),
    "curate match-arrays": Command("babyvlm.curation.matching.commands:match_arrays", "match the rows of two arrays"),
    "curate sample-random": Command(
        "babyvlm.curation.matching.commands:sample_random", "sample random web pairs, the baseline for matching"
    ),
    "curate deduplicate": Command("babyvlm.curation.deduplicate:deduplicate", "remove near-duplicate frames"),
    "curate check-contamination": Command(
        "babyvlm.curation.decontaminate:check_contamination", "find near-duplicates of benchmark images in stores"
    ),
    "curate decontaminate": Command(
        "babyvlm.curation.decontaminate:decontaminate", "remove near-duplicates of benchmark images from a store"
    ),
    "curate vocabulary": Command("babyvlm.data.vocabulary:create_vocabulary", "build a vocabulary from stores"),
    "curate summarize": Command("babyvlm.curation.summarize:summarize", "report what each stage kept and dropped"),
    "store info": Command("babyvlm.curation.store.inspection:info", "show a store's size, splits and lineage"),
    "store check": Command("babyvlm.curation.store.check:check", "check a store's integrity"),
    "store head": Command("babyvlm.curation.store.inspection:head", "print a store's first pairs"),
    "store sample": Command("babyvlm.curation.store.inspection:sample", "show random pairs of a store"),
    "store remove": Command("babyvlm.curation.withdrawal:remove", "withdraw a video or a child from everything"),
    "store export": Command("babyvlm.curation.store.export:export", "export a store as WebDataset or as a folder"),
    "benchmark build labeled-s": Command("babyvlm.benchmark_builder.labeled_s:labeled_s", "build Labeled-S trials"),
    "benchmark build held-out": Command(
        "babyvlm.benchmark_builder.held_out:held_out", "build trials of held-out utterances by age and child"
    ),
    "benchmark build frequency-pairs": Command(
        "babyvlm.benchmark_builder.frequency_pairs:frequency_pairs", "draw minimal pairs of nouns by their frequency"
    ),
    "benchmark build stand-ins": Command(
        "babyvlm.benchmark_builder.stand_ins:stand_ins", "build lists in the formats of other benchmarks"
    ),
    "benchmark build phrase-pairs": Command(
        "babyvlm.benchmark_builder.phrase_pairs:phrase_pairs", "propose pairs of two-word phrases"
    ),
    "benchmark build review": Command("babyvlm.benchmark_builder.review:review", "review proposed items in a browser"),
    "benchmark build negatives": Command(
        "babyvlm.benchmark_builder.negatives:negatives", "generate images for the negative phrases"
    ),
    "benchmark build assemble": Command(
        "babyvlm.benchmark_builder.assemble:assemble", "assemble reviewed items into benchmark lists"
    ),
    "lmms-eval-tasks": Command(
        "babyvlm.adapters.lmms_eval_tasks:write_tasks", "write benchmark lists as tasks of lmms-eval"
    ),
    "submission": Command(
        "babyvlm.adapters.submission:submission", "write a submission to the BabyVLM challenge's leaderboard"
    ),
    "ablations run": Command("babyvlm.ablations.runner:run", "train and test every row of a matrix"),
    "ablations data": Command("babyvlm.workflow.worlds:data", "make the data of every world of a matrix"),
    "ablations status": Command("babyvlm.ablations.status:status", "show the progress of a matrix"),
    "workflow run": Command("babyvlm.workflow.commands:run", "run the chain of a corpus, from raw data to the report"),
}
GROUPS = {
    "configs": "list or copy the shipped configs",
    "curate": "turn raw data into pair stores, one stage per command",
    "store": "inspect, check and export pair stores",
    "benchmark": "build benchmarks",
    "benchmark build": "build benchmarks, one step per command",
    "ablations": "train and test every row of the paper's tables",
    "workflow": "run the chain of a corpus, from raw data to the report, with Snakemake",
}
HELP = f"""Train and evaluate small vision-language models on child-directed data: from raw video to results table.

usage: {PROGRAM} [--allow MODULE] COMMAND [OPTIONS]

{{commands}}

`{PROGRAM} COMMAND --help` lists the options of a command.
"""
OPTIONS = """
options:
  --help           show this message
  --version        show the version
  --allow MODULE   allow configs to use the classes of your own module; can be repeated (or set BABYVLM_ALLOW)
"""


def main(args: list[str] | None = None) -> None:
    """Run one command.

    A user's mistake ends in one line on standard error, however many ranks make it, and exit code 2; an interruption
    in exit code 130.
    """
    # Threads that wait should sleep, not spin: with loader workers on few cores spinning costs up to half of the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        run(sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:
        echo("Interrupted. Run the same command again to continue.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains again
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        message = _user_error(error)
        if message is None:
            raise
        if _is_first_to_report():
            echo(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def run(args: list[str]) -> None:
    """Run one command; errors are raised."""
    args = _take_allowed(args)
    if args and args[0] in LIGHTNING:
        from babyvlm.cli.lightning import main as lightning_main

        lightning_main(args)
        return
    name, rest = find_command(args)
    if name not in COMMANDS:
        _show_group(name, rest)
        return
    from jsonargparse import auto_cli

    from babyvlm.config import CommandParser

    command = COMMANDS[name]
    auto_cli(
        load_function(name),
        args=rest,
        as_positional=command.positional,
        parser_class=CommandParser,
        prog=f"{PROGRAM} {name}",
    )


def load_function(name: str) -> Callable[..., object]:
    """Import the function of a command."""
    module, _, function = COMMANDS[name].function.partition(":")
    loaded: Callable[..., object] = getattr(import_module(module), function)
    return loaded


def find_command(args: list[str]) -> tuple[str, list[str]]:
    """Split a command line into the longest command or group name at its start, and the remaining arguments."""
    names = [" ".join(args[:length]) for length in range(1, len(args) + 1)]
    found = next((name for name in reversed(names) if name in COMMANDS or name in GROUPS), "")
    return found, args[len(found.split()) :]


def _take_allowed(args: list[str]) -> list[str]:
    """Note the modules that ``--allow`` names before the command; return the other arguments.

    After the command it is refused: arguments there may come from a file, as the options of an ablation do.
    """
    modules: list[str] = []
    while args and args[0].partition("=")[0] == "--allow":
        _, _, module = args[0].partition("=")
        args = args[1:]
        if not module:
            module, args = args[0] if args else "", args[1:]
        if not module or module.startswith("-"):
            raise UserError("--allow: name a module, as in --allow mypackage")
        modules.append(module)
    if any(argument.partition("=")[0] == "--allow" for argument in args):
        raise UserError(f"--allow: must come before the command, as in {PROGRAM} --allow mypackage {args[0]}")
    if modules:
        from babyvlm.allowed import allow

        allow(*modules)
    if os.environ.get("BABYVLM_ALLOW") and os.getcwd() not in sys.path and "" not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109 - the console script has no folder of modules of its own
    return args


def _show_group(name: str, rest: list[str]) -> None:
    """Print the commands of a group, or all of them.

    Raises:
        UserError: the command is unknown.
    """
    if not name and rest == ["--version"]:
        echo(f"{PROGRAM} {__version__}")
    elif not rest or rest[0] in ("--help", "-h"):
        lines = "\n".join(f"  {command:<19}  {summary}" for command, summary in _listed(name))
        if name:
            echo(f"{GROUPS[name]}\n\nusage: {PROGRAM} {name} COMMAND [OPTIONS]\n\ncommands:\n{lines}")
        else:
            echo(HELP.format(commands=f"commands:\n{lines}\n{OPTIONS}".rstrip()), end="")
    else:
        known = [command for command, _ in _listed(name)]
        raise UserError(f"{' '.join([name, rest[0]]).strip()}: no such command. Choose from: {', '.join(known)}")
    raise SystemExit(0)


def _listed(group: str) -> Iterator[tuple[str, str]]:
    """The commands of a group, or the top-level ones, with their summaries."""
    summaries = LIGHTNING | GROUPS | {name: command.summary for name, command in COMMANDS.items()}
    prefix = f"{group} " if group else ""
    for name, summary in summaries.items():
        last = name.removeprefix(prefix)
        if name.startswith(prefix) and " " not in last:
            yield last, summary


def _is_first_to_report() -> bool:
    """Return whether this process prints the error that ends it: the first one of connected ranks does.

    An error may occur on one rank only, so each asks the store that connects them. Before they are connected, the
    processes of one machine that a launcher started fail alike. Tasks of SLURM may be runs of their own then.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return os.environ.get("LOCAL_RANK", "0") == "0"
    if distributed.get_world_size() == 1:
        return True
    try:
        store = distributed.distributed_c10d._get_default_store()  # there is no public one
        return bool(store.add("babyvlm-errors", 1) == 1)
    except Exception:  # the first rank, which has the store, has ended
        return False


# Errors of the machine that its user can fix: no space, a limit on the size of files, no permission.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
# Packages whose errors mean that a server cannot be reached or refuses.
_CLIENTS = ("httpcore", "httpx", "httpx2", "huggingface_hub", "requests", "urllib3")


def _user_error(error: BaseException | None) -> str | None:
    """Return the message of the user error that caused an error, if any: jsonargparse wraps what constructors raise.

    A file that is missing, vanished or cannot be read is a user error too.
    """
    if isinstance(error, OSError):
        return _os_error(error)
    while isinstance(error, Exception) and not isinstance(error, UserError):
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            return _os_error(error)
        if isinstance(error, ImportError) and (message := missing_package(error)):
            return message
        if error is not None and type(error).__module__.partition(".")[0] in _CLIENTS:
            return f"the server cannot be reached, or refuses: {first_line(error)}"
        error = error.__cause__ or error.__context__
    # From a loader's worker it comes inside that process's traceback, whose last line is the cause.
    return None if error is None else str(error).rpartition("UserError: ")[2].strip()


def _os_error(error: OSError) -> str:
    if error.strerror and (error.filename or error.errno in _REFUSALS):
        return f"{error.filename or 'the disk'}: {error.strerror}"
    lines = str(error).strip().splitlines()  # from a loader's worker: its traceback, whose last line is the cause
    return lines[-1] if lines else type(error).__name__
