"""What a config may name. Everything else is refused before it is imported.

A config is any YAML or JSON that somebody else may have written: an overlay, the ``config.yaml`` of a run, an exported
model's ``babyvlm.json``, a matrix of ablations, a profile. None of them can run code:

- A config may name only the classes listed here; no package is allowed as a whole.
- Arguments that take a function, another program's object, or anything at all are refused (``REFUSED_ARGUMENTS``).
- No value is a URL, a function, or arguments for a class that its signature does not name (``dict_kwargs``).

Only the person at the keyboard allows more: ``--allow mypackage`` on the command line, the environment variable
``BABYVLM_ALLOW``, or ``babyvlm.load(..., allow=["mypackage"])``. A config cannot set any of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import jsonargparse
from jsonargparse import Namespace

from babyvlm.errors import UserError

VARIABLE: Final = "BABYVLM_ALLOW"  # names of modules, separated by commas; child processes inherit it

# Models that an exported folder or a run may consist of. Classes that only load other models are not listed.
TRAINED_MODELS: Final = (
    "babyvlm.BabyLLaVA",
    "babyvlm.CVCL",
    "babyvlm.models.babyllava.BabyLLaVA",
    "babyvlm.models.clip.ClipTraining",
    "babyvlm.models.cvcl.CVCL",
    "babyvlm.models.dino.DINO",
    "babyvlm.models.language.LanguageModel",
)

# Public path -> module in which the class is defined, where that is another one; jsonargparse checks both.
_OWN: Final = {
    **dict.fromkeys(TRAINED_MODELS),
    "babyvlm.BabyLLaVA": "babyvlm.models.babyllava",
    "babyvlm.CVCL": "babyvlm.models.cvcl",
    "babyvlm.PairMix": "babyvlm.data.pair_mix",
    "babyvlm.Source": "babyvlm.data.pair_mix",
    "babyvlm.models.floors.ImageStatistics": None,
    "babyvlm.models.zero_shot.OpenClip": None,
    "babyvlm.models.zero_shot.Trained": None,
    "babyvlm.models.zero_shot.HFVisionLanguage": None,
    "babyvlm.models.networks.vision.VisionEncoder": None,
    "babyvlm.models.networks.text.MeanEmbedding": None,
    "babyvlm.models.networks.text.LSTMText": None,
    "babyvlm.models.networks.text.TransformerText": None,
    "babyvlm.models.optimization.CosineWithWarmup": None,
    "babyvlm.models.cvcl.EmbeddingWriter": None,
    # Dataclasses of settings.
    "babyvlm.data.pair_mix.Source": None,
    "babyvlm.data.frame_mix.Crops": None,
    "babyvlm.models.networks.language.LanguageShape": None,
    "babyvlm.ablations.matrix.Model": None,
    "babyvlm.ablations.matrix.Quick": None,
    "babyvlm.ablations.matrix.Step": None,
    "babyvlm.ablations.matrix.World": None,
    "babyvlm.workflow.corpus.Resources": None,
    # Optimizers: the defaults of these models, which a saved config names.
    "babyvlm.models.babyllava.BabyLLaVAAdamW": None,
    "babyvlm.models.dino.DINOAdamW": None,
    "babyvlm.models.clip.ClipAdamW": None,
    "babyvlm.models.cvcl.CVCLAdamW": None,
    "babyvlm.models.language.LanguageAdamW": None,
    "babyvlm.data.pair_mix.PairMix": None,
    "babyvlm.data.text_mix.TextMix": None,
    "babyvlm.data.frame_mix.FrameMix": None,
    "babyvlm.benchmarks.Alignment": "babyvlm.benchmarks.alignment",
    "babyvlm.benchmarks.BabyWinoground": "babyvlm.benchmarks.winoground",
    "babyvlm.benchmarks.ContaminationCheck": "babyvlm.benchmarks.contamination_check",
    "babyvlm.benchmarks.EvaluationCallback": "babyvlm.benchmarks.evaluation_callback",
    "babyvlm.benchmarks.HeldOutUtterances": "babyvlm.benchmarks.held_out",
    "babyvlm.benchmarks.LabeledS": "babyvlm.benchmarks.labeled_s",
    "babyvlm.benchmarks.LinearProbe": "babyvlm.benchmarks.linear_probe",
    "babyvlm.benchmarks.SAYCamCaption": "babyvlm.benchmarks.saycam_caption",
    "babyvlm.benchmarks.DevBenchChoice": "babyvlm.benchmarks.devbench",
    "babyvlm.benchmarks.DevBenchSimilarity": "babyvlm.benchmarks.devbench",
    "babyvlm.benchmarks.DevBenchWordAssociation": "babyvlm.benchmarks.devbench",
    "babyvlm.benchmarks.DevCV": "babyvlm.benchmarks.devcv",
    "babyvlm.benchmarks.DevCVMatching": "babyvlm.benchmarks.devcv",
    "babyvlm.benchmarks.MachineDevBenchGrammatical": "babyvlm.benchmarks.machine_devbench",
    "babyvlm.benchmarks.MachineDevBenchLexical": "babyvlm.benchmarks.machine_devbench",
    "babyvlm.benchmarks.ObjectTrials": "babyvlm.benchmarks.object_trials",
    "babyvlm.benchmarks.TuxPaintStamps": "babyvlm.benchmarks.stamps",
    "babyvlm.benchmarks.VTWT": "babyvlm.benchmarks.vtwt",
    "babyvlm.benchmarks.NaturalVTWT": "babyvlm.benchmarks.vtwt",
}
_OPTIMIZERS: Final = {
    "torch.optim.Adadelta": "torch.optim.adadelta",
    "torch.optim.Adafactor": None,
    "torch.optim.Adagrad": "torch.optim.adagrad",
    "torch.optim.Adam": "torch.optim.adam",
    "torch.optim.Adamax": "torch.optim.adamax",
    "torch.optim.AdamW": "torch.optim.adamw",
    "torch.optim.ASGD": "torch.optim.asgd",
    "torch.optim.LBFGS": "torch.optim.lbfgs",
    "torch.optim.Muon": None,
    "torch.optim.NAdam": "torch.optim.nadam",
    "torch.optim.RAdam": "torch.optim.radam",
    "torch.optim.RMSprop": "torch.optim.rmsprop",
    "torch.optim.Rprop": "torch.optim.rprop",
    "torch.optim.SGD": "torch.optim.sgd",
    "torch.optim.SparseAdam": "torch.optim.sparse_adam",
}
_SCHEDULERS: Final = {  # LambdaLR and MultiplicativeLR are functions by definition
    "torch.optim.lr_scheduler.ConstantLR": None,
    "torch.optim.lr_scheduler.CosineAnnealingLR": None,
    "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts": None,
    "torch.optim.lr_scheduler.CyclicLR": None,
    "torch.optim.lr_scheduler.ExponentialLR": None,
    "torch.optim.lr_scheduler.LinearLR": None,
    "torch.optim.lr_scheduler.MultiStepLR": None,
    "torch.optim.lr_scheduler.OneCycleLR": None,
    "torch.optim.lr_scheduler.PolynomialLR": None,
    "torch.optim.lr_scheduler.StepLR": None,
    "lightning.pytorch.cli.ReduceLROnPlateau": None,
}
_CALLBACKS: Final = {
    "lightning.pytorch.callbacks.DeviceStatsMonitor": "lightning.pytorch.callbacks.device_stats_monitor",
    "lightning.pytorch.callbacks.EarlyStopping": "lightning.pytorch.callbacks.early_stopping",
    "lightning.pytorch.callbacks.EMAWeightAveraging": "lightning.pytorch.callbacks.weight_averaging",
    "lightning.pytorch.callbacks.LearningRateMonitor": "lightning.pytorch.callbacks.lr_monitor",
    "lightning.pytorch.callbacks.ModelCheckpoint": "lightning.pytorch.callbacks.model_checkpoint",
    "lightning.pytorch.callbacks.ModelSummary": "lightning.pytorch.callbacks.model_summary",
    "lightning.pytorch.callbacks.RichModelSummary": "lightning.pytorch.callbacks.rich_model_summary",
    "lightning.pytorch.callbacks.RichProgressBar": "lightning.pytorch.callbacks.progress.rich_progress",
    "lightning.pytorch.callbacks.progress.rich_progress.RichProgressBarTheme": None,
    "lightning.pytorch.callbacks.TQDMProgressBar": "lightning.pytorch.callbacks.progress.tqdm_progress",
    "lightning.pytorch.callbacks.WeightAveraging": "lightning.pytorch.callbacks.weight_averaging",
}
# Callbacks of Lightning that a run does not support, even if the user allows Lightning's modules, and why.
UNSUPPORTED: Final = {
    "lightning.pytorch.callbacks.BackboneFinetuning": (
        "no model of babyvlm has the attributes that it needs. Set model.vision.frozen, and train in two runs"
    ),
    "lightning.pytorch.callbacks.BatchSizeFinder": (
        "the saved config would name another batch size, and a contrastive loss depends on it. Set data.batch_size"
    ),
    "lightning.pytorch.callbacks.GradientAccumulationScheduler": (
        "learning-rate schedules need a constant batch size. Set trainer.accumulate_grad_batches"
    ),
    "lightning.pytorch.callbacks.LambdaCallback": "a config cannot hold functions. Write a subclass of Callback",
    "lightning.pytorch.callbacks.LearningRateFinder": (
        "the saved config would name another learning rate. Set the optimizer's lr, or run a sweep"
    ),
    "lightning.pytorch.callbacks.ModelPruning": "its checkpoints do not load into the model. Prune an exported model",
    "lightning.pytorch.callbacks.OnExceptionCheckpoint": (
        "it would save in the middle of a step. Recovery states are saved anyway; set recovery.every_seconds"
    ),
    "lightning.pytorch.callbacks.SpikeDetection": (
        "a resumed run would skip other batches. A loss that is not finite ends a run anyway"
    ),
    "lightning.pytorch.callbacks.StochasticWeightAveraging": (
        "its additional epoch and its own schedule break exact resumption. Use EMAWeightAveraging or WeightAveraging"
    ),
    "lightning.pytorch.callbacks.ThroughputMonitor": (
        "a config cannot hold the function that it needs. Write a subclass that has it"
    ),
    "lightning.pytorch.callbacks.Timer": "the run's config cannot be saved with it. Set trainer.max_time",
}
_LOGGERS: Final = {
    "lightning.pytorch.loggers.CSVLogger": "lightning.pytorch.loggers.csv_logs",
    "lightning.pytorch.loggers.MLFlowLogger": "lightning.pytorch.loggers.mlflow",
    "lightning.pytorch.loggers.TensorBoardLogger": "lightning.pytorch.loggers.tensorboard",
    "lightning.pytorch.loggers.WandbLogger": "lightning.pytorch.loggers.wandb",
}
_STRATEGIES: Final = {
    "lightning.pytorch.strategies.DDPStrategy": "lightning.pytorch.strategies.ddp",
    "lightning.pytorch.strategies.FSDPStrategy": "lightning.pytorch.strategies.fsdp",
    "lightning.pytorch.strategies.ModelParallelStrategy": "lightning.pytorch.strategies.model_parallel",
}
_PLUGINS: Final = {  # a profiler is named by a word: `simple`, `advanced`, `pytorch`
    "lightning.pytorch.plugins.environments.LightningEnvironment": "lightning.fabric.plugins.environments.lightning",
    "lightning.pytorch.plugins.environments.SLURMEnvironment": "lightning.fabric.plugins.environments.slurm",
    "lightning.pytorch.plugins.environments.TorchElasticEnvironment": (
        "lightning.fabric.plugins.environments.torchelastic"
    ),
}
CLASSES: Final[Mapping[str, str | None]] = {
    **_OWN,
    **_OPTIMIZERS,
    **_SCHEDULERS,
    **_CALLBACKS,
    **_LOGGERS,
    **_STRATEGIES,
    **_PLUGINS,
}
# Either way of writing a class -> how the table writes it.
_PATHS: Final = {path: path for path in CLASSES} | {
    f"{module}.{path.rpartition('.')[2]}": path for path, module in CLASSES.items() if module is not None
}

_WRAPPERS = ("auto_wrap_policy", "activation_checkpointing", "activation_checkpointing_policy", "mixed_precision")
_PARTS = ("accelerator", "parallel_devices", "checkpoint_io", "precision_plugin", "device_mesh", "process_group")
REFUSED_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "torch.optim.lr_scheduler.CyclicLR": ("scale_fn",),
    **dict.fromkeys(
        (f"lightning.pytorch.callbacks.{name}" for name in ("EMAWeightAveraging", "WeightAveraging")),
        ("avg_fn", "multi_avg_fn"),
    ),
    "lightning.pytorch.callbacks.RichProgressBar": ("console_kwargs",),
    "lightning.pytorch.loggers.WandbLogger": ("experiment", "log_model"),
    "lightning.pytorch.loggers.MLFlowLogger": ("log_model", "tags"),
    "lightning.pytorch.strategies.DDPStrategy": (
        "ddp_comm_state",
        "ddp_comm_hook",
        "ddp_comm_wrapper",
        "param_to_hook_all_reduce",
        "mixed_precision",
        *_PARTS,
    ),
    "lightning.pytorch.strategies.FSDPStrategy": (*_WRAPPERS, *_PARTS),
}

# `http://x`, `file:///x`, fsspec's `simplecache::x`; `hf-hub:ORG/NAME` and `local-dir:FOLDER` are none.
_URL = re.compile(r"\s*[A-Za-z][\w+.-]*(://|::)")
_PATH_OF_URL = re.compile(r"[A-Za-z][\w+.-]*:/")  # a Path has lost one of the slashes


def user_allowed() -> list[str]:
    """Return the modules that the user allows by ``BABYVLM_ALLOW``.

    Raises:
        UserError: one of them is not the dotted name of a module.
    """
    return _checked_names(os.environ.get(VARIABLE, ""))


def _checked_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")) or name.split(".")[0] == "jsonargparse":
            raise UserError(f"--allow {name}: not the name of a module, such as mypackage or mypackage.models")
    return names


def allow(*modules: str) -> None:
    """Let configs name the classes of these modules, in this process and in those that it starts."""
    os.environ[VARIABLE] = ",".join(dict.fromkeys(_checked_names(",".join([*user_allowed(), *modules]))))


def import_paths() -> list[str]:
    """Return every import path that a config may name."""
    return [*_PATHS, *user_allowed()]


def is_allowed(path: str) -> bool:
    """Return whether a config may name this class."""
    return path in _PATHS or is_user_allowed(path)


def is_user_allowed(path: str) -> bool:
    """Return whether the user allows the module of this class or function."""
    return any(path == name or path.startswith(f"{name}.") for name in user_allowed())


def check_config(value: object, key: str = "") -> None:
    """Refuse a parsed config that could run code or reach another machine; call this before anything is instantiated.

    Raises:
        UserError: it names a class, an argument or a value that is not allowed; the message begins with its key.
    """
    for place, found in _walk(value, key):
        if isinstance(found, dict):
            _check_class(found, place)
        elif isinstance(found, str | Path | jsonargparse.Path):  # type: ignore[attr-defined]
            if _URL.match(str(found)) or (isinstance(found, Path) and _PATH_OF_URL.match(str(found))):
                raise UserError(f"{place}: {str(found)!r} is a URL; a config names local files and hub models only")
        elif callable(found):
            path = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', type(found).__qualname__)}"
            if not is_allowed(path):
                raise UserError(refusal(path, place))


def refusal(path: str, place: str = "") -> str:
    """Return the message about a class or function that is not allowed."""
    where = f"{place}: " if place else ""
    if path in UNSUPPORTED:
        return f"{where}{path} is not supported: {UNSUPPORTED[path]}"
    return (
        f"{where}{path} is not among the classes that a config may name (see docs/how-to/extending.md). "
        f"If you trust it, allow its module: --allow {path.partition('.')[0]}"
    )


def _walk(value: object, key: str) -> Iterator[tuple[str, object]]:
    """Every value of a config with its dotted key, mappings before what they hold."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        yield key, value
        for name, inner in value.items():
            yield from _walk(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple | set):
        for number, inner in enumerate(value):
            yield from _walk(inner, f"{key}.{number}" if key else str(number))
    else:
        yield key, value


def _check_class(value: Mapping[str, object], place: str) -> None:
    path = value.get("class_path")
    if path is None:
        return
    if not isinstance(path, str) or not is_allowed(path):
        raise UserError(refusal(str(path), place))
    given = value.get("init_args") or {}
    given = vars(given) if isinstance(given, Namespace) else given
    if isinstance(given, Mapping) and given.get("log_model") not in (None, False):
        raise UserError(f"{place}.log_model: weights are uploaded by `export --hub` only, which checks their license")
    if is_user_allowed(path):
        return
    if value.get("dict_kwargs"):
        raise UserError(f"{place}.dict_kwargs: {path} takes no arguments beyond those of its signature")
    for name in REFUSED_ARGUMENTS.get(_PATHS[path], ()):
        if isinstance(given, Mapping) and given.get(name) not in (None, False):
            raise UserError(f"{place}.{name}: a config may not set this argument of {path}")
