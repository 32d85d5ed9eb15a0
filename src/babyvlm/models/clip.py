"""A small open_clip model trained here: Playroom's CLIP, the filter and the matcher's eye where none can be had."""

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
from safetensors.torch import save_file
from torch import Tensor

from babyvlm.curation.clip import Clip
from babyvlm.data.transforms import MEAN, STD, eval_transform
from babyvlm.data.vocabulary import EOS, PAD, Vocabulary
from babyvlm.errors import UserError
from babyvlm.io.hub import refuse_code
from babyvlm.models import initialization
from babyvlm.models.contrastive import ContrastiveModule
from babyvlm.models.networks.vision import halved
from babyvlm.models.optimization import configure
from babyvlm.types import Batch

Number = bool | int | float
TowerShape = dict[str, Number | str | list[Number] | None]
# What open_clip would fetch, or pass on to another library, is no shape of a tower.
_ELSEWHERE = re.compile(r"(hf|timm|tokenizer)_|.*(kwargs|pretrained)")


def our_optimizer(parameters: object) -> torch.optim.Optimizer:
    """AdamW, learning rate 1e-3, weight decay 0.1 (our choice, for a model as small as Playroom's)."""
    return torch.optim.AdamW(cast("list[Tensor]", parameters), lr=1e-3, weight_decay=0.1)


class ClipTraining(ContrastiveModule, initialization.VocabularyModule):
    """Trains an open_clip model and writes it in open_clip's own folder format when training ends.

    Args:
        vocabulary: folder made by ``curate vocabulary``; becomes the model's tokenizer.
        embed_dim: width of the common space.
        vision: open_clip's ``vision_cfg``.
        text: open_clip's ``text_cfg``; the vocabulary's size, padding and end are filled in.
        image_size: side of the square the model sees; the data's.
        optimizer: called with the parameters.
        scheduler: called with the optimizer, stepped each step.
    """

    def __init__(
        self,
        vocabulary: Path,
        embed_dim: int,
        vision: TowerShape,
        text: TowerShape,
        optimizer: OptimizerCallable = our_optimizer,
        image_size: int = 64,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        for name in (*vision, *text):
            if _ELSEWHERE.match(name):
                raise UserError(f"model.vision, model.text: {name} is not a setting of a CLIP that is trained here")
        refuse_code(vocabulary)
        self.vocabulary = Vocabulary(vocabulary)
        special = {
            "vocab_size": len(self.vocabulary),
            "pad_id": PAD,
            "eos_id": EOS,
            "pool_type": "eos",
            "hf_tokenizer_name": "tokenizer",
        }
        self.config: dict[str, Any] = {
            "embed_dim": embed_dim,
            "vision_cfg": vision | {"image_size": image_size},
            "text_cfg": text | special,
        }
        self.model = open_clip.CLIP(**self.config)
        tokenize = open_clip.tokenizer.HFTokenizer(
            str(vocabulary), context_length=cast("int", text["context_length"]), trust_remote_code=False
        )
        self.clip = Clip(self.model, eval_transform(image_size), tokenize)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler

    def preprocess(self, image: Image) -> Tensor:
        """RGB picture -> (C, H, W)."""
        return self.clip.preprocess(image)

    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """(B, T) cosines."""
        return self.clip.score(images_BCHW, texts)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Symmetric InfoNCE with a learned temperature."""
        loss = self._loss(batch)
        self.log("train_loss", loss, batch_size=len(batch.keys))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.log_held_out("val", self._loss(batch), len(batch.keys))

    def _loss(self, batch: Batch) -> Tensor:
        image_BD, text_BD = self.clip.images(batch.images_BCHW), self.clip.texts(batch.utterances, self.device)
        return self.global_loss(image_BD, text_BD, 1 / self.model.logit_scale.exp().clamp(max=100))  # CLIP's bound

    def on_train_end(self) -> None:
        """Write the run's ``open_clip`` folder."""
        folder = self.trainer.log_dir  # asked on every rank: it is broadcast
        if self.trainer.is_global_zero and folder is not None:
            self.save_open_clip(Path(folder) / "open_clip")

    def save_open_clip(self, folder: Path) -> None:
        """Write config, float16 weights and tokenizer as ``open_clip`` reads them by ``local-dir:``."""
        folder.mkdir(parents=True, exist_ok=True)
        preprocess = {
            "size": self.config["vision_cfg"]["image_size"],
            "mean": MEAN,
            "std": STD,
            "interpolation": "bilinear",
            "resize_mode": "shortest",
        }
        config = {"model_cfg": self.config, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
        state = {name: halved(tensor.detach().cpu().contiguous()) for name, tensor in self.model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
        for file in self.vocabulary.path.glob("tokenizer*.json"):
            shutil.copy(file, folder)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and its schedule."""
        return configure(self.parameters(), self.make_optimizer, self.make_scheduler)
