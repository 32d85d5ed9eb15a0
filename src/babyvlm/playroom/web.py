"""Write the web corpus and the clean scenes: studio images with captions, in the formats of real web corpora."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from babyvlm.playroom.camera import home_topic, random_episode, random_view, render_still
from babyvlm.playroom.draw import draw_topic, encode_jpeg
from babyvlm.playroom.language import child_directed_sentence, junk_caption, noun_phrase, web_caption
from babyvlm.playroom.world import COLOURS, Topic, home_things, random_stream, random_topic, things

if TYPE_CHECKING:
    import random
    from pathlib import Path

SIDE = 112
# Shares of web captions about a baby's environment, and of captions unrelated to their images.
BABY_SHARE = 0.55
JUNK_SHARE = 0.08
_HOME_AMONG_BABY = 0.65  # the rest are animals, foods and vehicles that occur only on the web


def draw_studio_image(rng: random.Random, topic: Topic) -> Image.Image:
    """Draw an image in the style of the web: level, sharp and centered, on a plain background."""
    kind = rng.random()
    pastel = tuple((value + 3 * 255) // 4 for value in rng.choice(tuple(COLOURS.values())))
    canvas = Image.new("RGB", (SIDE, SIDE), "white" if kind < 0.65 else pastel)
    pen = ImageDraw.Draw(canvas)
    if kind > 0.85:
        pen.ellipse((6, 6, SIDE - 6, SIDE - 6), fill="white")
    if topic.size:
        extent = rng.uniform(100, 110) if topic.size == "big" else rng.uniform(22, 30)
    else:
        extent = rng.uniform(76, 90) if topic.verb or topic.count else rng.uniform(60, 96)
    tint = rng.choice(tuple(COLOURS)) if topic.thing.tint and rng.random() < 0.4 else None
    center = SIDE / 2
    draw_topic(canvas, topic, center + rng.uniform(-4, 4), center + 3 + rng.uniform(-3, 3), extent, rng, tint)
    return canvas


def random_web_item(rng: random.Random) -> tuple[bytes, str]:
    """Return a JPEG and its caption."""
    kind = rng.random()
    baby = kind < BABY_SHARE or (kind < BABY_SHARE + JUNK_SHARE and rng.random() < 0.5)
    if baby and rng.random() < _HOME_AMONG_BABY:
        thing = rng.choice(home_things())
    else:
        thing = rng.choice([thing for thing in things() if thing.domain == "web" and thing.baby == baby])
    topic = random_topic(rng, thing)
    junk = BABY_SHARE <= kind < BABY_SHARE + JUNK_SHARE
    return encode_jpeg(draw_studio_image(rng, topic)), junk_caption(rng) if junk else web_caption(topic, rng)


def random_clean_item(rng: random.Random) -> tuple[bytes, str, str]:
    """Return a JPEG, its noun phrase, and a parent's sentence; half of the scenes are from the home camera."""
    if rng.random() < 0.5:
        episode = random_episode(rng)
        topic = home_topic(rng, episode)
        image = render_still(random_view(rng, episode, topic, clutter=1), rng)
    else:
        pool = home_things() if rng.random() < 0.4 else tuple(thing for thing in things() if thing.domain == "web")
        topic = random_topic(rng, rng.choice(pool))
        image = draw_studio_image(rng, topic)
    return encode_jpeg(image), noun_phrase(topic), child_directed_sentence(topic, rng)


def write_tar_shard(path: Path, seed: int, shard: int, start: int, count: int) -> None:
    """Write web items as img2dataset does: ``000000000.jpg .txt .json`` in a tar."""
    rng = random_stream(seed, "web", "tar", shard)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(start, start + count):
            image, caption = random_web_item(rng)
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


def write_llava_shard(folder: Path, seed: int, shard: int, start: int, count: int) -> list[dict[str, Any]]:
    """Write web items as LLaVA's pretraining data: images into ``folder/images``. Return their rows of the list."""
    rng = random_stream(seed, "web", "llava", shard)
    rows = []
    for index in range(start, start + count):
        image, caption = random_web_item(rng)
        name = f"{index:09d}"
        (folder / "images" / f"{name}.jpg").write_bytes(image)
        question = rng.choice(("Render a concise summary of the photo.\n<image>", "<image>\nWhat is this?"))
        conversations = [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]
        rows.append({"id": name, "image": f"{name}.jpg", "conversations": conversations})
    return rows


def write_parquet_shard(path: Path, seed: int, shard: int, count: int) -> None:
    """Write web items as Parquet with the image bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random_stream(seed, "web", "parquet", shard)
    rows = [dict(zip(("image", "caption"), random_web_item(rng), strict=True)) for _ in range(count)]
    schema = pa.schema([("image", pa.binary()), ("caption", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="none")


def _add_sample(tar: tarfile.TarFile, key: str, image: bytes, caption: str, meta: dict[str, Any]) -> None:
    for suffix, content in (("jpg", image), ("txt", caption.encode()), ("json", json.dumps(meta).encode())):
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(content)  # mtime, uid and names stay at their defaults, so that the bytes are reproducible
        tar.addfile(member, io.BytesIO(content))
