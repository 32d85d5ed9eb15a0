"""Draw docs/images/playroom.png: frames of home videos, web images, and pictures of the benchmarks, with their text.

python docs/scripts/playroom.py
"""

from __future__ import annotations

import io
import random
import textwrap
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from babyvlm.playroom import actions, camera, home, language, topics, trials, web
from babyvlm.playroom.words import noun, zipf_choice

OUT = Path(__file__).parents[1] / "images" / "playroom.png"
COLUMNS = 8


def home_row(rng: random.Random) -> list[tuple[Image.Image, str]]:
    """Return frames with a sentence about what they show."""
    household, row = topics.Household(0, "S"), []
    for _ in range(COLUMNS):
        episode = camera.Episode(camera.random_place(rng), actions.skin(rng))
        shown = topics.random_topic(rng, zipf_choice(rng, topics.home_nouns(episode.place), 0.5), home.BARE)
        image = camera.render_still(camera.random_view(rng, episode, shown, household.exemplars), rng, web.SIDE)
        row.append((image, language.written_sentence(shown, rng)))
    return row


def web_row(rng: random.Random) -> list[tuple[Image.Image, str]]:
    """Return web images with their captions."""
    items = (web.random_web_item(rng, 0, 1.0) for _ in range(COLUMNS))
    return [(Image.open(io.BytesIO(image)), caption) for image, caption in items]


def benchmark_row(rng: random.Random) -> list[tuple[Image.Image, str]]:
    """Return images of two-word phrases."""
    phrases = (
        "wash cup",
        "kick ball",
        "hide frog",
        "cut apple",
        "striped sock",
        "three ducks",
        "broken chair",
        "hug bear",
    )
    row = []
    for phrase in phrases:
        word, name = phrase.split()
        shown = topics.topic(noun(name.removesuffix("s") if word == "three" else name), word)
        row.append((trials.draw_home_image(rng, shown), phrase))
    return row


def main() -> None:
    """Draw the figure."""
    rng = random.Random(3)
    rows = {"home": home_row(rng), "web": web_row(rng), "benchmarks": benchmark_row(rng)}
    figure = Figure(figsize=(13, 5.6), dpi=100)
    axes = figure.subplots(len(rows), COLUMNS)
    for line, (title, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title, fontsize=12)
        for axis, (image, text) in zip(line, row, strict=True):
            axis.imshow(image)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(textwrap.fill(text, 26), fontsize=7)
    figure.tight_layout()
    figure.savefig(OUT)


if __name__ == "__main__":
    main()
