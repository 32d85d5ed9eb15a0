"""Lightning's own messages, as this package prints: known noise is left out, by name."""

from __future__ import annotations

import logging
import sys
import warnings

from babyvlm.io.printing import echo

# Beginnings of messages that tell nobody anything: advertisements, and accelerators that this machine does not have.
NOISE = ("💡 Tip:", "TPU available: False", "HPU available: False", "IPU available: False")


class MessageHandler(logging.Handler):
    """Print messages to standard output, and warnings and errors to standard error, without control characters."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message unless it is noise."""
        message = record.getMessage()
        if not message.startswith(NOISE):
            echo(message, file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout)


def show_lightning_messages() -> None:
    """Print what Lightning says: why training ended, what a profiler measured, which device is used."""
    logging.getLogger("lightning").handlers = []  # it would print the messages of the others again
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers = [MessageHandler()]
        logger.setLevel(logging.INFO)  # `curate embed` in the same process raises it
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # intended
    warnings.filterwarnings("ignore", module="lightning.pytorch.utilities._pytree")  # an internal deprecation
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`.*WeightAveraging")  # end_averaging
    warnings.filterwarnings("ignore", ".* in eval mode at the start of training")  # frozen encoders
    warnings.filterwarnings("ignore", "You have overridden `on_before_batch_transfer`")  # a check of CausalModule
