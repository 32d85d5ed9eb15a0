"""The generative upper bound: LLaVA models of the Hugging Face hub, scored without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from babyvlm.errors import UserError, first_line
from babyvlm.io.extras import require_extra
from babyvlm.io.hub import fetch, refuse_code
from babyvlm.models.scoring import given_prefix, mean_or_total
from babyvlm.models.zero_shot import TestOnly

PROMPT = "USER: What's the object in the image? <image> ASSISTANT:"  # BabyVLM's evaluation code
# The paper asks for a short sentence to a child about the image; the words are ours, the form is LLaVA-1.5's.
CAPTION_PROMPT = "USER: <image>\nSay one short sentence to a young child about this image. ASSISTANT:"
FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # what is fetched of a hub model
Weights = Literal["float32", "bfloat16", "float16", "int8"]
_BLANK, _WIDE = (Image.new("RGB", size) for size in ((224, 224), (448, 224)))


class HFVisionLanguage(TestOnly):
    """A LLaVA of transformers as ``ImageTextScorer``, ``TextScorer`` and ``Captioner``.

    Its score is the likelihood of the text and of ``</s>`` as the answer to a question about the image.

    Args:
        model: hub id, or folder in transformers' format, of a ``LlavaForConditionalGeneration`` and its processor.
        weights: their precision. ``int8`` halves bfloat16's memory once more; it needs bitsandbytes and accelerate
            (``babyvlm[int8]``).
        likelihood: what ``score`` says: the mean log-likelihood of a text's tokens (the authors' choice), their sum, or
            the evidence log p(text | image) - log p(text).
        prompt: of the likelihoods, with ``<image>``.
        caption_prompt: of the captions, with ``<image>``.
        rows: images, and texts, in a forward pass (our choice; each takes 0.3 GB for 7B parameters in bfloat16).

    Raises:
        UserError: the model cannot be had, is no LLaVA, or a prompt has not exactly one image.
    """

    def __init__(
        self,
        model: str = "llava-hf/llava-1.5-7b-hf",
        weights: Weights = "bfloat16",
        likelihood: Literal["mean", "total", "evidence"] = "mean",
        prompt: str = PROMPT,
        caption_prompt: str = CAPTION_PROMPT,
        rows: int = 8,
    ) -> None:
        super().__init__()
        for text in (prompt, caption_prompt):
            if text.count("<image>") != 1:
                raise UserError(f"prompt {text!r}: must have <image> exactly once")
        self.processor, self.vlm = _load(model, weights)
        self.likelihood, self.prompt, self.caption_prompt, self.rows = likelihood, prompt, caption_prompt, rows

    def preprocess(self, image: Image.Image) -> Tensor:
        """The model's own preprocessing."""
        pixels: Tensor = self.processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    @torch.no_grad()
    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """(B, T) likelihoods, as ``likelihood`` says; NaN where not wanted."""
        prompt_L = self._tokens(self.prompt)
        answers = self._answers(self.prompt, texts)
        if wanted_BT is None:
            wanted_BT = torch.ones(len(images_BCHW), len(texts), dtype=torch.bool)
        parts = zip(torch.split(images_BCHW, self.rows), torch.split(wanted_BT, self.rows), strict=True)
        total_BT = torch.cat(
            [
                given_prefix(self.vlm, self._prefix(prompt_L, images), answers, wanted, self.rows)
                for images, wanted in parts
            ]
        )
        if self.likelihood == "evidence":
            return total_BT - self._total_without_image(texts)
        return mean_or_total(total_BT, answers, self.likelihood)

    @torch.no_grad()
    def score_texts(self, texts: Sequence[str]) -> Tensor:
        """(T,) likelihoods after the same prompt without its image; no image is no evidence."""
        if self.likelihood == "evidence":
            return torch.zeros(len(texts), device=self.device)
        total_T = self._total_without_image(texts)
        return mean_or_total(total_T, self._answers(_without_image(self.prompt), texts), self.likelihood)

    @torch.no_grad()
    def caption(self, images_BCHW: Tensor, max_new_tokens: int = 25) -> list[str]:
        """Caption greedily."""
        prompt_L = self._tokens(self.caption_prompt)
        captions: list[str] = []
        for images in torch.split(images_BCHW, self.rows):
            prompt_BL = prompt_L.expand(len(images), -1)
            output_BL = self.vlm.generate(
                input_ids=prompt_BL,
                attention_mask=torch.ones_like(prompt_BL),
                pixel_values=images.to(self.vlm.dtype),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
            said = self.processor.batch_decode(output_BL[:, len(prompt_L) :], skip_special_tokens=True)
            captions += [text.strip() for text in said]
        return captions

    def _total_without_image(self, texts: Sequence[str]) -> Tensor:
        """(T,)."""
        prompt = _without_image(self.prompt)
        prefix = self._prefix(self._tokens(prompt))
        return given_prefix(self.vlm, prefix, self._answers(prompt, texts), None, self.rows)[0]

    def _prefix(self, prompt_L: Tensor, images_BCHW: Tensor | None = None) -> Any:  # noqa: ANN401 - untyped library
        """Keys and values of the prompt but for its last token, after which the answers' likelihood begins."""
        if images_BCHW is None:
            return self.vlm.model(input_ids=prompt_L[None, :-1], use_cache=True).past_key_values
        prompt_BL = prompt_L[:-1].expand(len(images_BCHW), -1)
        images_BCHW = images_BCHW.to(self.vlm.dtype)
        return self.vlm.model(input_ids=prompt_BL, pixel_values=images_BCHW, use_cache=True).past_key_values

    def _tokens(self, text: str) -> Tensor:
        """(L,) ids, the image's placeholders included: as many for every image, since all come out in one size."""
        images = _BLANK if "<image>" in text else None
        ids: Tensor = self.processor(images=images, text=text, return_tensors="pt")["input_ids"][0]
        return ids.to(self.device)

    def _answers(self, prompt: str, texts: Sequence[str]) -> list[list[int]]:
        """The prompt's last token, which is given, then each text and the end, as they are told apart after the prompt.

        Raises:
            UserError: a text changes how the prompt before it is told apart.
        """
        tokenizer = self.processor.tokenizer
        given = tokenizer(prompt)["input_ids"]
        answers = []
        for text in texts:
            ids = tokenizer(f"{prompt} {text}")["input_ids"]
            if ids[: len(given)] != given:
                raise UserError(f"prompt {prompt!r}: its last token runs into {text!r}; end it with a colon or a break")
            answers.append([*ids[len(given) - 1 :], tokenizer.eos_token_id])
        return answers


def _without_image(prompt: str) -> str:
    return " ".join(prompt.replace("<image>", " ").split())


def _load(name: str, weights: Weights) -> tuple[Any, LlavaForConditionalGeneration]:
    # LLM.int8() multiplies float16 (Dettmers et al. 2022).
    folder = Path(name) if Path(name).is_dir() else fetch(name, FILES)
    refuse_code(folder)
    options: dict[str, Any] = {"dtype": torch.float16 if weights == "int8" else getattr(torch, weights)}
    try:
        with require_extra("int8", "weights int8"):
            if weights == "int8":
                from transformers import BitsAndBytesConfig

                options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForImageTextToText.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, **options
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name}: transformers cannot load it ({first_line(error)})") from error
    if not isinstance(model, LlavaForConditionalGeneration):
        raise UserError(f"{name}: is a {type(model).__name__}; it must be a LlavaForConditionalGeneration")
    shapes = {processor.image_processor(image, return_tensors="pt")["pixel_values"].shape for image in (_BLANK, _WIDE)}
    if len(shapes) > 1:
        raise UserError(f"{name}: its images come out in sizes of their own; it must be a model of images of one size")
    return processor, model.eval()
