"""The ``memory`` command: what each recipe of a matrix needs on a GPU, found without one.

A training step runs on fake tensors, which have shapes but no contents, and the bytes that it allocates are added up.
"""

from __future__ import annotations

import copy
import inspect
import io
import json
import tempfile
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # documented by torch; bounded in pyproject.toml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from babyvlm.ablations.plan import Config, Plan
from babyvlm.config import LINKED, CheckedParser
from babyvlm.data.frame_mix import Crops, Views
from babyvlm.data.vocabulary import SPECIALS, create_vocabulary
from babyvlm.errors import UserError, require_at_least
from babyvlm.io.printing import echo
from babyvlm.models.base import CausalModule
from babyvlm.models.networks.vision import weightless
from babyvlm.types import Batch, FrozenVision

GB = 1e9


@dataclass(frozen=True)
class Need:
    """Bytes on each device.

    Attributes:
        devices: number of devices.
        weights: parameters and buffers, frozen ones included.
        gradients: of the trained parameters; twice as much on several devices, where DDP keeps a copy to exchange.
        optimizer: state of the optimizer.
        activations: all else at the peak: what the forward pass saves, temporary tensors and the batch.
    """

    devices: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum. The CUDA context and fragmentation come on top of it, 1 to 2 GB."""
        return self.weights + self.gradients + self.optimizer + self.activations


def memory(
    matrix: Path = Path("configs/saycam/ablations.yaml"),
    overlays: list[Path] | None = None,
    text_tokens: int = 25,
    words: int = 2350,
) -> None:
    """Print the GPU memory that each step of a matrix needs: weights, gradients, optimizer, activations.

    Needs neither a GPU nor data: a training step runs on tensors without contents. Attention counts as a kernel that
    stores no scores, as on current GPUs. The CUDA context and fragmentation add 1 to 2 GB.

    For example:
        python -m babyvlm memory --overlays '[configs/saycam/sharded.yaml]'

    Args:
        matrix: YAML file with the steps.
        overlays: further configs that follow those of each step.
        text_tokens: length of the longest text of a batch, in tokens. `data.max_tokens` is only an upper limit: of
            utterances to a child, hardly any is longer than 25 tokens.
        words: size of the vocabulary (2,350 in the paper, 5,176 with web pairs).
    """
    require_at_least(1, text_tokens=text_tokens, words=words)
    echo(f"{'step':<16}{'GPUs':>5}{'weights':>10}{'gradients':>11}{'optimizer':>11}{'activations':>13}{'total':>9}")
    for name, config in Plan(matrix).recipes([str(path) for path in overlays or []]):
        need = estimate(config, text_tokens, words)
        parts = f"{need.weights / GB:10.1f}{need.gradients / GB:11.1f}{need.optimizer / GB:11.1f}"
        echo(f"{name:<16}{need.devices:5}{parts}{need.activations / GB:13.1f}{need.total / GB:9.1f}")
    echo(f"GB on each GPU, texts of {text_tokens} tokens, {words:,} words")


def estimate(config: Config, text_tokens: int = 25, words: int = 2350) -> Need:
    """Return what a recipe needs on each device.

    Args:
        config: merged settings of a ``fit``.
        text_tokens: length of the longest text of a batch.
        words: size of the vocabulary.

    Raises:
        UserError: the settings do not form a model of this package with data of this package.
    """
    trainer, data = config.get("trainer") or {}, (config.get("data") or {}).get("init_args") or {}
    strategy = trainer.get("strategy")
    shards = (strategy.get("init_args") or {}).get("data_parallel_size", 1) if isinstance(strategy, dict) else 1
    devices = int(trainer.get("devices", 1)) * int(trainer.get("num_nodes", 1))
    half = str(trainer.get("precision", "")).startswith("bf16-mixed") or trainer.get("precision") == "16-mixed"
    with tempfile.TemporaryDirectory() as folder, weightless():
        model = _model(config, _vocabulary(Path(folder), words))
    # Fake tensors pretend that there is a GPU. If autograd started afterwards, it would start threads for it, and this
    # process could not fork any more.
    torch.zeros(1, requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        for module in model.modules():
            if isinstance(module, PreTrainedModel):  # `to_empty` parts the output layer from the embeddings
                module.tie_weights()
        if shards > 1:  # as CausalModule.configure_model does
            return _sharded(model, config, data, devices, shards, text_tokens, half)
        measured = _measure(model, config, data, devices, text_tokens, half)
    copies = 2 if devices > 1 else 1
    return Need(devices, measured.weights, copies * measured.gradients, measured.optimizer, measured.activations)


def _sharded(
    model: LightningModule, config: Config, data: Config, devices: int, shards: int, text_tokens: int, half: bool
) -> Need:
    """Divide all but activations and a frozen vision encoder, which stays whole."""
    whole = sum(map(_bytes, model.unsharded_parameters())) if isinstance(model, CausalModule) else 0
    measured = _measure(model, config, data, devices, text_tokens, half)
    return Need(
        devices,
        whole + (measured.weights - whole) // shards,
        measured.gradients // shards,
        measured.optimizer // shards,
        measured.activations,
    )


def _model(config: Config, vocabulary: Path) -> LightningModule:
    """Build the model of a recipe with random weights."""
    settings = copy.deepcopy(config.get("model") or {})
    options, data = settings.setdefault("init_args", {}), (config.get("data") or {}).get("init_args") or {}
    module, _, name = str(settings.get("class_path")).rpartition(".")
    accepted = (
        inspect.signature(getattr(import_module(module), name)).parameters if module.startswith("babyvlm") else {}
    )
    linked = {**data, "vocabulary": str(vocabulary)}
    options |= {option: linked[option] for option in LINKED if option in accepted and option in linked}
    for weights in ("init_from", "init_language"):
        options.pop(weights, None)
    if isinstance(options.get("vision"), dict):
        options["vision"].setdefault("init_args", {}).update(weights=None, pretrained=False)
    parser = CheckedParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    try:
        return cast("LightningModule", parser.instantiate(parser.parse_object({"model": settings})).model)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the model of this recipe cannot be built ({' '.join(str(error).split())[:300]})") from error


def _vocabulary(folder: Path, words: int) -> Path:
    """Create a vocabulary of a size."""
    tokens = [*SPECIALS, *(f"w{number}" for number in range(words - len(SPECIALS)))]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    with redirect_stdout(io.StringIO()):
        create_vocabulary(folder / "vocabulary", from_json=folder / "vocab.json")
    return folder / "vocabulary"


def _measure(model: LightningModule, config: Config, data: Config, devices: int, text_tokens: int, half: bool) -> Need:
    """Run two training steps on fake tensors; in the second, the optimizer has its state."""
    model.train()
    for module in model.modules():  # with dropout, CPUs have no attention kernel that stores no scores; GPUs do
        if hasattr(module, "attention_dropout"):
            cast("Any", module).attention_dropout = 0.0
        if isinstance(getattr(module, "attn_dropout", None), nn.Dropout):
            module.attn_dropout = nn.Dropout(0.0)
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = _batch(model, config, data, max(1, int(data.get("batch_size", 8)) // devices), text_tokens)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer = cast("Any", model).make_optimizer(trained)
    if optimizer.param_groups[0].get("fused") is None and "foreach" in optimizer.param_groups[0]:
        for group in optimizer.param_groups:  # the default on GPUs, which needs temporary copies
            group["foreach"] = True
    autocast: AbstractContextManager[object] = torch.autocast("cpu", torch.bfloat16) if half else nullcontext()
    tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    with _Allocations((*model.parameters(), *model.buffers(), *tensors)) as allocated:
        for _ in range(2):
            allocated.peak = allocated.current
            with autocast:
                loss = model.training_step(batch, 0)
            cast("Any", loss).backward()
            optimizer.step()
            optimizer.zero_grad()
            del loss
    weights = sum(map(_bytes, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}.values()))
    gradients = sum(map(_bytes, trained))
    state = sum(
        _bytes(value) for one in optimizer.state.values() for value in one.values() if isinstance(value, Tensor)
    )
    activations = allocated.peak + sum(map(_bytes, tensors)) - gradients - state
    return Need(devices, weights, gradients, state, activations)


def _batch(model: nn.Module, config: Config, data: Config, size: int, text_tokens: int) -> Batch | Views:
    """Return a batch of a recipe's data on fake tensors."""
    kind, side = str((config.get("data") or {}).get("class_path")).rpartition(".")[2], int(data.get("image_size", 224))
    keys = ["key"] * size
    if kind == "FrameMix":
        crops = Crops(**{name: value for name, value in (data.get("crops") or {}).items() if name.startswith("local_")})
        small_VBCHW = torch.empty(crops.local_count, size, 3, crops.local_size, crops.local_size)
        return Views(keys, torch.empty(2, size, 3, side, side), small_VBCHW)
    if kind not in ("PairMix", "TextMix"):
        raise UserError(f"the memory of data of class {kind} is not known. Use PairMix, TextMix or FrameMix")
    longest = int(data.get("max_tokens", 25))
    length = longest if kind == "TextMix" else min(longest, text_tokens)
    images_BCHW = torch.empty(size, 0) if kind == "TextMix" else torch.empty(size, 3, side, side)
    features = None
    encoder = model.frozen_vision() if isinstance(model, FrozenVision) and data.get("features") else None
    if encoder is not None:
        with torch.no_grad():
            features, images_BCHW = encoder(images_BCHW), torch.empty(size, 0)
    return Batch(keys, images_BCHW, torch.empty(size, length, dtype=torch.int64), keys, features)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch ships no types for it
    """Adds up the storages that operations return, while they live.

    Args:
        others: tensors that are counted elsewhere. Operations return their storages too, as views or changed in place.

    Attributes:
        current: bytes that live now.
        peak: the largest sum so far.
    """

    def __init__(self, others: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = self.peak = 0
        self._known = WeakIdKeyDictionary()
        for tensor in others:
            self._known[tensor.untyped_storage()] = 0

    def __torch_dispatch__(
        self,
        operation: Any,  # noqa: ANN401 - torch's signature
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation and count what it allocates."""
        result = operation(*args, **kwargs or {})
        tree_map_only(Tensor, self._add, result)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known[storage] = size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._free, size).atexit = False

    def _free(self, size: int) -> None:
        self.current -= size
