"""The word-level vocabulary: one artefact, hashed, named in the config, shared by every phase of a row.

It is a folder in Hugging Face's tokenizer format, so that transformers and open_clip read it as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from babyvlm import artefact
from babyvlm.contracts import UserError
from babyvlm.curation.store import Store

PAD, UNK, SOS, EOS, IMAGE = range(5)
SPECIALS = ["<pad>", "<unk>", "<sos>", "<eos>", "<image>"]  # 0..3 as in CVCL; <image> for the generative model
# A word may hold apostrophes and hyphens; other punctuation is dropped (our choice: a bag of words has no use for it).
WORD = r"<unk>|\w+(?:['’-]\w+)*"


class Vocabulary:
    """Turns utterances into token ids and back.

    Args:
        path: folder made by ``curate vocabulary``.

    Raises:
        UserError: the folder is no vocabulary, or its files do not belong together.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest = artefact.read_manifest(self.path, "vocabulary")
        file = self.path / "tokenizer.json"
        if not file.is_file() or artefact.sha256(file) != self.hash:
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

    def encode(self, texts: Sequence[str], max_tokens: int = 25) -> list[list[int]]:
        """Token ids of each text: ``<sos> words <eos>``, at most ``max_tokens`` in all (25 in CVCL)."""
        self._tokenizer.enable_truncation(max_tokens)
        return [self._tokenizer.encode(text).ids for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Words of the ids, specials left out."""
        return " ".join(self.words[index] for index in ids if index >= len(SPECIALS))


def vocabulary(stores: list[Path], out: Path, min_count: int = 3) -> None:
    """Make the vocabulary of some pair stores: the words their training utterances hold at least a few times.

    Args:
        stores: pair stores; an utterance that several frames share is counted once, validation and test not at all.
        out: folder to make.
        min_count: how often a word must be seen (3 in the paper).
    """
    arguments = {"stores": [Store(path).fingerprint for path in stores], "min_count": min_count}
    if artefact.made_already(out, "vocabulary", arguments):
        print(f"{out}: whole already, nothing to do")
        return
    tokenizer = _train(stores, min_count)
    manifest: artefact.Manifest = {"arguments": arguments, "size": tokenizer.get_vocab_size()}
    with artefact.making(out, "vocabulary", manifest) as partial:
        tokenizer.save(str(partial / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<sos>", "eos_token": "<eos>",
        }  # fmt: skip
        (partial / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        manifest["sha256"] = artefact.sha256(partial / "tokenizer.json")
    print(f"{out}: {tokenizer.get_vocab_size():,} tokens, specials included, each word seen at least {min_count} times")


def _train(stores: Sequence[Path], min_count: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    trainer = trainers.WordLevelTrainer(min_frequency=min_count, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(_training_utterances(stores), trainer)
    if tokenizer.get_vocab_size() == len(SPECIALS):
        raise UserError(f"no word is seen {min_count} times in {', '.join(map(str, stores))}; lower --min_count")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<sos> $A <eos>", special_tokens=[("<sos>", SOS), ("<eos>", EOS)]
    )
    return tokenizer


def _training_utterances(stores: Sequence[Path]) -> Iterator[str]:
    for path in stores:
        table = Store(path).columns("group", "split", "utterance").to_pydict()
        seen: set[str] = set()
        for group, split, utterance in zip(table["group"], table["split"], table["utterance"], strict=True):
            if split == "train" and group not in seen:
                seen.add(group)
                yield utterance.replace("<unk>", " ")  # counted as a word it would push the special from its place
