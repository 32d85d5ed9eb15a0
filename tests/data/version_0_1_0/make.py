"""Make the golden files in this folder. Runs against version 0.1.0 of babyvlm only (commit 0706918), never later ones.

    git worktree add ../babyvlm-0.1.0 0706918
    PYTHONPATH=../babyvlm-0.1.0/src python tests/data/version_0_1_0/make.py

- ``stores/home``, ``vocabulary``: a pair store of 24 drawn images and its vocabulary;
- ``runs``: tiny runs in the folder layout of 0.1.0 (config, one checkpoint, vocabulary);
- ``exports``: two of them as ``python -m babyvlm export`` wrote them;
- ``golden.json``: what these runs score and caption, the losses of seeded training steps, and the first batches.
"""

import hashlib
import io
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from babyvlm.contracts import Batch
from babyvlm.data.frames import Crops, FrameMix, Views
from babyvlm.data.mixes import PairMix, Source
from babyvlm.models.text import LSTMText, MeanEmbedding, TransformerText
from babyvlm.models.vision import VisionEncoder
from lightning import Callback, Trainer
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import babyvlm
from babyvlm.__main__ import main
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.store import write_store
from babyvlm.data.text_mix import TextMix
from babyvlm.data.vocabulary import Vocabulary
from babyvlm.data.vocabulary import vocabulary as curate_vocabulary
from babyvlm.models.babyllava import BabyLLaVA
from babyvlm.models.clip import ClipTraining
from babyvlm.models.cvcl import CVCL
from babyvlm.models.dino import DINO
from babyvlm.models.language import LanguageModel, LanguageShape

sys.path.insert(0, str(Path(__file__).parents[2]))
from support.golden import (
    CLIP,
    GOLDEN,
    GPT2,
    HEAD,
    LLAMA,
    SIZE,
    TEXTS,
    TRUNK,
    UTTERANCES,
    draw,
    noise,
    pair_batches,
    view_batches,
)

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


def make_store():
    rows = []
    for number, utterance in enumerate(UTTERANCES):
        out = io.BytesIO()
        draw(number).save(out, "PNG")
        split = "val" if number % 6 == 5 else "test" if number % 6 == 4 else "train"
        key = f"k{number:05d}"
        row = {"key": key, "image": out.getvalue(), "utterance": utterance, "source": "tiny", "group": key}
        rows.append(row | {"split": split})
    write_store(GOLDEN / "stores" / "home", rows, arguments={"rows": len(rows)}, funnel=Funnel("tiny"), licensed=False)


# Runs by the command line, as 0.1.0 wrote them.


def model(name, class_path, **init_args):
    return name, {"class_path": class_path, "init_args": init_args}


def make_run(work, name, section, data, init=None):
    kinds = {"pairs": "mixes.PairMix", "text": "text_mix.TextMix", "frames": "frames.FrameMix"}
    common = {"name": "tiny", "stores": "stores", "sources": [{"store": "home"}], "batch_size": 4}
    if data != "frames":
        common |= {"validation": "home", "vocabulary": "vocabulary", "max_tokens": 16 if data == "text" else 9}
    if data != "text":
        common |= {"image_size": SIZE}
    if data == "frames":
        common |= {"crops": {"local_count": 2, "local_size": 32}}
    config = {
        "name": name,
        "logs": "logs",
        "test_after_fit": False,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 6,
            "val_check_interval": 3,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "use_distributed_sampler": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"filename": "one", "every_n_train_steps": 6},
                }
            ],
        },
        "model": section,
        "data": {"class_path": f"babyvlm.data.{kinds[data]}", "init_args": common},
    }
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "config.yaml"])
    run = work / "logs" / f"{name}-tiny" / "version_0"
    kept = GOLDEN / "runs" / name
    (kept / "checkpoints").mkdir(parents=True)
    shutil.copy(run / "config.yaml", kept)
    (file,) = (file for file in (run / "checkpoints").glob("*.ckpt") if file.name != "last.ckpt")
    shutil.copy(file, kept / "checkpoints")
    for part in ("vocabulary",):
        if (run / part).is_dir():
            shutil.copytree(run / part, kept / part)
    for file in run.glob("backbone.*"):
        shutil.copy(file, kept)


def make_runs(work):
    vision = {"class_path": "babyvlm.models.vision.VisionEncoder", "init_args": TRUNK}
    frozen = {"class_path": "babyvlm.models.vision.VisionEncoder", "init_args": TRUNK | {"frozen": True}}
    cvcl = {"vision": vision, "width": 16, "optimizer": SGD}
    plateau = {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": {"monitor": "val_loss"}}
    text = "babyvlm.models.text."
    lstm = {"text": text + "LSTMText", "learn_temperature": True}
    transformer = {"vision": frozen, "text": {"class_path": text + "TransformerText", "init_args": {"heads": 2}}}
    runs = [
        (*model("Language", "babyvlm.models.language.LanguageModel", shape=GPT2, optimizer=SGD), "text"),
        (*model("CVCL", "babyvlm.models.cvcl.CVCL", **cvcl, scheduler=plateau), "pairs"),
        (*model("CVCL-lstm", "babyvlm.models.cvcl.CVCL", **cvcl, **lstm), "pairs"),
        (*model("CVCL-transformer", "babyvlm.models.cvcl.CVCL", **cvcl | transformer), "pairs"),
        (
            *model(
                "BabyLLaVA",
                "babyvlm.models.babyllava.BabyLLaVA",
                vision=frozen,
                language=GPT2,
                train_language=True,
                init_language="logs/Language-tiny/version_0",
                likelihood="mean",
                recompute=True,
                optimizer=SGD,
            ),
            "pairs",
        ),
        (
            *model(
                "BabyLLaVA-llama",
                "babyvlm.models.babyllava.BabyLLaVA",
                vision=frozen,
                language=LLAMA,
                train_language=True,
                likelihood="evidence",
                optimizer=SGD,
            ),
            "pairs",
        ),
        (
            *model(
                "DINO",
                "babyvlm.models.dino.DINO",
                vision=vision,
                prototypes=12,
                head=HEAD,
                loss={"center_momentum": 0.8},
                half_precision=True,
                optimizer=SGD,
                scheduler={"class_path": "babyvlm.models.optimization.CosineWithWarmup", "init_args": {"warmup": 0.1}},
            ),
            "frames",
        ),
        (*model("CLIP", "babyvlm.models.clip.ClipTraining", **CLIP, optimizer=SGD), "pairs"),
    ]
    for run in runs:
        make_run(work, *run)


def outputs():
    """What each run says of three images and ``TEXTS``."""
    said = {}
    for run in sorted((GOLDEN / "runs").iterdir()):
        if run.name == "DINO":
            encoders = {
                "checkpoint": VisionEncoder(**TRUNK, weights=str(next((run / "checkpoints").iterdir()))),
                "backbone": VisionEncoder(**TRUNK, weights=str(run / "backbone.safetensors")),
            }
            with torch.no_grad():
                features = {
                    name: encoder.eval()(noise(0, 4, 3, SIZE, SIZE)).tolist() for name, encoder in encoders.items()
                }
            said[run.name] = {"features": features}
            continue
        loaded = babyvlm.load(run)
        if run.name == "Language":
            tokens = pad_sequence([torch.tensor(row) for row in loaded.vocabulary.encode(TEXTS)], True)
            with torch.no_grad():
                logits = loaded(Batch(TEXTS, torch.empty(0), tokens, TEXTS))
            said[run.name] = {"logits": logits[:, -1].tolist()}
            continue
        images = torch.stack([loaded.preprocess(draw(number)) for number in range(3)])
        with torch.no_grad():
            said[run.name] = {"score": loaded.score(images, TEXTS).tolist()}
            if hasattr(loaded, "caption"):
                said[run.name] |= {"caption": loaded.caption(images), "score_texts": loaded.score_texts(TEXTS).tolist()}
    return said


# Losses of seeded steps, without data of any store.


def batches():
    vocabulary = Vocabulary(GOLDEN / "vocabulary")
    return [
        Batch(texts, images, pad_sequence([torch.tensor(row) for row in vocabulary.encode(texts, 9)], True), texts)
        for texts, images in pair_batches()
    ]


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def modules():
    words, shape, llama = GOLDEN / "vocabulary", LanguageShape(**GPT2), LanguageShape(**LLAMA)
    small = {"width": 16, "image_size": SIZE, "max_tokens": 9, "optimizer": adamw}
    llava = {"image_size": SIZE, "max_tokens": 9, "optimizer": adamw}

    def transformer(size, width):
        return TransformerText(size, width, heads=2)

    def trunk(frozen=False):
        return VisionEncoder(**TRUNK, frozen=frozen)

    return {
        "CVCL": lambda: CVCL(words, trunk(), MeanEmbedding, **small),
        "CVCL-frozen": lambda: CVCL(words, trunk(True), MeanEmbedding, **small, learn_temperature=True),
        "CVCL-lstm": lambda: CVCL(words, trunk(), LSTMText, **small),
        "CVCL-transformer": lambda: CVCL(words, trunk(), transformer, **small),
        "BabyLLaVA-phase-1": lambda: BabyLLaVA(words, trunk(True), shape, **llava),
        "BabyLLaVA-phase-2": lambda: BabyLLaVA(words, trunk(), shape, train_language=True, **llava),
        "BabyLLaVA-recompute": lambda: BabyLLaVA(words, trunk(), llama, train_language=True, recompute=True, **llava),
        "Language": lambda: LanguageModel(words, shape, 9, optimizer=adamw),
        "Language-llama": lambda: LanguageModel(words, llama, 9, optimizer=adamw),
        "DINO": lambda: DINO(trunk(), adamw, 12, HEAD, {"center_momentum": 0.8}, 0.9),
        "CLIP": lambda: ClipTraining(words, **CLIP, optimizer=adamw, image_size=SIZE),
    }


def losses():
    found = {}
    for name, make in modules().items():
        torch.manual_seed(7)
        module, recorded = make(), Losses()
        data = [Views(*view) for view in view_batches()] if name == "DINO" else batches()
        torch.manual_seed(8)
        Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=4,
            logger=False,
            callbacks=[recorded],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, DataLoader(data, batch_size=None))
        found[name] = recorded.losses
    return found


# The first batches of each mix.


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def first_batches():
    sources, common = [Source("home", 12)], {"batch_size": 4, "seed": 3}
    text = {"validation": "home", "vocabulary": GOLDEN / "vocabulary"}
    mixes = {
        "augmented": PairMix("a", GOLDEN / "stores", sources, image_size=SIZE, **text, **common),
        "plain": PairMix("b", GOLDEN / "stores", sources, image_size=SIZE, augment=False, **text, **common),
        "bucketed": PairMix("c", GOLDEN / "stores", sources, image_size=SIZE, bucket_by_length=True, **text, **common),
        "text": TextMix("d", GOLDEN / "stores", sources, max_tokens=8, **text, **common),
        "frames": FrameMix("e", GOLDEN / "stores", sources, image_size=SIZE, crops=Crops(2, 16), **common),
    }
    found = {}
    for name, mix in mixes.items():
        mix.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        loader = mix.train_dataloader()
        seen = [*loader, *loader]  # two epochs
        found[name] = {"keys": [batch.keys for batch in seen]}
        for field in ("images_BCHW", "tokens_BL", "large_VBCHW", "small_VBCHW"):
            if hasattr(seen[0], field) and getattr(seen[0], field).numel():
                found[name][field] = [digest(getattr(batch, field)) for batch in seen]
        if name != "frames":
            found[name]["val"] = [batch.keys for batch in mix.val_dataloader()]
    return found


def make():
    assert not hasattr(babyvlm, "__all__"), "run this against version 0.1.0"
    torch.set_num_threads(1)
    for name in ("stores", "vocabulary", "runs", "exports"):
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
    make_store()
    curate_vocabulary([GOLDEN / "stores" / "home"], GOLDEN / "vocabulary", 1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for link in ("stores", "vocabulary"):
            (work / link).symlink_to(GOLDEN / link)
        os.chdir(work)
        make_runs(work)
        for run in ("CVCL", "BabyLLaVA"):
            main(["export", "--run", str(GOLDEN / "runs" / run), "--out", str(GOLDEN / "exports" / run)])
        golden = {
            "made_on": {
                "torch": torch.__version__,
                "machine": platform.machine(),
                "cpu": torch.backends.cpu.get_cpu_capability(),
            },
            "outputs": outputs(),
            "losses": losses(),
            "first_batches": first_batches(),
        }
        os.chdir(GOLDEN)
    shutil.rmtree(GOLDEN / "stores" / "home" / "arrow", ignore_errors=True)
    (GOLDEN / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    make()
