"""The vocabulary, word-level or byte-level BPE: one artefact, hashed, named in the config, shared by a row's phases.

It is a folder in Hugging Face's tokenizer format, so that transformers and open_clip read it as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError, require_at_least
from babyvlm.io import artifacts

PAD, UNK, SOS, EOS, IMAGE = range(5)
SPECIALS = ["<pad>", "<unk>", "<sos>", "<eos>", "<image>"]  # 0..3 as in CVCL; <image> for the generative model
# A word may hold apostrophes and hyphens; other punctuation is dropped (our choice: a bag of words has no use for it).
WORD = r"<unk>|\w+(?:['’-]\w+)*"
# GPT-2's pieces of text, between which nothing is merged; what could not be heard is one of its own.
PIECE = (
    r"\s+(?=<unk>)|<unk>|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+?(?=<unk>)| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)|\s+"
)


class Vocabulary:
    """Turns utterances into token ids and back.

    Args:
        path: folder made by ``curate vocabulary``.

    Raises:
        UserError: the folder is no vocabulary, or its files do not belong together.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest = artifacts.read_manifest(self.path, "vocabulary")
        file = self.path / "tokenizer.json"
        if not file.is_file() or artifacts.sha256_file(file) != self.hash:
            raise UserError(f"{file}: missing or changed since it was made; make the vocabulary again")
        self._tokenizer = Tokenizer.from_file(str(file))
        # A caption that spells "<image>" or "<eos>" is text like any other.
        self._tokenizer.encode_special_tokens = True

    @property
    def hash(self) -> str:
        """Identity of the vocabulary: two models may share weights only if it is equal."""
        return str(self.manifest["sha256"])

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @cached_property
    def words(self) -> list[str]:
        """All tokens, by id."""
        return [str(self._tokenizer.id_to_token(index)) for index in range(len(self))]

    def encode(self, texts: Iterable[str], max_tokens: int | None = 25) -> list[list[int]]:
        """Token ids of each text: ``<sos> words <eos>``, at most ``max_tokens`` in all (25 in CVCL)."""
        if max_tokens is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_tokens)
        return [self._tokenizer.encode(text).ids for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, specials left out."""
        return str(self._tokenizer.decode(list(ids)))


@artifacts.one_at_a_time
def vocabulary(
    stores: list[Path], out: Path, min_count: int = 3, kind: Literal["word", "bpe"] = "word", size: int = 6000
) -> None:
    """Make the vocabulary of some pair stores, from their training utterances.

    Out comes a folder with `tokenizer.json`, which any of Hugging Face's tools opens. All phases of a model, and all
    models that are compared, should share one.

    For example:
        python -m babyvlm curate vocabulary --stores '[stores/filtered,stores/aug]' --out vocabulary

    Args:
        stores: pair stores; an utterance that several frames share is counted once, validation and test not at all.
        out: folder to make.
        min_count: how often a word, or a pair of pieces that `bpe` joins, must be seen (3 in the paper).
        kind: `word`: whole words. `bpe`: pieces of words, down to bytes, so that any text can be said.
        size: tokens of a `bpe`, specials included, at most (6,000 in the paper); there are as many words as there are.
    """
    require_at_least(1, min_count=min_count)
    if not stores:
        raise UserError("--stores: name at least one store")
    arguments: artifacts.Manifest = {"stores": [PairStore(path).fingerprint for path in stores], "min_count": min_count}
    if kind == "bpe":
        arguments |= {"kind": kind, "size": size}
    if artifacts.is_complete(out, "vocabulary", arguments):
        print(f"{out}: already complete, skipping")
        return
    tokenizer = _train_words(stores, min_count) if kind == "word" else _train_pieces(stores, min_count, size)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<sos> $A <eos>", special_tokens=[("<sos>", SOS), ("<eos>", EOS)]
    )
    manifest: artifacts.Manifest = {"arguments": arguments, "size": tokenizer.get_vocab_size()}
    with artifacts.create(out, "vocabulary", manifest) as partial:
        tokenizer.save(str(partial / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "bos_token": "<sos>",
            "eos_token": "<eos>",
        }
        (partial / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        manifest["sha256"] = artifacts.sha256_file(partial / "tokenizer.json")
    what = "word" if kind == "word" else "pair of pieces"
    print(
        f"{out}: {tokenizer.get_vocab_size():,} tokens, specials included, each {what} seen at least {min_count} times"
    )


def _train_words(stores: Sequence[Path], min_count: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    trainer = trainers.WordLevelTrainer(min_frequency=min_count, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(_training_utterances(stores), trainer)
    if tokenizer.get_vocab_size() == len(SPECIALS):
        raise UserError(f"no word is seen {min_count} times in {', '.join(map(str, stores))}; lower --min_count")
    return tokenizer


def _train_pieces(stores: Sequence[Path], min_count: int, size: int) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size < len(SPECIALS) + len(alphabet):
        raise UserError(f"--size {size}: a bpe holds {len(SPECIALS)} specials and {len(alphabet)} bytes at least")
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))  # a piece that is a token is that token: <unk> is
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_count,
        special_tokens=SPECIALS,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_utterances(stores), trainer)
    return tokenizer


def _training_utterances(stores: Sequence[Path]) -> Iterator[str]:
    for path in stores:
        table = PairStore(path).columns("group", "split", "utterance").to_pydict()
        seen: set[str] = set()
        for group, split, utterance in zip(table["group"], table["split"], table["utterance"], strict=True):
            if split == "train" and group not in seen:
                seen.add(group)
                yield utterance.replace("<unk>", " ")  # counted as a word it would push the special from its place
