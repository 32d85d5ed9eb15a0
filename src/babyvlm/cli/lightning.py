"""The commands of Lightning (``fit``, ``validate``, ``test``, ``predict``), and ``resume``."""

from __future__ import annotations

import logging
import re
import signal
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from babyvlm.ablations.state import FINISHED
from babyvlm.benchmarks.evaluation_callback import benchmarks_of
from babyvlm.config import LINKED, CheckedParser, read_yaml
from babyvlm.errors import UserError
from babyvlm.io.files import safe_name
from babyvlm.io.printing import echo
from babyvlm.report.runs import Row, Run, has_test_results
from babyvlm.report.tables import main_table
from babyvlm.training.checkpoint_io import AtomicCheckpointIO
from babyvlm.training.csv_logger import AppendingCSVLogger
from babyvlm.training.non_finite_guard import StopOnNonFinite
from babyvlm.training.provenance import Provenance, trained
from babyvlm.training.recovery import CONTINUE, Recovery, SeedEachBatch, damage, newest_readable
from babyvlm.training.run_folder import SaveConfig, lock_run
from babyvlm.training.signals import SignalListener, report_end


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
        self._signals = SignalListener(self._end_immediately)  # before and after training
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
                trainer_defaults={"callbacks": Provenance()},
            )
        finally:
            self._signals.restore()

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
        if config.trainer.model_registry is not None:
            raise UserError("trainer.model_registry: runs are uploaded by `export --hub` only")
        if config.trainer.default_root_dir is not None:  # Lightning would resume from files in it
            raise UserError("trainer.default_root_dir: use --log_dir for the folder of runs, resume to continue one")
        for option in ("name", "data.init_args.name"):
            value = config.get(option)
            if isinstance(value, str):
                safe_name(value, option)
        # Lightning would read hyperparameters from the checkpoint, over those of the config; ours hold none.
        self._checkpoint, config.ckpt_path = _local_checkpoint(config.ckpt_path), None

    def before_instantiate_classes(self) -> None:
        """End the process immediately if a signal arrives from now on."""
        self.config[self.config.subcommand].ckpt_path = self._checkpoint
        self._signals.listen()

    def _end_immediately(self, received: int) -> int:
        launcher = self.trainer.strategy.launcher if hasattr(self, "trainer") else None
        if launcher is not None:
            launcher.kill(signal.SIGTERM)  # the ranks that this one started
        if not _is_first():
            return 0
        state = "nothing had to be saved. resume continues from the state on disk"
        return report_end(received, state, self._get(self.config, "recovery.requeue"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """Create the trainer, which logs to CSV and TensorBoard in the run's folder unless the config names loggers.

        Raises:
            UserError: the trainer's settings are invalid, or the machine lacks the hardware that they name.
        """
        if self._get(self.config_init, "trainer.logger") in (None, True):
            csv = self._csv_logger()
            kwargs["logger"] = [csv, TensorBoardLogger(csv.save_dir, csv.name, version=csv.version)]
        try:
            if SLURMEnvironment.detect() and not self._get(self.config_init, "trainer.plugins"):
                # Recovery asks for the requeue; Lightning would save inside the signal handler, to another folder.
                kwargs["plugins"] = SLURMEnvironment(auto_requeue=False)
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, RuntimeError, ValueError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        if trainer.val_check_interval == 0:
            raise UserError(
                "trainer.val_check_interval: 0 is not an interval. To disable validation, set limit_val_batches to 0"
            )
        # Lightning's SIGTERM handler exits with 0, and calls a collective in the middle of whatever other ranks do.
        # There is no public switch; pyproject bounds the version.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        if trainer.max_epochs == -1:
            trainer.fit_loop.max_epochs = None  # the same, but progress bars show "Epoch 3", not "Epoch 3/-2"
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set outside of its class
        callbacks.sort(key=lambda callback: isinstance(callback, Recovery))  # it saves the state of all others
        return trainer

    def _csv_logger(self) -> AppendingCSVLogger:
        logs, folder = self._get(self.config_init, "log_dir"), self._get(self.config_init, "run_folder")
        if self.run is not None:
            return AppendingCSVLogger(logs, self.run.parent.name, self.run.name)
        if folder is not None:
            return AppendingCSVLogger(logs, *_row_and_run(logs, folder))
        mix = self._get(self.config_init, "data.name") or getattr(self.datamodule, "name", None)
        return AppendingCSVLogger(logs, "-".join(filter(None, [self._get(self.config_init, "name"), mix])))

    def before_fit(self) -> None:
        """Skip training if it has ended."""
        self._recovery.training_done = self.training_done

    def before_test(self) -> None:
        """Refuse a model that has no data of its own if there are no benchmarks either."""
        from babyvlm.models.zero_shot import TestOnly  # imports much of transformers

        if isinstance(self.model, TestOnly) and not benchmarks_of(self.trainer):
            raise UserError(
                f"no benchmarks to evaluate {type(self.model).__name__} on. Add a config that has some, for example "
                "--config configs/benchmarks/playroom.yaml"
            )

    @property
    def _recovery(self) -> Recovery:
        return cast("Recovery", self._get(self.config_init, "recovery"))

    def after_fit(self) -> None:
        """Test the best checkpoint."""
        if not self.trainer.state.finished or self._get(self.config_init, "trainer.fast_dev_run"):
            return
        self._recovery.stop_if_signaled(self.trainer, f"training had ended. {CONTINUE} {self.trainer.log_dir}")
        if self._get(self.config_init, "test_after_fit"):
            best = _local_checkpoint(getattr(self.trainer.checkpoint_callback, "best_model_path", "") or None)
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True)
            echo(f"run: {self.trainer.log_dir}")
        self._finish()

    def after_test(self) -> None:
        """Mark the run as finished."""
        self._finish()

    def _finish(self) -> None:
        """Mark the run as finished and print its benchmark results."""
        logged = self.trainer.log_dir  # read on every rank, because it is broadcast
        if not self.trainer.is_global_zero or logged is None or not (folder := Path(logged)).is_dir():
            return
        (folder / FINISHED).touch()
        if has_test_results(folder):
            main_table([Row([Run(folder)])]).print()


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


def _row_and_run(logs: Path, folder: Path) -> tuple[str, str]:
    """Return the two parts of a new run's folder.

    Raises:
        UserError: the folder has more or fewer parts, or already contains a run.
    """
    if folder.is_absolute() or len(folder.parts) != 2:
        raise UserError(f"--run_folder {folder}: expected two names, ROW/RUN; the folder is created in {logs}")
    for part in folder.parts:
        safe_name(part, f"--run_folder {folder}")
    if (logs / folder / "config.yaml").is_file():
        raise UserError(f"{logs / folder}: already contains a run. Resume it or pass a different --run_folder")
    return folder.parts[0], folder.parts[1]


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
    try:
        main(["fit", "--config", str(config), *options, *state], run, training_done=last is not None)
    except (RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())
        if not re.search("state.dict", message):
            raise
        reason = (
            f"model or optimizer differ from those of {checkpoint} ({message[:200]}). Restore the file that fit wrote"
        )
        raise UserError(f"{config}: {reason}") from error


def _is_first() -> bool:
    """Return whether this process is the first rank, by its environment: ranks may not be connected yet."""
    return not _get_rank()


def _final_state(run: Path) -> Path | None:
    """Return the checkpoint at the end of training, if training has ended."""
    last = run / "checkpoints" / "last.ckpt"
    return last if trained(run) and last.is_file() and damage(last) is None else None


def main(args: list[str], run: Path | None = None, *, training_done: bool = False) -> None:
    """Run one of Lightning's subcommands, in the folder ``run`` if given; skip training if it is done."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no list of absent devices, no advertisements
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # intended
    warnings.filterwarnings("ignore", module="lightning.pytorch.utilities._pytree")  # an internal deprecation
    warnings.filterwarnings("ignore", ".* in eval mode at the start of training")  # frozen encoders
    for flag, path in pairwise(args):
        if flag in ("-c", "--config"):
            read_yaml(Path(path))
    try:
        BabyVLMCLI(args, run, training_done=training_done)
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
