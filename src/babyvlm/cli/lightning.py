"""The commands of Lightning (``fit``, ``validate``, ``test``, ``predict``), and ``resume``."""

from __future__ import annotations

import atexit
import re
import signal
import traceback
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden

from babyvlm.ablations.state import FINISHED
from babyvlm.allowed import TRAINED_MODELS, is_user_allowed
from babyvlm.benchmarks.evaluation_callback import benchmarks_of
from babyvlm.cli.messages import show_lightning_messages
from babyvlm.cli.settings import check_settings, restore_null
from babyvlm.config import LINKED, CheckedParser, one_line, read_yaml
from babyvlm.data.pair_mix import Mix
from babyvlm.data.sampler import check_divisible
from babyvlm.errors import UserError, first_line
from babyvlm.io.files import safe_name
from babyvlm.io.limits import load_yaml
from babyvlm.io.printing import echo
from babyvlm.io.runs import BestCheckpoint
from babyvlm.models.checkpoints import best_checkpoint
from babyvlm.models.networks.vision import weightless
from babyvlm.report.runs import Row, Run, has_test_results
from babyvlm.report.tables import main_table
from babyvlm.training.best_checkpoint import LAST, RecordBest, monitors, set_modes
from babyvlm.training.checkpoint_io import AtomicCheckpointIO
from babyvlm.training.non_finite_guard import StopOnNonFinite
from babyvlm.training.provenance import Provenance, trained
from babyvlm.training.recovery import CONTINUE, Recovery, SeedEachBatch, damage, newest_readable, remove_states
from babyvlm.training.run_folder import (
    RunLogger,
    SaveConfig,
    check_csv,
    claim_version,
    continue_logs,
    discard,
    lock_run,
    resumable,
)
from babyvlm.training.schedule_check import ScheduleCheck
from babyvlm.training.signals import SignalListener, report_end
from babyvlm.training.trainer_options import SyncBatchNorm, check_options, check_trainer, end_averaging, obeyed


class _Parser(CheckedParser, LightningArgumentParser):
    """Lightning's parser with one-line errors."""


class BabyVLMCLI(LightningCLI):
    """LightningCLI with named run folders, linked sizes, exact recovery, and a test of the best checkpoint.

    Args:
        args: the command line.
        run: folder of a run to resume; a new run by default.
        training_done: the run's training has ended.
    """

    def __init__(self, args: list[str], run: Path | None = None, *, training_done: bool = False) -> None:
        self.run, self.training_done = run, training_done
        self._args = args
        self._config_files = _config_files(args)
        self.folder: Path | None = None  # once it exists; None with fast_dev_run, which keeps nothing
        self._signals = SignalListener(self._end_immediately, interrupt=True)  # before and after training
        self._is_new = False  # whether this process created the run's folder
        try:
            super().__init__(
                args=args,
                seed_everything_default=0,
                parser_class=_Parser,
                parser_kwargs={"prog": "python -m babyvlm"},
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                save_config_callback=SaveConfig if run is None else None,
                save_config_kwargs={"save_to_log_dir": False},
                trainer_defaults={
                    "callbacks": [Provenance(), RecordBest(), ScheduleCheck()],
                    "use_distributed_sampler": False,  # data modules divide batches themselves
                },
            )
        except Exception as error:
            self._discard_unused()
            self._kill_ranks_at_exit()
            if message := self._explain(error):
                raise UserError(message) from error
            raise
        finally:
            self._signals.restore()

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override] # Lightning calls it on the object
        """Return the command that is run, with the arguments to skip; building the options of all takes much longer."""
        commands = LightningCLI.subcommands()
        return {name: commands[name] for name in self._args[:1] if name in commands} or commands

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run and link the arguments that data and model share."""
        parser.add_argument("--name", type=str, default="model", help="name of the model in run folders and tables.")
        parser.add_argument("--log_dir", type=Path, default=Path("lightning_logs"), help="folder of all runs.")
        parser.add_argument(
            "--run_folder",
            type=Path | None,
            default=None,
            help="folder of the run inside --log_dir, as ROW/RUN. Default: NAME-MIX/version_N.",
        )
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=True,
            help="evaluate the best checkpoint on the test split and the benchmarks after training.",
        )
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="of products of float32 matrices on a GPU: highest is float32, high is TF32 (see `make bench-gpu`).",
        )
        parser.add_lightning_class_args(Recovery, "recovery")
        parser.add_lightning_class_args(SeedEachBatch, "seed_each_batch")
        parser.add_lightning_class_args(StopOnNonFinite, "stop_on_non_finite")
        parser.link_arguments("seed_everything", "seed_each_batch.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        for argument in LINKED:
            parser.link_arguments(f"data.init_args.{argument}", f"model.init_args.{argument}")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and refuse what could run code or leave the folder of runs.

        Raises:
            UserError: a checkpoint that is not a local file, ``weights_only: false``, or a name that is a path.
        """
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        if config.weights_only is False:
            raise UserError("weights_only: false would run the code in a checkpoint; leave it out")
        config.weights_only = True
        restore_null(config)
        check_options(vars(config.trainer))
        for option in ("name", "data.init_args.name"):
            value = config.get(option)
            if isinstance(value, str):
                safe_name(value, option)
        # Lightning would read hyperparameters from the checkpoint, over those of the config; ours hold none.
        self._checkpoint, config.ckpt_path = self._named_checkpoint(config.ckpt_path), None
        check_settings(config)
        set_modes(config, self._gives_mode)

    def _named_checkpoint(self, name: str | Path | None) -> str | None:
        """Return the checkpoint file to load; ``best`` and ``last`` are those of the run whose config is used.

        Raises:
            UserError: there is no such file.
        """
        if str(name) not in ("best", "last"):
            return _local_checkpoint(name)
        if self.config.subcommand == "fit":
            raise UserError(f"ckpt_path {name}: to continue a run, use `python -m babyvlm resume RUN`")
        runs = [file.parent for file in self._config_files if (file.parent / "checkpoints").is_dir()]
        if not runs:
            raise UserError(f"ckpt_path {name}: of which run? Pass --config RUN/config.yaml, or name a .ckpt file")
        return _local_checkpoint(best_checkpoint(runs[-1]) if name == "best" else runs[-1] / LAST)

    def _gives_mode(self, metric: str) -> bool:
        """Return whether the user wrote a ``mode`` for a metric: parsed settings contain the default."""
        written = [read_yaml(file) for file in self._config_files]
        for argument in self._args:
            with suppress(yaml.YAMLError):
                written.append({"value": load_yaml(argument)} if argument[:1] in "[{" else {})
        found = [options for _, options in monitors(written) if options["monitor"] == metric]
        flags = [argument for argument in self._args if re.match(r"--\S+\.mode(=|$)", argument)]
        return bool(flags) or any("mode" in options for options in found)

    def before_instantiate_classes(self) -> None:
        """End the process immediately if a signal arrives from now on."""
        config = self.config[self.config.subcommand]
        config.ckpt_path = self._checkpoint
        torch.set_float32_matmul_precision(config.matmul_precision)
        if self.run is not None:
            continue_logs(config.trainer.logger, self.run)
        self._signals.listen()

    def _end_immediately(self, received: int) -> int:
        trainer: Trainer | None = getattr(self, "trainer", None)
        if trainer is not None and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # the ranks that this one started
        if not (_is_first() if trainer is None else trainer.is_global_zero):
            return 0
        if not self._goes_on:
            self._discard_unused()
        how = f"{CONTINUE} {self.folder}" if self._goes_on else "Interrupted. Run the same command again."
        return report_end(received, f"nothing had to be saved. {how}", self._get(self.config, "recovery.requeue"))

    def _kill_ranks_at_exit(self) -> None:
        """End the ranks that this one started when it ends: they would fail too, for lack of it, with tracebacks."""
        trainer: Trainer | None = getattr(self, "trainer", None)
        if trainer is not None and trainer.strategy.launcher is not None:
            atexit.register(trainer.strategy.launcher.kill, signal.SIGKILL)

    def _explain(self, error: Exception) -> str | None:
        """Return one line for an error that the user can act on, although a library raised it; None for any other."""
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, MisconfigurationException):
            return text
        if isinstance(error, RuntimeError | ValueError) and re.search("state.dict", text) and self._checkpoint:
            differ = f"model or optimizer differ from those of {self._checkpoint} ({text[:200]})"
            if self.run is None:
                return f"--ckpt_path: {differ}. Use the config.yaml of its run"
            return f"{self.run / 'config.yaml'}: {differ}. Restore the file that fit wrote"
        ended: Exception | None = _end_of_worker(error)
        if ended is None and isinstance(error, ConnectionResetError) and self._goes_on:  # of the pipe to a worker
            ended = error
        if ended is not None:
            how = f" {CONTINUE.partition('. ')[2]} {self.folder}" if self._goes_on else ""
            return (
                f"a loader worker ended ({first_line(ended)}), perhaps for lack of memory. Lower data.num_workers or "
                f"data.batch_size.{how}"
            )
        return _refused_setting(error, text)

    @property
    def _goes_on(self) -> bool:
        """Whether ``resume`` can continue this run."""
        return self.subcommand == "fit" and self.folder is not None and (self.folder / "config.yaml").is_file()

    def _discard_unused(self) -> None:
        """Delete the folder of a new run that has neither taken a step nor written results."""
        if not self._is_new or self.folder is None or self._recovery.has_stepped:
            return
        if not any(file for name in ("results/*", "non-finite-*", "embeddings-*") for file in self.folder.glob(name)):
            discard(self.folder)

    def instantiate_classes(self) -> None:
        """Build model, data and trainer. If weights are sharded, only a host's first process builds them."""
        strategy = self.config[self.config.subcommand].trainer.strategy
        is_sharded = str(getattr(strategy, "class_path", "")).endswith("ModelParallelStrategy")
        with weightless(is_sharded and not _is_first()):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """Create the trainer and the run's folder, to which it logs metrics, whatever loggers the config names.

        Without loggers in the config, TensorBoard logs to the same folder.

        Raises:
            UserError: the trainer's settings are invalid, or the machine lacks the hardware that they name.
        """
        given = self._get(self.config_init, "trainer.logger")
        loggers = [] if isinstance(given, bool) else _as_list(given)
        kwargs["logger"] = loggers = [resumable(logger) for logger in loggers]
        options = vars(self._get(self.config_init, "trainer"))
        kwargs |= self._obeyed(options)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, RuntimeError, ValueError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        check_trainer(trainer, options["use_distributed_sampler"])
        # Lightning's SIGTERM handler exits with 0, and calls a collective in the middle of whatever other ranks do.
        # There is no public switch; pyproject bounds the version.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        if trainer.max_epochs == -1:
            trainer.fit_loop.max_epochs = None  # the same, but progress bars show "Epoch 3", not "Epoch 3/-2"
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if trainer.world_size == 1:  # SLURM's and torchrun's variables may number this process among independent ones
            rank_zero_only.rank = 0  # type: ignore[attr-defined] # an attribute of a function
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set outside of its class
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # which keeps nothing
            own = self._run_logger(trainer.is_global_zero)
            tensorboard = [TensorBoardLogger(own.save_dir, own.name, version=own.version)]
            trainer.loggers = [*(tensorboard if given in (None, True) else loggers), own]
            self.folder = own.run_folder
            if trainer.is_global_zero and self.run is None and self.subcommand == "fit":
                check_csv(loggers, self.folder)
            for callback in callbacks:
                if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                    callback.dirpath = str(self.folder / "checkpoints")
            profiler: Profiler = trainer.profiler  # type: ignore[attr-defined] # set outside of its class
            if profiler.dirpath is None:
                profiler.dirpath = self.folder
        callbacks.sort(key=_place)
        if not self._recovery.enabled:
            trainer.callbacks = [one for one in callbacks if not isinstance(one, RecordBest)]  # type: ignore[attr-defined]
        return trainer

    def _obeyed(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return arguments of the Trainer that replace the config's, so that it can obey all of them."""
        named, plugins = ([*_as_list(options[name])] for name in ("callbacks", "plugins"))
        changed: dict[str, Any] = {"callbacks": obeyed(named, options), "plugins": plugins}
        if options["enable_checkpointing"] is False:
            changed["enable_checkpointing"] = None  # Recovery, which is always there, counts as a checkpoint
            self._recovery.enabled = False
        if SLURMEnvironment.detect() and not plugins:
            # Recovery asks for the requeue; Lightning would save inside the signal handler, to another folder.
            plugins.append(SLURMEnvironment(auto_requeue=False))
        if options["sync_batchnorm"]:
            plugins.append(SyncBatchNorm())
        return changed

    def _run_logger(self, is_first: bool) -> RunLogger:
        """Create and lock the run's folder, on the first rank; return the logger that writes to it."""
        logs, folder = self._get(self.config_init, "log_dir"), self._get(self.config_init, "run_folder")
        if self.run is not None:
            run = logs / self.run.resolve().parent.name / self.run.resolve().name
        elif folder is not None:
            run = _checked_folder(logs, folder)
        else:
            mix = self._get(self.config_init, "data.name") or getattr(self.datamodule, "name", None)
            row = logs / "-".join(filter(None, [self._get(self.config_init, "name"), mix]))
            run = claim_version(row) if is_first else row / "version_0"  # the first rank's folder is broadcast
        if is_first:
            run.mkdir(parents=True, exist_ok=True)
            lock_run(run)
            self._is_new = self.run is None
        return RunLogger(logs, run.parent.name, run.name)

    def before_fit(self) -> None:
        """Skip training if it has ended; check what the test at the end needs.

        Raises:
            UserError: the model cannot be tested, there is nothing to test it on, or a benchmark cannot score it; or
                the batch cannot be split over the devices, which each of them would report.
        """
        if isinstance(self.datamodule, Mix):
            check_divisible(self.datamodule.batch_size, self.trainer.world_size)
        self._recovery.training_done = self.training_done
        if not self._get(self.config_init, "test_after_fit") or self._get(self.config_init, "trainer.fast_dev_run"):
            return
        if not is_overridden("test_step", self.model):
            raise UserError(f"{type(self.model).__name__} has no test. Pass --test_after_fit false")
        if self._get(self.config_init, "trainer.limit_test_batches") == 0:
            raise UserError("trainer.limit_test_batches 0: nothing would be tested. Pass --test_after_fit false")
        if isinstance(self.datamodule, Mix):
            self.datamodule.check_split("test")
        for benchmark in benchmarks_of(self.trainer):
            benchmark.accepts(self.model)

    def before_validate(self) -> None:
        """Refuse untrained weights."""
        self._refuse_untrained()

    def before_predict(self) -> None:
        """Refuse untrained weights."""
        self._refuse_untrained()

    def _refuse_untrained(self) -> None:
        kind = type(self.model)
        trained_here = f"{kind.__module__}.{kind.__qualname__}" in TRAINED_MODELS
        if trained_here and self._checkpoint is None and self._get(self.config, "model.init_args.init_from") is None:
            raise UserError(
                f"{self.subcommand}: {kind.__name__} would have untrained weights. Pass --ckpt_path best together with "
                "--config RUN/config.yaml, or --ckpt_path FILE"
            )

    def before_test(self) -> None:
        """Refuse untrained weights, and a model that has no data of its own if there are no benchmarks either."""
        from babyvlm.models.evaluation_only import EvaluationOnly

        self._refuse_untrained()
        if isinstance(self.model, EvaluationOnly) and not benchmarks_of(self.trainer):
            raise UserError(
                f"no benchmarks to evaluate {type(self.model).__name__} on. Add a config that has some, for example "
                "--config configs/benchmarks/playroom.yaml"
            )

    @property
    def _recovery(self) -> Recovery:
        return cast("Recovery", self._get(self.config_init, "recovery"))

    def after_fit(self) -> None:
        """Test the best checkpoint.

        Raises:
            UserError: training had ended in the checkpoint that was to be continued.
        """
        if not self.trainer.state.finished or self._get(self.config_init, "trainer.fast_dev_run"):
            return
        if self.run is None and self._checkpoint is not None and not self._recovery.has_stepped:
            raise UserError(
                f"--ckpt_path {self._checkpoint}: training had ended at its step {self.trainer.global_step}; nothing "
                "was trained. Raise trainer.max_steps or max_epochs, or evaluate it with the test command"
            )
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined] # set outside of its class
            if isinstance(callback, EarlyStopping) and callback.stopping_reason_message and self.trainer.is_global_zero:
                why = " ".join(callback.stopping_reason_message.split())
                echo(f"training ended early, at step {self.trainer.global_step}: {why}")
        self._recovery.stop_if_signaled(self.trainer, f"training had ended. {CONTINUE} {self.folder}")
        if self._get(self.config_init, "test_after_fit"):
            end_averaging(self.trainer)
            best = None
            if self.trainer.is_global_zero and self.folder is not None and self._recovery.enabled:
                best = best_checkpoint(self.folder)
                echo(f"testing the best checkpoint: {BestCheckpoint.read(self.folder) or best}")
            best = self.trainer.strategy.broadcast(best)  # ranks may see the file system at different times
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True)
            echo(f"run: {self.folder}")
        self._finish()

    def after_test(self) -> None:
        """Mark the run as finished."""
        self._finish()

    def _finish(self) -> None:
        """Mark the run as finished and print its benchmark results."""
        if self.trainer.is_global_zero and self.folder is not None:
            (self.folder / FINISHED).touch()
            remove_states(self.folder)
            if has_test_results(self.folder):
                main_table([Row([Run(self.folder)])]).print()


def _as_list(value: object) -> list[Any]:
    """Return an option that may be absent, one object or a list of them as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _place(callback: Callback) -> int:
    """Return a callback's place.

    Benchmarks see averaged weights, the best checkpoint is recorded after it was saved, and Recovery saves the state of
    all others.
    """
    kinds = (Recovery, RecordBest, Checkpoint | WeightAveraging)
    return next((-place for place, kind in enumerate(kinds) if isinstance(callback, kind)), -len(kinds))


def _local_checkpoint(path: str | Path | None) -> str | None:
    """Return the path of a checkpoint to load.

    Raises:
        UserError: it is not a file on this machine. A folder, as distributed checkpoints are, holds pickled metadata.
    """
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(f"ckpt_path {path}: not a file on this machine; name a .ckpt file")
    return str(path)


def _checked_folder(logs: Path, folder: Path) -> Path:
    """Return a new run's folder.

    Raises:
        UserError: the folder has more or fewer parts, or already contains a run.
    """
    if folder.is_absolute() or len(folder.parts) != 2:
        raise UserError(f"--run_folder {folder}: expected two names, ROW/RUN; the folder is created in {logs}")
    for part in folder.parts:
        safe_name(part, f"--run_folder {folder}")
    if (logs / folder / "config.yaml").is_file():
        raise UserError(f"{logs / folder}: already contains a run. Resume it or pass a different --run_folder")
    return logs / folder


def resume(run: Path, *options: str) -> None:
    """Resume a run from its saved config and its last complete state, in its own folder.

    If training has ended, only the test is run; if the run is finished, nothing is.

    Args:
        run: the run's folder.
        options: of ``fit``; they override the config.

    Raises:
        UserError: ``run`` is not a run's folder, was moved (checkpoints contain paths of each other), or another
            process is working on it.
    """
    config = run / "config.yaml"
    if not config.is_file():
        raise UserError(f"{run}: no run to resume ({config.name} is missing)")
    settings = read_yaml(config)
    if not isinstance(settings.get("log_dir"), str):
        raise UserError(f"{config}: `log_dir` is missing. Restore the file that fit wrote")
    log_dir = Path(settings["log_dir"])
    if (log_dir / run.resolve().parent.name / run.resolve().name).resolve() != run.resolve():
        raise UserError(
            f"{run}: was created in {log_dir}. Call resume in the folder where fit was called, with the run in its "
            "original place"
        )
    if _is_first():
        lock_run(run)
    if (run / FINISHED).is_file():
        echo(f"{run}: already complete, skipping. To test it again, delete {run / FINISHED} first")
        return
    last = _final_state(run)
    checkpoint = last or newest_readable(run)
    start = checkpoint.name if checkpoint else "the start (there is no checkpoint)"
    echo(f"{run}: {'training has ended, testing' if last else f'resuming from {start}'}")
    state = ["--ckpt_path", str(checkpoint), "--weights_only", "true"] if checkpoint else []
    main(["fit", "--config", str(config), *options, *state], run, training_done=last is not None)


def _is_first() -> bool:
    """Return whether this process is the first rank, by its environment: ranks may not be connected yet."""
    return not _get_rank()


def _final_state(run: Path) -> Path | None:
    """Return the checkpoint at the end of training, if training has ended."""
    last = run / "checkpoints" / "last.ckpt"
    return last if trained(run) and last.is_file() and damage(last) is None else None


def main(args: list[str], run: Path | None = None, *, training_done: bool = False) -> None:
    """Run one of Lightning's subcommands, in the folder ``run`` if given; skip training if it is done."""
    show_lightning_messages()
    for file in _config_files(args):
        read_yaml(file)  # errors that name the file
    BabyVLMCLI(args, run, training_done=training_done)


def _config_files(args: list[str]) -> list[Path]:
    """Return the configs that a command line names."""
    given = [path for flag, path in pairwise(args) if flag in ("-c", "--config")]
    given += [arg.partition("=")[2] for arg in args if arg.startswith(("--config=", "-c="))]
    return [Path(path) for path in given]


def _refused_setting(error: Exception, text: str) -> str | None:
    """Return the message of a library that refused an argument of a class in the config; None for any other error.

    An error that is raised in this package, or in a module of the user's own, is a mistake in that code.
    """
    if isinstance(error, UserError | OSError):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__"))
    if module.partition(".")[0] == "babyvlm" or is_user_allowed(module):
        return None
    called_from = {frame.f_code.co_name for frame in frames}
    own_check = module.partition(".")[0] == "lightning" and isinstance(error, RuntimeError | ValueError)
    if not own_check and not {"instantiate_classes", "configure_optimizers"} & called_from:
        return None
    return one_line(str(error)) if module.startswith("jsonargparse") else f"{text} ({module})"


def _end_of_worker(error: BaseException | None) -> RuntimeError | None:
    """Return the error by which torch reports the end of a loader worker, if ``error`` is or follows it.

    torch raises it from a signal handler, anywhere: in a checkpoint's file, its writer then fails in its own way.
    """
    while error is not None:
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            return error
        error = error.__cause__ or error.__context__
    return None
