"""``python -m babyvlm saliency``: a page that shows where in pictures models find words."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from babyvlm.errors import UserError
from babyvlm.io.extras import require_extra
from babyvlm.io.files import atomic_write, require_replaceable, resolve_inside
from babyvlm.io.license_gate import require_free
from babyvlm.io.printing import echo
from babyvlm.ranges import require_in_range

if TYPE_CHECKING:
    from torch import Tensor

    from babyvlm.curation.store.pair_store import PairStore
    from babyvlm.report.examples import Example
    from babyvlm.types import SaliencyModel

CLIP = "clip:"  # before the name of an open_clip model
SIDE = 224  # pixels of a map on the page
STRENGTH = 0.6  # share of the map's color in a pixel, over the picture in gray: our choice
FREE = "Pass pictures of Playroom, or others that are known to be free"


class Picture(NamedTuple):
    """A picture of a word: what is shown below it, and its content or path."""

    text: str
    content: bytes | Path


def saliency(
    models: list[str],
    pictures: Path,
    out: Path,
    words: list[str] | None = None,
    images: Path | None = None,
    per_word: int = 4,
    device: str = "cpu",
) -> None:
    r"""Write a page that shows where in pictures models find words: Grad-CAM of CVCL and CLIP, attention of BabyLLaVA.

    Each map is scaled to its own maximum. Licensed pictures are refused.

    For example:
        python -m babyvlm saliency --models '[lightning_logs/CVCL-frozen-filtered/version_0,clip:playroom]' \
            --pictures data/playroom/world/trials/labeled_s.csv --words '[ball,cup]' --out saliency.html

    Args:
        models: runs, exported folders, or published checkpoints (as for ``babyvlm.load``), or ``clip:NAME`` for an
            open_clip model with a convolutional encoder.
        pictures: list of Labeled-S or of object trials, a folder with one subfolder of pictures for each category, or a
            pair store, whose held-out pairs are used.
        out: HTML file to write, replacing an older page.
        words: words to find: categories of the list (all by default), or any words of the store's utterances.
        images: folder that image paths in the list start from; by default that of the list.
        per_word: number of pictures of each word, chosen by a hash.
        device: where to compute.

    Raises:
        UserError: the pictures are licensed, a model has no maps or does not know a word, or a word has no picture.
    """
    require_in_range(per_word=per_word)
    from babyvlm.report.page import PAGE_BEGINNING, saliency_page

    require_replaceable(out, PAGE_BEGINNING)
    shown = free_pictures(pictures, images, words, per_word)
    loaded = {source: load_model(source, device, list(shown)) for source in models}
    examples = {word: [*_examples(loaded, word, found, device)] for word, found in shown.items()}
    with require_extra("report", "saliency"):
        page = saliency_page(examples)
    with atomic_write(out) as file:
        file.write(page)
    echo(out)


def free_pictures(
    pictures: Path, images: Path | None, words: Sequence[str] | None, per_word: int
) -> dict[str, list[Picture]]:
    """Return some pictures of each word.

    Raises:
        UserError: the pictures are licensed or not known to be free, or a word has none.
    """
    from babyvlm.benchmarks.object_trials import ObjectTrials
    from babyvlm.benchmarks.results import licensed
    from babyvlm.curation.store.pair_store import PairStore

    if (pictures / "store.json").is_file():
        store = PairStore(pictures)
        require_free(pictures, licensed=store.licensed, remedy=FREE)
        if not words:
            raise UserError(f"{pictures}: is a pair store. Pass --words '[WORD,...]'")
        return {word: _held_out(store, word, per_word) for word in words}
    source = ObjectTrials(pictures, images)
    require_free(pictures, licensed=licensed(pictures, source.images), remedy=FREE)
    by_word: dict[str, list[str]] = {}
    for image, (name, _) in source.labeled_pictures(pictures).items():
        by_word.setdefault(name.replace("_", " "), []).append(image)
    if unknown := [word for word in words or () if word not in by_word]:
        raise UserError(f"{pictures}: has no pictures of {unknown[0]!r}. Choose from: {', '.join(sorted(by_word))}")
    return {
        word: [Picture(image, _inside(source.images, image)) for image in sorted(by_word[word], key=_hash)[:per_word]]
        for word in words or sorted(by_word)
    }


def _held_out(store: PairStore, word: str, count: int) -> list[Picture]:
    """Return held-out pairs whose utterance contains a word, one for each utterance."""
    rows = store.rows(["key", "utterance", "group", "split"])
    groups = {row["group"]: row["key"] for row in rows if row["split"] != "train" and word in row["utterance"].split()}
    if not groups:
        raise UserError(f"{store.path}: no held-out utterance contains the word {word!r}")
    chosen = set(sorted(groups.values(), key=_hash)[:count])
    return [Picture(row["utterance"], row["image"]) for row in store.rows() if row["key"] in chosen]


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _inside(folder: Path, image: str) -> Path:
    path = resolve_inside(folder, image)
    if path is None or not path.is_file():
        raise UserError(f"{folder / image}: not found. Check --images")
    return path


def load_model(source: str, device: str, words: Sequence[str]) -> SaliencyModel:
    """Return a model with maps that knows some words.

    Raises:
        UserError: it has no maps, or a word is not in its vocabulary.
    """
    from babyvlm.data.vocabulary import UNK
    from babyvlm.models.hub import load
    from babyvlm.models.zero_shot import OpenClip
    from babyvlm.types import SaliencyModel

    is_clip = source.startswith(CLIP)
    model = OpenClip(source.removeprefix(CLIP)).to(device).eval() if is_clip else load(source, device)
    if not isinstance(model, SaliencyModel):
        raise UserError(f"{source}: a {type(model).__name__} has no maps. Pass a CVCL, a CLIP, or a BabyLLaVA")
    vocabulary = getattr(model, "vocabulary", None)
    if vocabulary is not None:
        for word, ids in zip(words, vocabulary.encode_raw(words, None), strict=True):
            if UNK in ids:
                raise UserError(f"{source}: the word {word!r} is not in its vocabulary")
    return model


def _examples(
    models: dict[str, SaliencyModel], word: str, pictures: Sequence[Picture], device: str
) -> Iterator[Example]:
    import torch

    from babyvlm.curation.contact_sheet import thumbnail
    from babyvlm.io.images import BrokenImageError, open_rgb
    from babyvlm.report.examples import Example

    try:
        opened = [open_rgb(picture.content) for picture in pictures]
    except BrokenImageError as error:
        raise UserError(f"a picture of {word!r} cannot be read ({error})") from None
    whole = [thumbnail(image) for image in opened]
    columns, captions = [], []
    for name, model in models.items():
        images_BCHW = torch.stack([model.preprocess(image) for image in opened]).to(device)
        maps_Bhw = model.saliency(images_BCHW, [word] * len(opened)).float().cpu()
        columns.append(list(map(overlay, _pixels(model, images_BCHW), maps_Bhw)))
        height, width = maps_Bhw.shape[1:]
        captions.append((name, f"{model.saliency_method}, {height} x {width} cells"))
    for place, picture in enumerate(pictures):
        yield Example([whole[place], *(column[place] for column in columns)], picture.text, captions)


def _pixels(model: SaliencyModel, images_BCHW: Tensor) -> Tensor:
    """Return preprocessed images as colors from 0 to 1: the model's own normalization, inverted."""
    from PIL import Image

    black_CHW, white_CHW = (model.preprocess(Image.new("RGB", (SIDE, SIDE), color)) for color in ("black", "white"))
    return ((images_BCHW.cpu() - black_CHW) / (white_CHW - black_CHW)).clamp(0, 1)


def overlay(pixels_CHW: Tensor, map_hw: Tensor) -> bytes:
    """Return a JPEG of a map, scaled to its maximum, over the picture in gray.

    Args:
        pixels_CHW: colors from 0 to 1.
        map_hw: at least 0; all 0 is shown as such.
    """
    import numpy as np
    from matplotlib import colormaps
    from PIL import Image
    from torch.nn.functional import interpolate

    scaled_hw = map_hw / map_hw.max().clamp(min=1e-12)
    shown = [one[None, None] for one in (pixels_CHW.mean(0), scaled_hw)]
    gray_HW, map_HW = (interpolate(one, (SIDE, SIDE), mode="bilinear")[0, 0].numpy() for one in shown)
    color_HWC = colormaps["viridis"](map_HW)[..., :3]
    mixed_HWC = STRENGTH * color_HWC + (1 - STRENGTH) * gray_HW[..., None]
    buffer = io.BytesIO()
    Image.fromarray((mixed_HWC * 255).round().astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
