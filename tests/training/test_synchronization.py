"""A GPU must not wait for the CPU, nor the CPU for the GPU, more than once in a training step.

Every value that Python reads from a tensor is such a wait; here they are counted on the CPU.
"""

import traceback
from collections import Counter

import pytest
import torch
from lightning import Callback, Trainer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from babyvlm.data.frame_mix import Views
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.cvcl import CVCL
from babyvlm.models.dino import DINO
from babyvlm.models.language import LanguageModel
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.text import LSTMText, TransformerText, last_states
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.training.non_finite_guard import StopOnNonFinite
from babyvlm.training.recovery import Recovery, SeedEachBatch
from babyvlm.types import Batch

SIZE, STEPS = 64, 4
GPT2 = LanguageShape("gpt2", width=16, layers=2, heads=2, inner=32, positions=40)
LLAMA = LanguageShape("llama", width=16, layers=2, heads=4, kv_heads=2, inner=32, positions=40, dropout=0.0)
TEXTS = ["look at the ball", "a cup", "the red dog runs at the ball", "wash"]
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")  # and boolean indices


class ReadValues(TorchDispatchMode):
    """Counts the operations whose result Python reads."""

    def __init__(self):
        super().__init__()
        self.found, self.paused = Counter(), False

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.name().partition(".")[0]
        boolean = "index" in name and any(
            torch.is_tensor(one) and one.dtype == torch.bool for one in args[1:2] and (args[1] or ())
        )
        if not self.paused and (name in READS or boolean):
            self.found[name] += 1
            self.where = "".join(traceback.format_stack(limit=14))
        return operation(*args, **kwargs or {})


class Count(Callback):
    """Counts from the second step to the end of the last but one."""

    def __init__(self):
        self.mode = ReadValues()

    def setup(self, trainer, pl_module, stage):
        """The check of a batch before it is moved reads the CPU's memory: it does not count."""
        check = pl_module.on_before_batch_transfer

        def uncounted(*args):
            self.mode.paused = True
            moved = check(*args)
            self.mode.paused = False
            return moved

        pl_module.on_before_batch_transfer = uncounted

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            self.mode.__enter__()
        if batch_idx == STEPS - 1:
            self.mode.__exit__(None, None, None)


def fused(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, fused=True)


def llava(words, shape, **options):
    return BabyLLaVA(
        words, VisionEncoder("test_resnet", frozen=True), shape, image_size=SIZE, optimizer=fused, **options
    )


def dino(words):
    head = {"hidden_dim": 16, "bottleneck_dim": 8}
    return DINO(VisionEncoder("test_resnet"), fused, prototypes=12, head=head)


def cvcl(words, **options):
    return CVCL(words, VisionEncoder("test_resnet"), width=16, image_size=SIZE, optimizer=fused, **options)


MODELS = {
    "CVCL": cvcl,
    "CVCL, transformer": lambda words: cvcl(words, text=TransformerText, learn_temperature=True),
    "DINO": dino,
    "Language": lambda words: LanguageModel(words, GPT2, max_tokens=12, optimizer=fused),
    "Language, Llama": lambda words: LanguageModel(words, LLAMA, max_tokens=12, optimizer=fused),
    "BabyLLaVA phase 1": lambda words: llava(words, GPT2, frozen_dropout=True),
    "BabyLLaVA phase 2": lambda words: llava(words, GPT2, train_language=True, unknown_words="drop", template="plain"),
    "BabyLLaVA-Llama": lambda words: llava(words, LLAMA, train_language=True, gradient_checkpointing=True),
}


def batch(vocabulary, name):
    if name == "DINO":
        return Views(["a", "b"], torch.randn(2, 2, 3, SIZE, SIZE), torch.randn(3, 2, 3, 32, 32))
    rows = [torch.tensor(row) for row in Vocabulary(vocabulary).encode(TEXTS, 12)]
    images_BCHW = torch.randn(len(TEXTS), 3, SIZE, SIZE)
    return Batch(TEXTS, images_BCHW, nn.utils.rnn.pad_sequence(rows, True), TEXTS)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_training_step_reads_one_value(tmp_path, vocabulary, name, accumulate):
    if accumulate == 2 and name.startswith("CVCL"):
        return  # refused
    torch.manual_seed(0)
    count = Count()
    batches = [batch(vocabulary, name)] * STEPS
    Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        max_steps=STEPS // accumulate,
        gradient_clip_val=1.0,
        accumulate_grad_batches=accumulate,
        callbacks=[SeedEachBatch(0), StopOnNonFinite(), Recovery(), count],
    ).fit(MODELS[name](vocabulary), DataLoader(batches, batch_size=None))
    optimizer_steps = (STEPS - 2) // accumulate
    expected = {"aten::_local_scalar_dense": optimizer_steps}  # whether loss and gradients are finite
    assert count.mode.found == expected, count.mode.where


def test_lstm_without_lengths_on_the_cpu_is_equal(vocabulary):
    torch.manual_seed(0)
    text = LSTMText(30, 8).eval()
    tokens_BL = torch.tensor([[2, 7, 8, 3, 0, 0], [2, 3, 0, 0, 0, 0], [2, 9, 11, 12, 13, 3]])
    states_BLD = text.lstm(text.embedding(tokens_BL))[0]
    torch.testing.assert_close(last_states(states_BLD, (tokens_BL != 0).sum(1)), text(tokens_BL))
