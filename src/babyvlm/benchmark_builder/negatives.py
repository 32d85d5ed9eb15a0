"""The step that makes negative images for Baby Winoground: pictures that the negative phrase fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from babyvlm.benchmark_builder.image_generators import (
    PROMPT,
    DiffusionPainter,
    Method,
    Painter,
    PlayroomPainter,
    ServerPainter,
    png,
    seed_of,
)
from babyvlm.benchmark_builder.items import Item, Items, write_items
from babyvlm.benchmark_builder.review import accepted, verdicts_of
from babyvlm.curation.funnel import Funnel
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.images import open_rgb

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCH = 64  # images that CLIP sees at a time


@artifacts.one_at_a_time
def negatives(  # noqa: PLR0913, PLR0917 - each is an option of the command, with a default
    pairs: Path,
    out: Path,
    verdicts: Path | None = None,
    method: Method = "playroom",
    prompt: str = PROMPT,
    seed: int = 0,
    clip: str = "playroom",
    model: str = "",
    steps: int = 30,
    strength: float | None = None,
    device: str = "cpu",
    base_url: str = "https://api.openai.com/v1",
    key_file: Path | None = None,
    timeout: float = 120.0,
    size: str = "1024x1024",
) -> None:
    """Make an image of the negative phrase of every pair that reviewers accepted.

    Drawn by Playroom, painted by a diffusion model on this machine, or asked from an OpenAI-style server, which gets
    the prompt alone, never a frame. An image that fits the positive phrase better than the negative one, by CLIP, is
    dropped. A run that was interrupted goes on where it was.

    For example:
        python -m babyvlm benchmark build negatives --pairs build/pairs --out build/negatives

    Args:
        pairs: phrase pairs.
        out: folder to make; `review` takes it as it takes the pairs.
        verdicts: folder of the reviewers' answers; `<pairs>.verdicts` if not given.
        method: `playroom`, `diffusers` or `server`. What follows `clip` belongs to the latter two.
        prompt: what is asked for; `{phrase}` is replaced.
        seed: all chance comes from it.
        clip: `playroom`, or a model as `curate embed` takes it.
        model: hub name or folder of a Diffusers pipeline; or as the server names it.
        steps: of denoising.
        strength: begin from the positive image and go so far from it, 0 to 1; without it, from the prompt alone.
        device: for diffusion, as in torch.
        base_url: of the server, up to and with `/v1`. The key is read from $OPENAI_API_KEY; a local server needs none.
        key_file: file with the key instead, readable by its owner only.
        timeout: seconds to wait for a picture.
        size: of the server's picture.

    Raises:
        UserError: no pair is accepted, no image is left, or a model or server cannot be used.
    """
    source = Items(pairs)
    wanted = [source.rows[name] for name in accepted(source, verdicts or verdicts_of(pairs))]
    arguments: artifacts.Manifest = {
        "command": "negatives",
        "pairs": source.fingerprint,
        "items": [item.name for item in wanted],
        "method": method,
        "model": model,
        "prompt": prompt if model else "",
        "seed": seed,
        "clip": clip,
    }
    if method == "diffusers":
        arguments |= {"steps": steps, "strength": strength}
    if artifacts.is_complete(out, "items", arguments):
        print(f"{out}: already complete, skipping")
        return
    if "{phrase}" not in prompt or (method != "playroom" and not model):
        raise UserError("--prompt must hold {phrase}, and --model name the model")
    painter: Painter = PlayroomPainter()
    if method == "diffusers":
        painter = DiffusionPainter(model, steps, strength, device)
    elif method == "server":
        painter = ServerPainter(model, base_url, key_file, timeout, size)
    funnel = Funnel("negatives", unit="pairs")
    manifest: artifacts.Manifest = {
        "arguments": arguments,
        "ancestors": artifacts.lineage(pairs, "items"),
        "licensed": source.licensed and strength is not None,
    }
    with artifacts.create(out, "items", manifest, keep_partial=True) as folder:
        painted = _paint(wanted, painter, folder, source.path, prompt, seed)
        if len(painted) < len(wanted):
            funnel.drop(f"{painter.model} cannot make it", len(wanted) - len(painted))
        items = list(_fitting(painted, folder, clip, funnel))
        if not items:
            raise UserError(f"{out}: no image is left. {funnel}".replace("\n", ";"))
        manifest |= {"funnel": funnel.as_dict(), "sha256": write_items(folder, items)}
    print(f"{funnel}\n{out}: {len(items):,} negative images by {painter.model}")


def _paint(wanted: list[Item], painter: Painter, folder: Path, source: Path, prompt: str, seed: int) -> dict[str, Item]:
    """Paint what is not painted yet; the items of the pictures, in which the phrases have changed sides."""
    (folder / "images").mkdir(exist_ok=True)
    painted = {}
    for item in track(wanted, "painting", console=Console(stderr=True)):
        image, text, own_seed = f"images/{item.name}.png", prompt.format(phrase=item.negative), seed_of(item, seed)
        path = folder / image
        if not path.exists():
            picture = painter.paint(item.negative, text, own_seed, source / item.image)
            if picture is None:
                continue
            beside = path.with_suffix(".partial")
            beside.write_bytes(png(picture))
            beside.rename(path)
        notes = {"prompt": text, "seed": str(own_seed), "model": painter.model}
        painted[item.name] = Item(item.name, image, item.negative, item.positive, item.word_class, notes)
    return painted


def _fitting(painted: Mapping[str, Item], folder: Path, clip: str, funnel: Funnel) -> list[Item]:
    """Items whose image CLIP finds nearer to its own phrase than to the other; the others' images are removed."""
    import torch

    from babyvlm.curation.clip import load_clip

    judge, items, kept = load_clip(clip), list(painted.values()), []
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        with torch.inference_mode():
            images_BCHW = torch.stack([judge.preprocess(open_rgb(folder / item.image)) for item in batch])
            phrases = [phrase for item in batch for phrase in (item.positive, item.negative)]
            score_BT = judge.score(images_BCHW, phrases)
        for row, item in enumerate(batch):
            own, other = score_BT[row, 2 * row : 2 * row + 2].tolist()
            if own > other:
                funnel.keep()
                notes = {**item.notes, "clip_own": f"{own:.4f}", "clip_other": f"{other:.4f}"}
                kept.append(Item(item.name, item.image, item.positive, item.negative, item.word_class, notes))
            else:
                funnel.drop("fits the positive phrase better")
    for path in {folder / item.image for item in items} - {folder / item.image for item in kept}:
        path.unlink()
    return kept
