"""The vocabulary, word-level or byte-level BPE: one artifact that all phases of a model share, identified by its hash.

It is a folder in Hugging Face's tokenizer format, which transformers and open_clip read too. Words are the tokens of
``babyvlm.text``, punctuation and clitics included: what stands between blanks, in lower case.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError, require_at_least
from babyvlm.io import artifacts
from babyvlm.io.files import read_bounded, resolve_inside
from babyvlm.io.limits import MAX_LIST_BYTES, load_json
from babyvlm.io.printing import echo
from babyvlm.text import normalize
from babyvlm.types import checked_texts

PAD, UNK, SOS, EOS = range(4)  # as in CVCL
IMAGE_TOKEN = "<image>"  # for the generative model; its id depends on the vocabulary
FILES = ("tokenizer.json", "tokenizer_config.json", "vocabulary.json", "vocabulary.json.sha256")
SPECIALS = ["<pad>", "<unk>", "<sos>", "<eos>", IMAGE_TOKEN]
# Text that looks like a special token other than <unk>, inaudible speech, is an unknown word.
LOOKS_SPECIAL = r"(?<!\S)<(?:pad|sos|eos|image)>(?!\S)"
# GPT-2's pre-tokenization, across whose boundaries nothing is merged, with <unk>, inaudible speech, as a piece.
PIECE = (
    r"\s+(?=<unk>)|<unk>|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+?(?=<unk>)| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)|\s+"
)


class Vocabulary:
    """Converts utterances, in the form of ``babyvlm.text``, to token ids and back.

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
        folder.mkdir(parents=True, exist_ok=True)
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

    @property
    def image_token(self) -> int:
        """The id of ``<image>``."""
        return self.words.index(IMAGE_TOKEN)

    def encode(self, texts: Iterable[str], max_tokens: int | None = 25) -> list[list[int]]:
        """Return the token ids of each text, ``<sos> words <eos>``.

        Args:
            texts: any number of texts in the form of stored utterances (``babyvlm.text``).
            max_tokens: longest result, ``<sos>`` and ``<eos>`` included (25 in CVCL); None for no limit.

        Raises:
            TypeError: ``texts`` is one string.
        """
        if max_tokens is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_tokens)
        return [self._tokenizer.encode(text).ids for text in checked_texts(texts)]

    def encode_raw(self, texts: Iterable[str], max_tokens: int | None = 25) -> list[list[int]]:
        """Return the token ids of texts as people write them, such as benchmark phrases: ``Where's the ball?``."""
        return self.encode(map(normalize, checked_texts(texts)), max_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids)))


def check_words(texts: Sequence[str], vocabulary: Vocabulary, where: str) -> None:
    """Check that a vocabulary has words of some texts, of at most 10,000 of them, evenly spaced.

    Args:
        texts: to check.
        vocabulary: of the model.
        where: names the texts in messages.

    Raises:
        UserError: the texts have no words, or none that the vocabulary contains. If it lacks more than half of them,
            this is reported.
    """
    sample = texts[:: 1 + len(texts) // 10_000]
    words = [token for ids in vocabulary.encode(sample, max_tokens=None) for token in ids[1:-1]]
    if not words:
        raise UserError(f"{where}: all texts are empty")
    unknown = words.count(UNK) / len(words)
    if unknown == 1:
        raise UserError(
            f"{where}: the vocabulary {vocabulary.path} has none of its words. Use one built for these texts"
        )
    if unknown > 0.5:
        from babyvlm.io.distributed import is_rank_zero  # imports torch, which commands without a model never load

        if is_rank_zero():
            problem = f"{unknown:.0%} of the words are not in the vocabulary {vocabulary.path}"
            echo(f"warning: {where}: {problem}", file=sys.stderr)


@stage
def create_vocabulary(
    out: Path,
    stores: list[Path] | None = None,
    min_count: int = 3,
    kind: Literal["word", "bpe"] = "word",
    vocabulary_size: int = 6000,
    from_json: Path | None = None,
) -> Stage:
    """Build a vocabulary from the training utterances of pair stores, or take a published one.

    The output is a folder with `tokenizer.json`, in the format of Hugging Face. Use one vocabulary for all phases of
    a model and for all models that are compared.

    For example:
        python -m babyvlm curate vocabulary --stores '[stores/filtered,stores/aug]' --out vocabulary

    Args:
        out: folder to create.
        stores: pair stores. An utterance that several frames share counts once; `val` and `test` are not used.
        min_count: minimum number of occurrences of a word, or of a pair of tokens that `bpe` merges (3 in the paper).
        kind: `word`: complete words. `bpe`: byte-level BPE, which can encode any text.
        vocabulary_size: maximum number of tokens of `bpe`, special tokens included (6,000 in the paper).
        from_json: a published vocabulary, such as CVCL's vocab.json (`{word: id}`), instead of stores. It keeps its
            ids; special tokens that it lacks are appended.

    Raises:
        UserError: no word is frequent enough, `vocabulary_size` is too small, or `from_json` is not a vocabulary.
    """
    require_at_least(1, min_count=min_count)
    if (from_json is None) == (not stores):
        raise UserError("pass either --stores, with at least one store, or --from_json")
    arguments: dict[str, object] = {"min_count": min_count, "stores": [PairStore(path) for path in stores or []]}
    if from_json is not None:
        words = _published_words(from_json)
        arguments = {"words": hashlib.sha256("\n".join(words).encode()).hexdigest()}
    elif kind == "bpe":
        arguments |= {"kind": kind, "size": vocabulary_size}
    artifact = Artifact("vocabulary", arguments)
    folder = yield artifact
    if from_json is not None:
        tokenizer = _word_tokenizer(words)
    elif kind == "word":
        tokenizer = _count_words(stores or [], min_count)
    else:
        tokenizer = _train_bpe(stores or [], min_count, vocabulary_size)
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
    if from_json is not None:
        return f"{tokenizer.get_vocab_size():,} tokens, with the ids of {from_json}"
    counted = "word" if kind == "word" else "merged pair"
    return f"{tokenizer.get_vocab_size():,} tokens, each {counted} with at least {min_count} occurrences"


def _published_words(path: Path) -> list[str]:
    """Return the words of a published vocabulary in the order of their ids, and our special tokens that it lacks.

    Raises:
        UserError: the file is not a ``{word: id}`` object with the ids 0, 1, 2, ..., or its first tokens are not the
            special tokens of CVCL.
    """
    try:
        content = load_json(read_bounded(path, MAX_LIST_BYTES), MAX_LIST_BYTES)
    except OSError as error:
        raise UserError(f"--from_json {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict) or not all(type(index) is int for index in content.values()):
        raise UserError(f'{path}: not a vocabulary {{"<pad>": 0, "<unk>": 1, ...}} of words and ids')
    words = sorted(content, key=lambda word: int(content[word]))
    if [content[word] for word in words] != list(range(len(words))):
        raise UserError(f"{path}: the ids are not 0 to {len(words) - 1}, each once")
    if words[: EOS + 1] != SPECIALS[: EOS + 1]:
        raise UserError(
            f"{path}: begins with {', '.join(map(repr, words[: EOS + 1]))}, but the tokens 0 to {EOS} must be"
            f" {', '.join(SPECIALS[: EOS + 1])}"
        )
    return words + [token for token in SPECIALS if token not in content]


def _word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """Return the tokenizer whose words have their places in a sequence as ids."""
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = _word_normalizer(lower=all(word == word.lower() for word in words))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([word for word in SPECIALS if word in vocabulary])
    return tokenizer


def _word_normalizer(*, lower: bool = True) -> normalizers.Normalizer:
    parts = [normalizers.Lowercase()] if lower else []
    return normalizers.Sequence([*parts, normalizers.Replace(Regex(LOOKS_SPECIAL), "<unk>")])


def _count_words(stores: Sequence[Path], min_count: int) -> Tokenizer:
    """Return the tokenizer of the words that occur often enough, the most frequent first, else in alphabetical order.

    This is the order of CVCL (``_create_vocab`` in ``multimodal_saycam_data_module.py``).
    """
    normalizer, splitter = _word_normalizer(), pre_tokenizers.WhitespaceSplit()
    counts = Counter[str]()
    for utterance in _training_utterances(stores):
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(utterance)))
    words = [word for word, count in counts.items() if count >= min_count and word not in SPECIALS]
    if not words:
        raise UserError(f"{', '.join(map(str, stores))}: no word occurs {min_count} times. Lower --min_count")
    return _word_tokenizer([*SPECIALS, *sorted(words, key=lambda word: (-counts[word], word))])


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
    # As a counted piece, <unk> would take the special token's id.
    texts = (utterance.replace("<unk>", " ") for utterance in _training_utterances(stores))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _training_utterances(stores: Sequence[Path]) -> Iterator[str]:
    for path in stores:
        table = PairStore(path).columns("group", "split", "utterance").to_pydict()
        seen: set[str] = set()
        for group, split, utterance in zip(table["group"], table["split"], table["utterance"], strict=True):
            if split == "train" and group not in seen:
                seen.add(group)
                yield utterance
