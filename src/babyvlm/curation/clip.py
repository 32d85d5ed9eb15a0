"""Load CLIP models by name, and embed a store with Lightning's ``predict``."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np
import open_clip
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import babyvlm.playroom
from babyvlm.curation.embeddings import PART_ROWS, part_path
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError, first_line
from babyvlm.io.artifacts import create_marked, sha256_file
from babyvlm.io.distributed import refuse_mps
from babyvlm.io.files import read_bounded
from babyvlm.io.hub import asked_once, fetch, refuse_code
from babyvlm.io.images import open_rgb
from babyvlm.io.limits import MAX_JSON_BYTES, load_json
from babyvlm.io.processes import killed_from_outside
from babyvlm.types import checked_texts

FILES = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.txt", "*.model")  # what is fetched of a hub model
BEFORE_CLITIC = re.compile(r"(?<=\w) (?=(?:n't|'(?:s|m|d|re|ve|ll))(?!\w))")
CHUNK_ROWS = 3  # rows that a loader's worker passes on at once: 1.8 MB at 224 pixels
PLAYROOM_CLIP = Path(babyvlm.playroom.__file__).parent / "clip"


@dataclass(frozen=True)
class Clip:
    """A CLIP model with the preprocessing and the tokenizer that it was trained with."""

    model: torch.nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Callable[[Sequence[str]], Tensor]

    @cached_property
    def sha256(self) -> str:
        """Hash of the names and values of the weights, whatever file they were read from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def images(self, images_BCHW: Tensor) -> Tensor:
        """Return (B, D) L2-normalized image embeddings."""
        return normalize(cast("Any", self.model).encode_image(images_BCHW), dim=-1)

    def texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Return (T, D) L2-normalized text embeddings."""
        return normalize(cast("Any", self.model).encode_text(self.tokenize(checked_texts(texts)).to(device)), dim=-1)

    def score(self, images_BCHW: Tensor, texts: Sequence[str]) -> Tensor:
        """Return (B, T) cosine similarities."""
        return self.images(images_BCHW) @ self.texts(texts, images_BCHW.device).T


def load_clip(name: str) -> Clip:
    """Load a CLIP model for evaluation.

    Args:
        name: ``playroom``, ``MODEL/PRETRAINED`` as in ``ViT-L-14-quickgelu/openai``, ``MODEL/FILE``,
            ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``.

    Raises:
        UserError: the model does not exist, its weights cannot be loaded, or they were trained with another activation
            (GELU or QuickGELU), which would silently change all similarities.
    """
    model_name, pretrained = _resolve(name)
    is_remote = pretrained is not None and not Path(pretrained).exists()
    try:
        if pretrained:
            _check_activation(model_name, pretrained)
        if pretrained and _is_torchscript(Path(pretrained)):
            model: Any = _from_openai(model_name, Path(pretrained))
        else:
            # Without require_pretrained, open_clip only logs a warning and returns random weights.
            with asked_once() if is_remote else nullcontext():
                model = open_clip.create_model(model_name, pretrained, require_pretrained=True, weights_only=True)
        settings = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
        preprocess = open_clip.transform.image_transform_v2(settings, is_train=False)
        tokenize = open_clip.get_tokenizer(model_name)
        if name == "playroom":
            tokenize = _with_words_of_playroom_clip(tokenize)
    except Exception as error:  # an invalid config or checkpoint can raise anything
        advice = ". Without internet access, pass MODEL/FILE or local-dir:FOLDER" if is_remote else ""
        raise UserError(f"--clip {name}: open_clip cannot load it ({first_line(error)}){advice}") from error
    # On CPUs, convolutions are about 1.5 times as fast in this layout. Transformers are unaffected.
    return Clip(model.eval().to(memory_format=torch.channels_last), preprocess, tokenize)


def _with_words_of_playroom_clip(tokenize: Callable[[Sequence[str]], Tensor]) -> Callable[[Sequence[str]], Tensor]:
    """Return the tokenizer of the shipped model for tokenized text: it knows ``that's``, and drops punctuation."""
    return lambda texts: tokenize([BEFORE_CLITIC.sub("", text) for text in texts])


def _resolve(name: str) -> tuple[str, str | None]:
    if name == "playroom":
        return f"local-dir:{PLAYROOM_CLIP}", None
    if name.startswith("hf-hub:"):
        return f"local-dir:{fetch(name.removeprefix('hf-hub:'), FILES)}", None
    if name.startswith("local-dir:"):
        refuse_code(Path(name.removeprefix("local-dir:")))
        return name, None
    model_name, _, pretrained = name.partition("/")
    if not pretrained:
        raise UserError(f"--clip {name}: names no weights. Pass MODEL/PRETRAINED, such as ViT-L-14-quickgelu/openai")
    return model_name, pretrained


def _is_torchscript(file: Path) -> bool:
    """Return whether a file is an archive of TorchScript, which is a program, and not a state dict."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def _from_openai(model_name: str, file: Path) -> torch.nn.Module:
    """Build a model with the weights of one of OpenAI's published archives.

    The one exception to "no file is executed": these archives exist in no other format at their source, and each is
    loaded only if it is the published file, bit by bit.

    Raises:
        ValueError: the file is another one.
    """
    known = {
        url.split("/")[-2]
        for name in open_clip.list_openai_models()
        if (url := str(open_clip.get_pretrained_url(name, "openai") or "")).endswith(".pt")
    }
    if sha256_file(file) not in known:
        raise ValueError(f"{file} is TorchScript, which is a program; only OpenAI's published files are loaded")
    state = torch.jit.load(file, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    model = open_clip.create_model(model_name, load_weights=False)
    wanted = model.state_dict()
    model.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in state.items() if name in wanted})
    return cast("torch.nn.Module", model)


def _check_activation(model_name: str, pretrained: str) -> None:
    """Check, before weights are downloaded, that the architecture has the activation they were trained with.

    open_clip knows the activation of published weights. For a file it is read from the ``open_clip_config.json`` beside
    it; without one, nothing is checked.

    Raises:
        ValueError: the architecture has the other activation.
    """
    settings: dict[str, Any] = open_clip.get_pretrained_cfg(model_name, pretrained)
    beside = Path(pretrained).with_name("open_clip_config.json")
    if not settings and Path(pretrained).is_file() and beside.is_file():
        settings = cast("dict[str, Any]", load_json(read_bounded(beside, MAX_JSON_BYTES)))["model_cfg"]
    architecture = open_clip.get_model_config(model_name)
    if not settings or architecture is None:
        return  # there is nothing to compare, or open_clip reports the problem
    names = {False: "GELU", True: "QuickGELU"}
    trained, built = bool(settings.get("quick_gelu")), bool(architecture.get("quick_gelu"))
    if trained != built:
        raise ValueError(
            f"QuickGELU mismatch: {model_name} has {names[built]}, the weights were trained with {names[trained]}. "
            f"Choose an architecture that has it, such as ViT-L-14-quickgelu"
        )


def create_trainer(accelerator: str, devices: int, num_nodes: int) -> Trainer:
    """Create a Lightning trainer, which knows the ranks; other processes start later.

    Raises:
        UserError: the hardware is not available.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    try:
        trainer = Trainer(
            accelerator=accelerator,
            precision="16-mixed" if on_gpu else "32-true",  # CLIP was trained in float16 (Radford et al. 2021)
            devices=devices,
            num_nodes=num_nodes,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--accelerator {accelerator}, --devices {devices}: {' '.join(str(error).split())}") from error
    refuse_mps(trainer, "--accelerator")
    if SLURMEnvironment.detect():  # otherwise Lightning starts the ranks itself
        wanted = devices * num_nodes
        is_step = "SLURM_STEP_ID" in os.environ  # set by srun, which starts all ranks
        if trainer.world_size != wanted or (wanted > 1 and not is_step):
            raise UserError(
                f"--devices {devices}, --num_nodes {num_nodes}: SLURM runs {trainer.world_size if is_step else 1} of "
                f"{wanted} processes. Submit with --nodes={num_nodes} --ntasks-per-node={devices} and start the "
                "command by srun, or pass --devices 1 and share the work (--share)"
            )
    return trainer


def predict_parts(
    trainer: Trainer,
    store: PairStore,
    folder: Path,
    numbers: Iterable[int],
    clip: Clip,
    *,
    batch_size: int,
    num_workers: int,
) -> None:
    """Compute those of the parts ``numbers`` that are missing in ``folder``, a subfolder of the stage's state.

    When all ranks are done, the first one returns and the others end.

    Raises:
        UserError: a data loader worker was killed.
    """
    warnings.filterwarnings("ignore", "predict returned None")  # the parts are on disk
    warnings.filterwarnings("ignore", module="lightning.pytorch.utilities._pytree")  # a deprecation inside Lightning
    create_marked(folder.parent)
    folder.mkdir(exist_ok=True)
    missing = [number for number in numbers if not part_path(folder, number).exists()]
    embedder = _Embedder(clip, store, folder, missing, batch_size, num_workers)
    try:
        if missing:
            trainer.predict(embedder, return_predictions=False)
    except RuntimeError as error:
        raise killed_from_outside() if "DataLoader worker" in str(error) else error from None
    trainer.strategy.barrier()
    if not trainer.is_global_zero:
        raise SystemExit(0)


Chunk = tuple[int, bool, Tensor, list[str]]


class _Chunks(IterableDataset[Chunk]):
    """The rows of some parts, a few at a time: the part's number, whether they are its last, images and utterances.

    Workers pass them on in /dev/shm, which has 64 MB in a container: a part as a whole would not fit.
    """

    def __init__(self, store: PairStore, numbers: list[int], preprocess: Callable[[Image.Image], Tensor]) -> None:
        self.store, self.numbers, self.preprocess = store, numbers, preprocess

    def __len__(self) -> int:
        """Chunks of all workers, for the progress bar."""
        rows = (min(PART_ROWS, len(self.store) - number * PART_ROWS) for number in self.numbers)
        return sum(-(-count // CHUNK_ROWS) for count in rows)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks of every part that is this worker's."""
        worker = get_worker_info()
        mine = self.numbers if worker is None else self.numbers[worker.id :: worker.num_workers]
        for number in mine:
            rows = list(self.store.part(number, PART_ROWS))
            for start in range(0, len(rows), CHUNK_ROWS):
                chunk = rows[start : start + CHUNK_ROWS]
                images = torch.stack([self.preprocess(open_rgb(row["image"])) for row in chunk])
                yield number, start + CHUNK_ROWS >= len(rows), images, [row["utterance"] for row in chunk]


class _Embedder(LightningModule):
    def __init__(
        self, clip: Clip, store: PairStore, folder: Path, missing: list[int], batch_size: int, num_workers: int
    ) -> None:
        super().__init__()
        self.clip, self.store, self.folder = clip, store, folder
        self.missing, self.batch_size, self.num_workers = missing, batch_size, num_workers
        # Of each part that a worker is reading: images and texts that wait for a full batch, and embeddings.
        self._waiting: dict[int, tuple[list[Tensor], list[str]]] = {}
        self._done: dict[int, list[Tensor]] = {}
        self.model = clip.model  # registered, so that Lightning moves it to the device
        self.allow_zero_length_dataloader_with_multiple_devices = (
            True  # fewer parts may be missing than there are ranks
        )

    def predict_dataloader(self) -> DataLoader[Chunk]:
        """Load the parts of this rank. Lightning's own sampler fails if there are fewer parts than ranks."""
        mine = self.missing[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(
            _Chunks(self.store, mine, self.clip.preprocess),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def predict_step(self, batch: Chunk) -> None:
        """Collect the chunks of a part, which come in order; encode full batches, and save the part at its end."""
        number, is_last, images, texts = batch
        waiting = self._waiting.setdefault(number, ([], []))
        waiting[0].append(images)
        waiting[1].extend(texts)
        done = self._done.setdefault(number, [])
        while len(waiting[1]) >= self.batch_size or (is_last and waiting[1]):
            images, texts = torch.cat(waiting[0]), waiting[1]
            sides = self.clip.images(images[: self.batch_size]), self.clip.texts(texts[: self.batch_size], self.device)
            done.append(torch.stack([side.float() for side in sides], 1).half())
            waiting = self._waiting[number] = ([images[self.batch_size :]], texts[self.batch_size :])
        if is_last:
            del self._waiting[number]
            self._save(number, torch.cat(self._done.pop(number)))

    def _save(self, number: int, embeddings: Tensor) -> None:
        """Write a part, (rows, 2, D)."""
        both = embeddings.cpu().numpy()
        path = part_path(self.folder, number)
        temporary = path.with_name(f".{uuid4().hex}.npy")  # machines that share the folder reuse process numbers
        np.save(temporary, both)
        temporary.replace(path)
