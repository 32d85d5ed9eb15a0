"""CVCL's network: an image encoder and a text encoder with one embedding space (Vong et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from babyvlm.models.networks.saliency import feature_map, grad_cam
from babyvlm.models.networks.text import MeanEmbedding
from babyvlm.models.networks.vision import VisionEncoder


class CVCLNetwork(nn.Module):
    """Images and utterances as unit vectors of one embedding space.

    >>> import torch
    >>> from babyvlm.models.losses import symmetric_info_nce
    >>> network = CVCLNetwork(VisionEncoder("test_resnet"), vocabulary_size=100, width=32)
    >>> image_BD, text_BD = network(torch.randn(4, 3, 64, 64), torch.randint(5, 100, (4, 9)))
    >>> image_BD.shape
    torch.Size([4, 32])
    >>> symmetric_info_nce(image_BD, text_BD, network.temperature).backward()

    Args:
        vision: the vision encoder.
        vocabulary_size: number of tokens, special tokens included.
        text: creates the text encoder; called with the vocabulary size and ``width``.
        width: of the embedding space (512 in CVCL: wkvong/multimodal-baby, ``runner_config``).
        temperature: of the loss (0.07 in CVCL).
        learn_temperature: train the temperature, starting at ``temperature``.
    """

    log_temperature: Tensor

    def __init__(
        self,
        vision: VisionEncoder,
        vocabulary_size: int,
        text: Callable[[int, int], nn.Module] = MeanEmbedding,
        width: int = 512,
        temperature: float = 0.07,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__()
        self.vision_encoder = vision
        self.projection = nn.Linear(vision.width, width)
        self.text_encoder = text(vocabulary_size, width)
        log_temperature = torch.tensor(math.log(temperature))
        if learn_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature)  # a buffer, so that checkpoints contain it

    @property
    def temperature(self) -> Tensor:
        """Scalar that divides the cosines in the loss."""
        return self.log_temperature.exp()

    def forward(self, images_BCHW: Tensor, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of images and texts, (B, width) each, with unit norm."""
        return self.encode_image(images_BCHW), self.encode_text(tokens_BL)

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, width) image embeddings with unit norm."""
        return self.project(self.vision_encoder(images_BCHW))

    def project(self, features_BC: Tensor) -> Tensor:
        """Return (B, width) image embeddings with unit norm, given the features of the vision encoder."""
        return normalize(self.projection(features_BC), dim=-1)

    def grad_cam(self, images_BCHW: Tensor, text_BD: Tensor) -> Tensor:
        """Return (B, h, w) maps of where images are similar to one text each; see ``networks.saliency``.

        Raises:
            UserError: the vision encoder is not convolutional.
        """
        trunk = self.vision_encoder.trunk
        with torch.no_grad():
            features_BChw = feature_map(trunk, images_BCHW)
        return grad_cam(features_BChw, lambda one: self.project(trunk.forward_head(one)), text_BD)

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Return (B, width) text embeddings with unit norm."""
        return normalize(self.text_encoder(tokens_BL), dim=-1)
