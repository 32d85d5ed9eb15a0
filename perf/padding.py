"""What padding costs the language model: batches in random order, batches of about one length, packed contexts.

`python perf/padding.py --store data/playroom/stores/filtered`: utterances as long as a store's, and simulated
ones with a heavy tail (log-normal). Each way goes over the same utterances with the paper's GPT-2: forward, backward,
optimizer. What is timed is CPU time, the threads' sum, which a busy machine changes little. Packed contexts also attend
across utterances, which costs most where attention has no fused kernel (with dropout, PyTorch has none on CPUs).
With `--image-tokens 49` each utterance stands behind an image's tokens, as in phases 1 and 2, where nothing is packed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from babyvlm.curation.store.pair_store import PairStore
from babyvlm.data.pair_dataset import chosen_groups, utterances
from babyvlm.data.sampler import GlobalBatchSampler
from babyvlm.data.vocabulary import EOS, IMAGE, PAD, SOS, SPECIALS
from babyvlm.models.language import GPT2, language_config
from babyvlm.models.losses import language_loss, supervised_labels, supervised_tokens

VOCABULARY = 2_350  # the paper's, of SAYCam
MAX_TOKENS = 25
Batches = Callable[[], Iterator[Tensor]]


def simulated(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Words an utterance: median 5 and one in ten over 14 (our guess of a transcript's tail)."""
    return np.ceil(random.lognormal(np.log(4.5), 0.85, count)).astype(np.int64)


def of_store(path: Path) -> NDArray[np.int64]:
    """Words an utterance of a store's training split."""
    store = PairStore(path)
    texts = utterances(store, chosen_groups(store, "train", 0, None))
    return np.array([len(text.split()) for text in texts])


def rows_of(words: NDArray[np.int64], image_tokens: int, random: np.random.Generator) -> list[Tensor]:
    """``<image>... <sos> words <eos>`` with random words."""
    texts = [random.integers(len(SPECIALS), VOCABULARY, min(count, MAX_TOKENS - 2)) for count in words]
    return [torch.tensor([*[IMAGE] * image_tokens, SOS, *text, EOS]) for text in texts]


def ways(rows: list[Tensor], batch_size: int, contexts: list[int]) -> dict[str, Batches]:
    """How the same utterances are batched."""
    lengths = np.array([len(row) for row in rows])

    def padded(by_length: bool) -> Batches:
        sampler = GlobalBatchSampler(len(rows), batch_size, seed=0, lengths=lengths if by_length else None)
        return lambda: (pad_sequence([rows[i] for i, _ in batch], True, PAD) for batch in sampler)

    found = {"random order": padded(False), "by length": padded(True)}
    stream = torch.cat(rows)
    for context in contexts:
        whole = stream[: len(stream) // context * context].view(-1, context)
        # As many tokens a step as the others have, or a step's fixed costs would be compared.
        split = whole.split(max(1, round(batch_size * lengths.mean() / context)))
        found[f"packed to {context}"] = partial(iter, split)
    return found


def seconds(batches: Iterator[Tensor]) -> float:
    """CPU time of training on the batches, a supervised token."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(language_config(GPT2, VOCABULARY))
    optimizer = torch.optim.AdamW(lm.parameters(), lr=5e-4, fused=True)
    learned, started = 0, time.process_time()
    for tokens_BL in batches:
        labels_BL = supervised_labels(tokens_BL)
        learned += int(supervised_tokens(labels_BL))
        language_loss(lm(input_ids=tokens_BL, use_cache=False).logits, labels_BL).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - started) / learned


def padding_share(batches: Iterator[Tensor]) -> float:
    """Share of all tokens computed that are padding."""
    counts = [(int((tokens_BL == PAD).sum()), tokens_BL.numel()) for tokens_BL in batches]
    return sum(pads for pads, _ in counts) / sum(tokens for _, tokens in counts)


def compare(name: str, words: NDArray[np.int64], given: argparse.Namespace) -> None:
    """Print a row a way: padding over all utterances, time over some of them."""
    random = np.random.default_rng(0)
    rows = rows_of(words, given.image_tokens, random)
    some = [rows[i] for i in random.permutation(len(rows))[: given.steps * given.batch_size]]
    contexts = [] if given.image_tokens else given.contexts
    timed = ways(some, given.batch_size, contexts)
    measured: dict[str, list[float]] = {way: [] for way in timed}
    for _ in range(given.repeats):
        for way, batches in timed.items():
            measured[way].append(seconds(batches()))
    base = statistics.median(measured["random order"])
    for way, batches in ways(rows, given.batch_size, contexts).items():
        took = statistics.median(measured[way])
        print(
            f"| {name} | {way} | {padding_share(batches()):.1%} | {1e3 * took:.3f} ms | {took / base:.2f} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="whose utterances' lengths to take besides the simulated ones")
    parser.add_argument("--image-tokens", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=40, help="utterances; phase 1's 40 by default")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024], help="tokens of a packed context")
    parser.add_argument("--steps", type=int, default=10, help="batches that are timed, each way")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    logging.set_verbosity_error()  # its advice on masks is for padding at the left
    print(f"medians of {given.repeats}; {torch.get_num_threads()} threads; load {os.getloadavg()[0]:.1f}\n")
    print("| utterances | batches | padding | CPU time a supervised token | ratio |\n|---|---|---|---|---|")
    if given.store:
        compare(str(given.store), of_store(given.store), given)
    compare("simulated, heavy tail", simulated(20_000, np.random.default_rng(0)), given)


if __name__ == "__main__":
    main()
