"""The methods that EgoBabyVLM's evaluation asks of a model (facebookresearch/egobabyvlm, ``core/protocols``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.functional import normalize as unit
from torch.nn.utils.rnn import pad_sequence

from babyvlm.benchmarks.evaluate import device_of
from babyvlm.data.transforms import MEAN, STD
from babyvlm.data.vocabulary import PAD
from babyvlm.errors import UserError
from babyvlm.models.hub import load
from babyvlm.models.networks.cvcl import CVCLNetwork


class FeatureExtractor(nn.Module):
    """A CVCL for EgoBabyVLM's evaluation: its protocols of image, text and multimodal extractors.

    In a model config of theirs: ``_target_: babyvlm.adapters.extractor.FeatureExtractor``, ``kwargs: {source: RUN}``.

    Args:
        source: as of ``babyvlm.load``.
        device: to move the model to.
        revision: as of ``babyvlm.load``.

    Raises:
        UserError: the model embeds no images and texts in one space.
    """

    def __init__(self, source: str | Path, device: str = "cpu", revision: str | None = None) -> None:
        super().__init__()
        model: Any = load(source, device, revision=revision)
        if not isinstance(getattr(model, "network", None), CVCLNetwork):
            raise UserError(f"{source}: {type(model).__name__} has no embeddings of images and texts; pass a CVCL")
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return device_of(self.model)

    @property
    def feature_dim(self) -> int:
        """Width of the embedding space."""
        return int(self.model.network.projection.out_features)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        side = int(getattr(self.model, "image_size", 224))
        return side, side

    @property
    def normalize_params(self) -> dict[str, list[float]]:
        """Mean and standard deviation by which images are normalized."""
        return {"mean": list(MEAN), "std": list(STD)}

    @torch.no_grad()
    def extract_image_features(self, images: Tensor | Sequence[Image]) -> Tensor:
        """Return (B, feature_dim) embeddings with unit norm of normalized (B, C, H, W) images, or of PIL images."""
        if not isinstance(images, Tensor):
            images = torch.stack([self.model.preprocess(image.convert("RGB")) for image in images])
        embedded: Tensor = self.model.network.encode_image(images.to(self.device))
        return embedded

    @torch.no_grad()
    def extract_text_features(self, text: Sequence[str] | Tensor) -> Tensor:
        """Return (T, feature_dim) embeddings with unit norm of texts, or of (T, L) tokens."""
        tokens_TL = text if isinstance(text, Tensor) else self.tokenize(text)["input_ids"]
        embedded: Tensor = self.model.network.encode_text(tokens_TL.to(self.device))
        return embedded

    def extract_features(
        self, inputs: Tensor | Sequence[Image] | Sequence[str] | Mapping[str, Any]
    ) -> Tensor | dict[str, Tensor]:
        """Return embeddings of images (a tensor, PIL images) or texts; of a mapping, ``image`` and ``text``."""
        if isinstance(inputs, Mapping):
            by_key = {"image": self.extract_image_features, "text": self.extract_text_features}
            return {f"{key}_features": extract(inputs[key]) for key, extract in by_key.items() if key in inputs}
        if isinstance(inputs, Tensor) and inputs.dim() == 4:
            return self.extract_image_features(inputs)
        if isinstance(inputs, Tensor) or isinstance(inputs[0], str):
            return self.extract_text_features(inputs)  # type: ignore[arg-type] # by its first element
        return self.extract_image_features(inputs)  # type: ignore[arg-type]

    def compute_similarity(self, a: Tensor, b: Tensor, *, normalize: bool | None = None) -> Tensor:
        """Return the (N, M) cosines of N and M embeddings; they have unit norm unless ``normalize`` is needed."""
        return unit(a, dim=-1) @ unit(b, dim=-1).T if normalize else a @ b.T

    def tokenize(self, text: Sequence[str], device: torch.device | None = None) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` (T, L) of texts as people write them."""
        encoded = self.model.vocabulary.encode_raw(text, self.model.max_tokens)
        tokens_TL = pad_sequence([torch.tensor(ids) for ids in encoded], batch_first=True, padding_value=PAD)
        tokens_TL = tokens_TL.to(device or self.device)
        return {"input_ids": tokens_TL, "attention_mask": (tokens_TL != PAD).long()}

    def forward(self, inputs: Mapping[str, Any]) -> Tensor | dict[str, Tensor]:
        """Return ``extract_features``."""
        return self.extract_features(inputs)
