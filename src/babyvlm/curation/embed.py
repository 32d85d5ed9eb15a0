"""Embed the images and utterances of a store with a CLIP model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from babyvlm.curation.embeddings import PART_ROWS, part_path
from babyvlm.curation.stage import Artifact, Stage, parts_folder, slice_of_share, stage
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import require_at_least
from babyvlm.io import artifacts
from babyvlm.io.printing import echo


@stage
def embed(
    store: Path,
    out: Path,
    clip: str = "playroom",
    batch_size: int = 256,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    num_workers: int | None = None,
    share: str = "",
) -> Stage:
    """Embed the images and utterances of a store with a CLIP model.

    Reads a pair store; writes a folder of embeddings (`image.npy`, `text.npy` in float16, and the keys of the pairs)
    for `curate filter`, `match`, `deduplicate` and `check-contamination`. Images are preprocessed as in the training of
    the CLIP model. Rows are saved in parts: if the command is interrupted, run it again and it computes only the parts
    that are missing. The result does not depend on the number of devices.

    Playroom's CLIP was trained on Playroom only; for other data, use a large CLIP.

    For example:
        python -m babyvlm curate embed --store stores/frames --clip ViT-L-14-quickgelu/openai --out embeddings/frames

    Args:
        store: pair store to embed.
        out: folder to create.
        clip: `playroom` (included), an open_clip `MODEL/PRETRAINED` such as `ViT-L-14-quickgelu/openai` or
            `ViT-B-32/FILE.pt`, `hf-hub:ORG/NAME` or `local-dir:FOLDER`.
        batch_size: rows encoded at once on a device.
        accelerator: hardware, as in Lightning.
        devices: number of devices per node.
        num_nodes: number of nodes.
        num_workers: processes per device that decode images. By default none on a CPU; on GPUs as many as there are
            cores, at most 16 for each. GPUs compute in float16 where that is safe (autocast); the results are float16.
        share: embed only this share of the pairs, such as 2/16 for the second of 16 jobs that run at the same time.
            When all shares are complete, run the command without it to assemble the embeddings.
    """
    require_at_least(1, batch_size=batch_size, devices=devices, num_nodes=num_nodes)
    require_at_least(0, num_workers=num_workers or 0)
    own = slice_of_share(share)
    from babyvlm.curation.clip import create_trainer, load_clip, predict_parts
    from babyvlm.io.distributed import device_name
    from babyvlm.io.processes import available_cores

    source, model = PairStore(store), load_clip(clip)
    trainer = create_trainer(accelerator, devices, num_nodes)
    if num_workers is None:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        num_workers = min(16, max(1, available_cores() // devices)) if on_gpu else 0
    if source.licensed and clip == "playroom" and trainer.is_global_zero:
        echo(
            f"warning: {store} is licensed, so it holds real footage, but Playroom's CLIP was trained on drawings "
            "only: its similarities are meaningless here. Use --clip ViT-L-14-quickgelu/openai",
            file=sys.stderr,
        )
    artifact = Artifact(
        "embeddings",
        {"command": "embed", "store": source, "clip": clip, "clip_sha256": model.sha256},
        manifest={"rows": len(source)},
        resumable=True,  # a rank that ends must not remove what the first one assembles
        state=parts_folder(out),
        lock=trainer.is_global_zero,  # all ranks build it together
    )
    numbers = range(-(-len(source) // PART_ROWS))
    parts = parts_folder(out) / artifacts.json_sha256(artifact.arguments)[:24]
    if share:
        if out.exists():
            return "already complete, skipping"
        predict_parts(trainer, source, parts, numbers[own], model, batch_size=batch_size, num_workers=num_workers)
        return f"share {share}: {len(numbers[own]):,} of {len(numbers):,} parts are complete"
    folder = yield artifact
    predict_parts(trainer, source, parts, numbers, model, batch_size=batch_size, num_workers=num_workers)
    # Each part is (rows, 2, D): image and text.
    paths = [part_path(parts, number) for number in numbers]
    width = np.load(paths[0], mmap_mode="r").shape[2]
    for side, name in enumerate(("image", "text")):
        merged = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (len(source), width))
        for number, path in enumerate(paths):
            part = np.load(path)
            merged[number * PART_ROWS : number * PART_ROWS + len(part)] = part[:, side]
        merged.flush()
    (folder / "keys.json").write_text(json.dumps(source.columns("key")["key"].to_pylist()))
    artifact.manifest |= {
        "width": width,
        "sha256": {name: artifacts.sha256_file(folder / f"{name}.npy") for name in ("image", "text")},
    }
    return f"{len(source):,} pairs embedded by {clip} on {device_name(trainer.strategy.root_device)}"
