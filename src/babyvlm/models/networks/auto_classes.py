"""BabyLLaVA as a model of transformers: ``AutoModelForImageTextToText`` loads it, ``generate`` captions with it.

It is transformers' own LLaVA, with its attention, caches, generation and connector. Two classes fill gaps:

- ``TimmWrapperModel`` has no ``hidden_size`` and returns a 4-D map, but the connector needs a sequence of tokens;
- the output layer is tied to the embeddings by name, and GPT-2 calls them ``wte``, not ``embed_tokens``.
"""

from __future__ import annotations

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TimmWrapperConfig,
    TimmWrapperModel,
)
from transformers.modeling_outputs import BaseModelOutput

from babyvlm.models.networks.connector import image_tokens
from babyvlm.models.networks.vision import check_trunk


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


def register_auto_classes() -> None:
    """Register BabyLLaVA with transformers' Auto classes. Repeated calls have no effect."""
    AutoConfig.register(ImageTokensConfig.model_type, ImageTokensConfig, exist_ok=True)
    AutoConfig.register(BabyLlavaConfig.model_type, BabyLlavaConfig, exist_ok=True)
    AutoModel.register(ImageTokensConfig, ImageTokensModel, exist_ok=True)
    AutoModelForImageTextToText.register(BabyLlavaConfig, BabyLlavaForConditionalGeneration, exist_ok=True)
