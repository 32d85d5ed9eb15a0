"""Speed, memory and numerics on a GPU, at the paper's sizes, in under eight minutes.

    make bench-gpu

Prints the figures, and writes them with the card and the date to --out. Measured: images per second of CVCL, DINO and
BabyLLaVA's phases 1 and 2 with the share of the time for which the GPU waits for data, peak memory, and waits of the
CPU for the GPU in a step; losses in bf16 and float32; TF32, memory format and cuDNN's benchmark mode; embedded pairs
per second; top-k matching; resumption; all-gather over NCCL. Frames are simulated, weights random. It needs torch,
lightning, timm, transformers, opencv, pyarrow and small pure-Python packages; what needs a package that is missing is
left out and named. --smoke true runs everything at tiny sizes on the CPU, whose figures mean nothing: a test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import silence_lightning, simulated_frames, write_simulated_store
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

MINUTES = 7.0  # after which no further measurement starts
WORDS = [f"w{number}" for number in range(2_345)]


@dataclass(frozen=True)
class Size:
    """What is measured: the paper's sizes, or tiny ones for the test."""

    images: int = 4096
    frames: int = 256  # different ones among the images
    side: int = 224
    small_side: int = 96
    backbone: str = "resnext50_32x4d"
    steps: int = 30
    warmup: int = 8
    loss_steps: int = 50
    prototypes: int = 65536
    head: dict[str, int] = field(default_factory=dict)
    batches: dict[str, int] = field(
        default_factory=lambda: {"CVCL": 8, "CVCL, batch 128": 128, "DINO": 64, "phase 1": 40, "phase 2": 128}
    )
    width: int = 256
    layers: int = 8
    heads: int = 32
    clip: str = "ViT-L-14-quickgelu"
    pairs: int = 1536
    targets: int = 2048
    candidates: int = 558_000
    embedding: int = 512
    top_k: int = 512


TINY = Size(
    images=24,
    frames=6,
    side=32,
    small_side=16,
    backbone="test_resnet",
    steps=1,
    warmup=1,
    loss_steps=2,
    prototypes=16,
    head={"hidden_dim": 16, "bottleneck_dim": 8},
    batches={"CVCL": 4, "CVCL, batch 128": 8, "DINO": 2, "phase 1": 4, "phase 2": 4},
    width=16,
    layers=1,
    heads=2,
    clip="",
    pairs=24,
    targets=40,
    candidates=3000,
    embedding=8,
    top_k=16,
)


@dataclass
class Machine:
    """Where it runs, and the data."""

    device: torch.device
    size: Size
    folder: Path
    workers: int
    precision: str

    @property
    def accelerator(self) -> str:
        """As Lightning calls the device."""
        return "gpu" if self.device.type == "cuda" else "cpu"


class Clock(Callback):
    """Times the steps after some to warm up, and records the losses."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.losses: list[torch.Tensor] = []
        self.started = self.seconds = 0.0
        self.steps = 0

    def on_train_batch_end(self, trainer: Trainer, model: LightningModule, outputs: Any, *_: Any) -> None:  # noqa: ANN401
        """Start or stop the clock."""
        self.losses.append(outputs["loss"].detach())
        if trainer.global_step == self.machine.size.warmup:
            self.started = self._now()
        if trainer.global_step == trainer.max_steps:
            self.seconds = self._now() - self.started
            self.steps = trainer.max_steps - self.machine.size.warmup

    def _now(self) -> float:
        if self.machine.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def fit(
    machine: Machine,
    model: LightningModule,
    data: Any,  # noqa: ANN401 - a DataModule or a loader
    steps: int,
    *callbacks: Callback,
    **options: Any,  # noqa: ANN401 - of the Trainer
) -> Clock:
    """Train for some steps as the command line does."""
    from babyvlm.training.non_finite_guard import StopOnNonFinite
    from babyvlm.training.recovery import SeedEachBatch

    clock = Clock(machine)
    settings: dict[str, Any] = {
        "accelerator": machine.accelerator,
        "devices": 1,
        "precision": machine.precision,
        "max_steps": steps,
        "max_epochs": -1,
        "callbacks": [clock, SeedEachBatch(0), StopOnNonFinite(), *callbacks],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "limit_val_batches": 0,
        "default_root_dir": machine.folder,
    }
    Trainer(**settings | options).fit(model, data, **({"weights_only": True} if "ckpt_path" in options else {}))
    return clock


def simulate(machine: Machine) -> None:
    """Write a store of simulated frames with random utterances."""
    size, random = machine.size, np.random.default_rng(0)
    frames = list(simulated_frames(size.frames))
    rows = (
        (
            f"{i:06d}",
            frames[i % len(frames)],
            " ".join(random.choice(WORDS, random.integers(2, 10)) if i else WORDS),
            "train",
        )
        for i in range(size.images)
    )
    write_simulated_store(machine.folder, rows)


def adamw(parameters: Any) -> torch.optim.Optimizer:  # noqa: ANN401
    """Return the optimizer of the recipes."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1, fused=True)


def pair_mix(machine: Machine, batch_size: int, **options: Any) -> Any:  # noqa: ANN401
    """Return a mix of the simulated store."""
    from babyvlm.data.pair_mix import PairMix, Source

    return PairMix(
        "mix",
        machine.folder,
        [Source("store")],
        "store",
        machine.folder / "vocabulary",
        batch_size=batch_size,
        image_size=machine.size.side,
        num_workers=machine.workers,
        **options,
    )


def cvcl(machine: Machine, **options: Any) -> LightningModule:  # noqa: ANN401
    """Return CVCL with random weights."""
    from babyvlm.models.cvcl import CVCL
    from babyvlm.models.networks.vision import VisionEncoder

    seed_everything(0, verbose=False)
    vision = VisionEncoder(machine.size.backbone, **options)
    return CVCL(machine.folder / "vocabulary", vision, image_size=machine.size.side, optimizer=adamw)


def babyllava(machine: Machine, phase: int) -> LightningModule:
    """Return BabyLLaVA-GPT2 with random weights."""
    from babyvlm.models.babyllava import BabyLLaVA
    from babyvlm.models.networks.language import LanguageShape
    from babyvlm.models.networks.vision import VisionEncoder

    seed_everything(0, verbose=False)
    size = machine.size
    shape = LanguageShape(
        width=size.width, layers=size.layers, heads=size.heads, inner=4 * size.width, dropout=0.15, positions=2048
    )
    vision = VisionEncoder(size.backbone, frozen=True)
    options = {"image_size": size.side, "train_language": phase == 2, "optimizer": adamw}
    return BabyLLaVA(machine.folder / "vocabulary", vision, shape, **options)


def dino(machine: Machine) -> LightningModule:
    """Return DINO with random weights."""
    from babyvlm.models.dino import DINO
    from babyvlm.models.networks.vision import VisionEncoder

    seed_everything(0, verbose=False)
    return DINO(VisionEncoder(machine.size.backbone), adamw, machine.size.prototypes, machine.size.head)


def frame_mix(machine: Machine, views: Any) -> Any:  # noqa: ANN401
    """Return the frames of the simulated store."""
    from babyvlm.data.frame_mix import Crops, FrameMix
    from babyvlm.data.pair_mix import Source

    size = machine.size
    crops = Crops(local_count=8, local_size=size.small_side)
    options = {"image_size": size.side, "crops": crops, "views": views, "num_workers": machine.workers}
    return FrameMix("frames", machine.folder, [Source("store")], size.batches["DINO"], **options)


class OneBatch(Callback):
    """Takes the first batch of a run, on the device and ready for the model."""

    def on_train_batch_start(self, trainer: Trainer, model: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Keep the batch."""
        self.batch = batch


def throughput(
    machine: Machine, make: Callable[[], LightningModule], data: Callable[[], Any], batch_size: int
) -> dict[str, float]:
    """Measure images per second, and again with one batch that is already on the device: the difference is waiting."""
    size, first = machine.size, OneBatch()
    steps = size.warmup + size.steps
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loaded = fit(machine, make(), data(), steps, first)
    peak = torch.cuda.max_memory_allocated() if machine.device.type == "cuda" else 0
    resident = fit(machine, make(), DataLoader([first.batch] * steps, batch_size=None), steps)
    return {
        "images/s": batch_size * loaded.steps / loaded.seconds,
        "images/s without loading": batch_size * resident.steps / resident.seconds,
        "share of waiting for data": max(0.0, 1 - resident.seconds / loaded.seconds),
        "peak memory, GB": peak / 1e9,
        "waits of the CPU per step": waits_per_step(machine, make(), first.batch),
    }


def waits_per_step(machine: Machine, model: LightningModule, batch: Any) -> float:  # noqa: ANN401
    """Return how often the CPU waits for the GPU in a step, as CUDA counts it; NaN on a CPU."""
    if machine.device.type != "cuda":
        return float("nan")
    size = machine.size
    steps = size.warmup + 4

    class Debug(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:  # noqa: ANN401
            if trainer.global_step == size.warmup:
                torch.cuda.set_sync_debug_mode("warn")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit(machine, model, DataLoader([batch] * steps, batch_size=None), steps, Debug())
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message).lower() for one in caught) / 4


def measure_models(machine: Machine) -> dict[str, Any]:
    """Measure each model with its loader."""
    size = machine.size
    found: dict[str, Any] = {}
    for name in ("CVCL", "CVCL, batch 128"):
        batch = size.batches[name]
        fp32 = Machine(machine.device, size, machine.folder, machine.workers, "32-true")  # as in cvcl.yaml
        found[f"{name}, float32"] = throughput(fp32, lambda: cvcl(machine), lambda b=batch: pair_mix(machine, b), batch)
    for phase in (1, 2):
        batch = size.batches[f"phase {phase}"]
        features = machine.folder / "features"
        for kind, options in (("images", {}), ("cached features", {"features": features})):
            found[f"BabyLLaVA-GPT2 phase {phase}, {kind}"] = throughput(
                machine,
                lambda p=phase: babyllava(machine, p),
                lambda b=batch, o=options: pair_mix(machine, b, augment=False, **o),
                batch,
            )
    return found


def measure_dino(machine: Machine) -> dict[str, Any]:
    """Measure DINO with views made on the device and by the workers."""
    batch = machine.size.batches["DINO"]
    return {
        f"DINO, views by {views}": throughput(
            machine, lambda: dino(machine), lambda v=views: frame_mix(machine, v), batch
        )
        for views in ("device", "opencv", "pillow")
    }


def measure_precision(machine: Machine) -> dict[str, Any]:
    """Compare the losses of bf16 and float32 over the same batches."""
    size = machine.size
    found = {}
    for name, make, mix in (
        ("CVCL", lambda: cvcl(machine), lambda: pair_mix(machine, size.batches["CVCL"])),
        (
            "BabyLLaVA-GPT2 phase 2",
            lambda: babyllava(machine, 2),
            lambda: pair_mix(machine, size.batches["phase 2"], augment=False),
        ),
    ):
        losses = []
        for precision in ("32-true", "bf16-mixed"):
            on = Machine(machine.device, size, machine.folder, machine.workers, precision)
            losses.append(torch.stack(fit(on, make(), mix(), size.loss_steps).losses).float().cpu())
        deviation = ((losses[1] - losses[0]) / losses[0]).abs()
        found[name] = {
            "last loss, float32": losses[0][-1].item(),
            "last loss, bf16": losses[1][-1].item(),
            "mean relative deviation": deviation.mean().item(),
            "greatest relative deviation": deviation.max().item(),
        }
    return found


def measure_options(machine: Machine) -> dict[str, Any]:
    """Measure the options whose best value depends on the card, with CVCL in float32 and one batch on the device."""
    size, first = machine.size, OneBatch()
    on = Machine(machine.device, size, machine.folder, machine.workers, "32-true")
    batch = size.batches["CVCL, batch 128"]
    fit(on, cvcl(machine), pair_mix(machine, batch), 1, first)
    steps = size.warmup + size.steps
    found = {}
    for name, encoder, matmul, trainer in (
        ("default", {}, "highest", {}),
        ("--matmul_precision high (TF32)", {}, "high", {}),
        ("--model.vision.channels_last false", {"channels_last": False}, "highest", {}),
        ("--trainer.benchmark true (cuDNN)", {}, "highest", {"benchmark": True}),
    ):
        torch.set_float32_matmul_precision(matmul)
        loader = DataLoader([first.batch] * steps, batch_size=None)
        clock = fit(on, cvcl(machine, **encoder), loader, steps, **trainer)
        found[name] = {"images/s": batch * clock.steps / clock.seconds}
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    return found


def measure_embedding(machine: Machine) -> dict[str, Any]:
    """Measure embedded pairs per second, from the store to the parts on disk."""
    import open_clip

    from babyvlm.curation.clip import Clip, create_trainer, load_clip, predict_parts
    from babyvlm.curation.embeddings import PART_ROWS
    from babyvlm.curation.store.pair_store import PairStore

    store = PairStore(machine.folder / "store")
    if machine.size.clip:
        model = open_clip.create_model(machine.size.clip, load_weights=False)
        settings = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
        preprocess = open_clip.transform.image_transform_v2(settings, is_train=False)
        clip = Clip(model.eval(), preprocess, open_clip.get_tokenizer(machine.size.clip))
    else:
        clip = load_clip("playroom")
    folder = machine.folder / "embeddings" / "parts"
    trainer = create_trainer(machine.accelerator, 1, 1)
    started = time.perf_counter()
    parts = range(-(-len(store) // PART_ROWS))
    predict_parts(trainer, store, folder, parts, clip, batch_size=256, num_workers=machine.workers)
    return {"pairs/s, with the start": {"value": len(store) / (time.perf_counter() - started)}}


def measure_matching(machine: Machine) -> dict[str, Any]:
    """Measure the top-k pass, and check its lists against NumPy for some targets."""
    from babyvlm.curation.matching.device_top_k import DeviceTopKSearch

    size, random = machine.size, np.random.default_rng(0)

    def unit(rows: int) -> np.ndarray:
        vectors = random.standard_normal((rows, size.embedding), np.float32)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    targets, candidates = unit(size.targets), unit(size.candidates)
    forbidden, prices = np.empty((0, 2), np.int64), np.zeros(size.candidates)
    search = DeviceTopKSearch(targets, candidates, forbidden, machine.device)
    rows, top_k = np.arange(size.targets), np.full(size.targets, size.top_k)
    search.search(rows[:64], top_k[:64], prices)
    started = time.perf_counter()
    lists = search.search(rows, top_k, prices)
    seconds = time.perf_counter() - started
    pairs = size.targets * size.candidates
    exact = targets[:4].astype(np.float32) @ candidates.astype(np.float32).T
    best = np.sort(exact, axis=1)[:, ::-1][:, : size.top_k]
    found = lists.net_score[: 4 * size.top_k].reshape(4, -1)
    hours = 670_000 * 5_580_000 / (pairs / seconds) / 3600
    return {
        f"top {size.top_k} of {size.targets:,} x {size.candidates:,}, width {size.embedding}": {
            "pairs/s": pairs / seconds,
            "greatest deviation from NumPy": float(np.abs(found - best).max()),
            "hours for 670,000 x 5,580,000": hours,
        }
    }


def measure_resume(machine: Machine) -> dict[str, Any]:
    """Compare the weights of a run with those of the same run, interrupted and resumed in its middle."""
    steps, size = max(4, machine.size.steps // 2), machine.size
    batch = size.batches["CVCL"]
    whole, parts = cvcl(machine), cvcl(machine)
    fit(machine, whole, pair_mix(machine, batch), steps)
    checkpoint = machine.folder / "middle.ckpt"

    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: ANN401
            if trainer.global_step == steps // 2:
                trainer.save_checkpoint(checkpoint)

    fit(machine, parts, pair_mix(machine, batch), steps, Save(), enable_checkpointing=False)
    resumed = cvcl(machine)
    from babyvlm.training.recovery import SeedEachBatch

    trainer = Trainer(
        accelerator=machine.accelerator,
        devices=1,
        precision=machine.precision,
        max_steps=steps,
        max_epochs=-1,
        callbacks=[SeedEachBatch(0)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=machine.folder,
    )
    trainer.fit(resumed, pair_mix(machine, batch), ckpt_path=checkpoint, weights_only=True)
    return {
        "greatest difference of a weight": {
            "whole run - resumed run": difference(whole, resumed),
            "whole run - the same run again": difference(whole, parts),
        }
    }


def difference(one: LightningModule, other: LightningModule) -> float:
    """Return the greatest difference of a weight of two models."""
    theirs = other.state_dict()
    pairs = ((tensor.cpu().float(), theirs[name].cpu().float()) for name, tensor in one.state_dict().items())
    return max(float((mine - its).abs().max()) for mine, its in pairs if mine.numel())


def measure_all_gather(machine: Machine) -> dict[str, Any]:
    """Train CVCL through DDP, whose loss gathers all pairs over NCCL, and compare the losses with a run without it."""
    size = machine.size
    backend = "nccl" if machine.device.type == "cuda" else "gloo"
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    steps = size.warmup + size.steps
    batch = size.batches["CVCL, batch 128"]
    alone = fit(machine, cvcl(machine), pair_mix(machine, batch), steps)
    strategy = DDPStrategy(process_group_backend=backend)
    ranks = fit(machine, cvcl(machine), pair_mix(machine, batch), steps, strategy=strategy)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    losses = [torch.stack(clock.losses).float().cpu() for clock in (alone, ranks)]
    return {
        f"CVCL through DDP and {backend}, one rank": {
            "images/s": batch * ranks.steps / ranks.seconds,
            "images/s without DDP": batch * alone.steps / alone.seconds,
            "greatest relative deviation of a loss": ((losses[1] - losses[0]) / losses[0]).abs().max().item(),
        }
    }


MEASUREMENTS: dict[str, Callable[[Machine], dict[str, Any]]] = {
    "models": measure_models,
    "DINO": measure_dino,
    "top-k matching": measure_matching,
    "bf16 and float32": measure_precision,
    "resumption": measure_resume,
    "all-gather": measure_all_gather,
    "options": measure_options,
    "embedding": measure_embedding,
}


def describe(machine: Machine) -> dict[str, str]:
    """Return card, date and versions."""
    card = "CPU, tiny sizes: these figures mean nothing"
    if machine.device.type == "cuda":
        properties = torch.cuda.get_device_properties(machine.device)
        card = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    return {
        "card": card,
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cores": str(len(os.sched_getaffinity(0))),
        "loader workers": str(machine.workers),
    }


def shown(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@contextmanager
def quiet_data() -> Iterator[None]:
    """Hide the progress bars of datasets."""
    try:
        import datasets

        datasets.disable_progress_bars()
    except ImportError:
        pass
    yield


def measure(machine: Machine, out: Path) -> dict[str, Any]:
    """Run all measurements that fit into the time, print them, and write them after each."""
    started = time.perf_counter()
    report: dict[str, Any] = {
        "machine": describe(machine),
        "size": asdict(machine.size),
        "measured": {},
        "left out": {},
    }
    print("\n".join(f"{name}: {value}" for name, value in report["machine"].items()))
    simulate(machine)
    for name, work in MEASUREMENTS.items():
        begun = time.perf_counter()
        if begun - started > 60 * MINUTES:
            report["left out"][name] = f"more than {MINUTES:.0f} minutes had passed"
        else:
            try:
                report["measured"][name] = work(machine)
            except Exception as error:  # one that fails must not lose the others
                if not isinstance(error, ImportError):
                    traceback.print_exc()
                report["left out"][name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        seconds = time.perf_counter() - begun
        for what, figures in report["measured"].get(name, {}).items():
            print(f"{what}: " + "; ".join(f"{label} {shown(value)}" for label, value in figures.items()), flush=True)
        if name in report["left out"]:
            print(f"{name}: not measured ({report['left out'][name]})", flush=True)
        print(f"  [{name}: {seconds:.0f} s]", flush=True)
        out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {out} after {time.perf_counter() - started:.0f} s")
    return report


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num_threads", type=int, default=0, help="loader workers; by default one per core, at most 16"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-gpu.json"), help="file to write")
    parser.add_argument("--smoke", choices=("true", "false"), default="false", help="tiny sizes on the CPU")
    args = parser.parse_args()
    smoke = args.smoke == "true"
    if not smoke and not torch.cuda.is_available():
        print("error: bench-gpu needs a GPU, and this machine has none that PyTorch can use", file=sys.stderr)
        raise SystemExit(2)
    silence_lightning()
    workers = args.num_threads or (0 if smoke else min(16, len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as folder, quiet_data():
        device = torch.device("cpu" if smoke else "cuda:0")
        precision = "32-true" if smoke else "bf16-mixed"
        report = measure(Machine(device, TINY if smoke else Size(), Path(folder), workers, precision), args.out)
    raise SystemExit(1 if report["left out"] else 0)


if __name__ == "__main__":
    main()
