"""CVCL, the contrastive baseline (Vong et al. 2024, as trained in BabyVLM)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from babyvlm.data.transforms import eval_transform
from babyvlm.data.vocabulary import PAD, Vocabulary
from babyvlm.models import initialization
from babyvlm.models.contrastive import ContrastiveModule
from babyvlm.models.embedding_writer import EmbeddingWriter
from babyvlm.models.networks.text import MeanEmbedding
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.models.optimization import configure
from babyvlm.types import Batch


def paper_optimizer(parameters: object) -> torch.optim.Optimizer:
    """AdamW, learning rate 1e-4, weight decay 0.1 (CVCL)."""
    return torch.optim.AdamW(cast("list[Tensor]", parameters), lr=1e-4, weight_decay=0.1)


class CVCL(ContrastiveModule, initialization.VocabularyModule):
    """Image and utterance in one space, pulled together by a symmetric InfoNCE loss.

    Args:
        vocabulary: folder made by ``curate vocabulary``; the data's.
        vision: the image side.
        text: the text side, called with (vocabulary size, width).
        width: of the common space (512 in the paper).
        temperature: of the loss (0.07 in the paper).
        learn_temperature: let it be learned, from that value on.
        image_size: side of the square the model sees; the data's.
        max_tokens: tokens an utterance; the data's.
        init_from: run folder or file to take all weights from.
        optimizer: called with the parameters that are trained.
        scheduler: called with the optimizer; ``ReduceLROnPlateau`` is stepped after each epoch, any other each step.
    """

    def __init__(
        self,
        vocabulary: Path,
        vision: VisionEncoder,
        text: Callable[[int, int], nn.Module] = MeanEmbedding,
        width: int = 512,
        temperature: float = 0.07,
        learn_temperature: bool = False,
        image_size: int = 224,
        max_tokens: int = 25,
        init_from: Path | None = None,
        optimizer: OptimizerCallable = paper_optimizer,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary = Vocabulary(vocabulary)
        self.vision = vision
        self.projection = nn.Linear(vision.width, width)
        self.text = text(len(self.vocabulary), width)
        log_temperature = torch.tensor(math.log(temperature))
        if learn_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature)  # so that a checkpoint carries it
        self.max_tokens = max_tokens
        self.preprocess_image = eval_transform(image_size)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        if init_from is not None:
            initialization.init_from(self, init_from, {"": ""}, self.vocabulary)

    def encode_images(self, images_BCHW: Tensor) -> Tensor:
        """(B, width) L2-normalised."""
        return self._project(self.vision(images_BCHW))

    def frozen_vision(self) -> nn.Module | None:
        """The encoder of the features that ``Batch.features`` may hold, if it is frozen."""
        return self.vision if self.vision.frozen else None

    def encode_texts(self, tokens_BL: Tensor) -> Tensor:
        """(B, width) L2-normalised."""
        return normalize(self.text(tokens_BL), dim=-1)

    def preprocess(self, image: Image) -> Tensor:
        """RGB picture -> (C, H, W)."""
        out: Tensor = self.preprocess_image(image)
        return out

    @torch.no_grad()
    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """(B, T) cosines; ``wanted_BT`` is not needed, since all of them cost no more than one."""
        ids = [torch.tensor(tokens) for tokens in self.vocabulary.encode(texts, self.max_tokens)]
        tokens_TL = pad_sequence(ids, batch_first=True, padding_value=PAD).to(self.device)
        images_BCHW = images_BCHW.to(self.projection.weight.dtype)  # bf16-true: the trainer converts its batches only
        return self.encode_images(images_BCHW) @ self.encode_texts(tokens_TL).T

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss over the global batch."""
        loss = self._loss(batch)
        self.log("train_loss", loss, batch_size=len(batch.keys))
        self.log("temperature", self.log_temperature.exp())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.log_held_out("val", self._loss(batch), len(batch.keys))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.log_held_out("test", self._loss(batch), len(batch.keys))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Embeddings of the pairs: ``key``, ``utterance``, ``image`` (B, width), ``text`` (B, width)."""
        image, text = self._batch_images(batch), self.encode_texts(batch.tokens_BL)
        return {"key": batch.keys, "utterance": batch.utterances, "image": image, "text": text}

    def configure_callbacks(self) -> list[Callback]:
        """``predict`` writes the embeddings to the run's folder."""
        return [EmbeddingWriter()]

    def _project(self, features_BD: Tensor) -> Tensor:
        return normalize(self.projection(features_BD), dim=-1)

    def _batch_images(self, batch: Batch) -> Tensor:
        """(B, width) L2-normalised, from cached features where there are."""
        return self.encode_images(batch.images_BCHW) if batch.features is None else self._project(batch.features)

    def _loss(self, batch: Batch) -> Tensor:
        image_BD, text_BD = self._batch_images(batch), self.encode_texts(batch.tokens_BL)
        return self.global_loss(image_BD, text_BD, self.log_temperature.exp())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over what is trained, and its schedule."""
        return configure(self.parameters(), self.make_optimizer, self.make_scheduler)
