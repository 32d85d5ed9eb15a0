"""Which checkpoint of a run is the best one: chosen by its config, checked at the start, recorded in its folder."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint

from babyvlm.benchmarks.evaluation_callback import EvaluationCallback
from babyvlm.errors import UserError
from babyvlm.io.printing import echo
from babyvlm.io.runs import BestCheckpoint, run_folder
from babyvlm.training.non_finite_guard import StopOnNonFinite

LAST = Path("checkpoints", "last.ckpt")
MONITORING = ("ModelCheckpoint", "EarlyStopping", "ReduceLROnPlateau")  # classes with `monitor` and `mode`
_LOW = re.compile(r"(^|[_/ -])(loss|perplexity|error|nll|wer)$")
# Benchmarks are logged as <benchmark>_dev and <benchmark>_<measure>_dev; all of them count credit.
_HIGH = re.compile(r"_dev$|(^|[_/ -])(acc|accuracy|auc|f1|recall|precision|meteor|bleu)([_/ -]|$)")
_OF_VALIDATION = re.compile(r"val([_/ -]|$)|.*_dev$")


def direction(metric: str) -> str | None:
    """Return whether a low (``min``) or a high (``max``) value of a metric is good; None if its name does not tell."""
    return "min" if _LOW.search(metric) else "max" if _HIGH.search(metric) else None


def set_modes(config: object, given: Callable[[str], bool]) -> None:
    """Set ``mode`` of whatever monitors a metric, by the metric's name.

    Args:
        config: parsed settings, which contain defaults; changed in place.
        given: whether the user wrote a mode for a metric. The default, ``min``, keeps the worst checkpoint by accuracy.

    Raises:
        UserError: the mode contradicts the metric, or must be given because the metric's name does not tell it.
    """
    for name, options in monitors(config):
        metric, wanted = options["monitor"], direction(options["monitor"])
        if wanted is None and options.get("mode") == "min" and not given(metric):
            raise UserError(f"{name}: is a low or a high {metric} good? Set mode to min or max in its init_args")
        if wanted is not None and options.get("mode") != wanted:
            if given(metric):
                raise UserError(
                    f"{name}: mode {options.get('mode')} would prefer the worst {metric}. Set it to {wanted}"
                )
            options["mode"] = wanted


def monitors(config: object) -> Iterator[tuple[str, Any]]:
    """Yield the class and the arguments of everything in a config that monitors a metric, as parsed or as in YAML."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, list):
        for value in config:
            yield from monitors(value)
    elif isinstance(config, Mapping):
        name, options = str(config.get("class_path")).rpartition(".")[2], config.get("init_args")
        if name in MONITORING and options is not None and isinstance(options.get("monitor"), str):
            yield name, options
        for value in config.values():
            yield from monitors(value)


class RecordBest(Checkpoint):
    """Record the best checkpoint of a run in ``best_checkpoint.json``, and check at the start that there will be one.

    It is the one that the first ModelCheckpoint with a ``monitor`` keeps as its best, wherever that writes it. In a run
    without such a callback it is the last one, ``checkpoints/last.ckpt``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._selecting: ModelCheckpoint | None = None
        self._best: BestCheckpoint | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the callback that selects the best checkpoint.

        Raises:
            UserError: it keeps no checkpoint, or writes it to the file of the last one; or a ``filename`` is no format;
                or a folder for checkpoints cannot be created, or those of other runs in it would be overwritten.
        """
        self._folder = run_folder(trainer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set outside of its class
        saving = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
        self._selecting = next((callback for callback in saving if callback.monitor is not None), None)
        for callback in saving:
            folder = None if self._folder is None else (self._folder / LAST).parent.resolve()
            if callback.filename == LAST.stem and Path(callback.dirpath or "").resolve() == folder:
                raise UserError(
                    "trainer.callbacks: ModelCheckpoint: the filename `last` is that of the run's last checkpoint. "
                    "Choose another one"
                )
            _check_filename(callback)
            if stage == "fit" and self._folder is not None and callback.dirpath:
                _check_dirpath(callback, self._folder)
        if self._selecting is not None and self._selecting.save_top_k == 0:
            raise UserError(
                f"trainer.callbacks: ModelCheckpoint(monitor={self._selecting.monitor}, save_top_k=0) keeps no "
                "checkpoint. Set save_top_k to 1, or leave out monitor"
            )

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the validation measures what is monitored.

        Raises:
            UserError: a validation metric is monitored that is not among those that were just measured.
        """
        known = sorted(name for name in trainer.callback_metrics if _OF_VALIDATION.match(name))
        for kind, option, metric in _named(trainer):
            if known and metric.startswith("val") and metric not in known:
                raise UserError(f"{kind}: {option} {metric}: not measured. Choose from: {', '.join(known)}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that what is monitored will be measured; record what the state that the run resumes from knows.

        Raises:
            UserError: what is monitored, or named in a ``filename``, is not among the metrics of the run; a benchmark
                has no dev split; or early stopping waits for a validation that never happens.
        """
        dev = [
            name
            for callback in trainer.callbacks  # type: ignore[attr-defined] # set outside of its class
            if isinstance(callback, EvaluationCallback)
            for name in callback.dev_metrics()
        ]
        never = _why_never_validated(trainer)
        logged = _logged(trainer, pl_module)
        for kind, option, metric in _named(trainer):
            if metric.endswith("_dev") and not never and metric not in dev:
                choices = f"Choose from: {', '.join(dev)}" if dev else "No benchmark of this run has a dev split"
                raise UserError(f"{kind}: {option} {metric}: not measured. {choices}")
            without = bool(never and _OF_VALIDATION.match(metric))
            if logged and not without and not metric.startswith("lr-") and metric not in (*logged, *dev):
                raise UserError(f"{kind}: {option} {metric}: not measured. Choose from: {', '.join((*logged, *dev))}")
            if not without:
                continue
            if kind != "ModelCheckpoint":
                raise UserError(f"{kind}: {metric} is never measured: {never}")
            if trainer.is_global_zero:
                lost = "file names say 0" if option == "filename" else "the last checkpoint counts as the best one"
                echo(f"warning: no validation: {never}. Without {metric}, {lost}", file=sys.stderr)
        if (
            self._selecting is not None
            and trainer.is_global_zero
            and (why := _why_never_saved(trainer, self._selecting))
        ):
            echo(
                f"warning: {why}. Without a checkpoint by {self._selecting.monitor}, the last one counts as the best",
                file=sys.stderr,
            )
        if self._best is not None:
            self._write(trainer, self._best)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: ANN401 - Lightning's arguments
        """Record a new best checkpoint."""
        self._record(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record a new best checkpoint."""
        self._record(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record a new best checkpoint."""
        self._record(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the last checkpoint if nothing selected another one."""
        self._record(trainer)
        if self._best is None and self._folder is not None:
            self._write(trainer, BestCheckpoint(self._folder / LAST, step=trainer.global_step))

    def state_dict(self) -> dict[str, Any]:
        """Return what is recorded."""
        return {} if self._best is None else {**vars(self._best), "path": str(self._best.path)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what was recorded."""
        self._best = BestCheckpoint(**state_dict | {"path": Path(state_dict["path"])}) if state_dict else None

    def _record(self, trainer: Trainer) -> None:
        source = self._selecting
        if source is None or not source.best_model_path:
            return
        score = math.nan if source.best_model_score is None else float(source.best_model_score)
        path, value = Path(source.best_model_path), score if math.isfinite(score) else None
        if self._best is None or (self._best.path, self._best.value) != (path, value):
            self._write(trainer, BestCheckpoint(path, source.monitor, source.mode, value, trainer.global_step))

    def _write(self, trainer: Trainer, best: BestCheckpoint) -> None:
        self._best = best
        if self._folder is not None and trainer.is_global_zero:
            best.write(self._folder)


def _named(trainer: Trainer) -> Iterator[tuple[str, str, str]]:
    """Yield the class, the option and the metric of everything that monitors a metric or writes it in a file's name."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined] # set outside of its class
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and callback.monitor not in (None, "epoch", "step"):
            yield type(callback).__name__, "monitor", str(callback.monitor)
        if isinstance(callback, ModelCheckpoint):
            for metric in _fields(callback):
                yield type(callback).__name__, "filename", metric
    for config in trainer.lr_scheduler_configs:
        if config.monitor:
            yield type(config.scheduler).__name__, "monitor", config.monitor


def _fields(callback: ModelCheckpoint) -> list[str]:
    """Return the metrics in a checkpoint's file name."""
    fields = re.findall(r"\{(.*?)[:}]", callback.filename or "")  # as Lightning finds them
    return [name for name in fields if name not in ("epoch", "step")]


def _check_filename(callback: ModelCheckpoint) -> None:
    """Format a file name with numbers of the right types: this must not fail after the first epoch.

    Raises:
        UserError: it cannot be formatted.
    """
    metrics = dict.fromkeys(_fields(callback), torch.tensor(1.0)) | dict.fromkeys(("epoch", "step"), torch.tensor(1))
    try:
        callback.format_checkpoint_name(metrics)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"trainer.callbacks: ModelCheckpoint: filename {callback.filename}: {error}") from error


def _logged(trainer: Trainer, model: LightningModule) -> tuple[str, ...]:
    """Return the metrics of a fit other than those of benchmarks; empty if code of the user's own may log others."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set outside of its class
    if any(type(one).__module__.partition(".")[0] not in ("babyvlm", "lightning") for one in (model, *callbacks)):
        return ()
    logged: tuple[str, ...] = getattr(model, "logged", ())
    if logged and any(isinstance(one, StopOnNonFinite) for one in callbacks):
        logged += ("gradient_norm",)
    return logged


def _why_never_validated(trainer: Trainer) -> str:
    """Return why a run is never validated; empty if it is, or if that depends on time."""
    if not trainer.enable_validation:
        return "trainer.limit_val_batches is 0, or model or data have no validation"
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        return ""
    epoch, every, end = trainer.num_training_batches, trainer.val_check_batch, _batches(trainer)
    if every is None:
        return ""
    epochs = trainer.check_val_every_n_epoch
    first = every if epochs is None else (epochs - 1) * epoch + every
    if first <= end:
        return ""
    interval = f"trainer.val_check_interval {trainer.val_check_interval}"
    if epochs not in (None, 1):
        interval = f"trainer.check_val_every_n_epoch {epochs}"
    return f"{interval} exceeds the run of {end:,.0f} batches. Lower it"


def _batches(trainer: Trainer) -> float:
    """Return the batches of a run; infinite if it ends by time only."""
    steps = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps != -1 else math.inf
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs * trainer.num_training_batches
    return min(steps, epochs)


def _why_never_saved(trainer: Trainer, callback: ModelCheckpoint) -> str:
    """Return why a ModelCheckpoint never saves during a run; empty if it does, or if that depends on time."""
    steps, epochs, end = callback._every_n_train_steps, callback._every_n_epochs, _batches(trainer)
    if steps * trainer.accumulate_grad_batches > end:
        return f"ModelCheckpoint: every_n_train_steps {steps} exceeds the run of {end:,.0f} batches. Lower it"
    if epochs > 1 and (epochs - 1) * trainer.num_training_batches >= end:
        return f"ModelCheckpoint: every_n_epochs {epochs} exceeds the run of {end:,.0f} batches. Lower it"
    return ""


def _check_dirpath(callback: ModelCheckpoint, run: Path) -> None:
    """Create the folder of a ModelCheckpoint that lies elsewhere than the run's: this must not fail hours later.

    Raises:
        UserError: it cannot be created, or the callback would overwrite what other runs have saved there.
    """
    where = f"trainer.callbacks: ModelCheckpoint: dirpath {callback.dirpath}"
    folder = Path(callback.dirpath or "")
    if folder.resolve().is_relative_to(run.resolve()):
        return
    if not callback._enable_version_counter:
        raise UserError(
            f"{where}: enable_version_counter false would overwrite checkpoints of other runs. Set it to true"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{where}: cannot be created ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{where}: cannot be written to")
