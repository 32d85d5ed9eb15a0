"""BabyLLaVA, the generative baseline, phases 1 and 2 (phase 0 is ``language.py`` and ``dino.py``)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.optimizer import ParamsT

from babyvlm.data.transforms import Resize, eval_transform
from babyvlm.data.vocabulary import EOS, PAD, UNK, Vocabulary
from babyvlm.errors import UserError
from babyvlm.models.base import CausalModule
from babyvlm.models.checkpoints import init_from as initialize
from babyvlm.models.checkpoints import is_authors_checkpoint, load_authors_checkpoint
from babyvlm.models.language import LanguageModel
from babyvlm.models.networks.babyllava import MAX_NEW_TOKENS, BabyLLaVANetwork, Template, processor
from babyvlm.models.networks.connector import ImageTokens
from babyvlm.models.networks.language import GPT2, LanguageShape
from babyvlm.models.networks.vision import VisionEncoder, initial_weights, set_frozen_mode
from babyvlm.models.optimization import CosineWithWarmup, TimedScheduler
from babyvlm.models.scoring import (
    Likelihood,
    log_likelihood_after_prefix,
    log_likelihood_without_image,
    per_token_or_total,
    without_eos,
)
from babyvlm.types import Batch


class BabyLLaVAAdamW(torch.optim.AdamW):
    """AdamW with learning rate 3e-3 and no weight decay (ShawnKing98/BabyLLaVA, phase1.sh)."""

    def __init__(self, params: ParamsT, lr: float = 3e-3, weight_decay: float = 0.0, **kwargs: Any) -> None:  # noqa: ANN401 - AdamW's
        super().__init__(params, lr=lr, weight_decay=weight_decay, **kwargs)


class BabyLLaVA(CausalModule):
    """Trains a ``BabyLLaVANetwork``: image tokens, then the text, each token predicted from those before.

    By our choice the text is ``<sos> words <eos>``: it is so in phase 0, ``<sos>`` gives the first word a likelihood
    without an image too, and a model that has learned ``<eos>`` ends its captions. ``template: plain`` is the form of
    the authors' released training scripts (ShawnKing98/BabyLLaVA).

    The connector is always trained. Unless asked otherwise, frozen parts are in evaluation mode: no gradient, no
    dropout, fixed batch norm.

    Args:
        vocabulary: folder created by ``curate vocabulary``; that of the data, and of phase 0.
        vision: the vision encoder; trained unless it is ``frozen``.
        language: size of the language model; that of phase 0.
        train_language: train the language model: false in phase 1, true in phase 2.
        init_language: run of phase 0 to initialize the language model from.
        init_from: run of the previous phase to initialize all weights from, or a folder with the authors' checkpoint.
        template: what follows the image tokens; see ``networks.babyllava.Template``.
        unknown_words: what training does with ``<unk>``, unintelligible speech: ``learn`` it like a word; ``mask`` it,
            read but not predicted; or ``drop`` it from the text, as ShawnKing98/BabyLLaVA did until October 2025, where
            it also was the padding that ``prepare_inputs_labels_for_multimodal`` removes.
        frozen_dropout: keep the dropout of a language model that is not trained (phase 1) active, as the authors'
            script does: it stops the gradients only.
        likelihood: the value of ``score``: the mean log-likelihood of a text's tokens (babylmms-eval), their sum, or
            (for ``evidence``) their sum, from which an evaluation subtracts that of other images
            (``benchmarks/scoring.py``).
        score_eos: count ``<eos>`` as a token of the text. The authors' evaluation does not (babylmms-eval with
            ``conv_template=plain``).
        gradient_checkpointing: recompute the activations of the language model's layers in the backward pass: less
            memory, more time (phase 2).
        image_size: side of the square images, in pixels; that of the data.
        max_tokens: longest utterance, in tokens; that of the data.
        resize: how an image becomes square; that of the data.
        optimizer: called with the trainable parameters.
        scheduler: called with the optimizer and the run's number of steps; stepped after each step.

    Raises:
        UserError: image and utterance together are longer than the language model's context.
    """

    saliency_method = "attention"

    def __init__(  # noqa: PLR0913, PLR0917 - each is a setting of the model that a YAML may override
        self,
        vocabulary: Path,
        vision: VisionEncoder,
        language: LanguageShape = GPT2,
        train_language: bool = False,
        init_language: Path | None = None,
        init_from: Path | None = None,
        template: Template = "sos_eos",
        unknown_words: Literal["learn", "mask", "drop"] = "learn",
        frozen_dropout: bool = False,
        likelihood: Likelihood = "mean",
        score_eos: bool = False,
        gradient_checkpointing: bool = False,
        image_size: int = 224,
        max_tokens: int = 25,
        resize: Resize = "crop",
        optimizer: OptimizerCallable = BabyLLaVAAdamW,
        scheduler: TimedScheduler = CosineWithWarmup,
    ) -> None:
        super().__init__(optimizer, scheduler)
        self.vocabulary, self.heads = Vocabulary(vocabulary), language.all_heads
        with initial_weights():
            self.network = BabyLLaVANetwork(
                vision, language, len(self.vocabulary), image_size, template, self.vocabulary.image_token
            )
        if template == "plain":
            self.given += (EOS,)
        if unknown_words == "mask":
            self.given += (UNK,)
        self.unknown_words, self.frozen_dropout = unknown_words, frozen_dropout
        self.update_batch_norm = vision.update_batch_norm
        if self.network.image_length + max_tokens > language.positions:
            raise UserError(
                f"{self.network.image_length} image tokens and data.max_tokens {max_tokens} exceed the language "
                f"model's {language.positions} positions. Raise model.language.positions or lower data.max_tokens"
            )
        self.likelihood, self.score_eos, self.max_tokens = likelihood, score_eos, max_tokens
        self.image_size, self.resize = image_size, resize
        self.preprocess_image = eval_transform(image_size, resize)
        if gradient_checkpointing:
            self.network.llava.model.language_model.activation_checkpointing_enable()
        if init_language is not None:
            body = {"gpt2": "transformer", "llama": "model"}[language.family]  # transformers' names
            prefixes = {
                "network.llava.model.language_model.": f"network.{body}.",
                "network.llava.lm_head.": "network.lm_head.",
            }
            initialize(self, init_language, prefixes, saved_by=LanguageModel)
        if init_from is not None and is_authors_checkpoint(init_from):
            load_authors_checkpoint(self.network.llava, init_from, self.vocabulary)
        elif init_from is not None:
            initialize(self, init_from)
        frozen = {
            self.network.vision_tower: vision.frozen,
            self.network.language_model: not train_language,
            self.network.lm_head: not train_language,
        }
        self._frozen = [part for part, is_frozen in frozen.items() if is_frozen]
        for part in self._frozen:
            part.requires_grad_(False)
        self.train()  # Lightning keeps the mode in which it finds a module

    def train(self, mode: bool = True) -> BabyLLaVA:
        """Set the mode; frozen parts stay in evaluation mode, except for what the options keep active."""
        super().train(mode)
        for part in self._frozen:
            if part is self.network.vision_tower:
                set_frozen_mode(part, training=mode and self.update_batch_norm)
            elif not self.frozen_dropout:
                part.eval()
        return self

    def frozen_vision(self) -> nn.Module | None:
        """Return the encoder that computes ``Batch.features`` (B, P, C), if it is frozen."""
        if self.network.vision_tower not in self._frozen or self.update_batch_norm:
            return None
        return ImageTokens(self.network.llava.model.vision_tower.timm_model).eval()

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, L, V) logits of the token after each text token, given the image."""
        logits_BLV: Tensor = self.network(self.text(batch), batch.images_BCHW, batch.features)
        return logits_BLV

    def text(self, batch: Batch) -> Tensor:
        """Return (B, L) tokens of the utterances, without ``<unk>`` if it is dropped."""
        if self.unknown_words != "drop":
            return batch.tokens_BL
        order_BL = (batch.tokens_BL == UNK).int().argsort(dim=1, stable=True)
        tokens_BL = batch.tokens_BL.gather(1, order_BL)
        return tokens_BL.masked_fill(tokens_BL == UNK, PAD)

    def preprocess(self, image: Image) -> Tensor:
        """Return an RGB image as (C, H, W)."""
        out: Tensor = self.preprocess_image(image)
        return out

    @torch.no_grad()
    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) likelihoods as ``likelihood`` defines them, NaN where not wanted.

        The keys and values of an image are computed once for all of its texts.
        """
        language_model, lm_head = self.network.language_model, self.network.lm_head
        image_BPD = self.network.connect(self.network.encode_image(images_BCHW))
        prefix = language_model(inputs_embeds=image_BPD, use_cache=True)
        given, first_BV = self._scored_tokens(texts), None
        tokens = given
        if self.network.template == "plain":  # the last image token takes the place of <sos>
            tokens, first_BV = [ids[1:] for ids in given], lm_head(prefix.last_hidden_state[:, -1])
        total_BT = log_likelihood_after_prefix(
            language_model, lm_head, prefix.past_key_values, tokens, wanted_BT, first_BV=first_BV
        )
        return per_token_or_total(total_BT, [len(ids) - 1 for ids in given], self.likelihood)

    @torch.no_grad()
    def embed_images(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, C) means of the vision encoder's last feature map."""
        return self.network.encode_image(images_BCHW).mean(1)

    def saliency(self, images_BCHW: Tensor, words: Sequence[str]) -> Tensor:
        """Return (B, h, w) shares of a word's attention to the image: the mean over layers, heads, and its tokens.

        A map sums to the share of the attention that goes to the image, at most 1. Image tokens form a square.
        """
        given = self.vocabulary.encode_raw(words, self.max_tokens)
        texts = [ids[:-1] if self.network.template == "sos_eos" else ids[1:-1] for ids in given]
        tokens_BL = pad_sequence([torch.tensor(ids) for ids in texts], batch_first=True, padding_value=PAD)
        attention_BLP = self.network.image_attention(images_BCHW, tokens_BL.to(self.device))
        own = [
            attention_LP[len(ids) - (len(all_ids) - 2) : len(ids)]
            for attention_LP, ids, all_ids in zip(attention_BLP, texts, given, strict=True)
        ]
        side = math.isqrt(self.network.image_length)
        return torch.stack([one.mean(0) for one in own]).view(-1, side, side)

    @torch.no_grad()
    def score_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (T,) likelihoods without an image."""
        tokens = self._scored_tokens(texts)
        total_T = log_likelihood_without_image(self.network, tokens)
        return per_token_or_total(total_T, [len(ids) - 1 for ids in tokens], self.likelihood)

    def _scored_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts: ``<sos>``, which is given, and the tokens that count."""
        tokens = self.vocabulary.encode_raw(texts, self.max_tokens)
        return tokens if self.score_eos else without_eos(tokens, EOS)

    def caption(self, images_BCHW: Tensor, max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
        """Return greedily decoded captions of B images."""
        return [self.vocabulary.decode(row) for row in self.network.generate(images_BCHW, max_new_tokens).tolist()]

    def save_pretrained(self, folder: Path) -> None:
        """Write config, weights and tokenizer for ``AutoModelForImageTextToText`` and ``AutoProcessor``."""
        self.network.llava.save_pretrained(folder)
        tokenizer = self.vocabulary.path / "tokenizer.json"
        parts = self.image_size, self.network.image_length, self.resize, self.network.template
        processor(tokenizer, *parts).save_pretrained(folder)

    def load_pretrained(self, folder: Path) -> None:
        """Load the weights that ``save_pretrained`` wrote; the folder's ``config.json`` is not read."""
        llava = self.network.llava
        saved = type(llava).from_pretrained(folder, config=copy.deepcopy(llava.config), use_safetensors=True)
        llava.load_state_dict(saved.state_dict())
