"""The web corpus and the clean scenes: studio pictures with captions, in the formats that people bring."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from babyvlm.playroom.camera import home_topic, random_episode, random_view, still
from babyvlm.playroom.draw import draw_topic, jpeg
from babyvlm.playroom.language import child_directed, junk_caption, plain, web_caption
from babyvlm.playroom.world import COLOURS, Topic, home_things, random_topic, stream, things

if TYPE_CHECKING:
    import random
    from pathlib import Path

SIDE = 112
# Of the web items: a caption that tells of a baby's world, one that tells of another, and one that tells nothing.
BABY_SHARE = 0.55
JUNK_SHARE = 0.08
_HOME_AMONG_BABY = 0.65  # the rest are the web's own animals, foods and vehicles


def studio(rng: random.Random, topic: Topic) -> Image.Image:
    """A picture in the web's way: level, sharp, in the middle, before a clean background."""
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
    middle = SIDE / 2
    draw_topic(canvas, topic, middle + rng.uniform(-4, 4), middle + 3 + rng.uniform(-3, 3), extent, rng, tint)
    return canvas


def web_item(rng: random.Random) -> tuple[bytes, str]:
    """A JPEG and its caption."""
    kind = rng.random()
    baby = kind < BABY_SHARE or (kind < BABY_SHARE + JUNK_SHARE and rng.random() < 0.5)
    if baby and rng.random() < _HOME_AMONG_BABY:
        thing = rng.choice(home_things())
    else:
        thing = rng.choice([thing for thing in things() if thing.domain == "web" and thing.baby == baby])
    topic = random_topic(rng, thing)
    junk = BABY_SHARE <= kind < BABY_SHARE + JUNK_SHARE
    return jpeg(studio(rng, topic)), junk_caption(rng) if junk else web_caption(topic, rng)


def clean_item(rng: random.Random) -> tuple[bytes, str, str]:
    """A JPEG, its plain caption, and what a parent would say of it; half of the scenes are the camera's at home."""
    if rng.random() < 0.5:
        episode = random_episode(rng)
        topic = home_topic(rng, episode)
        picture = still(random_view(rng, episode, topic, clutter=1), rng)
    else:
        pool = home_things() if rng.random() < 0.4 else tuple(thing for thing in things() if thing.domain == "web")
        topic = random_topic(rng, rng.choice(pool))
        picture = studio(rng, topic)
    return jpeg(picture), plain(topic), child_directed(topic, rng)


def write_tar_shard(path: Path, seed: int, shard: int, start: int, count: int) -> None:
    """Web items as img2dataset writes them: ``000000000.jpg .txt .json`` in a tar."""
    rng = stream(seed, "web", "tar", shard)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(start, start + count):
            image, caption = web_item(rng)
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
            _add(tar, key, image, caption, meta)


def write_clean_shard(path: Path, seed: int, shard: int, start: int, count: int) -> None:
    """Clean scenes as a tar; ``.txt`` holds the plain caption or the parent's, in turn, and ``.json`` both."""
    rng = stream(seed, "clean", shard)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(start, start + count):
            image, words, speech = clean_item(rng)
            caption = speech if index % 2 else words
            _add(tar, f"{index:09d}", image, caption, {"caption": caption, "plain": words, "child_directed": speech})


def write_llava_part(folder: Path, seed: int, shard: int, start: int, count: int) -> list[dict[str, Any]]:
    """Web items as LLaVA's pretraining data: pictures in ``folder/images``; returns their rows of the list."""
    rng = stream(seed, "web", "llava", shard)
    rows = []
    for index in range(start, start + count):
        image, caption = web_item(rng)
        name = f"{index:09d}"
        (folder / "images" / f"{name}.jpg").write_bytes(image)
        ask = rng.choice(("Render a concise summary of the photo.\n<image>", "<image>\nWhat is this?"))
        talk = [{"from": "human", "value": ask}, {"from": "gpt", "value": caption}]
        rows.append({"id": name, "image": f"{name}.jpg", "conversations": talk})
    return rows


def write_parquet_shard(path: Path, seed: int, shard: int, count: int) -> None:
    """Web items as Parquet, the image bytes inside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = stream(seed, "web", "parquet", shard)
    rows = [dict(zip(("image", "caption"), web_item(rng), strict=True)) for _ in range(count)]
    schema = pa.schema([("image", pa.binary()), ("caption", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="none")


def _add(tar: tarfile.TarFile, key: str, image: bytes, caption: str, meta: dict[str, Any]) -> None:
    for suffix, content in (("jpg", image), ("txt", caption.encode()), ("json", json.dumps(meta).encode())):
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(content)  # mtime, uid and names stay at their zeros: the same bytes every time
        tar.addfile(member, io.BytesIO(content))
