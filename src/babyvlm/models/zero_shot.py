"""Models that are only tested: the upper bounds, trained on the whole web, and what was trained here before."""

from __future__ import annotations

from collections.abc import Sequence

from lightning import LightningModule
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader

from babyvlm.curation.clip import load_clip
from babyvlm.models.loading import load


class TestOnly(LightningModule):
    """A model for ``test`` without data: the benchmarks are the test, and they are callbacks."""

    __test__ = False  # pytest: not a class of tests

    def test_dataloader(self) -> DataLoader[int]:
        """One empty step."""
        return DataLoader([0])  # type: ignore[arg-type] # a list is a dataset

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Nothing: no pairs are needed."""


class OpenClip(TestOnly):
    """Any open_clip model as an ``ImageTextScorer``.

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


class Trained(TestOnly):
    """A model that was trained here: it can do what that model can.

    Args:
        source: a run's folder, an exported folder, or such a folder's name on the Hugging Face hub (``babyvlm.load``).
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.model = load(source)
        for ability in ("preprocess", "score", "score_texts", "caption", "vocabulary", "max_tokens"):
            if hasattr(self.model, ability):
                setattr(self, ability, getattr(self.model, ability))
