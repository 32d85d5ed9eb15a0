"""The vocabulary, word-level or byte-level BPE: one artifact that all phases of a model share, identified by its hash.

It is a folder in Hugging Face's tokenizer format, which transformers and open_clip read too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError, require_at_least
from babyvlm.io import artifacts
from babyvlm.io.files import resolve_inside

PAD, UNK, SOS, EOS, IMAGE = range(5)
FILES = ("tokenizer.json", "tokenizer_config.json", "vocabulary.json", "vocabulary.json.sha256")
SPECIALS = ["<pad>", "<unk>", "<sos>", "<eos>", "<image>"]  # ids 0 to 3 as in CVCL; <image> for the generative model
# A word may contain apostrophes and hyphens; other punctuation is dropped (our choice: a bag of words cannot use it).
WORD = r"<unk>|\w+(?:['’-]\w+)*"
# GPT-2's pre-tokenization, across whose boundaries nothing is merged, with <unk>, inaudible speech, as a piece.
PIECE = (
    r"\s+(?=<unk>)|<unk>|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+?(?=<unk>)| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)|\s+"
)


class Vocabulary:
    """Converts utterances to token ids and back.

    >>> vocabulary = Vocabulary(getfixture("vocabulary"))  # a folder
    >>> len(vocabulary), "ball" in vocabulary, "zebra" in vocabulary
    (16, True, False)
    >>> vocabulary.encode(["look at the ball", "a zebra"])  # 2 is <sos>, 3 <eos>, 1 <unk>
    [[2, 10, 6, 5, 7, 3], [2, 12, 1, 3]]
    >>> vocabulary.decode([2, 10, 6, 5, 7, 3])
    'look at the ball'

    Args:
        path: folder created by ``curate vocabulary``.

    Raises:
        UserError: the folder is not a vocabulary, or its files do not belong together.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = artifacts.read_manifest(self.path, "vocabulary")
        file = self.path / "tokenizer.json"
        if not file.is_file() or artifacts.sha256_file(file) != self.hash:
            raise UserError(f"{file}: missing or changed since it was created. Create the vocabulary again")
        self._tokenizer = Tokenizer.from_file(str(file))
        # A caption that contains "<image>" or "<eos>" is text like any other.
        self._tokenizer.encode_special_tokens = True

    def copy_to(self, folder: Path) -> None:
        """Copy the files of the vocabulary, and nothing else that lies beside them, to a new or unfinished folder.

        Raises:
            UserError: one of them is a link to a file elsewhere.
        """
        folder.mkdir(exist_ok=True)
        for name in FILES:
            source = resolve_inside(self.path, name)
            if source is None:
                raise UserError(f"{self.path / name}: is a link that leads out of {self.path}. Replace it by the file")
            if source.is_file():
                shutil.copyfile(source, folder / name)

    @property
    def hash(self) -> str:
        """Identity of the vocabulary: two models may share weights only if it is equal."""
        return str(self.manifest["sha256"])

    def __len__(self) -> int:
        """Return the number of tokens, special tokens included."""
        return int(self._tokenizer.get_vocab_size())

    def __contains__(self, token: object) -> bool:
        """Return whether a string is one of the tokens, special tokens included."""
        return isinstance(token, str) and self._tokenizer.token_to_id(token) is not None

    def __repr__(self) -> str:
        return f"Vocabulary({str(self.path)!r}, {len(self):,} tokens)"

    @cached_property
    def words(self) -> list[str]:
        """All tokens, in the order of their ids."""
        return [str(self._tokenizer.id_to_token(index)) for index in range(len(self))]

    def encode(self, texts: Iterable[str], max_tokens: int | None = 25) -> list[list[int]]:
        """Return the token ids of each text, ``<sos> words <eos>``.

        Args:
            texts: any number of texts.
            max_tokens: longest result, ``<sos>`` and ``<eos>`` included (25 in CVCL); None for no limit.
        """
        if max_tokens is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_tokens)
        return [self._tokenizer.encode(text).ids for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids)))


@stage
def create_vocabulary(
    stores: list[Path],
    out: Path,
    min_count: int = 3,
    kind: Literal["word", "bpe"] = "word",
    vocabulary_size: int = 6000,
) -> Stage:
    """Build a vocabulary from the training utterances of pair stores.

    The output is a folder with `tokenizer.json`, in the format of Hugging Face. Use one vocabulary for all phases of
    a model and for all models that are compared.

    For example:
        python -m babyvlm curate vocabulary --stores '[stores/filtered,stores/aug]' --out vocabulary

    Args:
        stores: pair stores. An utterance that several frames share counts once; `val` and `test` are not used.
        out: folder to create.
        min_count: minimum number of occurrences of a word, or of a pair of tokens that `bpe` merges (3 in the paper).
        kind: `word`: complete words. `bpe`: byte-level BPE, which can encode any text.
        vocabulary_size: maximum number of tokens of `bpe`, special tokens included (6,000 in the paper).

    Raises:
        UserError: no word is frequent enough, or `vocabulary_size` is too small.
    """
    require_at_least(1, min_count=min_count)
    if not stores:
        raise UserError("--stores is empty. Name at least one store")
    arguments: dict[str, object] = {"stores": [PairStore(path) for path in stores], "min_count": min_count}
    if kind == "bpe":
        arguments |= {"kind": kind, "size": vocabulary_size}
    artifact = Artifact("vocabulary", arguments)
    folder = yield artifact
    tokenizer = _train_words(stores, min_count) if kind == "word" else _train_bpe(stores, min_count, vocabulary_size)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<sos> $A <eos>", special_tokens=[("<sos>", SOS), ("<eos>", EOS)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<sos>",
        "eos_token": "<eos>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    artifact.manifest |= {
        "size": tokenizer.get_vocab_size(),
        "sha256": artifacts.sha256_file(folder / "tokenizer.json"),
    }
    counted = "word" if kind == "word" else "merged pair"
    return f"{tokenizer.get_vocab_size():,} tokens, each {counted} with at least {min_count} occurrences"


def _train_words(stores: Sequence[Path], min_count: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    trainer = trainers.WordLevelTrainer(min_frequency=min_count, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(_training_utterances(stores), trainer)
    if tokenizer.get_vocab_size() == len(SPECIALS):
        raise UserError(f"{', '.join(map(str, stores))}: no word occurs {min_count} times. Lower --min_count")
    return tokenizer


def _train_bpe(stores: Sequence[Path], min_count: int, vocabulary_size: int) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(SPECIALS) + len(alphabet)
    if vocabulary_size < least:
        raise UserError(
            f"--vocabulary_size {vocabulary_size}: must be at least {least} for {len(SPECIALS)} special tokens and "
            f"{len(alphabet)} bytes"
        )
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))  # a piece that is a token, such as <unk>, is not split
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
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
                yield utterance.replace("<unk>", " ")  # as a counted word it would take the special token's id
