"""BabyLLaVA, the generative baseline: phases 1 and 2 (phase 0 is ``language.py`` and DINO)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from PIL.Image import Image
from torch import Tensor, nn

from babyvlm.data.transforms import eval_transform
from babyvlm.data.vocabulary import IMAGE, SOS, Vocabulary
from babyvlm.errors import UserError
from babyvlm.models import initialization
from babyvlm.models.authors_checkpoints import is_authors, load_authors
from babyvlm.models.causal import CausalModule
from babyvlm.models.language import GPT2, LanguageShape, language_config
from babyvlm.models.networks.babyllava import MAX_NEW_TOKENS, build, processor
from babyvlm.models.networks.connector import ImageTokens
from babyvlm.models.networks.vision import VisionEncoder
from babyvlm.models.optimization import CosineWithWarmup, TimedScheduler
from babyvlm.models.scoring import given_images, mean_or_total, text_logits, without_image
from babyvlm.types import Batch


def paper_optimizer(parameters: object) -> torch.optim.Optimizer:
    """AdamW, learning rate 3e-3, no weight decay (BabyLLaVA, phase 1)."""
    return torch.optim.AdamW(cast("list[Tensor]", parameters), lr=3e-3, weight_decay=0)


class BabyLLaVA(CausalModule):
    """The image's tokens, then ``<sos> words <eos>``: each word and ``<eos>`` is predicted from what stands before it.

    The paper's input is the image tokens, the utterance and ``<eos>``. That an utterance begins with ``<sos>`` is our
    choice: so it does in phase 0, and so its first word has a likelihood without an image too.

    The connector always learns. What does not is in evaluation mode: no gradient, no dropout, fixed batch norm.

    Args:
        vocabulary: folder made by ``curate vocabulary``; the data's, and that of phase 0.
        vision: the image side; learns unless it is ``frozen``.
        language: size of the language model; that of phase 0.
        train_language: phase 2 if true, phase 1 if false.
        init_language: run of phase 0 to take the language model from.
        init_from: run of the phase before to take all weights from; or a folder of the authors' checkpoint.
        likelihood: what ``score`` says: the mean log-likelihood of a text's tokens (the authors' choice), their sum, or
            the evidence log p(text | image) - log p(text).
        recompute: what lies between the language model's layers again in the backward pass, instead of keeping it:
            less memory, more time (phase 2).
        image_size: side of the square the model sees; the data's.
        max_tokens: tokens an utterance; the data's.
        optimizer: called with the parameters that are trained.
        scheduler: called with the optimizer and the run's number of steps, stepped each step.

    Raises:
        UserError: image and utterance together are longer than the language model has positions.
    """

    def __init__(
        self,
        vocabulary: Path,
        vision: VisionEncoder,
        language: LanguageShape = GPT2,
        train_language: bool = False,
        init_language: Path | None = None,
        init_from: Path | None = None,
        likelihood: Literal["mean", "total", "evidence"] = "mean",
        recompute: bool = False,
        image_size: int = 224,
        max_tokens: int = 25,
        optimizer: OptimizerCallable = paper_optimizer,
        scheduler: TimedScheduler = CosineWithWarmup,
    ) -> None:
        super().__init__(optimizer, scheduler)
        self.vocabulary, self.heads = Vocabulary(vocabulary), language.all_heads
        self.vlm = build(vision, language_config(language, len(self.vocabulary)), image_size)
        self.image_length: int = self.vlm.config.image_seq_length
        if self.image_length + max_tokens > language.positions:
            raise UserError(
                f"{self.image_length} image tokens and data.max_tokens {max_tokens} are more than the language model's "
                f"{language.positions} positions"
            )
        self.likelihood, self.max_tokens, self.image_size = likelihood, max_tokens, image_size
        self.preprocess_image = eval_transform(image_size)
        if recompute:
            self.vlm.model.language_model.gradient_checkpointing_enable()
        self._load(language.family, init_language, init_from)
        frozen = {
            self.vlm.model.vision_tower: vision.frozen,
            self.vlm.model.language_model: not train_language,
            self.vlm.lm_head: not train_language,
        }
        self._frozen: list[nn.Module] = [part for part, kept in frozen.items() if kept]
        for part in self._frozen:
            part.requires_grad_(False)
        self.train()  # Lightning keeps the mode in which it finds a module

    def _load(self, family: str, init_language: Path | None, init_from: Path | None) -> None:
        if init_language is not None:
            body = {"gpt2": "transformer", "llama": "model"}[family]  # transformers' names of what is below the head
            renamed = {"vlm.model.language_model.": f"lm.{body}.", "vlm.lm_head.": "lm.lm_head."}
            initialization.init_from(self, init_language, renamed, self.vocabulary)
        if init_from is not None and is_authors(init_from):
            load_authors(self.vlm, init_from, self.vocabulary)
        elif init_from is not None:
            initialization.init_from(self, init_from, {"": ""}, self.vocabulary)

    def train(self, mode: bool = True) -> BabyLLaVA:
        """What is frozen stays in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def frozen_vision(self) -> nn.Module | None:
        """Images -> (B, P, C), if that cannot change."""
        tower = self.vlm.model.vision_tower
        return ImageTokens(tower.timm_model).eval() if tower in self._frozen else None

    def forward(self, batch: Batch) -> Tensor:
        """(B, L, V) logits of what follows each text token, given the image."""
        features_BPC = batch.features
        if features_BPC is None:
            features_BPC = self.vlm.model.vision_tower(batch.images_BCHW).last_hidden_state
        return text_logits(self.vlm, batch.tokens_BL, self._connect(features_BPC))

    def _connect(self, features_BPC: Tensor) -> Tensor:
        """(B, P, D): tokens of the language model's width."""
        image_BPD: Tensor = self.vlm.model.multi_modal_projector(features_BPC.to(self.vlm.dtype))
        return image_BPD

    def preprocess(self, image: Image) -> Tensor:
        """RGB picture -> (C, H, W)."""
        out: Tensor = self.preprocess_image(image)
        return out

    @torch.no_grad()
    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """(B, T) likelihoods, as ``likelihood`` says."""
        tokens = self.vocabulary.encode(texts, self.max_tokens)
        image_BPD = self._connect(self.vlm.model.vision_tower(images_BCHW).last_hidden_state)
        total_BT = given_images(self.vlm, image_BPD, tokens, wanted_BT)
        if self.likelihood == "evidence":
            return total_BT - without_image(self.vlm, tokens)
        return mean_or_total(total_BT, tokens, self.likelihood)

    @torch.no_grad()
    def score_texts(self, texts: Sequence[str]) -> Tensor:
        """(T,) likelihoods without an image; no image is no evidence."""
        if self.likelihood == "evidence":
            return torch.zeros(len(texts), device=self.device)
        tokens = self.vocabulary.encode(texts, self.max_tokens)
        return mean_or_total(without_image(self.vlm, tokens), tokens, self.likelihood)

    def caption(self, images_BCHW: Tensor, max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
        """Caption greedily."""
        prompt = torch.tensor([[IMAGE] * self.image_length + [SOS]], device=self.device).expand(len(images_BCHW), -1)
        output_BL = self.vlm.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=images_BCHW,
            do_sample=False,
            max_new_tokens=max_new_tokens,
        )
        return [self.vocabulary.decode(row) for row in output_BL[:, prompt.shape[1] :].tolist()]

    def save_pretrained(self, folder: Path) -> None:
        """Write what ``AutoModelForImageTextToText`` and ``AutoProcessor`` read: config, safetensors, tokenizer."""
        self.vlm.save_pretrained(folder)
        processor(self.vocabulary.path / "tokenizer.json", self.image_size, self.image_length).save_pretrained(folder)

    def load_pretrained(self, folder: Path) -> None:
        """Take the weights of such a folder; its own config.json is not read."""
        weights = type(self.vlm).from_pretrained(folder, config=copy.deepcopy(self.vlm.config), use_safetensors=True)
        self.vlm.load_state_dict(weights.state_dict())
