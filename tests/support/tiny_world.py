"""A folder in which the shipped matrix runs in seconds, with small stores and a short benchmark."""

import shutil
from pathlib import Path

import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
MATRIX = Path("ablations.yaml")
WORDS = ["look", "red", "ball", "dog", "cup", "runs", "wash"]
VTWT = {"class_path": "babyvlm.benchmarks.VTWT", "init_args": {"trials": "vtwt.csv", "dev_fraction": 0.5}}
TEST = {"class_path": "babyvlm.benchmarks.EvaluationCallback", "init_args": {"benchmarks": [VTWT]}}
BASE = {
    "seed_everything": 0,
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 3,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"monitor": "val_loss", "enable_version_counter": False},
            },
        ],
    },
    "recovery": {"every_seconds": 0},
    "data": {
        "class_path": "babyvlm.data.pair_mix.PairMix",
        "init_args": {
            "stores": "data/playroom/stores",
            "validation": "filtered",
            "batch_size": 4,
            "image_size": 32,
            "vocabulary": "data/playroom/vocabulary",
        },
    },
}
IMAGES = {"trainer.max_steps": 3, "trainer.val_check_interval": 3, "data.batch_size": 4, "data.num_workers": 0}
TEXT = {"trainer.max_steps": 3, "trainer.val_check_interval": 3, "data.batch_size": 2, "data.max_tokens": 8}


def lay_out(folder, tiny_store, make_vocabulary):
    """Write the folder; its ``ablations.yaml`` is the shipped matrix with fewer steps and its own base config."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    texts = [f"{WORDS[i % 7]} the {WORDS[i // 7]}" for i in range(49)]
    splits = ["train"] * 40 + ["val"] * 5 + ["test"] * 4
    stores = folder / "data/playroom/stores"
    made = [
        tiny_store(texts, splits=splits, path=stores / name, source=name)
        for name in ("frames", "filtered", "aug", "random")
    ]
    shutil.copytree(make_vocabulary(*made), folder / "data/playroom/vocabulary")
    for number in range(6):
        Image.new("RGB", (32, 32), (number * 40, 90, 10)).save(folder / f"{number}.png")
    lines = [f"{number}.png,red ball,wash dog" for number in range(6)]
    (folder / "vtwt.csv").write_text("\n".join(["image,positive_phrase,negative_phrase", *lines]) + "\n")
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    matrix = yaml.safe_load((ROOT / "configs/playroom/ablations.yaml").read_text())
    for world in ("playroom", "saycam"):
        overlay = {"trainer": {"callbacks+": [TEST]}}
        (folder / f"configs/benchmarks/{world}.yaml").write_text(yaml.safe_dump(overlay))
    matrix["base"] = ["base.yaml"]
    for name, step in matrix["steps"].items():
        step["options"] = dict(TEXT if "language" in name else IMAGES)
    matrix["quick"]["options"] = {}
    (folder / MATRIX).write_text(yaml.safe_dump(matrix, sort_keys=False))
