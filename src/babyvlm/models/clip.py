"""A small open_clip model trained here: Playroom's CLIP, for filtering and matching without a pretrained CLIP."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from PIL.Image import Image
from torch import Tensor
from torch.optim.optimizer import ParamsT

from babyvlm.curation.clip import Clip
from babyvlm.data.transforms import MEAN, STD, eval_transform
from babyvlm.data.vocabulary import EOS, PAD, Vocabulary
from babyvlm.errors import UserError
from babyvlm.io.hub import refuse_code
from babyvlm.io.runs import run_folder
from babyvlm.models.base import ContrastiveModule, VocabularyModule
from babyvlm.models.networks.saliency import clip_grad_cam
from babyvlm.models.networks.vision import TrunkOptions, save_trunk
from babyvlm.models.optimization import configure
from babyvlm.ranges import require_in_range
from babyvlm.text import normalize
from babyvlm.types import Batch

# Settings by which open_clip would download files or pass arguments to another library.
_ELSEWHERE = re.compile(r"(hf|timm|tokenizer)_|.*(kwargs|pretrained)")


class ClipAdamW(torch.optim.AdamW):
    """AdamW with learning rate 1e-3 and weight decay 0.1 (our choice, for a model as small as Playroom's)."""

    def __init__(self, params: ParamsT, lr: float = 1e-3, weight_decay: float = 0.1, **kwargs: Any) -> None:  # noqa: ANN401 - AdamW's
        super().__init__(params, lr=lr, weight_decay=weight_decay, **kwargs)


class ClipTraining(ContrastiveModule, VocabularyModule):
    """Trains an open_clip model, and writes it in open_clip's own folder format at the end of training.

    Args:
        vocabulary: folder created by ``curate vocabulary``; becomes the model's tokenizer.
        embed_dim: width of the embedding space.
        vision: open_clip's ``vision_cfg``.
        text: open_clip's ``text_cfg``; vocabulary size, padding and end of text are filled in.
        image_size: side of the square images, in pixels; that of the data.
        optimizer: called with the parameters.
        scheduler: called with the optimizer; stepped after each step.

    Raises:
        UserError: a number is out of range, or a tower would be built from a pretrained model.
    """

    logged = ("train_loss", "val_loss")
    saliency_method = "Grad-CAM"

    def __init__(
        self,
        vocabulary: Path,
        embed_dim: int,
        vision: TrunkOptions,
        text: TrunkOptions,
        optimizer: OptimizerCallable = ClipAdamW,
        image_size: int = 64,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        require_in_range(embed_dim=embed_dim, image_size=image_size)
        for name in (*vision, *text):
            if _ELSEWHERE.match(name):
                raise UserError(f"model.vision, model.text: {name} is not a setting of a CLIP that is trained here")
        refuse_code(vocabulary)
        self.vocabulary = Vocabulary(vocabulary)
        special: TrunkOptions = {
            "vocab_size": len(self.vocabulary),
            "pad_id": PAD,
            "eos_id": EOS,
            "pool_type": "eos",
            "hf_tokenizer_name": "tokenizer",
        }
        vision, text = vision | {"image_size": image_size}, text | special
        self.config: dict[str, int | TrunkOptions] = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}
        self.image_size = image_size
        self.network = open_clip.CLIP(**self.config)
        # Convolutions are faster in this layout: training takes three quarters of the time on a CPU.
        self.network.visual.to(memory_format=torch.channels_last)
        tokenize = open_clip.tokenizer.HFTokenizer(
            str(vocabulary), context_length=cast("int", text["context_length"]), trust_remote_code=False
        )
        self.clip = Clip(self.network, eval_transform(image_size), tokenize)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler

    def preprocess(self, image: Image) -> Tensor:
        """Return an RGB image as (C, H, W)."""
        return self.clip.preprocess(image)

    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) cosines."""
        return self.clip.score(images_BCHW, list(map(normalize, texts)))

    @torch.no_grad()
    def embed_images(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, D) image embeddings with unit norm."""
        return self.clip.images(images_BCHW)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (T, D) text embeddings with unit norm."""
        return self.clip.texts(list(map(normalize, texts)), self.device)

    def saliency(self, images_BCHW: Tensor, words: Sequence[str]) -> Tensor:
        """Return (B, h, w) maps of where each image resembles its word: Grad-CAM."""
        return clip_grad_cam(self.clip, images_BCHW, list(map(normalize, words)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the symmetric InfoNCE loss, with a learned temperature."""
        loss = self._loss(batch)
        self.log("train_loss", loss, batch_size=len(batch.keys))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.log_held_out("val", self._loss(batch), len(batch.keys))

    def _loss(self, batch: Batch) -> Tensor:
        image_BD, text_BD = self.clip.images(batch.images_BCHW), self.clip.texts(batch.utterances, self.device)
        return self.global_loss(image_BD, text_BD, 1 / self.network.logit_scale.exp().clamp(max=100))  # CLIP's bound

    def on_train_end(self) -> None:
        """Write the folder ``open_clip`` of the run."""
        folder = run_folder(self.trainer)
        if self.trainer.is_global_zero and folder is not None:
            self.save_open_clip(folder / "open_clip")

    def save_open_clip(self, folder: Path) -> None:
        """Write configuration, float16 weights and tokenizer as open_clip reads them with ``local-dir:``."""
        folder.mkdir(parents=True, exist_ok=True)
        preprocess = {
            "size": self.image_size,
            "mean": MEAN,
            "std": STD,
            "interpolation": "bilinear",
            "resize_mode": "shortest",
        }
        config = {"model_cfg": self.config, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_trunk(self.network, folder / "open_clip_model.safetensors", half=True)
        for file in self.vocabulary.path.glob("tokenizer*.json"):
            shutil.copy(file, folder)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedule."""
        return configure(self.parameters(), self.make_optimizer, self.make_scheduler)
