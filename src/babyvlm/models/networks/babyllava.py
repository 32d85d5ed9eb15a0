"""BabyLLaVA's network: vision encoder -> connector -> language model.

Shapes: B images, P image tokens, L text tokens, C channels of the vision encoder, D width of the language model,
V vocabulary.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from PIL.Image import Resampling
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import CLIPImageProcessor, GenerationConfig, LlavaProcessor, PreTrainedTokenizerFast

from babyvlm.data.transforms import MEAN, STD, Resize
from babyvlm.data.vocabulary import EOS, IMAGE_TOKEN, PAD, SOS, SPECIALS, UNK
from babyvlm.models.networks.auto_classes import (
    BabyLlavaConfig,
    BabyLlavaForConditionalGeneration,
    ImageTokensConfig,
    register_auto_classes,
)
from babyvlm.models.networks.connector import token_shape
from babyvlm.models.networks.language import GPT2, LanguageShape, causal_attention, language_config
from babyvlm.models.networks.vision import VisionEncoder

MAX_NEW_TOKENS = 25  # length of a caption (babylmms-eval, saycam_caption.yaml)
# What follows the image tokens. `sos_eos`: `<sos> words <eos>` (our choice). `plain`: the words, the first of which
# is predicted from the last image token (ShawnKing98/BabyLLaVA: `--version plain` in phase1.sh and phase2.sh).
Template: TypeAlias = Literal["sos_eos", "plain"]


class BabyLLaVANetwork(nn.Module):
    """The tokens of an image, projected to the language model's width, precede the tokens of the text.

    The parts belong to ``llava``, a model of transformers, which also generates captions and is exported.

    >>> import torch
    >>> shape = LanguageShape(width=16, layers=1, heads=2, inner=32, positions=64)
    >>> network = BabyLLaVANetwork(VisionEncoder("test_resnet"), shape, vocabulary_size=100, image_size=64)
    >>> network(torch.randint(5, 100, (2, 9)), torch.randn(2, 3, 64, 64)).shape
    torch.Size([2, 9, 100])

    Args:
        vision: the vision encoder; its trunk, with its weights, becomes the vision tower.
        language: size of the language model.
        vocabulary_size: number of tokens, special tokens included.
        image_size: side of the square images, in pixels.
        template: what follows the image tokens; see ``Template``.
        image_token: id that marks the places of the image tokens (``Vocabulary.image_token``).

    Attributes:
        llava: transformers' LLaVA.
        image_length: number of image tokens, P.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        language: LanguageShape = GPT2,
        vocabulary_size: int = 6000,
        image_size: int = 224,
        template: Template = "sos_eos",
        image_token: int = SPECIALS.index(IMAGE_TOKEN),
    ) -> None:
        super().__init__()
        self.template, self.image_token = template, image_token
        register_auto_classes()  # LLaVA builds its parts by them
        self.image_length, channels = token_shape(vision, image_size)
        config = BabyLlavaConfig(
            vision_config=ImageTokensConfig(
                architecture=vision.backbone, model_args=vision.options, hidden_size=channels
            ),
            text_config=language_config(language, vocabulary_size),
            image_token_index=image_token,
            image_seq_length=self.image_length,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
        self.llava = BabyLlavaForConditionalGeneration(config)
        self.llava.model.vision_tower.timm_model = vision.trunk
        self.llava.generation_config = GenerationConfig(
            bos_token_id=SOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
            max_new_tokens=MAX_NEW_TOKENS,
            suppress_tokens=[PAD, UNK, SOS, image_token],
        )

    @property
    def vision_tower(self) -> nn.Module:
        """The vision encoder, as a module of transformers."""
        tower: nn.Module = self.llava.model.vision_tower
        return tower

    @property
    def connector(self) -> nn.Module:
        """The projection from the vision encoder's channels to the language model's width."""
        connector: nn.Module = self.llava.model.multi_modal_projector
        return connector

    @property
    def language_model(self) -> nn.Module:
        """The language model without its output layer."""
        language_model: nn.Module = self.llava.model.language_model
        return language_model

    @property
    def lm_head(self) -> nn.Module:
        """The output layer of the language model."""
        lm_head: nn.Module = self.llava.lm_head
        return lm_head

    def forward(
        self, tokens_BL: Tensor, images_BCHW: Tensor | None = None, features_BPC: Tensor | None = None
    ) -> Tensor:
        """Predict the token after each text token, given the image and the text before it.

        With an image and the template ``plain``, the last image token takes the place of ``<sos>``. Without an image,
        ``<sos>`` begins every text.

        Texts are padded on the right, where earlier tokens of a causal model cannot see the padding: no attention mask
        is needed, and scaled dot-product attention takes its fast path.

        Args:
            tokens_BL: ``<sos> words <eos>``, padded.
            images_BCHW: the images; None for text without an image.
            features_BPC: the images as ``encode_image`` returns them, instead of ``images_BCHW``.

        Returns:
            (B, L, V) logits.
        """
        if images_BCHW is not None and features_BPC is None:
            features_BPC = self.encode_image(images_BCHW)
        has_sos = features_BPC is None or self.template == "sos_eos"
        embedded_BLD = self.llava.get_input_embeddings()(tokens_BL if has_sos else tokens_BL[:, 1:])
        if features_BPC is not None:
            embedded_BLD = torch.cat([self.connect(features_BPC).to(embedded_BLD.dtype), embedded_BLD], 1)
        with causal_attention(self.language_model):
            hidden_BLD = self.language_model(inputs_embeds=embedded_BLD, use_cache=False).last_hidden_state
        logits_BLV: Tensor = self.lm_head(hidden_BLD[:, -tokens_BL.shape[1] :])
        return logits_BLV

    @torch.no_grad()
    def image_attention(self, images_BCHW: Tensor, tokens_BL: Tensor) -> Tensor:
        """Return how much each text token attends to each image token: the mean over layers and heads.

        Args:
            images_BCHW: the images.
            tokens_BL: the text after each image, as the language model reads it, padded on the right.

        Returns:
            (B, L, P) shares. Over the image tokens they sum to at most 1; the rest is attention to the text.
        """
        text_BLD = self.llava.get_input_embeddings()(tokens_BL)
        embedded_BLD = torch.cat([self.connect(self.encode_image(images_BCHW)).to(text_BLD.dtype), text_BLD], 1)
        with causal_attention(self.language_model, "eager"):
            output = self.language_model(inputs_embeds=embedded_BLD, use_cache=False, output_attentions=True)
        attention_BLL = torch.stack([layer_BHLL.mean(1) for layer_BHLL in output.attentions]).mean(0)
        return attention_BLL[:, self.image_length :, : self.image_length]

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, P, C), the vision encoder's last feature map as a sequence."""
        features_BPC: Tensor = self.vision_tower(images_BCHW).last_hidden_state
        return features_BPC

    def connect(self, features_BPC: Tensor) -> Tensor:
        """Return (B, P, D), the image tokens that the language model reads."""
        image_BPD: Tensor = self.connector(features_BPC.to(self.llava.dtype))
        return image_BPD

    def generate(self, images_BCHW: Tensor, max_new_tokens: int = MAX_NEW_TOKENS) -> Tensor:
        """Return (B, L) token ids of greedily decoded captions, padded on the right."""
        begin = [SOS] if self.template == "sos_eos" else []
        prompt = torch.tensor([[self.image_token] * self.image_length + begin], device=images_BCHW.device)
        prompt = prompt.expand(len(images_BCHW), -1)
        output_BL: Tensor = self.llava.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=images_BCHW,
            do_sample=False,
            max_new_tokens=max_new_tokens,
        )
        return output_BL[:, prompt.shape[1] :]


# A conversation as a prompt, for transformers' `apply_chat_template`: the image, then the beginning of the caption.
_CHAT = (
    "{%- set ns = namespace(images=0, text='') -%}"
    "{%- for message in messages -%}"
    "{%- set parts = message['content'] -%}"
    "{%- if parts is string -%}{%- set parts = [{'type': 'text', 'text': parts}] -%}{%- endif -%}"
    "{%- for part in parts -%}"
    "{%- if part['type'] == 'image' -%}{%- set ns.images = ns.images + 1 -%}"
    "{%- elif part['type'] == 'text' -%}{%- set ns.text = ns.text + part['text'] -%}{%- endif -%}"
    "{%- endfor -%}{%- endfor -%}"
    "{%- if ns.images != 1 -%}{{ raise_exception('a prompt has exactly one image') }}{%- endif -%}"
    "{{ '<image>BEGIN' + ns.text }}"
)


def image_processor(image_size: int, resize: Resize = "crop") -> CLIPImageProcessor:
    """Return the image processor of transformers that does what ``eval_transform`` does, up to 1/255."""
    square = {"height": image_size, "width": image_size}
    return CLIPImageProcessor(
        size=square if resize == "squeeze" else {"shortest_edge": image_size},
        crop_size=square,
        resample=Resampling.BICUBIC if resize == "squeeze" else Resampling.BILINEAR,
        image_mean=MEAN,
        image_std=STD,
    )


def fast_tokenizer(words: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:  # noqa: ANN401 - transformers' options
    """Return a vocabulary's tokenizer as one of transformers, with its special tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=SPECIALS[PAD],
        unk_token=SPECIALS[UNK],
        bos_token=SPECIALS[SOS],
        eos_token=SPECIALS[EOS],
        **options,
    )


def processor(
    tokenizer_file: Path,
    image_size: int,
    image_length: int,
    resize: Resize = "crop",
    template: Template = "sos_eos",
) -> LlavaProcessor:
    """Return the transformers processor that turns images and prompts into inputs of ``generate``, as in training.

    Its images differ from those of ``eval_transform`` by at most 1/255 where it resizes (tensors, not Pillow); where
    the margin is odd its crop lies one pixel further left or up. A prompt is ``<image><sos>``, or ``<image>`` with the
    template ``plain``, followed by the beginning of the caption if one is given; the chat template writes it. Batches
    are padded on the left, as ``generate`` needs.

    Args:
        tokenizer_file: ``tokenizer.json`` of the model's vocabulary.
        image_size: side of the square images, in pixels.
        image_length: number of image tokens.
        resize: how an image becomes square.
        template: what follows the image tokens; ``plain`` has no ``<sos>``.
    """
    images = image_processor(image_size, resize)
    words = Tokenizer.from_file(str(tokenizer_file))
    words.post_processor = TemplateProcessing(single="$A", special_tokens=[])  # <sos> is part of the prompt
    tokenizer = fast_tokenizer(words, padding_side="left", additional_special_tokens=[IMAGE_TOKEN])
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=image_size // math.isqrt(image_length),
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        chat_template=_CHAT.replace("BEGIN", SPECIALS[SOS] if template == "sos_eos" else ""),
    )
