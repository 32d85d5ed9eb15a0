"""Configs that would run code or write a file if anything in them were instantiated. The payload is a file, PWNED."""

import json
from pathlib import Path

import torch
import yaml

PAYLOAD = "PWNED"
TOUCH = ["touch", PAYLOAD]
SUBPROCESS = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler.SubprocessHandler"

# Class or function -> arguments with which calling it leaves the payload.
EXECUTING = {
    "subprocess.Popen": {"args": TOUCH},
    "subprocess.run": {"args": TOUCH},
    "os.system": {"command": " ".join(TOUCH)},
    "posix.system": {"command": " ".join(TOUCH)},
    "os.mkdir": {"path": PAYLOAD},
    "shutil.copy": {"src": "gadget.yaml", "dst": PAYLOAD},
    "builtins.exec": {"source": f"open({PAYLOAD!r}, 'w')"},
    "builtins.open": {"file": PAYLOAD, "mode": "w"},
    "pathlib.Path.touch": {"self": PAYLOAD},
    "runpy.run_path": {"path_name": "evil_module.py"},
    "evil_module.Model": {},
    "evil_module.function": {},
    "logging.FileHandler": {"filename": PAYLOAD},
    "logging.config.fileConfig": {"fname": "gadget.yaml"},
    "zipfile.ZipFile": {"file": PAYLOAD, "mode": "w"},
    SUBPROCESS: {"entrypoint": "touch", "args": [PAYLOAD], "env": {}, "local_rank_id": 0},
    "torch.distributed.launcher.api.elastic_launch": {"config": {}, "entrypoint": "touch"},
    "torch.hub.download_url_to_file": {"url": "file:gadget.yaml", "dst": PAYLOAD},
    "torch.hub.load_state_dict_from_url": {"url": "file:evil.ckpt", "model_dir": ".", "file_name": PAYLOAD},
    "torch.hub.load": {"repo_or_dir": ".", "model": "function", "source": "local"},
    "torch.load": {"f": "evil.ckpt", "weights_only": False},
    "torch.serialization.load": {"f": "evil.ckpt", "weights_only": False},
    "torch.save": {"obj": 1, "f": PAYLOAD},
    "torch.jit.load": {"f": "evil.ckpt"},
    "torch.package.PackageImporter": {"file_or_buffer": "evil.ckpt"},
    "torch.utils.cpp_extension.load": {"name": "x", "sources": ["gadget.yaml"]},
    "torch.utils.tensorboard.SummaryWriter": {"log_dir": PAYLOAD},
    "torch.multiprocessing.spawn": {"fn": "evil_module.function"},
    "torch.utils._config_module.install_config_module": {"module": "evil_module"},
    "lightning.fabric.utilities.cloud_io._load": {"path_or_url": "evil.ckpt", "weights_only": False},
    "lightning.pytorch.core.saving.load_from_checkpoint": {"checkpoint_path": "evil.ckpt", "weights_only": False},
    "lightning.pytorch.loggers.csv_logs.ExperimentWriter": {"log_dir": PAYLOAD},
    "lightning.fabric.loggers.csv_logs._ExperimentWriter": {"log_dir": PAYLOAD},
    "lightning.pytorch.strategies.launchers.subprocess_script._SubprocessScriptLauncher": {"num_nodes": 1},
    "lightning.pytorch.cli.LightningCLI": {"args": ["fit"]},
    "lightning.pytorch.callbacks.LambdaCallback": {"setup": "os.system"},
    "lightning.pytorch.profilers.AdvancedProfiler": {"dirpath": PAYLOAD},
    "torchmetrics.utilities.imports.RequirementCache": {"requirement": "evil_module"},
    "numpy.save": {"file": PAYLOAD, "arr": [1]},
    "numpy.load": {"file": "evil.ckpt", "allow_pickle": True},
    "transformers.AutoModel.from_pretrained": {"pretrained_model_name_or_path": ".", "trust_remote_code": True},
    "timm.create_model": {"model_name": "resnet10t", "checkpoint_path": "evil.ckpt"},
    "functools.partial": {"func": "os.system", "args": " ".join(TOUCH)},
    "jsonargparse.set_parsing_settings": {"import_path_allowlist": ["os"]},
    "babyvlm.cli.main.main": {"args": ["playroom", "--out", PAYLOAD, "--size", "tiny"]},
    "babyvlm.playroom.make.playroom": {"out": PAYLOAD, "size": "tiny"},
    "babyvlm.allowed.allow": {"modules": ["os"]},
    "babyvlm.models.hub.load": {"source": "run"},
    "babyvlm.models.cvcl.CVCL.load_from_checkpoint": {"checkpoint_path": "evil.ckpt", "weights_only": False},
    "babyvlm.ablations.runner.run": {"launcher": f"touch {PAYLOAD}"},
}
GADGETS = {path: {"class_path": path, "init_args": arguments} for path, arguments in EXECUTING.items()}


def at(*keys):
    """Return a function that places a gadget at dotted keys of an overlay."""

    def place(gadget):
        for key in reversed(keys):
            gadget = {key: gadget}
        return gadget

    return place


def argument(section, class_path, name, nested="init_args"):
    """Return a function that places a gadget as an argument of a class that is allowed."""
    return lambda gadget: at(*section.split("."))({"class_path": class_path, nested: {name: gadget}})


def one_of(section, class_path, name, nested="init_args"):
    """The same, in a list."""
    return lambda gadget: at(*section.split("."))([{"class_path": class_path, nested: {name: gadget}}])


VISION = "babyvlm.models.networks.vision.VisionEncoder"
LIGHTNING = "lightning.pytorch"
PLACES = {
    "model": at("model"),
    "data": at("data"),
    "model.vision": at("model", "init_args", "vision"),
    "vision.options": at("model", "init_args", "vision", "init_args", "options"),
    "an option": at("model", "init_args", "vision", "init_args", "options", "layers"),
    "vision.weights": at("model", "init_args", "vision", "init_args", "weights"),
    "vision.dict_kwargs": at("model", "init_args", "vision", "dict_kwargs", "x"),
    "model.text": at("model", "init_args", "text"),
    "model.optimizer": at("model", "init_args", "optimizer"),
    "model.scheduler": at("model", "init_args", "scheduler"),
    "model.init_from": at("model", "init_args", "init_from"),
    "model.dict_kwargs": at("model", "dict_kwargs", "x"),
    "data.dict_kwargs": at("data", "dict_kwargs", "x"),
    "data.sources": at("data", "init_args", "sources"),
    "data.name": at("data", "init_args", "name"),
    "lr": argument("model.init_args.optimizer", "torch.optim.AdamW", "lr"),
    "optimizer.dict_kwargs": argument("model.init_args.optimizer", "torch.optim.AdamW", "x", "dict_kwargs"),
    "lr_lambda": argument("model.init_args.scheduler", "torch.optim.lr_scheduler.LambdaLR", "lr_lambda"),
    "lr_lambda by multiplication": argument(
        "model.init_args.scheduler", "torch.optim.lr_scheduler.MultiplicativeLR", "lr_lambda"
    ),
    "scale_fn": argument("model.init_args.scheduler", "torch.optim.lr_scheduler.CyclicLR", "scale_fn"),
    "callbacks": lambda gadget: at("trainer", "callbacks")([gadget]),
    "callbacks+": lambda gadget: at("trainer", "callbacks+")([gadget]),
    "logger": at("trainer", "logger"),
    "a list of loggers": lambda gadget: at("trainer", "logger")([gadget]),
    "strategy": at("trainer", "strategy"),
    "plugins": lambda gadget: at("trainer", "plugins")([gadget]),
    "profiler": at("trainer", "profiler"),
    "accelerator": at("trainer", "accelerator"),
    "max_time": at("trainer", "max_time"),
    "ddp_comm_state": argument("trainer.strategy", f"{LIGHTNING}.strategies.DDPStrategy", "ddp_comm_state"),
    "ddp_comm_hook": argument("trainer.strategy", f"{LIGHTNING}.strategies.DDPStrategy", "ddp_comm_hook"),
    "process_group": argument("trainer.strategy", f"{LIGHTNING}.strategies.DDPStrategy", "process_group"),
    "auto_wrap_policy": argument("trainer.strategy", f"{LIGHTNING}.strategies.FSDPStrategy", "auto_wrap_policy"),
    "strategy.dict_kwargs": argument("trainer.strategy", f"{LIGHTNING}.strategies.FSDPStrategy", "x", "dict_kwargs"),
    "console_kwargs": one_of("trainer.callbacks", f"{LIGHTNING}.callbacks.RichProgressBar", "console_kwargs"),
    "theme": one_of("trainer.callbacks", f"{LIGHTNING}.callbacks.RichProgressBar", "theme"),
    "avg_fn": one_of("trainer.callbacks", f"{LIGHTNING}.callbacks.EMAWeightAveraging", "avg_fn"),
    "dirpath": one_of("trainer.callbacks", f"{LIGHTNING}.callbacks.ModelCheckpoint", "dirpath"),
    "logger.dict_kwargs": argument("trainer.logger", f"{LIGHTNING}.loggers.TensorBoardLogger", "x", "dict_kwargs"),
    "experiment": argument("trainer.logger", f"{LIGHTNING}.loggers.WandbLogger", "experiment"),
    "benchmarks": one_of("trainer.callbacks", "babyvlm.benchmarks.EvaluationCallback", "benchmarks"),
    "a benchmark": lambda gadget: one_of("trainer.callbacks", "babyvlm.benchmarks.EvaluationCallback", "benchmarks")(
        [gadget]
    ),
    "recovery": at("recovery"),
    "recovery.every_seconds": at("recovery", "every_seconds"),
    "seed_each_batch": at("seed_each_batch"),
    "ckpt_path": at("ckpt_path"),
    "name": at("name"),
    "log_dir": at("log_dir"),
    "an unknown key": at("allow"),
}


class Evil:
    """Unpickling it leaves the payload in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return Path.touch, (self.folder / PAYLOAD,)


def write_evil(folder):
    """A module, a pickled checkpoint and a model folder with code, each of which would leave the payload."""
    folder.mkdir(parents=True, exist_ok=True)
    code = f"open({str(folder / PAYLOAD)!r}, 'w').close()\nfunction = Model = print\n"
    (folder / "evil_module.py").write_text(code)
    (folder / "hubconf.py").write_text(code)
    checkpoint = {"state_dict": {"x": Evil(folder)}, "pytorch-lightning_version": "2.6.6"}
    torch.save(checkpoint, folder / "evil.ckpt")


def merge(config, overlay):
    """Lay an overlay over a config as the command line does, but for ``callbacks+``."""
    if not isinstance(overlay, dict) or not isinstance(config, dict):
        return overlay
    return config | {key: merge(config.get(key), value) for key, value in overlay.items()}


def write_yaml(path, value):
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path
