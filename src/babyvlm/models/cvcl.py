"""CVCL, the contrastive baseline (Vong et al. 2024; for BabyVLM: arjunchandra2/multimodal-baby).

Its network is ``networks/cvcl.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.optimizer import ParamsT

from babyvlm.data.transforms import Resize, eval_transform
from babyvlm.data.vocabulary import PAD, Vocabulary
from babyvlm.io.printing import echo
from babyvlm.io.runs import run_folder
from babyvlm.models.base import ContrastiveModule, VocabularyModule
from babyvlm.models.checkpoints import init_from as initialize
from babyvlm.models.networks.cvcl import CVCLNetwork
from babyvlm.models.networks.text import MeanEmbedding
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.models.optimization import configure
from babyvlm.ranges import require_in_range
from babyvlm.types import Batch


class CVCLAdamW(torch.optim.AdamW):
    """AdamW with learning rate 1e-4 and weight decay 0.1 (CVCL: run.sh in arjunchandra2/multimodal-baby)."""

    def __init__(self, params: ParamsT, lr: float = 1e-4, weight_decay: float = 0.1, **kwargs: Any) -> None:  # noqa: ANN401 - AdamW's
        super().__init__(params, lr=lr, weight_decay=weight_decay, **kwargs)


class CVCL(ContrastiveModule, VocabularyModule):
    """Trains a ``CVCLNetwork`` with a symmetric InfoNCE loss over the global batch.

    Args:
        vocabulary: folder created by ``curate vocabulary``; that of the data.
        vision: the vision encoder.
        text: the text encoder; called with (vocabulary size, width).
        width: of the embedding space (512 in CVCL: wkvong/multimodal-baby, ``runner_config``).
        temperature: of the loss (0.07 in CVCL).
        learn_temperature: train the temperature, starting at ``temperature``.
        image_size: side of the square images, in pixels; that of the data.
        max_tokens: longest utterance, in tokens; that of the data.
        resize: how an image becomes square; that of the data.
        init_from: run folder or checkpoint file to initialize all weights from.
        optimizer: called with the trainable parameters.
        scheduler: called with the optimizer. ``ReduceLROnPlateau`` is stepped after each epoch, any other schedule
            after each step.

    Raises:
        UserError: a number is out of range.
    """

    logged = ("train_loss", "temperature", "val_loss")
    saliency_method = "Grad-CAM"
    score_sos_eos = True  # `score` puts texts between <sos> and <eos>; CVCL: `eval_include_sos_eos`

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
        resize: Resize = "crop",
        init_from: Path | None = None,
        optimizer: OptimizerCallable = CVCLAdamW,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        require_in_range(width=width, max_tokens=max_tokens, temperature=temperature)
        self.vocabulary = Vocabulary(vocabulary)
        vision.probe(image_size)
        self.network = CVCLNetwork(vision, len(self.vocabulary), text, width, temperature, learn_temperature)
        self.max_tokens, self.image_size, self.resize = max_tokens, image_size, resize
        self.preprocess_image = eval_transform(image_size, resize)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        if init_from is not None:
            initialize(self, init_from)

    def frozen_vision(self) -> nn.Module | None:
        """Return the encoder that computes ``Batch.features``, if it is frozen."""
        vision = self.network.vision_encoder
        return vision if vision.is_constant else None

    def preprocess(self, image: Image) -> Tensor:
        """Return an RGB image as (C, H, W)."""
        out: Tensor = self.preprocess_image(image)
        return out

    @torch.no_grad()
    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) cosines. ``wanted_BT`` is ignored: all pairs cost as much as one."""
        images_BCHW = images_BCHW.to(self.network.projection.weight.dtype)  # with bf16-true, benchmarks pass float32
        image_BD, text_TD = self.network(images_BCHW, self._tokens(texts))
        scores_BT: Tensor = image_BD @ text_TD.T
        return scores_BT

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """Return (T, L) token ids of texts, as ``score`` reads them."""
        encoded = self.vocabulary.encode_raw(texts, self.max_tokens)
        ids = [torch.tensor(tokens if self.score_sos_eos else tokens[1:-1]) for tokens in encoded]
        return pad_sequence(ids, batch_first=True, padding_value=PAD).to(self.device)

    @torch.no_grad()
    def embed_images(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, width) image embeddings with unit norm."""
        return self.network.encode_image(images_BCHW.to(self.network.projection.weight.dtype))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (T, width) text embeddings with unit norm."""
        return self.network.encode_text(self._tokens(texts))

    def saliency(self, images_BCHW: Tensor, words: Sequence[str]) -> Tensor:
        """Return (B, h, w) maps of where each image resembles its word: Grad-CAM."""
        return self.network.grad_cam(images_BCHW.to(self.network.projection.weight.dtype), self.embed_texts(words))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the global batch."""
        loss = self._loss(batch)
        self.log("train_loss", loss, batch_size=len(batch.keys))
        self.log("temperature", self.network.temperature)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.log_held_out("val", self._loss(batch), len(batch.keys))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss."""
        self.log_held_out("test", self._loss(batch), len(batch.keys))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, list[str] | Tensor]:
        """Return the embeddings of the pairs: ``key``, ``utterance``, ``image`` (B, width), ``text`` (B, width)."""
        image_BD, text_BD = self._embed(batch)
        return {"key": batch.keys, "utterance": batch.utterances, "image": image_BD, "text": text_BD}

    def configure_callbacks(self) -> list[Callback]:
        """Let ``predict`` write the embeddings to the run's folder."""
        return [EmbeddingWriter()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of the trainable parameters, and its schedule."""
        return configure(self.parameters(), self.make_optimizer, self.make_scheduler)

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (B, width) embeddings of images, from cached features if there are any, and of texts."""
        if batch.features is None:
            return cast("tuple[Tensor, Tensor]", self.network(batch.images_BCHW, batch.tokens_BL))
        return self.network.project(batch.features), self.network.encode_text(batch.tokens_BL)

    def _loss(self, batch: Batch) -> Tensor:
        return self.global_loss(*self._embed(batch), self.network.temperature)


class EmbeddingWriter(BasePredictionWriter):
    """Writes the embeddings that ``predict_step`` returns to ``embeddings-rank<r>.parquet`` in the run's folder.

    The file gets its name when it is complete.
    """

    SCHEMA = pa.schema(
        [
            ("key", pa.string()),
            ("utterance", pa.string()),
            ("image", pa.list_(pa.float32())),
            ("text", pa.list_(pa.float32())),
        ]
    )

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._writer: pq.ParquetWriter | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the partial file."""
        folder = run_folder(trainer)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._path = folder / f"embeddings-rank{trainer.global_rank}.parquet"
            self._writer = pq.ParquetWriter(self._path.with_suffix(".partial"), self.SCHEMA)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Mapping[str, list[str] | Tensor],
        batch_indices: Sequence[int] | None,
        batch: object,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch."""
        if self._writer is not None:
            columns = {
                name: value.float().cpu().tolist() if isinstance(value, Tensor) else value
                for name, value in prediction.items()
            }
            self._writer.write_table(pa.table(columns, self.SCHEMA))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rename the complete file."""
        if self._writer is not None:
            self._writer.close()
            self._path.with_suffix(".partial").rename(self._path)
            echo(f"embeddings: {self._path}")
