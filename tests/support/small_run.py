"""A folder in which ``fit`` takes a second: a tiny CVCL on a tiny store, with a short benchmark."""

import yaml
from PIL import Image

from babyvlm.__main__ import main

STEPS = 6
MODEL = {
    "class_path": "babyvlm.models.cvcl.CVCL",
    "init_args": {
        "vision": {
            "class_path": "babyvlm.models.networks.vision.VisionEncoder",
            "init_args": {"backbone": "test_resnet"},
        },
        "width": 8,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.02, "weight_decay": 0.1}},
    },
}
DATA = {
    "class_path": "babyvlm.data.pair_mix.PairMix",
    "init_args": {
        "name": "tiny",
        "stores": "stores",
        "sources": [{"store": "pairs"}],
        "validation": "pairs",
        "vocabulary": "vocabulary",
        "batch_size": 4,
        "image_size": 32,
        "max_tokens": 8,
    },
}
LIST = {"class_path": "babyvlm.benchmarks.VTWT", "init_args": {"trials": "vtwt.csv", "dev_fraction": 0.5}}
CALLBACKS = "lightning.pytorch.callbacks"
CHECKPOINT = {"class_path": f"{CALLBACKS}.ModelCheckpoint", "init_args": {"monitor": "val_loss"}}
CONFIG = {
    "seed_everything": 3,
    "name": "run",
    "trainer": {
        "accelerator": "cpu",
        "max_steps": STEPS,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            CHECKPOINT,
            {"class_path": "babyvlm.benchmarks.EvaluationCallback", "init_args": {"benchmarks": [LIST]}},
        ],
    },
    "model": MODEL,
    "data": DATA,
}


def lay_out(folder, tiny_store, make_vocabulary):
    """Write the stores, the vocabulary, the benchmark and ``run.yaml`` to a folder."""
    words = ["look", "red", "ball", "dog", "cup", "runs", "wash"]
    texts = [f"{words[i % 7]} the {words[i // 7]}" for i in range(49)]
    splits = ["train"] * 40 + ["val"] * 5 + ["test"] * 4
    store = tiny_store(texts, splits=splits, path=folder / "stores/pairs")
    (folder / "vocabulary").symlink_to(make_vocabulary(store))
    for number in range(6):
        Image.new("RGB", (32, 32), (number * 40, 90, 10)).save(folder / f"{number}.png")
    lines = [f"{number}.png,red ball,wash dog" for number in range(6)]
    (folder / "vtwt.csv").write_text("\n".join(["image,positive_phrase,negative_phrase", *lines]) + "\n")
    (folder / "run.yaml").write_text(yaml.safe_dump(CONFIG))


def enter(root, folder, monkeypatch):
    """Change to a folder that links to the files of a laid-out one, so that a test's own files stay in it."""
    for path in root.iterdir():
        (folder / path.name).symlink_to(path)
    monkeypatch.chdir(folder)
    return folder


def fit(*options, **trainer):
    """Run ``fit`` in the working directory; ``trainer`` overrides settings of the Trainer."""
    flags = [part for name, value in trainer.items() for part in (f"--trainer.{name}", yaml.safe_dump(value).strip())]
    flags = [flag.removesuffix("\n...") for flag in flags]
    main(["fit", "--config", "run.yaml", *flags, *map(str, options)])
