"""What ``predict`` writes: the embeddings of each pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("utterance", pa.string()),
        ("image", pa.list_(pa.float32())),
        ("text", pa.list_(pa.float32())),
    ]
)


class EmbeddingWriter(BasePredictionWriter):
    """Writes what ``predict_step`` gives back to ``embeddings-rank<r>.parquet`` in the run's folder, whole or not."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self._writer: pq.ParquetWriter | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file beside its place."""
        folder = trainer.log_dir
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._path = Path(folder) / f"embeddings-rank{trainer.global_rank}.parquet"
            self._writer = pq.ParquetWriter(self._path.with_suffix(".partial"), SCHEMA)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Mapping[str, Any],
        batch_indices: Sequence[int] | None,
        batch: object,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch."""
        if self._writer is not None:
            vectors = {side: prediction[side].float().cpu().tolist() for side in ("image", "text")}
            texts = {"key": prediction["key"], "utterance": prediction["utterance"]}
            self._writer.write_table(pa.table(texts | vectors, SCHEMA))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the whole file in its place."""
        if self._writer is not None:
            self._writer.close()
            self._path.with_suffix(".partial").rename(self._path)
            print(f"embeddings: {self._path}")
