import shutil

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file

from babyvlm.data.pair_mix import Source
from babyvlm.data.text_mix import TextMix
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.errors import UserError
from babyvlm.models.checkpoints import best_checkpoint, init_from
from babyvlm.models.cvcl import CVCL
from babyvlm.models.language import LanguageModel
from babyvlm.models.networks.language import LanguageShape
from babyvlm.models.networks.vision import VisionEncoder

SHAPE = LanguageShape(width=16, layers=1, heads=2, inner=16, positions=16)
WIDER = LanguageShape(width=32, layers=1, heads=2, inner=16, positions=16)
SAID = ["look at the ball", "the ball is red", "look at the dog", "the dog runs", "wash the cup", "a red cup"] * 10


@pytest.fixture(scope="module")
def store(tiny_store, tmp_path_factory):
    splits = ["train"] * 50 + ["val"] * 10
    return tiny_store(SAID, splits=splits, path=tmp_path_factory.mktemp("stores") / "home")


@pytest.fixture(scope="module")
def other_words(store, make_vocabulary):
    """A different vocabulary of equal size, so that every shape fits."""
    from babyvlm.data.vocabulary import create_vocabulary

    out = store.path.parent / "other-words"
    create_vocabulary(out, [store.path], 1)
    return out


@pytest.fixture(scope="module")
def run(store, vocabulary, tmp_path_factory):
    """A run folder whose best checkpoint, by ``mode``, is the first; the last one differs."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("runs")
    data = TextMix("tiny", store.path.parent, [Source("home")], "home", vocabulary, 2, 16)
    model = LanguageModel(vocabulary, SHAPE, 16, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=6,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        logger=CSVLogger(folder, "run"),
        callbacks=[
            ModelCheckpoint(filename="newest", every_n_train_steps=1),  # its best is its newest, without a criterion
            ModelCheckpoint(monitor="val_loss", mode="max", save_top_k=-1, save_last=True),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    return trainer.log_dir


def folder_of(run, to):
    """The run's folder at another place."""
    return shutil.copytree(run, to / "moved")


def same(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_init_from_takes_best_weights_only(run, vocabulary, tmp_path):
    moved = folder_of(run, tmp_path)
    best, last = (
        torch.load(path, weights_only=True) for path in (best_checkpoint(moved), moved / "checkpoints/last.ckpt")
    )
    assert (best["global_step"], last["global_step"]) == (2, 6)
    model = LanguageModel(vocabulary, SHAPE, 16, init_from=moved)
    assert same(model, best["state_dict"])
    assert not same(model, last["state_dict"])
    assert same(LanguageModel(vocabulary, SHAPE, 16, init_from=moved / "checkpoints" / "last.ckpt"), last["state_dict"])


def test_run_contains_vocabulary_named_in_checkpoint(run, vocabulary, tmp_path):
    moved = folder_of(run, tmp_path)
    kept = Vocabulary(moved / "vocabulary")
    assert kept.hash == Vocabulary(vocabulary).hash
    assert torch.load(best_checkpoint(moved), weights_only=True)["vocabulary"] == kept.hash
    assert not list(moved.glob("*.partial"))


def test_init_from_refuses_other_vocabulary(run, store, other_words, tmp_path):
    moved = folder_of(run, tmp_path)
    assert len(Vocabulary(other_words)) == len(Vocabulary(moved / "vocabulary"))
    with pytest.raises(UserError, match=r"another vocabulary .* than .*other-words"):
        LanguageModel(other_words, SHAPE, 16, init_from=moved)
    data = TextMix("tiny", store.path.parent, [Source("home")], "home", other_words, 2, 16)
    with pytest.raises(UserError, match="another vocabulary"):  # a run is not resumed with it either
        Trainer(logger=False, accelerator="cpu").fit(
            LanguageModel(other_words, SHAPE, 16), data, ckpt_path=best_checkpoint(moved), weights_only=True
        )


def test_init_from_names_weights_that_do_not_fit(run, vocabulary, tmp_path):
    moved = folder_of(run, tmp_path)
    with pytest.raises(UserError, match=r"network\.transformer\.wte\.weight is \(\d+, 16\), .* needs \(\d+, 32\)$"):
        LanguageModel(vocabulary, WIDER, 16, init_from=moved)
    deeper = LanguageShape(width=16, layers=2, heads=2, inner=16, positions=16)
    with pytest.raises(UserError, match=r"\.ckpt: weight network\.transformer\.h\.1\.\S+ is missing"):
        LanguageModel(vocabulary, deeper, 16, init_from=moved)


def test_init_from_renames_prefix_and_keeps_other_weights(run, vocabulary, tmp_path):
    state = torch.load(best_checkpoint(folder_of(run, tmp_path)), weights_only=True)["state_dict"]
    lm = LanguageModel(vocabulary, SHAPE, 16).network
    module = torch.nn.ModuleDict({"text": lm.transformer, "connector": torch.nn.Linear(3, 3)})
    before = module["connector"].weight.clone()
    init_from(module, tmp_path / "moved", {"text.": "network.transformer."})
    assert torch.equal(module["text"].wte.weight, state["network.transformer.wte.weight"])
    assert torch.equal(module["connector"].weight, before)
    with pytest.raises(ValueError, match=r"no weight .* prefix speech\."):
        init_from(module, tmp_path / "moved", {"speech.": "network."})


def test_init_from_reads_safetensors(vocabulary, other_words, tmp_path):
    source, model = (LanguageModel(vocabulary, SHAPE, 16) for _ in range(2))
    state = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    init_from(model, file)
    assert same(model, source.state_dict())
    save_file(state, file, metadata={"vocabulary": Vocabulary(other_words).hash})
    with pytest.raises(UserError, match="another vocabulary"):
        init_from(model, file)


def test_cvcl_is_initialized_from_run(vocabulary, tmp_path):
    source, model = (CVCL(vocabulary, VisionEncoder("test_resnet"), width=8) for _ in range(2))
    file = tmp_path / "cvcl.ckpt"
    torch.save({"state_dict": source.state_dict(), "vocabulary": source.vocabulary.hash}, file)
    assert not same(model, source.state_dict())
    assert same(CVCL(vocabulary, VisionEncoder("test_resnet"), width=8, init_from=file), source.state_dict())


class Evil:
    def __reduce__(self):
        return print, ("never",)


@pytest.mark.parametrize(
    ("content", "say"),
    [
        (b"no checkpoint", "cannot be read as weights"),
        ({"state_dict": Evil()}, "cannot be read as weights"),
        ({"model": 1}, "state_dict is missing"),
        ([1], "state_dict is missing"),
    ],
)
def test_init_from_refuses_invalid_checkpoint_without_executing_it(vocabulary, tmp_path, capsys, content, say):
    file = tmp_path / "bad.ckpt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(UserError, match=rf"bad\.ckpt: .*{say}"):
        LanguageModel(vocabulary, SHAPE, 16, init_from=file)
    assert "never" not in capsys.readouterr().out


def test_init_from_refuses_run_without_checkpoint(vocabulary, tmp_path):
    for say in ("no checkpoint", "several checkpoints"):
        with pytest.raises(UserError, match=say):
            LanguageModel(vocabulary, SHAPE, 16, init_from=tmp_path)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        for name in "ab":
            (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
    with pytest.raises(UserError, match=r"nowhere.ckpt: run folder or checkpoint not found"):
        LanguageModel(vocabulary, SHAPE, 16, init_from=tmp_path / "nowhere.ckpt")
