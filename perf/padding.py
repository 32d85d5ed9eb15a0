"""Cost of padding in language-model training, compared with batches in random order.

    python perf/padding.py --store data/playroom/stores/filtered

Utterances have the lengths of a store's, or are simulated with a heavy tail (log-normal). Batches in random order,
batches of similar length, and packed contexts are built from the same utterances and train the paper's GPT-2: forward,
backward, optimizer. Reported is CPU time, summed over threads, which depends little on the load of the machine. Packed
contexts also attend across utterances, which is most expensive where attention has no fused kernel (with dropout,
PyTorch has none on CPUs). With --image_tokens 49, each utterance follows the tokens of an image, as in phases 1 and 2,
where nothing is packed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import describe_machine, make_parser
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.pair_dataset import chosen_groups, utterances
from babyvlm.data.sampler import GlobalBatchSampler
from babyvlm.data.vocabulary import EOS, PAD, SOS, SPECIALS
from babyvlm.models.losses import language_loss, supervised_labels, supervised_tokens
from babyvlm.models.networks.language import GPT2, language_config

VOCABULARY_SIZE = 2_350  # of the paper, on SAYCam
MAX_TOKENS = 25
Batches = Callable[[], Iterator[Tensor]]


def simulated(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return words per utterance: median 5, one in ten above 14 (our guess of the tail of a transcript)."""
    return np.ceil(random.lognormal(np.log(4.5), 0.85, count)).astype(np.int64)


def lengths_of_store(path: Path) -> NDArray[np.int64]:
    """Return words per utterance of a store's training split."""
    store = PairStore(path)
    texts = utterances(store, chosen_groups(store, "train", 0, None))
    return np.array([len(text.split()) for text in texts])


def make_rows(words: NDArray[np.int64], image_tokens: int, random: np.random.Generator) -> list[Tensor]:
    """Return rows of tokens, ``<image>... <sos> words <eos>``, with random words."""
    texts = [random.integers(len(SPECIALS), VOCABULARY_SIZE, min(count, MAX_TOKENS - 2)) for count in words]
    return [torch.tensor([*[SPECIALS.index("<image>")] * image_tokens, SOS, *text, EOS]) for text in texts]


def batchings(rows: list[Tensor], batch_size: int, contexts: list[int]) -> dict[str, Batches]:
    """Return the ways to batch the same utterances."""
    lengths = np.array([len(row) for row in rows])

    def padded(by_length: bool) -> Batches:
        sampler = GlobalBatchSampler(len(rows), batch_size, seed=0, lengths=lengths if by_length else None)
        return lambda: (pad_sequence([rows[i] for i, _ in batch], True, PAD) for batch in sampler)

    result = {"random order": padded(False), "by length": padded(True)}
    stream = torch.cat(rows)
    for context in contexts:
        packed = stream[: len(stream) // context * context].view(-1, context)
        # As many tokens per step as the others, because each step has fixed costs.
        batches = packed.split(max(1, round(batch_size * lengths.mean() / context)))
        result[f"packed to {context}"] = partial(iter, batches)
    return result


def seconds_per_token(batches: Iterator[Tensor]) -> float:
    """Return the CPU time of training on the batches, per supervised token."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(language_config(GPT2, VOCABULARY_SIZE))
    optimizer = torch.optim.AdamW(lm.parameters(), lr=5e-4, fused=True)
    supervised, started = 0, time.process_time()
    for tokens_BL in batches:
        labels_BL = supervised_labels(tokens_BL)
        supervised += int(supervised_tokens(labels_BL))
        language_loss(lm(input_ids=tokens_BL, use_cache=False).logits, labels_BL).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - started) / supervised


def padding_share(batches: Iterator[Tensor]) -> float:
    """Return the fraction of all tokens that are padding."""
    counts = [(int((tokens_BL == PAD).sum()), tokens_BL.numel()) for tokens_BL in batches]
    return sum(pads for pads, _ in counts) / sum(tokens for _, tokens in counts)


def compare(name: str, words: NDArray[np.int64], args: argparse.Namespace) -> None:
    """Print one row per batching: padding of all utterances, time of some of them."""
    random = np.random.default_rng(0)
    rows = make_rows(words, args.image_tokens, random)
    sample = [rows[i] for i in random.permutation(len(rows))[: args.steps * args.batch_size]]
    contexts = [] if args.image_tokens else args.contexts
    measured: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        for batching, batches in batchings(sample, args.batch_size, contexts).items():
            measured.setdefault(batching, []).append(seconds_per_token(batches()))
    baseline = statistics.median(measured["random order"])
    for batching, batches in batchings(rows, args.batch_size, contexts).items():
        seconds = statistics.median(measured[batching])
        columns = f"{padding_share(batches()):.1%} | {1e3 * seconds:.3f} ms | {seconds / baseline:.2f}"
        print(f"| {name} | {batching} | {columns} |", flush=True)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--store", type=Path, help="store whose utterance lengths are used besides the simulated ones")
    parser.add_argument("--image_tokens", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=40, help="utterances; default: as in phase 1")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024], help="tokens of a packed context")
    parser.add_argument("--steps", type=int, default=10, help="batches to time, per batching")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    logging.set_verbosity_error()  # transformers' advice on attention masks is for padding on the left
    print(f"medians of {args.repeats}; {describe_machine(args.num_threads)}\n")
    print("| utterances | batches | padding | CPU time per supervised token | ratio to random order |")
    print("|---|---|---|---|---|")
    if args.store:
        compare(str(args.store), lengths_of_store(args.store), args)
    compare("simulated, heavy tail", simulated(20_000, np.random.default_rng(0)), args)


if __name__ == "__main__":
    main()
