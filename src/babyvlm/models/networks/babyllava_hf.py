"""BabyLLaVA as Hugging Face knows it: ``AutoModelForImageTextToText`` loads it, ``generate`` captions with it.

It is transformers' own LLaVA; attention, caches, generation and the connector are theirs. Where that fails:

- ``TimmWrapperModel`` has no ``hidden_size`` and gives a 4-D map, of which the connector needs a sequence of tokens;
- the output layer is tied to the embeddings by name, and GPT-2 calls them ``wte``, not ``embed_tokens``.

``import babyvlm`` imports this module in the midst of other imports: let it depend on little.
"""

from __future__ import annotations

from typing import Any

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
    """A timm trunk and the width of its last map."""

    model_type = "babyllava_vision"

    hidden_size: int = 2048


class ImageTokensModel(TimmWrapperModel):  # type: ignore[misc]
    """A timm trunk whose hidden states are its last map as (B, P, C)."""

    config_class = ImageTokensConfig

    def __init__(self, config: ImageTokensConfig) -> None:
        check_trunk(config.architecture, config.model_args or {})  # a folder's config.json may hold anything
        super().__init__(config)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:  # noqa: ANN401 - options of other towers
        """The map, as the only hidden state."""
        tokens = image_tokens(self.timm_model, pixel_values.to(self.device, self.dtype))
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


class BabyLlavaConfig(LlavaConfig):  # type: ignore[misc]
    """A LLaVA of an ``ImageTokensModel`` and any causal language model of transformers."""

    model_type = "babyllava"


class BabyLlavaForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA whose tied output layer finds the embeddings of its language model, GPT-2's or Llama's."""

    config_class = BabyLlavaConfig

    def __init__(self, config: BabyLlavaConfig) -> None:
        embeddings = "wte" if config.text_config.model_type == "gpt2" else "embed_tokens"
        self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{embeddings}.weight"}
        super().__init__(config)


AutoConfig.register(ImageTokensConfig.model_type, ImageTokensConfig)
AutoConfig.register(BabyLlavaConfig.model_type, BabyLlavaConfig)
AutoModel.register(ImageTokensConfig, ImageTokensModel)
AutoModelForImageTextToText.register(BabyLlavaConfig, BabyLlavaForConditionalGeneration)
