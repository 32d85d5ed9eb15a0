"""CVCL and BabyLLaVA as models of transformers, which its Auto classes load.

CVCL is a ``CVCLModel`` with the methods of CLIP: ``get_image_features``, ``get_text_features``, ``logits_per_image``.

BabyLLaVA is loaded by ``AutoModelForImageTextToText``, and ``generate`` captions with it. It is transformers' own
LLaVA, with its attention, caches, generation and connector. Two classes fill gaps:

- ``TimmWrapperModel`` has no ``hidden_size`` and returns a 4-D map, but the connector needs a sequence of tokens;
- the output layer is tied to the embeddings by name, and GPT-2 calls them ``wte``, not ``embed_tokens``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperModel,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.modeling_clip import CLIPOutput

from babyvlm.data.vocabulary import PAD
from babyvlm.errors import UserError
from babyvlm.models.losses import symmetric_info_nce
from babyvlm.models.networks.connector import image_tokens
from babyvlm.models.networks.cvcl import CVCLNetwork
from babyvlm.models.networks.text import LSTMText, MeanEmbedding, TransformerText
from babyvlm.models.networks.vision import TrunkOptions, VisionEncoder, check_trunk

TEXT_ENCODERS = {"mean": MeanEmbedding, "lstm": LSTMText, "transformer": TransformerText}


class ImageTokensConfig(TimmWrapperConfig):  # type: ignore[misc] # transformers is not typed
    """Configuration of a timm model, with the number of channels of its last feature map."""

    model_type = "babyllava_vision"

    hidden_size: int = 2048


class ImageTokensModel(TimmWrapperModel):  # type: ignore[misc]
    """A timm model whose hidden states are its last feature map as (B, P, C)."""

    config_class = ImageTokensConfig

    def __init__(self, config: ImageTokensConfig) -> None:
        check_trunk(config.architecture, config.model_args or {})  # a folder's config.json may contain anything
        super().__init__(config)

    def forward(self, pixel_values: Tensor, **_: object) -> BaseModelOutput:
        """Return the feature map as the only hidden state; options of other vision towers are ignored."""
        tokens = image_tokens(self.timm_model, pixel_values.to(self.device, self.dtype))
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


class BabyLlavaConfig(LlavaConfig):  # type: ignore[misc]
    """Configuration of a LLaVA with an ``ImageTokensModel`` and any causal language model of transformers."""

    model_type = "babyllava"


class BabyLlavaForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA whose output layer is tied to the embeddings of its language model, GPT-2 or Llama."""

    config_class = BabyLlavaConfig

    def __init__(self, config: BabyLlavaConfig) -> None:
        embeddings = "wte" if config.text_config.model_type == "gpt2" else "embed_tokens"
        # Private to transformers, which reads it while it initializes and loads models; bounded in pyproject.toml.
        self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{embeddings}.weight"}
        super().__init__(config)


class CVCLConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of a ``CVCLNetwork``.

    Attributes:
        backbone: timm's name of the vision backbone.
        backbone_options: further arguments of timm's constructor.
        text_encoder: one of ``TEXT_ENCODERS``.
        text_options: further arguments of the text encoder.
        vocab_size: number of tokens, special tokens included.
        projection_dim: width of the embedding space.
        max_tokens: longest text that it was trained on, in tokens, ``<sos>`` and ``<eos>`` included.
        image_size: side of the square images, in pixels.
    """

    model_type = "babyvlm_cvcl"

    backbone: str = "resnext50_32x4d"
    backbone_options: dict[str, Any] | None = None
    text_encoder: str = "mean"
    text_options: dict[str, Any] | None = None
    vocab_size: int = 2350
    projection_dim: int = 512
    max_tokens: int = 25
    image_size: int = 224

    @classmethod
    def of(cls, network: CVCLNetwork, image_size: int, max_tokens: int) -> CVCLConfig | None:
        """Return the configuration of a network; None if its text encoder is not one of ``TEXT_ENCODERS``."""
        text: Any = network.text_encoder
        vision = network.vision_encoder
        kind = next((name for name, one in TEXT_ENCODERS.items() if type(text) is one), None)
        if kind is None:
            return None
        options: dict[str, Any] = {}
        if isinstance(text, TransformerText):
            heads = text.layer.self_attn.num_heads
            options = {"heads": heads, "max_tokens": len(text.positions), "sum_padding": text.sum_padding}
        words, width = text.embedding.weight.shape
        return cls(
            backbone=vision.backbone,
            backbone_options=vision.options,
            text_encoder=kind,
            text_options=options,
            vocab_size=words,
            projection_dim=width,
            max_tokens=max_tokens,
            image_size=image_size,
        )


class CVCLModel(PreTrainedModel):  # type: ignore[misc]
    """CVCL with the methods of transformers' CLIP.

    Its weights have the names of the training module ``CVCL``, so that one file serves both.

    Raises:
        UserError: the configuration names a backbone or text encoder that does not exist.
    """

    config_class = CVCLConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CVCLConfig) -> None:
        super().__init__(config)
        if config.text_encoder not in TEXT_ENCODERS:
            raise UserError(f"text_encoder {config.text_encoder!r}: choose from {', '.join(TEXT_ENCODERS)}")
        options: TrunkOptions = config.backbone_options or {}
        text_options = config.text_options or {}

        def text(words: int, width: int) -> nn.Module:
            encoder: nn.Module = TEXT_ENCODERS[config.text_encoder](words, width, **text_options)
            return encoder

        vision = VisionEncoder(config.backbone, options)
        self.network = CVCLNetwork(vision, config.vocab_size, text, config.projection_dim)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep the weights that the networks were created with."""

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return (B, projection_dim) image embeddings with unit norm, for (B, C, H, W) normalized images."""
        return self.network.encode_image(pixel_values.to(self.dtype))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: object) -> Tensor:
        """Return (T, projection_dim) text embeddings with unit norm.

        Args:
            input_ids: (T, L) tokens, padded on the right with 0.
            attention_mask: (T, L), 0 for tokens that are not part of the text.
        """
        if attention_mask is not None:
            input_ids = input_ids.masked_fill(attention_mask == 0, PAD)
        return self.network.encode_text(input_ids)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        return_loss: bool = False,
        **_: object,
    ) -> CLIPOutput:
        """Return embeddings and their cosines divided by the temperature, as transformers' CLIP.

        Args:
            input_ids: see ``get_text_features``.
            pixel_values: see ``get_image_features``.
            attention_mask: see ``get_text_features``.
            return_loss: also return the symmetric InfoNCE loss of matching images and texts.
        """
        image_BD, text_TD = self.get_image_features(pixel_values), self.get_text_features(input_ids, attention_mask)
        logits_BT = image_BD @ text_TD.T / self.network.temperature
        loss = symmetric_info_nce(image_BD, text_TD, self.network.temperature) if return_loss else None
        return CLIPOutput(
            loss=loss,
            logits_per_image=logits_BT,
            logits_per_text=logits_BT.T,
            text_embeds=text_TD,
            image_embeds=image_BD,
        )


def register_auto_classes() -> None:
    """Register CVCL and BabyLLaVA with transformers' Auto classes. Repeated calls have no effect."""
    AutoConfig.register(ImageTokensConfig.model_type, ImageTokensConfig, exist_ok=True)
    AutoConfig.register(BabyLlavaConfig.model_type, BabyLlavaConfig, exist_ok=True)
    AutoConfig.register(CVCLConfig.model_type, CVCLConfig, exist_ok=True)
    AutoModel.register(CVCLConfig, CVCLModel, exist_ok=True)
    AutoModel.register(ImageTokensConfig, ImageTokensModel, exist_ok=True)
    AutoModelForImageTextToText.register(BabyLlavaConfig, BabyLlavaForConditionalGeneration, exist_ok=True)
