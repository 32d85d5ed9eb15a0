"""Ends a training run by SIGKILL at an exact place, if the environment says where: END_AT=place:count.

Imported into the warm parent of `warm.py`, so that its children have it. The places: in the midst of writing a
checkpoint, in validation, between two epochs, and between two batches whose gradients are accumulated.
"""

import os
import signal
from collections import Counter

from fsspec.implementations.local import LocalFileOpener

from babyvlm.training.recovery import Recovery

_met = Counter()
_write = LocalFileOpener.write


def _meet(place):
    """Whether this is where the process shall end."""
    wanted, _, count = os.environ.get("END_AT", "").partition(":")
    _met[place] += 1
    return place == wanted and _met[place] == int(count)


def _end():
    os.kill(os.getpid(), signal.SIGKILL)


def _half_written(opener, content):
    if str(opener.path).endswith(".ckpt") and _meet("save"):
        _write(opener, content[: len(content) // 2])
        opener.f.flush()
        _end()
    return _write(opener, content)


def _validating(self, trainer, *_):
    if _meet("validation"):
        _end()


def _epoch_over(self, trainer, *_):
    if _meet("epoch"):
        _end()


def _accumulating(self, trainer, *_):
    if trainer.fit_loop._should_accumulate() and _meet("accumulation"):
        _end()


LocalFileOpener.write = _half_written
Recovery.on_validation_batch_start = _validating
Recovery.on_train_epoch_end = _epoch_over
Recovery.on_after_backward = _accumulating
