import collections
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from babyvlm.data.pair_mix import PairMix, Source
from babyvlm.data.text_mix import PackedText, TextMix
from babyvlm.data.vocabulary import EOS, SOS, Vocabulary
from babyvlm.errors import UserError
from babyvlm.models.language import LanguageModel
from babyvlm.models.losses import supervised_labels, supervised_tokens
from babyvlm.models.networks.language import LanguageShape

SAID = ["look at the ball", "the ball is red", "the red ball", "look at the dog", "wash the cup", "a red cup"] * 20
GROUPS = [f"u{number // 2}" for number in range(len(SAID))]  # each utterance has two frames
SAID = [SAID[number // 2] for number in range(len(SAID))]
SPLITS = ["train"] * 80 + ["val"] * 22 + ["test"] * 18


@pytest.fixture(scope="module")
def stores(tiny_store, tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    tiny_store(SAID, groups=GROUPS, splits=SPLITS, path=root / "home")
    tiny_store(["the dog runs", "a cup"], path=root / "web")
    return root


@pytest.fixture(scope="module")
def words(vocabulary):
    return Vocabulary(vocabulary)


def mix(stores, vocabulary, kind=TextMix, sources=None, **options):
    sources = sources or [Source("home")]
    data = kind("tiny", stores, sources, "home", vocabulary, **{"batch_size": 2, "max_tokens": 16} | options)
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    return data


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=30), context=st.integers(2, 40), epoch=st.integers(0, 9)
)
def test_contexts_are_full_and_contain_text_once(words, counts, context, epoch):
    texts = [" ".join(words.words[5 + (i + n) % 10] for i in range(count)) for n, count in enumerate(counts)]
    stream = [token for ids in words.encode(texts, None) for token in ids]
    if len(stream) < context:
        with pytest.raises(UserError, match=f"{context} exceeds the {len(stream)} tokens"):
            PackedText(texts, words, context, seed=1)
        return
    packed = PackedText(texts, words, context, seed=1)
    rows = [packed[index, epoch].tokens_L.tolist() for index in range(len(packed))]
    assert len(packed) == len(stream) // context
    assert all(len(row) == context for row in rows)
    read = [token for row in rows for token in row]
    # One turn around the ring from a random start, without the last incomplete context.
    assert any((stream[start:] + stream[:start])[: len(read)] == read for start in range(len(stream)))


def test_contexts_differ_between_epochs(words):
    packed = PackedText(["look at the ball"] * 100, words, 17, seed=1)
    first = {tuple(packed[0, epoch].tokens_L.tolist()) for epoch in range(12)}
    assert len(first) > 3
    again = PackedText(["look at the ball"] * 100, words, 17, seed=1)
    assert torch.equal(packed[5, 3].tokens_L, again[5, 3].tokens_L)


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=30), context=st.integers(2, 40))
def test_validation_predicts_all_but_first_token_of_context(words, counts, context):
    texts = [" ".join(["ball"] * count) for count in counts]
    packed = PackedText(texts, words, context)
    total = sum(count + 2 for count in counts)
    assert packed.context <= context
    assert len(packed) * packed.context > total - len(packed)
    assert [packed[0, epoch].tokens_L.tolist() for epoch in range(2)] == [packed[0, 0].tokens_L.tolist()] * 2


def test_text_mix_contains_each_utterance_once(stores, vocabulary, words):
    data = mix(stores, vocabulary, sources=[Source("home"), Source("web")])
    stream = data._training.tokens_N.tolist()
    told = [words.decode(ids) for ids in words.encode(dict(zip(GROUPS[:80], SAID[:80], strict=True)).values())]
    ends = [index for index, token in enumerate(stream) if token == EOS]
    texts = [words.decode(stream[a + 1 : b]) for a, b in zip([-1, *ends], ends, strict=False)]
    assert texts == [*told, "the dog runs", "a cup"]  # in the order of the stores; without held-out utterances
    assert stream.count(SOS) == len(texts)


def test_limit_takes_utterances_of_pair_mix(stores, vocabulary):
    limited = [Source("home", utterances=7)]
    text = mix(stores, vocabulary, sources=limited, seed=3)
    pairs = mix(stores, vocabulary, PairMix, sources=limited, seed=3, image_size=16, sample="utterances")
    tokens = [token for index in range(7) for token in pairs._training[index, 0].tokens_L.tolist()]
    assert text._training.tokens_N.tolist() == tokens


def test_text_mix_resumes_and_shares_order_between_ranks(stores, vocabulary):
    def contexts(loader, count):
        found = []
        while len(found) < count:
            found += [batch.tokens_BL.tolist() for batch in loader]
        return found[:count]

    complete = contexts(mix(stores, vocabulary, seed=3).train_dataloader(), 15)
    assert len({str(batch) for batch in complete}) == 15
    later = mix(stores, vocabulary, seed=3).train_dataloader()
    later.load_state_dict({"samples_used": 2 * 4})
    assert contexts(later, 11) == complete[4:]
    halves = []
    for rank in range(2):
        loader = mix(stores, vocabulary, seed=3).train_dataloader()
        loader.batch_sampler.rank, loader.batch_sampler.world_size = rank, 2
        halves.append(contexts(loader, 15))
    assert [even + odd for even, odd in zip(*halves, strict=True)] == complete


def test_pair_mix_batches_by_length(stores, vocabulary, words):
    data = mix(
        stores, vocabulary, PairMix, sources=[Source("home"), Source("web")], bucket_by_length=True, image_size=16
    )
    lengths = data._training.lengths()
    assert lengths.tolist() == [len(data._training[i, 0].tokens_L) for i in range(len(lengths))]
    padded = sum(int((batch.tokens_BL == 0).sum()) for batch in data.train_dataloader())
    data.bucket_by_length = False
    naive = sum(int((batch.tokens_BL == 0).sum()) for batch in data.train_dataloader())
    assert padded < naive / 2
    assert data.batches_per_epoch == len(list(data.train_dataloader()))


def unigram_perplexity(data):
    """Return the validation perplexity under the token frequencies of the training text with add-one smoothing."""
    counts = collections.Counter(data._training.tokens_N.tolist())
    held_out = [token for batch in data.val_dataloader() for row in batch.tokens_BL.tolist() for token in row[1:]]
    learned = [token for token in held_out if token != SOS]
    total = sum(counts.values()) - counts[SOS] + len(data.vocabulary)
    return math.exp(-sum(math.log((counts[token] + 1) / total) for token in learned) / len(learned))


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def fit(stores, vocabulary, folder, seed=0, ckpt_path=None, optimizer=adamw, max_tokens=16, order=0, **options):
    """Train a model without dropout, which is deterministic for a seed."""
    torch.manual_seed(seed)
    data = mix(stores, vocabulary, max_tokens=max_tokens, seed=order)
    shape = LanguageShape(width=32, layers=2, heads=4, inner=64, dropout=0.0, positions=16)
    model = LanguageModel(vocabulary, shape, 16, optimizer=optimizer)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    assert (folder / "vocabulary").is_dir()  # without a logger, the run belongs to the folder that was given
    return trainer, model, data


def test_language_model_learns_word_order(stores, vocabulary, tmp_path):
    trainer, _, data = fit(stores, vocabulary, tmp_path, max_epochs=8)
    unigram = unigram_perplexity(data)
    assert 5 < unigram < len(data.vocabulary)
    assert trainer.callback_metrics["val_perplexity"] < unigram / 2
    assert trainer.lr_scheduler_configs[0].scheduler.steps == trainer.global_step == 8 * data.batches_per_epoch
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_fit_on_two_ranks_equals_one_rank(stores, vocabulary, tmp_path):
    """Also if one rank's context has more supervised tokens than the other's."""
    options = {"max_steps": 4, "use_distributed_sampler": False, "max_tokens": 9}
    options["optimizer"] = lambda p: torch.optim.SGD(p, lr=0.5)  # Adam amplifies rounding errors

    def supervised(order):
        first = next(iter(mix(stores, vocabulary, max_tokens=9, seed=order).train_dataloader()))
        return {int(supervised_tokens(supervised_labels(row[None]))) for row in first.tokens_BL}

    options["order"] = next(order for order in range(100) if len(supervised(order)) == 2)
    alone = fit(stores, vocabulary, tmp_path, devices=1, **options)
    two = fit(stores, vocabulary, tmp_path, devices=2, strategy="ddp_fork", **options)
    for name, tensor in alone[1].state_dict().items():
        torch.testing.assert_close(two[1].state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    losses = [trainer.callback_metrics["train_loss"].item() for trainer, *_ in (alone, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


class SaveAt(Callback):
    """Saves a checkpoint after a step."""

    def __init__(self, step, file):
        self.step, self.file = step, file

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)


def test_fit_resumed_in_mid_epoch_has_equal_weights(stores, vocabulary, tmp_path):
    """Also though the schedule needs the length of an epoch before the loader's state is restored."""
    file = tmp_path / "middle.ckpt"
    _, complete, data = fit(stores, vocabulary, tmp_path, max_epochs=3, callbacks=[SaveAt(8, file)])
    assert 8 % data.batches_per_epoch  # in the middle of an epoch
    _, resumed, _ = fit(stores, vocabulary, tmp_path, seed=1, max_epochs=3, ckpt_path=file)
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in complete.state_dict().items())
