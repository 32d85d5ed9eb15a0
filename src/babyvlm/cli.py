"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's command line, with runs in ``lightning_logs/``."""

from __future__ import annotations

import logging
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from babyvlm.contracts import UserError
from babyvlm.parsing import OneLineParser


class _Parser(OneLineParser, LightningArgumentParser):
    """Lightning's parser with one-line errors."""


class BabyVLMCLI(LightningCLI):
    """LightningCLI with a name for the run, linked sizes, and a test of the best checkpoint after ``fit``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name and links."""
        parser.add_argument("--name", type=str, default="model", help="Of the model, for the run's folder and tables.")
        parser.add_argument("--logs", type=Path, default=Path("lightning_logs"), help="Where runs are written.")
        parser.add_argument(
            "--test_after_fit", type=bool, default=True, help="Test the best checkpoint when training has ended."
        )
        parser.link_arguments("seed_everything", "data.init_args.seed")
        for argument in ("vocabulary", "image_size", "max_tokens"):
            parser.link_arguments(f"data.init_args.{argument}", f"model.init_args.{argument}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """Log to CSV and TensorBoard in one run folder, unless the config names loggers.

        Raises:
            UserError: Lightning refuses the trainer's settings, or the machine has not what they ask for.
        """
        if self._get(self.config_init, "trainer.logger") in (None, True):
            mix = self._get(self.config_init, "data.name") or getattr(self.datamodule, "name", None)
            name = "-".join(filter(None, [self._get(self.config_init, "name"), mix]))
            csv = CSVLogger(self._get(self.config_init, "logs"), name)
            kwargs["logger"] = [csv, TensorBoardLogger(csv.save_dir, name, version=csv.version)]
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error

    def after_fit(self) -> None:
        """Test the checkpoint that the run's own criterion chose."""
        done = self.trainer.state.finished and not self._get(self.config_init, "trainer.fast_dev_run")
        if not done or not self._get(self.config_init, "test_after_fit"):
            return
        checkpoint = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=checkpoint or None, weights_only=True)
        print(f"run: {self.trainer.log_dir}")


def main(args: list[str]) -> None:
    """Run one of Lightning's subcommands."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no list of absent devices, no advertisements
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # that is how we call it
    warnings.filterwarnings("ignore", module="lightning.pytorch.utilities._pytree")  # its own affair
    for flag, path in pairwise(args):
        if flag in ("-c", "--config"):
            check_yaml(Path(path))
    try:
        BabyVLMCLI(args=args, seed_everything_default=0, parser_class=_Parser, auto_configure_optimizers=False,
                   load_from_checkpoint_support=False)  # fmt: skip
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error


def check_yaml(path: Path) -> None:
    """Make sure that a config can be parsed: jsonargparse does not say which one could not.

    Raises:
        UserError: it is no YAML; names the file and the line.
    """
    if path.is_file():  # that it is missing is told well enough
        try:
            yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
