"""Models that are only evaluated: upper bounds trained on web data, and models that were trained here before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    DynamicCache,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from babyvlm.curation.clip import load_clip
from babyvlm.errors import UserError, first_line
from babyvlm.io.extras import require_extra
from babyvlm.io.hub import fetch, refuse_code
from babyvlm.models.evaluation_only import EvaluationOnly
from babyvlm.models.hub import load
from babyvlm.models.networks.saliency import clip_grad_cam
from babyvlm.models.scoring import Likelihood, log_likelihood_after_prefix, per_token_or_total
from babyvlm.types import checked_texts

# babylmms-eval @82118a8: tasks/*/*.yaml, `llava` under `lmms_eval_specific_kwargs`.
PROMPT = "USER: What's the object in the image? <image> ASSISTANT:"
CAPTION_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: <image>\nSay a short sentence to a child about this image, as "
    "if you are directly speaking to the child. ASSISTANT: "
)
FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # files to download of a hub model
Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]
_BLANK, _WIDE = (Image.new("RGB", size) for size in ((224, 224), (448, 224)))


class OpenClip(EvaluationOnly):
    """Any open_clip model as an ``ImageTextScorer``.

    Args:
        clip: ``playroom``, ``MODEL/PRETRAINED``, ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``.
    """

    saliency_method = "Grad-CAM"

    def __init__(self, clip: str = "ViT-L-14-quickgelu/openai") -> None:
        super().__init__()
        self.clip = load_clip(clip)
        self.model = self.clip.model  # registered, so that Lightning moves it to the device

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an RGB image as the model's own preprocessing does."""
        return self.clip.preprocess(image)

    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) cosines."""
        return self.clip.score(images_BCHW, texts)

    def embed_images(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, D) image embeddings with unit norm."""
        return self.clip.images(images_BCHW)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (T, D) text embeddings with unit norm."""
        return self.clip.texts(texts, self.device)

    def saliency(self, images_BCHW: Tensor, words: Sequence[str]) -> Tensor:
        """Return (B, h, w) maps of where each image resembles its word: Grad-CAM."""
        return clip_grad_cam(self.clip, images_BCHW, words)


class Trained(EvaluationOnly):
    """A model that was trained before, here or by the authors, with the methods that it has.

    Args:
        source: a run's folder, an exported folder, a folder with a published checkpoint, or the name of such a folder
            on the Hugging Face hub (``babyvlm.load``).
        revision: commit of a model on the hub; required for published checkpoints.
        likelihood: of a generative model, instead of its own.
        score_eos: of a generative model, instead of its own.
        score_sos_eos: of CVCL: put texts between ``<sos>`` and ``<eos>`` (its own: true).

    Raises:
        UserError: the model cannot be loaded, or has no such option.
    """

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        likelihood: Likelihood | None = None,
        score_eos: bool | None = None,
        score_sos_eos: bool | None = None,
    ) -> None:
        super().__init__()
        self.model = load(source, revision=revision)
        settings = {"likelihood": likelihood, "score_eos": score_eos, "score_sos_eos": score_sos_eos}
        for name, value in settings.items():
            if value is not None:
                if not hasattr(self.model, name):
                    raise UserError(f"{source}: has no option {name}; see `Trained`")
                setattr(self.model, name, value)
        methods = ("preprocess", "score", "score_texts", "caption", "embed_images", "embed_texts", "saliency")
        for name in (*methods, "saliency_method", "vocabulary", "max_tokens", *settings):
            if hasattr(self.model, name):
                setattr(self, name, getattr(self.model, name))


class HFVisionLanguage(EvaluationOnly):
    """A LLaVA of the Hugging Face hub as ``ImageTextScorer``, ``TextScorer`` and ``Captioner``, without training.

    The score of a text is its likelihood as the answer to a question about the image.

    Args:
        model: hub id, or folder in transformers' format, of a ``LlavaForConditionalGeneration`` and its processor.
        precision: of the weights. ``int8`` needs half of the memory of bfloat16, and bitsandbytes and accelerate
            (extra ``int8``).
        likelihood: the value of ``score``: the mean log-likelihood of a text's tokens (babylmms-eval), their sum, or
            (for ``evidence``) their sum, from which an evaluation subtracts that of other images
            (``benchmarks/scoring.py``).
        score_eos: count ``</s>`` as a token of the text. The authors' evaluation does not (babylmms-eval with
            ``conv_template=plain``).
        prompt: for likelihoods, with ``<image>``.
        caption_prompt: for captions, with ``<image>``.
        batch_size: images, and texts, in a forward pass (our choice; each takes 0.3 GB for 7B parameters in bfloat16).

    Raises:
        UserError: the model cannot be loaded or is not a LLaVA, or a prompt does not have exactly one image.
    """

    def __init__(
        self,
        model: str = "llava-hf/llava-1.5-7b-hf",
        precision: Precision = "bfloat16",
        likelihood: Likelihood = "mean",
        score_eos: bool = False,
        prompt: str = PROMPT,
        caption_prompt: str = CAPTION_PROMPT,
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        for text in (prompt, caption_prompt):
            if text.count("<image>") != 1:
                raise UserError(f"prompt {text!r}: must contain <image> exactly once")
        self.processor, self.llava = _load_llava(model, precision)
        self.likelihood, self.score_eos = likelihood, score_eos
        self.prompt, self.caption_prompt, self.batch_size = prompt, caption_prompt, batch_size
        self.precision = precision

    def setup(self, stage: str) -> None:
        """Check that weights that cannot be moved are where they are needed.

        Raises:
            UserError: ``int8`` weights are on another device than that of this rank.
        """
        device = self.trainer.strategy.root_device
        if self.precision == "int8" and self.llava.device != device:
            raise UserError(
                f"precision int8: the weights are on {self.llava.device} and cannot be moved to {device}. Set "
                "trainer.accelerator to gpu, and choose GPUs by CUDA_VISIBLE_DEVICES, not by a list in trainer.devices"
            )

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an RGB image as the model's own preprocessing does."""
        pixels: Tensor = self.processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    @torch.no_grad()
    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) likelihoods as ``likelihood`` defines them, NaN where not wanted."""
        texts = checked_texts(texts)
        prompt_L = self._tokens(self.prompt)
        answers = self._answers(self.prompt, texts)
        if wanted_BT is None:
            wanted_BT = torch.ones(len(images_BCHW), len(texts), dtype=torch.bool)
        batches = zip(torch.split(images_BCHW, self.batch_size), torch.split(wanted_BT, self.batch_size), strict=True)
        total_BT = torch.cat(
            [self._total(self._prefix(prompt_L, images), answers, wanted) for images, wanted in batches]
        )
        return per_token_or_total(total_BT, [len(ids) - 1 for ids in answers], self.likelihood)

    @torch.no_grad()
    def score_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (T,) likelihoods after the prompt without its image."""
        texts = checked_texts(texts)
        total_T = self._total_without_image(texts)
        answers = self._answers(_without_image(self.prompt), texts)
        return per_token_or_total(total_T, [len(ids) - 1 for ids in answers], self.likelihood)

    @torch.no_grad()
    def caption(self, images_BCHW: Tensor, max_new_tokens: int = 25) -> list[str]:
        """Return greedily decoded captions of B images."""
        prompt_L = self._tokens(self.caption_prompt)
        captions: list[str] = []
        for images in torch.split(images_BCHW, self.batch_size):
            prompt_BL = prompt_L.expand(len(images), -1)
            output_BL = self.llava.generate(
                input_ids=prompt_BL,
                attention_mask=torch.ones_like(prompt_BL),
                pixel_values=images.to(self.llava.dtype),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
            decoded = self.processor.batch_decode(output_BL[:, len(prompt_L) :], skip_special_tokens=True)
            captions += [text.strip() for text in decoded]
        return captions

    def _total_without_image(self, texts: Sequence[str]) -> Tensor:
        """Return (T,) log-likelihoods."""
        prompt = _without_image(self.prompt)
        return self._total(self._prefix(self._tokens(prompt)), self._answers(prompt, texts))[0]

    def _total(self, prefix: DynamicCache, answers: Sequence[Sequence[int]], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) log-likelihoods of answers after B prefixes."""
        language_model, lm_head = self.llava.model.language_model, self.llava.lm_head
        return log_likelihood_after_prefix(
            language_model, lm_head, prefix, answers, wanted_BT, batch_size=self.batch_size
        )

    def _prefix(self, prompt_L: Tensor, images_BCHW: Tensor | None = None) -> DynamicCache:
        """Return keys and values of the prompt without its last token, which is the first input of the answers."""
        if images_BCHW is None:
            return self.llava.model(input_ids=prompt_L[None, :-1], use_cache=True).past_key_values
        prompt_BL = prompt_L[:-1].expand(len(images_BCHW), -1)
        images_BCHW = images_BCHW.to(self.llava.dtype)
        return self.llava.model(input_ids=prompt_BL, pixel_values=images_BCHW, use_cache=True).past_key_values

    def _tokens(self, text: str) -> Tensor:
        """Return (L,) ids, including the image's placeholders: as many for every image, since all have one size."""
        images = _BLANK if "<image>" in text else None
        ids: Tensor = self.processor(images=images, text=text, return_tensors="pt")["input_ids"][0]
        return ids.to(self.device)

    def _answers(self, prompt: str, texts: Sequence[str]) -> list[list[int]]:
        """Return, for each text, the prompt's last token, which is given, the text, and the end if it counts, as ids.

        Raises:
            UserError: a text changes the tokens of the prompt before it.
        """
        tokenizer = self.processor.tokenizer
        given = tokenizer(prompt)["input_ids"]
        answers = []
        for text in texts:
            ids = tokenizer(f"{prompt} {text}")["input_ids"]
            if ids[: len(given)] != given:
                raise UserError(
                    f"prompt {prompt!r}: its last token merges with {text!r}. End it with a colon or a line break"
                )
            answers.append([*ids[len(given) - 1 :], *([tokenizer.eos_token_id] if self.score_eos else [])])
        return answers


def _without_image(prompt: str) -> str:
    return " ".join(prompt.replace("<image>", " ").split())


def _load_llava(name: str, precision: Precision) -> tuple[LlavaProcessor, LlavaForConditionalGeneration]:
    # LLM.int8() multiplies float16 (Dettmers et al. 2022).
    dtype = torch.float16 if precision == "int8" else getattr(torch, precision)
    place = None
    if precision == "int8":  # such weights cannot be moved afterwards
        if not torch.cuda.is_available():
            raise UserError("precision int8: needs a GPU, and this machine has none that PyTorch can use. Set float16")
        place = {"": torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))))}
    folder = Path(name) if Path(name).is_dir() else fetch(name, FILES)
    refuse_code(folder)
    try:
        with require_extra("int8", "precision int8"):
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForImageTextToText.from_pretrained(
                folder,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                device_map=place,
                quantization_config=BitsAndBytesConfig(load_in_8bit=True) if precision == "int8" else None,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name}: transformers cannot load it ({first_line(error)})") from error
    if not isinstance(model, LlavaForConditionalGeneration):
        raise UserError(f"{name}: is a {type(model).__name__}, but must be a LlavaForConditionalGeneration")
    shapes = {processor.image_processor(image, return_tensors="pt")["pixel_values"].shape for image in (_BLANK, _WIDE)}
    if len(shapes) > 1:
        raise UserError(f"{name}: its processor keeps the aspect ratio of images, but must produce one size")
    return processor, model.eval()
