"""Which options of Lightning's Trainer a run supports (docs/reference/trainer.md), and how it applies them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelSummary, ProgressBar, Timer, WeightAveraging
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from timm.layers import convert_sync_batchnorm
from torch import nn

from babyvlm.allowed import UNSUPPORTED
from babyvlm.errors import UserError
from babyvlm.io.distributed import refuse_mps

# Strategies that start their processes by fork or by pickling the command line's objects, which contain functions.
_OF_NOTEBOOKS = ("ddp_spawn", "ddp_fork", "ddp_notebook")
_SUPPORTED_STRATEGIES = (SingleDeviceStrategy, DDPStrategy, ModelParallelStrategy)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of the Trainer that a run cannot obey, before anything is instantiated.

    Args:
        options: arguments of ``Trainer`` by name.

    Raises:
        UserError: one of them is not supported.
    """
    if options["model_registry"] is not None:
        raise UserError("trainer.model_registry: runs are uploaded by `export --hub` only")
    if options["default_root_dir"] is not None:  # Lightning would resume from files in it
        raise UserError("trainer.default_root_dir: use --log_dir for the folder of runs, resume to continue one")
    if options["barebones"]:
        raise UserError(
            "trainer.barebones: nothing of the run would be recorded. To measure speed, set trainer.profiler to simple"
        )
    if isinstance(options["strategy"], str) and options["strategy"].startswith(_OF_NOTEBOOKS):
        raise UserError(
            f"trainer.strategy {options['strategy']}: starts processes in a way that cannot copy the run. Set it to ddp"
        )
    interval = options["val_check_interval"]
    if interval == 0:
        raise UserError(
            "trainer.val_check_interval: 0 is not an interval. To disable validation, set limit_val_batches to 0"
        )
    if isinstance(interval, str | timedelta | Mapping):
        raise UserError(
            f"trainer.val_check_interval {interval}: an interval of time is not supported, because a resumed run would "
            "validate at other steps. Set it to a number of batches or a fraction of an epoch"
        )
    limits = {name: options[name] for name in ("limit_train_batches", "max_steps", "max_epochs")}
    for name, limit in (limits | {"max_time": _seconds(options["max_time"])}).items():
        if limit == 0:
            raise UserError(f"trainer.{name}: 0 trains nothing. To evaluate a model, use the test command")
    _check_accelerator(options["accelerator"])
    if options["precision"] in (16, "16", "16-true", "transformer-engine-float16"):
        raise UserError(
            f"trainer.precision {options['precision']}: optimizers divide by zero in half precision. "
            "Set it to 16-mixed, bf16-mixed or bf16-true"
        )


def _check_accelerator(accelerator: object) -> None:
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator {accelerator}: this machine has no GPU that PyTorch can use. Run on another one, or "
            "pass --trainer.accelerator cpu"
        )


def _seconds(max_time: str | timedelta | dict[str, int] | None) -> float | None:
    """Return a limit on the time of training, 0 if it is negative; None for no limit."""
    try:
        limit = Timer(max_time).time_remaining()
    except (MisconfigurationException, TypeError) as error:
        raise UserError(f"trainer.max_time {max_time}: not a duration. Set it to DD:HH:MM:SS") from error
    return None if limit is None else max(limit, 0.0)


def obeyed(callbacks: list[Callback], options: Mapping[str, Any]) -> list[Callback]:
    """Return the callbacks without those that an ``enable_...: false`` excludes; Lightning would refuse both together.

    Args:
        callbacks: of the config.
        options: arguments of ``Trainer`` by name.

    Raises:
        UserError: a callback is not supported.
    """
    for callback in callbacks:
        for kind in type(callback).__mro__:
            reason = UNSUPPORTED.get(f"lightning.pytorch.callbacks.{kind.__name__}")
            if reason is not None and kind.__module__.startswith("lightning."):
                raise UserError(f"trainer.callbacks: {kind.__name__} is not supported: {reason}")
    kinds = {
        "enable_progress_bar": ProgressBar,
        "enable_model_summary": ModelSummary,
        "enable_checkpointing": Checkpoint,
    }
    excluded = tuple(kind for name, kind in kinds.items() if options[name] is False)
    return [callback for callback in callbacks if not isinstance(callback, excluded)]


def check_trainer(trainer: Trainer, use_distributed_sampler: bool) -> None:
    """Refuse a device or a strategy that a run does not support.

    Args:
        trainer: of the run.
        use_distributed_sampler: its argument.

    Raises:
        UserError: the message names the setting.
    """
    refuse_mps(trainer, "trainer.accelerator")
    if type(trainer.strategy) not in _SUPPORTED_STRATEGIES:
        raise UserError(
            f"trainer.strategy {type(trainer.strategy).__name__}: not supported. Use auto, ddp, or "
            "ModelParallelStrategy as in configs/saycam/sharded.yaml"
        )
    if use_distributed_sampler and trainer.world_size > 1:
        raise UserError("trainer.use_distributed_sampler: data modules divide batches themselves. Set it to false")
    averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if averages and isinstance(trainer.strategy, ModelParallelStrategy):
        raise UserError("trainer.callbacks: averages of sharded weights are not supported. Remove the averaging")


def end_averaging(trainer: Trainer) -> None:
    """Remove the callbacks that average weights: after training the model has the average.

    While a checkpoint is loaded for a test, they would replace the average with the weights that were trained.
    """
    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]


class SyncBatchNorm(TorchSyncBatchNorm):
    """Synchronizes batch norm over ranks, and keeps the activations of timm's ``BatchNormAct2d``, which torch drops."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert the layers of a model that are not yet converted."""
        if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
            return model
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Keep the layers: Lightning's would drop the activations, and in evaluation they do not communicate."""
        return model
