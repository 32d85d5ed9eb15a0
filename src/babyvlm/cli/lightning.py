"""Lightning's command line (``fit``, ``validate``, ``test``, ``predict``), runs in ``lightning_logs/``; ``resume``."""

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
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from babyvlm.ablations.state import FINISHED
from babyvlm.config import LINKED, CheckedParser, check_yaml
from babyvlm.errors import UserError
from babyvlm.report.runs import Row, Run, has_test_results
from babyvlm.report.tables import main_table
from babyvlm.training.batch_seeding import SeedEachBatch
from babyvlm.training.checkpoint_io import WholeCheckpoints
from babyvlm.training.csv_logger import CSVLog
from babyvlm.training.non_finite_guard import StopOnNonFinite
from babyvlm.training.provenance import Provenance, trained
from babyvlm.training.recovery import GO_ON, Recovery, newest_whole, torn
from babyvlm.training.run_lock import claim
from babyvlm.training.save_config import SaveConfig
from babyvlm.training.signals import SignalNote, end


class _Parser(CheckedParser, LightningArgumentParser):
    """Lightning's parser with one-line errors."""


class BabyVLMCLI(LightningCLI):
    """LightningCLI with a name for the run, linked sizes, exact recovery, and a test of the best checkpoint at the end.

    Args:
        args: the command line.
        run: folder of a run to go on with; a new one by default.
        over: its training is over.
    """

    def __init__(self, args: list[str], run: Path | None = None, *, over: bool = False) -> None:
        self.run, self.over = run, over
        self._signals = SignalNote(self._end_at_once)  # until training begins, and after it
        try:
            super().__init__(
                args=args,
                seed_everything_default=0,
                parser_class=_Parser,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                save_config_callback=SaveConfig if run is None else None,
                save_config_kwargs={"save_to_log_dir": False},
                trainer_defaults={"callbacks": Provenance()},
            )
        finally:
            self._signals.give_back()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name and links."""
        parser.add_argument("--name", type=str, default="model", help="Of the model, for the run's folder and tables.")
        parser.add_argument("--log_dir", type=Path, default=Path("lightning_logs"), help="Where runs are written.")
        parser.add_argument(
            "--run_folder",
            type=Path | None,
            default=None,
            help="Of the run below logs, ROW/RUN; by default NAME-MIX/version_N.",
        )
        parser.add_argument(
            "--test_after_fit", type=bool, default=True, help="Test the best checkpoint when training has ended."
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
        if config.trainer.default_root_dir is not None:  # Lightning would resume from what lies there
            raise UserError("trainer.default_root_dir: use --log_dir for the folder of runs, resume to continue one")
        for option in ("name", "data.init_args.name"):
            value = config.get(option)
            if isinstance(value, str) and (
                not value or value in (".", "..") or not value.isprintable() or "/" in value
            ):
                raise UserError(
                    f"{option} {value!r}: name a folder, without `/`; --log_dir says where runs are written"
                )
        # Lightning would read hyperparameters from the checkpoint, over those of the config; ours hold none.
        self._checkpoint, config.ckpt_path = _local_checkpoint(config.ckpt_path), None

    def before_instantiate_classes(self) -> None:
        """Let signals end the process at once from now on."""
        self.config[self.config.subcommand].ckpt_path = self._checkpoint
        self._signals.listen()

    def _end_at_once(self, received: int) -> int:
        launcher = self.trainer.strategy.launcher if hasattr(self, "trainer") else None
        if launcher is not None:
            launcher.kill(signal.SIGTERM)  # the ranks that this one started
        if not _is_first():
            return 0
        how = "ended where nothing had to be saved; resume goes on with what is on disk"
        return end(received, how, self._get(self.config, "recovery.requeue"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """Log to CSV and TensorBoard in one run folder, unless the config names loggers.

        Raises:
            UserError: Lightning refuses the trainer's settings, or the machine has not what they ask for.
        """
        if self._get(self.config_init, "trainer.logger") in (None, True):
            csv = self._csv_log()
            kwargs["logger"] = [csv, TensorBoardLogger(csv.save_dir, csv.name, version=csv.version)]
        try:
            if SLURMEnvironment.detect() and not self._get(self.config_init, "trainer.plugins"):
                # Recovery asks for another turn; Lightning would save within the handler, and to a place of its own.
                kwargs["plugins"] = SLURMEnvironment(auto_requeue=False)
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, RuntimeError, ValueError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        if trainer.val_check_interval == 0:
            raise UserError("trainer.val_check_interval 0: set limit_val_batches to 0 if validation is not wanted")
        # Lightning's handlers would swallow SIGTERM, and meet with the other ranks in the midst of whatever they do.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        if isinstance(bar := trainer.progress_bar_callback, RichProgressBar) and trainer.max_epochs in (None, -1):
            bar._get_train_description = "Epoch {}".format  # type: ignore[method-assign] # not "Epoch 3/-2"
        trainer.strategy.checkpoint_io = WholeCheckpoints()
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set outside of its class
        callbacks.sort(key=lambda callback: isinstance(callback, Recovery))  # it saves what all others noted
        return trainer

    def _csv_log(self) -> CSVLog:
        logs, folder = self._get(self.config_init, "log_dir"), self._get(self.config_init, "run_folder")
        if self.run is not None:
            return CSVLog(logs, self.run.parent.name, self.run.name)
        if folder is not None:
            return CSVLog(logs, *_row_and_run(logs, folder))
        mix = self._get(self.config_init, "data.name") or getattr(self.datamodule, "name", None)
        return CSVLog(logs, "-".join(filter(None, [self._get(self.config_init, "name"), mix])))

    def before_fit(self) -> None:
        """Tell whether there is anything to train."""
        self._recovery.over = self.over

    @property
    def _recovery(self) -> Recovery:
        return cast("Recovery", self._get(self.config_init, "recovery"))

    def after_fit(self) -> None:
        """Test the checkpoint that the run's own criterion chose."""
        if not self.trainer.state.finished or self._get(self.config_init, "trainer.fast_dev_run"):
            return
        self._recovery.stop_if_told_to(self.trainer, f"training was over; {GO_ON} {self.trainer.log_dir} tests it")
        if self._get(self.config_init, "test_after_fit"):
            best = _local_checkpoint(getattr(self.trainer.checkpoint_callback, "best_model_path", "") or None)
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True)
            print(f"run: {self.trainer.log_dir}")
        self._finish()

    def after_test(self) -> None:
        """Say that all is done."""
        self._finish()

    def _finish(self) -> None:
        """Mark the run as one that ended: nothing of it is missing. Show what it got in the tests."""
        logged = self.trainer.log_dir  # asked on every rank: it is broadcast
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
    """The two parts of a new run's folder.

    Raises:
        UserError: it has more or fewer, or a run is there.
    """
    if folder.is_absolute() or len(folder.parts) != 2 or ".." in folder.parts:
        raise UserError(f"--run_folder {folder}: give two names, ROW/RUN; it is made in {logs}")
    if (logs / folder / "config.yaml").is_file():
        raise UserError(f"{logs / folder}: holds a run; go on with it by resume, or choose another --run_folder")
    return folder.parts[0], folder.parts[1]


def resume(run: Path, *options: str) -> None:
    """Go on with a run from its saved config and its last whole state, in its own folder.

    Where training is over, only what comes after it is done; where that is over too, nothing.

    Args:
        run: its folder.
        options: of ``fit``, over the config.

    Raises:
        UserError: ``run`` is no run's folder, is not where it was made (checkpoints hold paths of each other), or
            another process works in it.
    """
    config = run / "config.yaml"
    if not config.is_file():
        raise UserError(f"{run}: no run to go on with ({config.name} is missing)")
    said = check_yaml(config)
    if not isinstance(said.get("log_dir"), str):
        raise UserError(f"{config}: `log_dir` is missing; put back what fit wrote")
    made_in = Path(said["log_dir"])
    if not run.resolve().is_relative_to(made_in.resolve()):
        raise UserError(f"{run}: was made in {made_in}; call resume where fit was called, with the folder in its place")
    if _is_first():
        claim(run)
    if (run / FINISHED).is_file():
        print(f"{run}: finished, nothing is left to do; to test it again, remove {run / FINISHED} first")
        return
    over = _whole_end(run)
    checkpoint = over or newest_whole(run)
    how = (
        f"training is over, all after it follows from {over.name}"
        if over
        else (f"going on from {checkpoint.name if checkpoint else 'the start, no checkpoint is there'}")
    )
    print(f"{run}: {how}")
    state = ["--ckpt_path", str(checkpoint), "--weights_only", "true"] if checkpoint else []
    try:
        main(["fit", "--config", str(config), *options, *state], run, over=over is not None)
    except (RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())
        if not re.search("state.dict", told):
            raise
        why = f"not the model or optimizer that {checkpoint} is of ({told[:200]}); put back what fit wrote"
        raise UserError(f"{config}: {why}") from error


def _is_first() -> bool:
    """Whether this process is the first rank, by its environment: ranks may not have met yet."""
    return not _get_rank()


def _whole_end(run: Path) -> Path | None:
    """The state at the end of training, if a run is that far."""
    last = run / "checkpoints" / "last.ckpt"
    return last if trained(run) and last.is_file() and torn(last) is None else None


def main(args: list[str], run: Path | None = None, *, over: bool = False) -> None:
    """Run one of Lightning's subcommands, in the folder of ``run`` if that is given; train nothing if that is over."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no list of absent devices, no advertisements
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # that is how we call it
    warnings.filterwarnings("ignore", module="lightning.pytorch.utilities._pytree")  # its own affair
    warnings.filterwarnings("ignore", ".* in eval mode at the start of training")  # what is frozen
    for flag, path in pairwise(args):
        if flag in ("-c", "--config"):
            check_yaml(Path(path))
    try:
        BabyVLMCLI(args, run, over=over)
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
