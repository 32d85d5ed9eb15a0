"""Write the web corpus and the clean scenes: studio images with captions, in the formats of real web corpora."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from babyvlm.playroom.actions import skin
from babyvlm.playroom.camera import Episode, draw_topic, random_view, render_still
from babyvlm.playroom.language import child_directed_sentence, junk_caption, noun_phrase, web_caption
from babyvlm.playroom.sprites import paste, random_look
from babyvlm.playroom.topics import EXPONENT, Household, Topic, exemplar_pools, home_nouns, random_stream, random_topic
from babyvlm.playroom.words import nouns, zipf_choice

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

SIDE = 112
JPEG_QUALITY = 85
# Shares of web captions about what homes contain, and of captions unrelated to their images (WORLD.md).
HOME_SHARE = 0.55
JUNK_SHARE = 0.08
BARE = 0.6  # share of captions with neither verb nor modifier
CLEAN_BARE = 0.3  # of clean scenes


def encode_jpeg(image: Image.Image) -> bytes:
    """Return the image as JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def draw_web_image(
    rng: random.Random, topic: Topic, exemplars: Sequence[str], style_gap: float, *, test: bool = False
) -> Image.Image:
    """Draw an image of the web.

    Each feature of the style of stock images (plain ground, one centered thing, few flat shades, contour) is used with
    probability ``style_gap``; without them, the image looks like a frame of the home camera.

    Args:
        rng: source of randomness.
        topic: what to draw.
        exemplars: sprites of the noun to choose from.
        style_gap: 0 (as at home) to 1.
        test: use exemplars of benchmarks for tools and people.
    """
    if rng.random() >= style_gap:
        place = rng.choice(topic.noun.places or ("living room",))
        others = Household(-1, "web")  # what lies around in other homes
        view = random_view(
            rng,
            Episode(place, skin(rng)),
            topic,
            lambda noun: exemplars if noun == topic.noun else others.exemplars(noun),
            test=test,
        )
        return render_still(view, rng, SIDE)
    ground = random_look(rng).light
    pale = tuple((value + 3 * 255) // 4 for value in ground)
    canvas = Image.new("RGB", (SIDE, SIDE), rng.choice(("white", pale, ground)))
    if rng.random() < style_gap * 0.3:
        ImageDraw.Draw(canvas).ellipse((6, 6, SIDE - 6, SIDE - 6), "white")
    images = draw_topic(rng, topic, rng.choice(exemplars), rng.uniform(0.62, 0.8) * SIDE, skin(rng), test=test)
    for index, image in enumerate(images):
        picture = _flatten(image, rng) if rng.random() < style_gap else image
        across = (index - (len(images) - 1) / 2) * 0.8 * SIDE / max(2, len(images))
        paste(canvas, picture, SIDE / 2 + across + rng.uniform(-4, 4), SIDE / 2 + rng.uniform(-4, 4))
    return canvas


def _flatten(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return an image in three flat shades with a contour."""
    alpha = image.getchannel("A")
    flat = ImageOps.posterize(image.convert("RGB").filter(ImageFilter.MedianFilter(3)), 2)
    grown = alpha.filter(ImageFilter.MaxFilter(3))
    contour = Image.new("RGBA", image.size, (*random_look(rng).dark, 255))
    contour.putalpha(grown)
    contour.paste(flat, (0, 0), alpha)
    return contour


def random_web_item(rng: random.Random, seed: int, style_gap: float) -> tuple[bytes, str]:
    """Return a JPEG and its caption."""
    choice = home_nouns() if rng.random() < HOME_SHARE else tuple(noun for noun in nouns() if not noun.home)
    noun = zipf_choice(rng, choice, EXPONENT)
    topic = random_topic(rng, noun, BARE)
    _, exemplars = exemplar_pools(seed, noun)
    caption = junk_caption(rng) if rng.random() < JUNK_SHARE else web_caption(topic, rng)
    return encode_jpeg(draw_web_image(rng, topic, exemplars, style_gap)), caption


def random_clean_item(rng: random.Random) -> tuple[bytes, str, str]:
    """Return a JPEG, its noun phrase, and a parent's sentence, from homes and web images of other families."""
    at_home = rng.random() < 0.5
    noun = zipf_choice(rng, home_nouns() if at_home or rng.random() < HOME_SHARE else nouns(), EXPONENT / 2)
    topic = random_topic(rng, noun, CLEAN_BARE)
    image = draw_web_image(rng, topic, noun.training_exemplars, 0.0 if at_home else 1.0)
    return encode_jpeg(image), noun_phrase(topic), child_directed_sentence(topic, rng)


def write_tar_shard(path: Path, seed: int, shard: int, start: int, count: int, style_gap: float) -> None:
    """Write web items as img2dataset does: ``000000000.jpg .txt .json`` in a tar."""
    rng = random_stream(seed, "web", "tar", shard)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(start, start + count):
            image, caption = random_web_item(rng, seed, style_gap)
            key = f"{index:09d}"
            meta = {
                "caption": caption,
                "url": f"https://images.example/{key}.jpg",
                "key": key,
                "status": "success",
                "error_message": None,
                "width": SIDE,
                "height": SIDE,
                "original_width": SIDE,
                "original_height": SIDE,
                "sha256": hashlib.sha256(image).hexdigest(),
            }
            _add_sample(tar, key, image, caption, meta)


def write_clean_shard(path: Path, seed: int, shard: int, start: int, count: int) -> None:
    """Write clean scenes as a tar; ``.txt`` alternates between phrase and sentence, ``.json`` has both."""
    rng = random_stream(seed, "clean", shard)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(start, start + count):
            image, phrase, sentence = random_clean_item(rng)
            caption = sentence if index % 2 else phrase
            _add_sample(
                tar, f"{index:09d}", image, caption, {"caption": caption, "plain": phrase, "child_directed": sentence}
            )


def write_llava_shard(
    folder: Path, seed: int, shard: int, start: int, count: int, style_gap: float
) -> list[dict[str, Any]]:
    """Write web items as LLaVA's pretraining data: images into ``folder/images``. Return their rows of the list."""
    rng = random_stream(seed, "web", "llava", shard)
    rows = []
    for index in range(start, start + count):
        image, caption = random_web_item(rng, seed, style_gap)
        name = f"{index:09d}"
        (folder / "images" / f"{name}.jpg").write_bytes(image)
        question = rng.choice(("Render a concise summary of the photo.\n<image>", "<image>\nWhat is this?"))
        conversations = [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]
        rows.append({"id": name, "image": f"{name}.jpg", "conversations": conversations})
    return rows


def write_parquet_shard(path: Path, seed: int, shard: int, count: int, style_gap: float) -> None:
    """Write web items as Parquet with the image bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random_stream(seed, "web", "parquet", shard)
    rows = [dict(zip(("image", "caption"), random_web_item(rng, seed, style_gap), strict=True)) for _ in range(count)]
    schema = pa.schema([("image", pa.binary()), ("caption", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="none")


def _add_sample(tar: tarfile.TarFile, key: str, image: bytes, caption: str, meta: dict[str, Any]) -> None:
    for suffix, content in (("jpg", image), ("txt", caption.encode()), ("json", json.dumps(meta).encode())):
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(content)  # mtime, uid and names stay at their defaults, so that the bytes are reproducible
        tar.addfile(member, io.BytesIO(content))
