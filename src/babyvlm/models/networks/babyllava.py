"""A BabyLLaVA of its parts, and the processor that belongs beside it in Hugging Face's world."""

from __future__ import annotations

import math
from pathlib import Path

from PIL.Image import Resampling
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import CLIPImageProcessor, GenerationConfig, LlavaProcessor, PreTrainedConfig, PreTrainedTokenizerFast

from babyvlm.data.transforms import MEAN, STD
from babyvlm.data.vocabulary import EOS, IMAGE, PAD, SOS, SPECIALS, UNK
from babyvlm.models.networks.babyllava_hf import BabyLlavaConfig, BabyLlavaForConditionalGeneration, ImageTokensConfig
from babyvlm.models.networks.connector import count_tokens
from babyvlm.models.networks.vision import VisionEncoder

MAX_NEW_TOKENS = 25  # of a caption (the authors' evaluation)


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
        bos_token_id=SOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        max_new_tokens=MAX_NEW_TOKENS,
        suppress_tokens=[PAD, UNK, SOS, IMAGE],
    )
    return model


def processor(tokenizer_file: Path, image_size: int, image_length: int) -> LlavaProcessor:
    """What turns pictures and prompts into inputs of ``generate``, as in training.

    Its pictures differ from our transform's by at most 1/255 where it resizes (tensors, not Pillow), and where the
    margin is odd its crop lies one pixel further left or up.

    A prompt is ``<image><sos>`` and how the caption begins, if that is given.

    Args:
        tokenizer_file: ``tokenizer.json`` of the model's vocabulary.
        image_size: side of the square the model sees, in pixels.
        image_length: tokens that it makes of it.
    """
    square = {"height": image_size, "width": image_size}
    pictures = CLIPImageProcessor(
        size={"shortest_edge": image_size},
        crop_size=square,
        resample=Resampling.BILINEAR,
        image_mean=MEAN,
        image_std=STD,
    )
    words = Tokenizer.from_file(str(tokenizer_file))
    words.post_processor = TemplateProcessing(single="$A", special_tokens=[])  # the prompt says where <sos> stands
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=SPECIALS[PAD],
        unk_token=SPECIALS[UNK],
        bos_token=SPECIALS[SOS],
        eos_token=SPECIALS[EOS],
        additional_special_tokens=[SPECIALS[IMAGE]],
    )
    side = math.isqrt(image_length)
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=image_size // side,
        vision_feature_select_strategy="full",
        image_token=SPECIALS[IMAGE],
    )
