"""End a run by a signal to itself at an exact place, given in the environment: END_AT=place:count.

END_BY is the signal's name (default SIGKILL). The module is imported into the parent of `warm.py` and inherited by its
children. Places during training: before a batch, while a checkpoint is written, in validation, between two epochs,
between two batches of accumulated gradients. Before training: when a store is opened, when features are written to the
cache, at the sanity check, or when a loader's worker is forked. After training: when the last checkpoint is written or
in the test.
"""

import os
import signal
from collections import Counter
from io import BytesIO

import torch

from babyvlm.data import pair_mix
from babyvlm.data.feature_cache import FeatureCacheWriter
from babyvlm.training.recovery import Recovery, SeedEachBatch

_met = Counter()
_save = torch.save


def _meet(place):
    """Return whether the process ends here."""
    wanted, _, count = os.environ.get("END_AT", "").partition(":")
    _met[place] += 1
    return place == wanted and _met[place] == int(count)


def _end():
    os.kill(os.getpid(), signal.Signals[os.environ.get("END_BY", "SIGKILL")])


def _half_written(checkpoint, file):
    if _meet("save"):
        whole = BytesIO()
        _save(checkpoint, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        _end()
    _save(checkpoint, file)


def _validating(self, trainer, *_):
    if _meet("validation"):
        _end()


def _epoch_over(self, trainer, *_):
    if _meet("epoch"):
        _end()


def _accumulating(self, trainer, *_):
    if trainer.fit_loop._should_accumulate() and _meet("accumulation"):
        _end()


def _before(place, owner, name):
    """End the process before a function is called."""
    function = getattr(owner, name)

    def ending(*args, **options):
        if _meet(place):
            _end()
        return function(*args, **options)

    setattr(owner, name, ending)


for place, owner, name in [
    ("store", pair_mix, "open_rows"),
    ("features", FeatureCacheWriter, "commit"),
    ("sanity", Recovery, "on_sanity_check_start"),
    ("batch", SeedEachBatch, "on_train_batch_start"),
    ("last", Recovery, "on_train_end"),
    ("test", Recovery, "on_test_batch_start"),
]:
    _before(place, owner, name)


def _forked():
    """Python drops an exception that is raised here."""
    if _meet("fork"):
        _end()


os.register_at_fork(after_in_parent=_forked, after_in_child=_met.clear)
torch.save = _half_written
Recovery.on_validation_batch_start = _validating
Recovery.on_train_epoch_end = _epoch_over
Recovery.on_after_backward = _accumulating
