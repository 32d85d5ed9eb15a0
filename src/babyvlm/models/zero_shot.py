"""The upper bounds: models trained on the whole web, scored without training."""

from __future__ import annotations

from collections.abc import Sequence

from lightning import LightningModule
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader

from babyvlm.curation.clip import load_clip


class OpenClip(LightningModule):
    """Any open_clip model as an ``ImageTextScorer``; run it by ``test``.

    Args:
        clip: ``playroom``, ``MODEL/PRETRAINED``, ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``.
    """

    def __init__(self, clip: str = "ViT-L-14-quickgelu/openai") -> None:
        super().__init__()
        self.clip = load_clip(clip)
        self.model = self.clip.model  # registered, so that Lightning moves it to the device

    def preprocess(self, image: Image) -> Tensor:
        """The model's own preprocessing."""
        return self.clip.preprocess(image)

    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """(B, T) cosines."""
        return self.clip.score(images_BCHW, texts)

    def test_dataloader(self) -> DataLoader[int]:
        """One empty step: the benchmarks are the test, and they are callbacks."""
        return DataLoader([0])  # type: ignore[arg-type] # a list is a dataset

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Nothing: no pairs are needed."""
