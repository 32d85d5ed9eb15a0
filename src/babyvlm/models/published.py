"""Checkpoints that the authors published, in their own layouts: evaluated by their own rules, not trained further.

- CVCL (wkvong/multimodal-baby @d64c1bb, ``MultiModalLitModel``): a Lightning checkpoint with ``vocab.json``.
- BabyLLaVA V1 (ShawnKing98/BabyLLaVA @45d046e): a folder of transformers 4.39 with its tokenizer.
- The DINO backbones that both start from (eminorhan/dino_sfp_resnext50, eminorhan/dino_say_vitl16).

Sizes are read from the weights and from ``config.json``. No file is executed (``checkpoints.read_state_dict``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms import InterpolationMode, v2
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, LlamaConfig, PreTrainedConfig

from babyvlm.data.transforms import MEAN, to_tensor
from babyvlm.data.vocabulary import EOS, PAD, SOS, UNK, Vocabulary
from babyvlm.errors import UserError, first_line
from babyvlm.io.files import read_bounded
from babyvlm.io.limits import MAX_JSON_BYTES, load_json
from babyvlm.models.checkpoints import is_authors_checkpoint, read_state_dict, rename_authors_weights
from babyvlm.models.evaluation_only import EvaluationOnly
from babyvlm.models.networks.cvcl import CVCLNetwork
from babyvlm.models.networks.text import LSTMText, MeanEmbedding, TransformerText
from babyvlm.models.networks.vision import TrunkOptions, VisionEncoder
from babyvlm.models.scoring import BATCH_SIZE, Likelihood, log_likelihood_after_prefix, per_token_or_total

IMAGE_SIZE = 224  # pixels; both projects
MAX_TOKENS = 25  # CVCL: MAX_LEN_UTTERANCE
MAX_NEW_TOKENS = 25  # babylmms-eval: tasks/saycam_caption/saycam_caption.yaml
IMAGE, PROMPT = "<image>", "<image>\n"  # babylmms-eval: models/babyllava.py, with `conv_template=plain` and no prompt
CVCL_TRUNK = "vision_encoder.model."
# What a folder may have been trained with: backbones of both projects.
BACKBONES = ("dino_sfp_resnext50.pth", "dino_say_vitl16.pth")
# Fields of config.json that shape a language model.
GPT2_FIELDS = (
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function"),
    *("layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"),
)
LLAMA_FIELDS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "attention_bias"),
)


def load_published(folder: Path) -> EvaluationOnly | None:
    """Return the published model in a folder; None if the folder holds something else.

    Raises:
        UserError: it is one, but files are missing or do not fit each other.
    """
    if is_authors_checkpoint(folder):
        return PublishedBabyLLaVA(folder)
    if find_cvcl(folder) is not None:
        return PublishedCVCL(folder)
    backbones = [folder / name for name in BACKBONES if (folder / name).is_file()]
    return PublishedBackbone(backbones[0]) if backbones else None


# CVCL.


def find_cvcl(folder: Path) -> Path | None:
    """Return the Lightning checkpoint of CVCL in a folder, which lies beside ``vocab.json``; None if there is none.

    Raises:
        UserError: there are several.
    """
    files = sorted(folder.glob("*.ckpt")) if (folder / "vocab.json").is_file() else []
    if len(files) > 1:
        raise UserError(f"{folder}: has {len(files)} checkpoints; a CVCL folder has one, with its vocab.json")
    return files[0] if files else None


class PublishedCVCL(EvaluationOnly):
    """CVCL as its authors published it. Scores are cosines.

    Args:
        folder: with one ``.ckpt`` file and ``vocab.json``.

    Raises:
        UserError: a file is missing, or weights and vocabulary do not belong together.
    """

    max_tokens = MAX_TOKENS
    saliency_method = "Grad-CAM"
    score_sos_eos = True  # as in ``CVCL``

    def __init__(self, folder: Path) -> None:
        super().__init__()
        file = find_cvcl(folder)
        if file is None:
            raise UserError(f"{folder}: needs one .ckpt file and its vocab.json")
        state = read_state_dict(file, str(file))
        self.vocabulary = CVCLVocabulary(folder / "vocab.json")
        trunk = {name.removeprefix(CVCL_TRUNK): t for name, t in state.items() if name.startswith(CVCL_TRUNK)}
        embedding = _weight(state, "text_encoder.embedding.weight", file)
        projection = _weight(trunk, "fc.weight", file)
        if len(embedding) != len(self.vocabulary):
            raise UserError(
                f"{file}: has embeddings of {len(embedding)} words, but {folder / 'vocab.json'} has "
                f"{len(self.vocabulary)}"
            )
        text, weights = _text_encoder(state)
        self.network = CVCLNetwork(_encoder(trunk, file), len(embedding), text, embedding.shape[1])
        _load(self.network.text_encoder, weights, file)
        _load(self.network.projection, {"weight": projection, "bias": _weight(trunk, "fc.bias", file)}, file)
        self.preprocess_image = v2.Compose(  # squeezes, as MultiModalLitModel.load_model
            [v2.Resize((IMAGE_SIZE, IMAGE_SIZE), InterpolationMode.BICUBIC), *to_tensor()]
        )

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an RGB image as (C, H, W)."""
        out: Tensor = self.preprocess_image(image)
        return out

    @torch.no_grad()
    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) cosines."""
        image_BD, text_TD = self.network(images_BCHW, self._tokens(texts))
        scores_BT: Tensor = image_BD @ text_TD.T
        return scores_BT

    @torch.no_grad()
    def embed_images(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, width) image embeddings with unit norm."""
        return self.network.encode_image(images_BCHW)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (T, width) text embeddings with unit norm."""
        return self.network.encode_text(self._tokens(texts))

    def saliency(self, images_BCHW: Tensor, words: Sequence[str]) -> Tensor:
        """Return (B, h, w) maps of where each image resembles its word: Grad-CAM."""
        return self.network.grad_cam(images_BCHW, self.embed_texts(words))

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """Return (T, L) token ids of texts."""
        encoded = self.vocabulary.encode_raw(texts, MAX_TOKENS)
        ids = [torch.tensor(tokens if self.score_sos_eos else tokens[1:-1]) for tokens in encoded]
        tokens_TL = pad_sequence(ids, batch_first=True, padding_value=PAD)
        if isinstance(self.network.text_encoder, TransformerText):  # padding is summed in, so its length matters
            tokens_TL = nn.functional.pad(tokens_TL, (0, MAX_TOKENS - tokens_TL.shape[1]), value=PAD)
        return tokens_TL.to(self.device)


class CVCLVocabulary(Vocabulary):
    """A published ``vocab.json`` with its ids. Other words are ``<unk>``.

    ``encode_raw`` splits texts as spaCy, which the authors use (``MultiModalLitModel.tokenize``), into lower-case
    words, as the published ones are.

    Args:
        file: ``{word: id}``.

    Raises:
        UserError: the file is not such a vocabulary.
    """

    def __init__(self, file: Path) -> None:
        words = _json(file)
        ids = list(words.values())
        if not all(type(index) is int for index in ids) or sorted(ids) != list(range(len(ids))):
            raise UserError(f"{file}: not a vocabulary (words with ids from 0)")
        if [words.get(token) for token in ("<unk>", "<sos>", "<eos>")] != [UNK, SOS, EOS]:
            raise UserError(f"{file}: <unk>, <sos> and <eos> must have the ids {UNK}, {SOS} and {EOS}, as in CVCL")
        self.path, self.manifest = file, {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        self._tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        self._tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single="<sos> $A <eos>", special_tokens=[("<sos>", SOS), ("<eos>", EOS)]
        )


def _text_encoder(state: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """Return the class of CVCL's text encoder, and its weights under our names."""
    own = {
        name.removeprefix("text_encoder."): tensor for name, tensor in state.items() if name.startswith("text_encoder.")
    }
    weights = {"embedding.weight": own["embedding.weight"]}
    if "lstm.weight_ih_l0" in own:
        lstm = {name: tensor for name, tensor in own.items() if name.startswith("lstm.")}
        return LSTMText, weights | lstm
    layer = {
        name.replace("transformer_encoder.layers.0.", "layer."): tensor
        for name, tensor in own.items()
        if name.startswith("transformer_encoder.layers.0.")
    }
    if not layer:
        return MeanEmbedding, weights
    positions = own.get("pos_embed", torch.zeros(MAX_TOKENS, 1, own["embedding.weight"].shape[1]))
    return _summing_transformer, weights | layer | {"positions": positions[:, 0]}


def _summing_transformer(vocabulary_size: int, width: int) -> TransformerText:
    return TransformerText(vocabulary_size, width, max_tokens=MAX_TOKENS, sum_padding=True)


# BabyLLaVA.


class PublishedBabyLLaVA(EvaluationOnly):
    """BabyLLaVA V1 as its authors published it, scored and captioning as babylmms-eval @82118a8 does.

    The prompt is ``<image>`` and a line break in the model's own tokenizer: a word-level tokenizer drops the line
    break, and byte-level BPE puts ``<sos>`` before the image. A score is the mean log-likelihood of the text's tokens,
    without ``<eos>``. Captions are decoded greedily; no token is suppressed. A ViT keeps its class token.

    Args:
        folder: with ``config.json``, ``tokenizer.json`` and the weights, as ``save_pretrained`` of transformers 4.39.
        likelihood: as in ``BabyLLaVA``.
        score_eos: as in ``BabyLLaVA``.

    Raises:
        UserError: a file is missing, or the files do not fit each other.
    """

    max_tokens: int | None = None

    def __init__(self, folder: Path, likelihood: Likelihood = "mean", score_eos: bool = False) -> None:
        super().__init__()
        self.likelihood, self.score_eos = likelihood, score_eos
        config = _json(folder / "config.json")
        if config.get("mm_use_im_start_end"):
            raise UserError(f"{folder / 'config.json'}: mm_use_im_start_end is not supported")
        state = _renamed(folder)
        self.vocabulary = BabyLLaVATokenizer(folder)
        embeddings = next((t for name, t in state.items() if re.search(r"\.(wte|embed_tokens)\.weight$", name)), None)
        if embeddings is None or len(embeddings) < len(self.vocabulary):
            rows = 0 if embeddings is None else len(embeddings)
            raise UserError(f"{folder}: embeddings of {rows} tokens, but its tokenizer has {len(self.vocabulary)}")
        self.language = _language_model(config, state, len(self.vocabulary), folder)
        self.connector = nn.Sequential(*_connector(state, folder))
        vision = {n.removeprefix("vision."): t for n, t in state.items() if n.startswith("vision.")}
        self.vision = _encoder(vision, folder)
        self.keeps_class_token = "cls_token" in vision
        self.pads = config.get("image_aspect_ratio") == "pad"
        self.square = v2.Compose([v2.Resize((IMAGE_SIZE, IMAGE_SIZE)), *to_tensor()])
        self.stop = _stop_tokens(folder, config)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an RGB image as (C, H, W): padded to a square if the model was trained so, else squeezed."""
        if self.pads and image.width != image.height:
            side = max(image.size)
            square = Image.new(image.mode, (side, side), tuple(int(value * 255) for value in MEAN))
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        out: Tensor = self.square(image)
        return out

    @torch.no_grad()
    def score(self, images_BCHW: Tensor, texts: Sequence[str], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) likelihoods as ``likelihood`` defines them, NaN where not wanted."""
        tokens = self._scored_tokens(texts)
        total_BT = self._total(self._prompt(images_BCHW), tokens, wanted_BT)
        return per_token_or_total(total_BT, [len(ids) for ids in tokens], self.likelihood)

    @torch.no_grad()
    def score_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (T,) likelihoods after the prompt without its image.

        A prompt without any token is replaced by ``<sos>``, with which phase 0 begins an utterance (our choice).
        """
        tokens = self._scored_tokens(texts)
        total_T = self._total(self._prompt(None), tokens)[0]
        return per_token_or_total(total_T, [len(ids) for ids in tokens], self.likelihood)

    @torch.no_grad()
    def caption(self, images_BCHW: Tensor, max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
        """Return greedily decoded captions of B images.

        Tokens of the prompt that are also padding are left out, as their attention mask removes them: the line break,
        where it is unknown and ``<unk>`` is the padding.
        """
        prompt_BLD = self._prompt(images_BCHW, left_out=self.vocabulary.pad)
        output_BL = self.language.generate(
            inputs_embeds=prompt_BLD,
            attention_mask=torch.ones(prompt_BLD.shape[:2], dtype=torch.long, device=self.device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.stop,
            pad_token_id=self.vocabulary.pad,
        )
        return [self.vocabulary.decode(row) for row in output_BL.tolist()]

    def _scored_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        end = [self.vocabulary.eos] if self.score_eos else []
        return [ids + end for ids in self.vocabulary.text_ids(texts)]

    def _prompt(self, images_BCHW: Tensor | None, left_out: int | None = None) -> Tensor:
        """Return (B, L, D), the prompt as the language model reads it; B is 1 without images."""
        embed = self.language.get_input_embeddings()
        before, after = (
            [token for token in part if token != left_out] for part in (self.vocabulary.before, self.vocabulary.after)
        )
        if images_BCHW is None:
            ids = [*before, *after] or [self.vocabulary.bos]
            return cast("Tensor", embed(torch.tensor([ids], device=self.device)))
        features = self.vision.trunk.forward_features(images_BCHW.to(self.dtype))
        if not self.keeps_class_token:
            features = features.flatten(2).mT
        parts = [
            embed(torch.tensor([ids], dtype=torch.long, device=self.device)).expand(len(features), -1, -1)
            for ids in (before, after)
        ]
        return torch.cat([parts[0], self.connector(features), parts[1]], dim=1)

    def _total(self, prompt_BLD: Tensor, tokens: Sequence[Sequence[int]], wanted_BT: Tensor | None = None) -> Tensor:
        """Return (B, T) log-likelihoods."""
        body, lm_head = self.language.base_model, self.language.lm_head
        out = body(inputs_embeds=prompt_BLD, use_cache=True, past_key_values=DynamicCache())
        first_BV = lm_head(out.last_hidden_state[:, -1])
        return log_likelihood_after_prefix(
            body, lm_head, out.past_key_values, tokens, wanted_BT, first_BV=first_BV, batch_size=BATCH_SIZE
        )


class BabyLLaVATokenizer(Vocabulary):
    """The tokenizer of a published BabyLLaVA, word-level or byte-level BPE, with its special tokens.

    Args:
        folder: with ``tokenizer.json`` and ``tokenizer_config.json``.

    Attributes:
        before: ids of the prompt before the image.
        after: ids of the prompt after the image.
        pad, bos, eos: ids of special tokens.

    Raises:
        UserError: the files cannot be read, or the prompt and the text are not tokenized apart.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises Exception itself
            raise UserError(f"{file}: cannot be read as a tokenizer ({first_line(error)})") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.path, self.manifest = file, {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        settings = _json(folder / "tokenizer_config.json")
        self.bos, self.eos = (self._special(settings, name) for name in ("bos_token", "eos_token"))
        self.pad = self._special(settings, "pad_token", self.eos)
        # transformers 4.39 does so unless told otherwise.
        self._cleans_up = bool(settings.get("clean_up_tokenization_spaces", True))
        self.before, self.after = self._around_image(PROMPT)

    def text_ids(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the token ids of texts as they follow the prompt.

        Raises:
            UserError: a text has no token, or its beginning merges with the prompt.
        """
        found = []
        for text in texts:
            before, after = self._around_image(f"{PROMPT} {text}")  # `target_delimiter: " "` in the tasks' YAML
            count = len(self.after)
            if (before, after[:count]) != (self.before, self.after) or len(after) == count:
                raise UserError(f"{self.path}: the text {text!r} has no token of its own after the prompt")
            found.append(after[count:])
        return found

    def encode(self, texts: Iterable[str], max_tokens: int | None = None) -> list[list[int]]:
        """Return the token ids of each text between ``<sos>`` and ``<eos>``; never truncated."""
        return [[self.bos, *ids, self.eos] for ids in self.text_ids(texts)]

    def encode_raw(self, texts: Iterable[str], max_tokens: int | None = None) -> list[list[int]]:
        """Return ``encode``: the authors' evaluation passes texts to the tokenizer as they are."""
        return self.encode(texts, max_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens, as ``batch_decode`` of transformers 4.39."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return clean_up(text) if self._cleans_up else text

    def _around_image(self, prompt: str) -> tuple[list[int], list[int]]:
        """Return the ids before and after the image, as ``tokenizer_image_token`` in ``llava/mm_utils.py``.

        Each part is tokenized alone; a ``<sos>`` that the tokenizer puts before every part is kept once.
        """
        before, after = (self._tokenizer.encode(part).ids for part in prompt.split(IMAGE))
        repeated = bool(before) and before[0] == self.bos
        return before, after[1:] if repeated else after

    def _special(self, settings: Mapping[str, Any], name: str, default: int | None = None) -> int:
        token = settings.get(name)
        token = token.get("content") if isinstance(token, Mapping) else token
        found = self._tokenizer.token_to_id(str(token))
        if found is None and default is None:
            raise UserError(f"{self.path}: has no {name} ({token})")
        return cast("int", default if found is None else found)


def clean_up(text: str) -> str:
    """Remove blanks before punctuation and clitics, as ``clean_up_tokenization`` of transformers does.

    >>> clean_up("do n't touch it , it 's hot .")
    "don't touch it, it's hot."
    """
    text = re.sub(r" ([.?!,])", r"\1", text).replace(" ' ", "'")
    return re.sub(r" (n't|'m|'s|'ve|'re)", r"\1", text)


def _renamed(folder: Path) -> dict[str, Tensor]:
    """Return a folder's weights: ``vision.`` in timm's names, ``connector.``, ``language.``, ``lm_head.weight``."""
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{folder}: no weights found (model.safetensors or pytorch_model.bin)")
    state: dict[str, Tensor] = {}
    prefixes = {
        "model.vision_tower.timm_model.": "vision.",
        "model.multi_modal_projector.linear_": "connector.",
        "model.language_model.": "language.",
    }
    for file in files:
        for name, tensor in rename_authors_weights(read_state_dict(file, str(file))):
            old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
            state[prefixes.get(old, "") + name.removeprefix(old)] = tensor.float()
    return state


def _language_model(config: Mapping[str, Any], state: Mapping[str, Tensor], rows: int, folder: Path) -> Any:  # noqa: ANN401 - transformers is not typed
    """Return GPT-2 or Llama with its weights; rows of embeddings beyond the tokenizer are cut off, as in theirs."""
    if config.get("rope_scaling"):
        raise UserError(f"{folder / 'config.json'}: rope_scaling is not supported")
    made: PreTrainedConfig
    fields = GPT2_FIELDS if config["model_type"] == "llava_gpt2" else LLAMA_FIELDS
    shape = {name: config[name] for name in fields if name in config} | {"vocab_size": rows}
    shape |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # given to `generate`
    tied = bool(config.get("tie_word_embeddings", fields is GPT2_FIELDS))  # the defaults of both families
    if fields is GPT2_FIELDS:
        made = GPT2Config(**shape, tie_word_embeddings=tied)
    else:
        rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)}
        made = LlamaConfig(**shape, rope_parameters=rope, tie_word_embeddings=tied)
    language = AutoModelForCausalLM.from_config(made).eval()
    body = {name.removeprefix("language."): t for name, t in state.items() if name.startswith("language.")}
    embeddings = next(name for name in body if name.endswith(("wte.weight", "embed_tokens.weight")))
    body[embeddings] = body[embeddings][:rows]
    _load(language.base_model, body, folder)
    if not made.tie_word_embeddings:
        _load(language.lm_head, {"weight": _weight(state, "lm_head.weight", folder)[:rows]}, folder)
    return language


def _connector(state: Mapping[str, Tensor], folder: Path) -> list[nn.Module]:
    """Return Linear, GELU, Linear (``mlp2x_gelu`` in ``llava/model/multimodal_projector/builder.py``)."""
    layers = []
    for number in ("1", "2"):
        weights = {part: _weight(state, f"connector.{number}.{part}", folder) for part in ("weight", "bias")}
        layer = nn.Linear(weights["weight"].shape[1], weights["weight"].shape[0])
        layer.load_state_dict(weights)
        layers.append(layer)
    return [layers[0], nn.GELU(), layers[1]]


def _stop_tokens(folder: Path, config: Mapping[str, Any]) -> int | list[int] | None:
    """Return the tokens that end a caption: those of ``generation_config.json``, else of ``config.json``."""
    file = folder / "generation_config.json"
    return cast("int | list[int] | None", (_json(file) if file.is_file() else config).get("eos_token_id"))


# Backbones.


class PublishedBackbone(EvaluationOnly):
    """A backbone pretrained with DINO, which returns features of images. It scores no texts.

    To train with it, pass the file as ``--model.vision.weights``.

    Args:
        file: ``dino_sfp_resnext50.pth`` or ``dino_say_vitl16.pth``.

    Raises:
        UserError: the file holds neither a ResNeXt nor a ViT.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        state = read_state_dict(file, str(file))
        plain = {re.sub(r"^(module\.)?(backbone\.)?", "", name): tensor for name, tensor in state.items()}
        self.encoder = _encoder(plain, file)
        self.transform = v2.Compose([v2.Resize((IMAGE_SIZE, IMAGE_SIZE)), *to_tensor()])

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an RGB image as (C, H, W)."""
        out: Tensor = self.transform(image)
        return out

    @torch.no_grad()
    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, C) features: pooled for a ResNeXt, the class token for a ViT."""
        features: Tensor = self.encoder(images_BCHW)
        return features

    def embed_images(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, C) features."""
        features: Tensor = self(images_BCHW)
        return features


def _encoder(state: Mapping[str, Tensor], source: Path) -> VisionEncoder:
    """Return a frozen encoder with weights in timm's names; its size follows from the shapes."""
    encoder = VisionEncoder(*_architecture(state, source), frozen=True)
    _load(encoder.trunk, state, source)
    return encoder


def _architecture(state: Mapping[str, Tensor], source: Path) -> tuple[str, TrunkOptions]:
    if "patch_embed.proj.weight" in state:
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        places = _weight(state, "pos_embed", source).shape[1] - 1
        return "vit_large_patch16_224", {
            "img_size": round(places**0.5) * patch,
            "patch_size": patch,
            "embed_dim": width,
            "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
            "num_heads": width // 64,  # as in all ViTs of DINO and torchvision that they use
        }
    _weight(state, "layer1.0.conv1.weight", source)
    blocks = {tuple(name.split(".")[:2]) for name in state if re.match(r"layer\d\.", name)}
    return "resnext50_32x4d", {"layers": [sum(stage == f"layer{n}" for stage, _ in blocks) for n in range(1, 5)]}


# All of them.


def _load(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Fill a module; weights that it does not have, such as heads and constant masks, are ignored."""
    own = {name: tensor for name, tensor in module.state_dict().items() if "num_batches_tracked" not in name}
    for name, tensor in own.items():
        if _weight(state, name, source).shape != tensor.shape:
            raise UserError(
                f"{source}: shape of {name} is {tuple(state[name].shape)}, but the model needs {tuple(tensor.shape)}"
            )
    module.load_state_dict({name: state[name] for name in own}, strict=False)


def _weight(state: Mapping[str, Tensor], name: str, source: Path) -> Tensor:
    if name not in state:
        raise UserError(f"{source}: weight {name} is missing")
    return state[name]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = load_json(read_bounded(file, MAX_JSON_BYTES).decode())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a JSON object")
    return content
