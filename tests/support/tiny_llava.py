"""A LLaVA-1.5 with random weights, a thousand times smaller, on disk in the format of ``llava-hf/llava-1.5-7b-hf``."""

import torch
from tokenizers import SentencePieceBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

SIZE, PATCH = 56, 14  # 16 image tokens
SPECIALS = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
TEXTS = [
    "USER: What's the object in the image? ASSISTANT:",
    "Say one short sentence to a young child about this image.",
    "a red ball",
    "wash the cup",
    "kick the blue dog",
]


def save_tiny_llava(folder, seed=0, vision="clip"):
    """Write model and processor to a folder, and return it; ``siglip`` crops nothing and has no class token."""
    clip = vision == "clip"
    strategy = "default" if clip else "full"
    bpe = SentencePieceBPETokenizer()
    bpe.train_from_iterator(TEXTS * 5, vocab_size=150, special_tokens=SPECIALS, show_progress=False)
    bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", SPECIALS.index("<s>"))])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    whole = {"height": SIZE, "width": SIZE}
    pixels = (
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=whole) if clip else SiglipImageProcessor(size=whole)
    )
    processor = LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(clip),
        image_token="<image>",
    )
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": PATCH,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes) if clip else SiglipVisionConfig(**sizes),
        text_config=text,
        image_token_index=3,
        image_seq_length=(SIZE // PATCH) ** 2,
        vision_feature_select_strategy=strategy,
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # as if trained: weights near zero would hide errors
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
