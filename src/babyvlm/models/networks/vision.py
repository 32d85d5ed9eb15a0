"""Vision encoders: any timm backbone, with weights from a file or the Hugging Face hub, trainable or frozen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import cast

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import babyvlm.playroom
from babyvlm.errors import UserError, first_line
from babyvlm.io.hub import COMMIT, asked_once, without_internet
from babyvlm.models.checkpoints import is_weightless, read_state_dict

PLAYROOM_DINO = Path(babyvlm.playroom.__file__).parent / "dino" / "backbone.safetensors"
Number = bool | int | float
TrunkOptions = dict[str, Number | str | list[Number] | None]
# Arguments of timm's constructors that shape a network. Those that fetch or read files (`pretrained_cfg`, `cache_dir`,
# `checkpoint_path`) or belong to timm's builder are not among them.
TRUNK_OPTIONS = frozenset(
    (
        "act_layer",
        "attn_drop_rate",
        "base_width",
        "block_reduce_first",
        "cardinality",
        "channels",
        "class_token",
        "conv_mlp",
        "depth",
        "depths",
        "dims",
        "down_kernel_size",
        "drop_path_rate",
        "drop_rate",
        "dynamic_img_pad",
        "dynamic_img_size",
        "embed_dim",
        "embed_dims",
        "expand_ratio",
        "fc_norm",
        "global_pool",
        "head_hidden_size",
        "img_size",
        "in_chans",
        "init_values",
        "kernel_sizes",
        "layers",
        "ls_init_value",
        "mlp_ratio",
        "mlp_ratios",
        "no_embed_class",
        "norm_eps",
        "norm_layer",
        "num_heads",
        "output_stride",
        "patch_drop_rate",
        "patch_size",
        "pos_drop_rate",
        "pos_embed",
        "pre_norm",
        "proj_drop_rate",
        "qk_norm",
        "qkv_bias",
        "reg_tokens",
        "replace_stem_pool",
        "stem_type",
        "stem_width",
        "strides",
        "use_fc_norm",
        "weight_init",
        "window_size",
        "zero_init_last",
    )
)
_BACKBONE = re.compile(r"[A-Za-z0-9_.]+")  # timm's `hf-hub:` and `local-dir:` would read arguments from elsewhere
_WORD = re.compile(r"[A-Za-z0-9_.-]*")


def check_trunk(backbone: str, options: Mapping[str, object]) -> None:
    """Check that timm builds a backbone from its own definition only, and reads no files.

    Raises:
        UserError: the name is not one of timm's own, or an option is unknown or has a value that shapes no network.
    """
    if not _BACKBONE.fullmatch(backbone):
        raise UserError(f"vision backbone {backbone}: not a name in timm's list; give weights by `weights`")
    for name, value in options.items():
        if name not in TRUNK_OPTIONS:
            known = ", ".join(sorted(TRUNK_OPTIONS))
            raise UserError(f"vision backbone {backbone}: options.{name} is not allowed. Choose from: {known}")
        for item in value if isinstance(value, list | tuple) else [value]:
            if not (item is None or isinstance(item, Number) or (isinstance(item, str) and _WORD.fullmatch(item))):
                raise UserError(
                    f"vision backbone {backbone}: options.{name} must be a number, a word or a list of them"
                )


class VisionEncoder(nn.Module):
    """Images to one feature vector each.

    Args:
        backbone: timm's name of the architecture (``resnext50_32x4d`` in arjunchandra2/multimodal-baby).
        options: further arguments of timm's constructor; one of ``TRUNK_OPTIONS`` each.
        weights: local file, folder with one such file, ``hf-hub:ORG/NAME/FILE`` or ``hf-hub:ORG/NAME@COMMIT/FILE``, or
            ``playroom`` for the shipped DINO backbone; a checkpoint of DINO, CVCL or this project, or a plain state
            dict.
        pretrained: use timm's own pretrained weights instead.
        frozen: do not train: no gradient, batch norm in evaluation mode.
        update_batch_norm: in training, let the batch norm of a frozen trunk normalize by the batch and update its
            running statistics. CVCL with a frozen trunk (wkvong/multimodal-baby) and BabyLLaVA (ShawnKing98/BabyLLaVA)
            do so, because both stop only the gradients. Features then change and cannot be cached.
        channels_last: order of weights and activations in memory. Convolutions take 0.77 of the time with Playroom's
            trunk on a CPU; ``make bench-gpu`` compares both on a GPU.

    Attributes:
        weights_file: the file that ``weights`` names, in the hub's cache if it comes from there; None without weights.

    Raises:
        UserError: timm cannot build the backbone, or the weights do not fit it.
    """

    def __init__(
        self,
        backbone: str = "resnext50_32x4d",
        options: TrunkOptions | None = None,
        weights: str | None = None,
        pretrained: bool = False,
        frozen: bool = False,
        update_batch_norm: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.options = backbone, options or {}
        check_trunk(backbone, self.options)
        try:
            with initial_weights():
                self.trunk = timm.create_model(backbone, pretrained=pretrained, num_classes=0, **self.options)
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            raise UserError(f"vision backbone {backbone}: timm cannot build it ({first_line(error)})") from error
        self.weights = weights
        self.weights_file = load_trunk(self.trunk, weights) if weights is not None else None
        if channels_last:
            self.trunk.to(memory_format=torch.channels_last)
        self.frozen, self.update_batch_norm = frozen, update_batch_norm
        self.trunk.requires_grad_(not frozen)
        self.train()  # Lightning keeps the mode in which it finds a module

    def train(self, mode: bool = True) -> VisionEncoder:
        """Set the mode; a frozen trunk stays in evaluation mode, its batch norm only unless ``update_batch_norm``."""
        super().train(mode)
        if self.frozen:
            set_frozen_mode(self.trunk, training=mode and self.update_batch_norm)
        return self

    @cached_property
    def width(self) -> int:
        """Number of features of an image, found by encoding one: no attribute of timm's models gives it reliably."""
        size = self.options.get("img_size") or self.trunk.pretrained_cfg["input_size"][1:]
        side = max(size) if isinstance(size, list | tuple) else size
        return self.probe(int(cast("int", side)))

    def probe(self, image_size: int) -> int:
        """Return the number of features of a square image.

        Args:
            image_size: side of the image, in pixels.

        Raises:
            UserError: the backbone does not accept such images, or does not return one vector for each.
        """
        weight = next(self.trunk.parameters())
        images_2CHW = torch.zeros(2, 3, image_size, image_size, device=weight.device, dtype=weight.dtype)
        with evaluating(self.trunk), torch.no_grad():
            try:
                features = self.trunk(images_2CHW)
            except Exception as error:  # hundreds of networks, each with its own way to fail
                raise UserError(self.rejection(image_size, first_line(error))) from error
        shape = tuple(getattr(features, "shape", ()))
        if len(shape) != 2 or len(features) != 2:
            found = f"a tensor of shape {shape}" if shape else type(features).__name__
            raise UserError(f"vision backbone {self.backbone}: returns {found} for two images, not two vectors")
        return int(shape[1])

    def rejection(self, image_size: int, reason: str) -> str:
        """Return the message that the backbone does not accept images of a size."""
        return (
            f"vision backbone {self.backbone} does not accept images of {image_size} pixels ({reason}). Change "
            "data.image_size or data.crops, model.vision.options (img_size or dynamic_img_size, if it has them), or "
            "model.vision.backbone"
        )

    @property
    def is_constant(self) -> bool:
        """Whether training never changes the features of an image."""
        return self.frozen and not self.update_batch_norm

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, width) pooled features."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: Tensor = self.trunk(images_BCHW)
        return features


_weightless = ContextVar("weightless", default=False)


@contextmanager
def weightless(active: bool = True) -> Iterator[None]:
    """Build networks without their weights, which take no memory then; another process sends them later."""
    token = _weightless.set(active)
    try:
        yield
    finally:
        _weightless.reset(token)


def initial_weights() -> AbstractContextManager[object]:
    """Return the context in which a network is built: on the meta device within ``weightless``."""
    return torch.device("meta") if _weightless.get() else nullcontext()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode; afterwards, every part is in its former mode."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def set_frozen_mode(trunk: nn.Module, *, training: bool) -> None:
    """Put a frozen trunk in evaluation mode, except for its batch norm when ``training``."""
    trunk.eval()
    if training:
        for module in trunk.modules():
            if isinstance(module, _BatchNorm):
                module.train()


def load_trunk(trunk: nn.Module, source: str) -> Path:
    """Load a trunk's weights from a checkpoint, whatever the prefix of their names.

    Known layouts: DINO (``teacher`` / ``backbone.``), CVCL (``state_dict`` / ``vision_encoder.model.``), runs of this
    project, plain state dicts and safetensors. Weights that the trunk does not have, such as heads, are ignored. If
    several sets of weights fit, as in a DINO checkpoint, the teacher's are used.

    Args:
        trunk: the module to fill.
        source: as ``VisionEncoder.weights``.

    Returns:
        The file that was read.

    Raises:
        UserError: the file cannot be read safely, or a weight of the trunk is missing or has another shape.
    """
    file = _local_path(source)
    state = read_state_dict(file, source)
    wanted = {name: tensor for name, tensor in trunk.state_dict().items() if "num_batches_tracked" not in name}
    first = next(iter(wanted))
    prefixes = sorted(
        {name.removesuffix(first) for name in state if name.endswith(first)},
        key=lambda prefix: ("teacher" not in prefix, len(prefix), prefix),
    )
    fitting = [prefix for prefix in prefixes if all(prefix + name in state for name in wanted)]
    if not fitting:
        nearest = prefixes[0] if prefixes else ""
        missing = next((name for name in wanted if nearest + name not in state), first)
        raise UserError(f"{source}: no weights for this backbone: {nearest + missing} is missing")
    found = {name: state[fitting[0] + name] for name in wanted}
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"{source}: shape of {name} is {tuple(tensor.shape)}, but the backbone needs "
                f"{tuple(wanted[name].shape)}. Check model.vision.backbone and model.vision.options"
            )
    if not is_weightless(trunk):
        trunk.load_state_dict(found, strict=False)
    return file


def save_trunk(trunk: nn.Module, file: Path, *, half: bool = False) -> None:
    """Write a network's weights as safetensors, under the names of its library.

    Args:
        trunk: a timm or open_clip model.
        file: to write.
        half: store floating-point weights in float16.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in trunk.state_dict().items()}
    save_file({name: _to_half(tensor) for name, tensor in state.items()} if half else state, file)


def _to_half(tensor: Tensor) -> Tensor:
    """Return floating-point weights in float16, other tensors unchanged."""
    return tensor.to(torch.float16) if tensor.is_floating_point() else tensor


def _local_path(source: str) -> Path:
    if source == "playroom":
        return PLAYROOM_DINO
    if not source.startswith("hf-hub:"):
        path = Path(source)
        if path.is_dir():
            files = sorted(file for suffix in (".pth", ".safetensors") for file in path.glob(f"*{suffix}"))
            if len(files) != 1:
                raise UserError(f"{path}: contains {len(files)} weights files (.pth, .safetensors). Name one of them")
            return files[0]
        if not path.is_file():
            raise UserError(f"{path}: weights file not found. Check model.vision.weights")
        return path
    parts = source.removeprefix("hf-hub:").split("/", 2)
    if len(parts) != 3:
        raise UserError(f"{source}: expected hf-hub:ORG/NAME/FILE")
    owner, name, file = parts
    name, at, commit = name.partition("@")
    if at and not COMMIT.fullmatch(commit):
        raise UserError(f"{source}: {commit!r} is not a commit of 40 hexadecimal digits, which cannot change")
    try:
        with asked_once():
            return Path(hf_hub_download(f"{owner}/{name}", file, revision=commit or None))
    except (HfHubHTTPError, HFValidationError, OSError) as error:  # LocalEntryNotFoundError is an OSError
        advice = without_internet(f"{owner}/{name}", file)
        raise UserError(f"{source}: download failed ({first_line(error)}). {advice}") from error
