"""BabyLLaVA as Hugging Face knows it: ``AutoModelForImageTextToText`` loads it, ``generate`` captions with it.

It is transformers' own LLaVA; attention, caches, generation and the connector are theirs. Where that fails:

- ``TimmWrapperModel`` has no ``hidden_size`` and gives a 4-D map, of which the connector needs a sequence of tokens;
- the output layer is tied to the embeddings by name, and GPT-2 calls them ``wte``, not ``embed_tokens``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    TimmWrapperConfig,
    TimmWrapperModel,
)
from transformers.modeling_outputs import BaseModelOutput

from babyvlm.data.vocabulary import EOS, IMAGE, PAD, SOS, UNK
from babyvlm.models.connector import count_tokens, image_tokens
from babyvlm.models.vision import VisionEncoder

MAX_NEW_TOKENS = 25  # of a caption (the authors' evaluation)


class ImageTokensConfig(TimmWrapperConfig):  # type: ignore[misc] # transformers is not typed
    """A timm trunk and the width of its last map."""

    model_type = "babyllava_vision"

    hidden_size: int = 2048


class ImageTokensModel(TimmWrapperModel):  # type: ignore[misc]
    """A timm trunk whose hidden states are its last map as (B, P, C)."""

    config_class = ImageTokensConfig

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


def build(vision: VisionEncoder, language: PreTrainedConfig, image_size: int) -> BabyLlavaForConditionalGeneration:
    """A BabyLLaVA around an encoder that is there already, with a new connector and a new language model.

    Args:
        vision: its trunk becomes the vision tower, weights and all.
        language: shape of the language model.
        image_size: side of its square images, in pixels.
    """
    config = BabyLlavaConfig(
        vision_config=ImageTokensConfig(
            architecture=vision.backbone, model_args=vision.options, hidden_size=vision.width
        ),
        text_config=language,
        image_token_index=IMAGE,
        image_seq_length=count_tokens(vision, image_size),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = BabyLlavaForConditionalGeneration(config)
    model.model.vision_tower.timm_model = vision.trunk
    model.generation_config = GenerationConfig(
        bos_token_id=SOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=MAX_NEW_TOKENS,
        suppress_tokens=[PAD, UNK, SOS, IMAGE],
    )  # fmt: skip
    return model
