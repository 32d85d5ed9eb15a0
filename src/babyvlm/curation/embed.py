"""Embed a store's images and utterances with a CLIP model."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from babyvlm.curation.embeddings import PART_ROWS, part_path
from babyvlm.curation.options import at_least
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.io import artifacts


def embed(
    store: Path,
    out: Path,
    clip: str = "playroom",
    batch_size: int = 256,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    num_workers: int = 0,
) -> None:
    """Embed the images and utterances of a store with a CLIP model.

    In goes a pair store, out comes a folder of embeddings (`image.npy`, `text.npy` in float16, and the pairs' keys) for
    `curate filter`, `match`, `thin` and `contamination`. Each image is resized and normalised as that CLIP was trained.
    Rows are committed in parts: a call that was interrupted goes on with the parts that are missing, whatever the
    number of devices then and now, and the result does not depend on that number.

    Playroom's CLIP knows Playroom alone; on other data name a large one.

    For example:
        python -m babyvlm curate embed --store stores/frames --clip ViT-L-14-quickgelu/openai --out embeddings/frames

    Args:
        store: pair store to embed.
        out: folder to make.
        clip: `playroom` (shipped), an open_clip `MODEL/PRETRAINED` such as `ViT-L-14-quickgelu/openai` or
            `ViT-B-32/FILE.pt`, `hf-hub:ORG/NAME` or `local-dir:FOLDER`.
        batch_size: rows encoded at once on a device.
        accelerator: Lightning's name of the hardware.
        devices: how many of them on a node.
        num_nodes: how many nodes.
        num_workers: processes a device that decode images.
    """
    at_least(1, batch_size=batch_size, devices=devices, num_nodes=num_nodes)
    at_least(0, num_workers=num_workers)
    from babyvlm.curation.clip import load_clip, predict_parts, trainer_for

    source, model = PairStore(store), load_clip(clip)
    trainer = trainer_for(accelerator, devices, num_nodes)
    if source.licensed and clip == "playroom" and trainer.is_global_zero:
        print(
            f"warning: {store} is licensed, so it is real footage, but Playroom's small CLIP has seen nothing but "
            "Playroom's drawings: its similarities will mean nothing; embed with --clip ViT-L-14-quickgelu/openai",
            file=sys.stderr,
        )
    with artifacts.exclusive(out) if trainer.is_global_zero else nullcontext():  # ranks make it together
        arguments = {"command": "embed", "store": source.fingerprint, "clip": clip, "clip_sha256": model.sha256}
        if artifacts.is_complete(out, "embeddings", arguments):
            print(f"{out}: whole already, nothing to do")
            return
        manifest: artifacts.Manifest = {"arguments": arguments, "rows": len(source), "ancestors": source.lineage}
        with artifacts.create(out, "embeddings", manifest, keep_partial=True) as partial:
            predict_parts(
                trainer, source, partial / artifacts.SCRATCH, model, batch_size=batch_size, num_workers=num_workers
            )
            if not trainer.is_global_zero:
                raise SystemExit(0)
            manifest |= _merge(source, partial)
    print(f"{out}: {len(source):,} pairs embedded by {clip}")


def _merge(store: PairStore, partial: Path) -> artifacts.Manifest:
    """Turn the parts, each (rows, 2, D), into the final files."""
    paths = [part_path(partial / artifacts.SCRATCH, number) for number in range(-(-len(store) // PART_ROWS))]
    width = np.load(paths[0], mmap_mode="r").shape[2]
    for side, name in enumerate(("image", "text")):
        out = np.lib.format.open_memmap(partial / f"{name}.npy", "w+", np.float16, (len(store), width))
        for number, path in enumerate(paths):
            part = np.load(path)
            out[number * PART_ROWS : number * PART_ROWS + len(part)] = part[:, side]
        out.flush()
    (partial / "keys.json").write_text(json.dumps(store.columns("key")["key"].to_pylist()))
    return {
        "width": width,
        "sha256": {name: artifacts.sha256_file(partial / f"{name}.npy") for name in ("image", "text")},
    }
