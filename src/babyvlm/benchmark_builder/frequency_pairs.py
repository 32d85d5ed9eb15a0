"""Draw minimal pairs of nouns of equal frequency in a training store, in the format of Machine-DevBench."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import track

from babyvlm.benchmark_builder.image_generators import (
    PROMPT,
    ImageGenerator,
    Method,
    draw_missing,
    image_generator,
)
from babyvlm.benchmarks.results import world_of
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.rules.lexicon import lexicon
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import PairStore
from babyvlm.errors import UserError
from babyvlm.io.printing import Console

if TYPE_CHECKING:
    from collections.abc import Mapping


@stage
def frequency_pairs(
    store: Path,
    out: Path,
    method: Method = "playroom",
    prompt: str = PROMPT,
    seed: int = 0,
    model: str = "",
    steps: int = 30,
    device: str = "cpu",
    base_url: str = "https://api.openai.com/v1",
    key_file: Path | None = None,
    timeout: float = 120.0,
    resolution: str = "1024x1024",
) -> Stage:
    """Draw minimal pairs of nouns by their frequency in the training utterances of a store.

    Every noun of a toddler that occurs in the store gets a picture. A trial shows it next to the picture of another
    noun of the same frequency bin, so that frequency alone does not give the answer away. Bins double: 1, 2 to 3, 4 to
    7, and so on. The list is read by `MachineDevBenchLexical`. If interrupted, run the same command again.

    For example:
        python -m babyvlm benchmark build frequency-pairs --store stores/filtered --out build/frequency-pairs

    Args:
        store: pair store whose training utterances are counted.
        out: folder to create: `Lexical/Nouns/manifest_nouns_<method>.json`, and the pictures.
        method: `playroom`, `diffusers` or `server`, as for `negatives`.
        prompt: prompt; `{phrase}` is replaced by the noun.
        seed: random seed.
        model: hub name or folder of a Diffusers pipeline, or name of the model on the server.
        steps: number of denoising steps.
        device: torch device of the diffusion model.
        base_url: URL of the server, ending in `/v1`. The API key is read from $OPENAI_API_KEY; local servers need none.
        key_file: file with the API key, readable by its owner only, instead of the environment variable.
        timeout: seconds to wait for an image.
        resolution: size of the images requested from the server, WIDTHxHEIGHT in pixels.

    Raises:
        UserError: no bin has two nouns with pictures, or a model or server cannot be used.
    """
    source = PairStore(store)
    arguments: dict[str, Any] = {
        "command": "frequency-pairs",
        "store": source,
        "method": method,
        "model": model,
        "prompt": prompt if model else "",
        "seed": seed,
    }
    if method == "diffusers":
        arguments["steps"] = steps  # another number of steps gives other pictures
    funnel = Funnel("frequency-pairs", unit="nouns")
    world = "playroom" if method == "playroom" else world_of(store / "any")
    manifest = {"licensed": source.licensed, "world": world}
    folder = yield Artifact("benchmark", arguments, funnel, manifest=manifest, resumable=True)
    licensed = source.path if source.licensed else None
    generator = image_generator(
        method, prompt, model, steps, None, device, base_url, key_file, timeout, resolution, licensed
    )
    nouns = folder / "Lexical" / "Nouns"
    counts = count_nouns(source)
    drawn = _draw(counts, generator, nouns, method, prompt, seed)
    if len(drawn) < len(counts):
        funnel.drop(f"cannot be drawn by {generator.model}", len(counts) - len(drawn))
    items = pairs_by_frequency({word: counts[word] for word in drawn}, method)
    funnel.drop("alone in its frequency bin", len(drawn) - len(items))
    funnel.keep(len(items))
    if not items:
        raise UserError(f"{out}: no frequency bin has two nouns with pictures. {funnel}".replace("\n", ";"))
    per_bin = Counter(one["frequency_bin"] for one in items)
    content = {"metadata": {"num_items": len(items), "items_per_frequency_bin": dict(per_bin)}, "items": items}
    (nouns / f"manifest_nouns_{method}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return f"{len(items):,} trials in {len(per_bin)} frequency bins"


def count_nouns(store: PairStore) -> dict[str, int]:
    """Return the number of training utterances that contain each noun of a toddler, in the singular."""
    columns = store.columns("utterance", "group", "split").to_pydict()
    rows = zip(columns["utterance"], columns["group"], columns["split"], strict=True)
    spoken = {group: text for text, group, split in rows if split == "train"}  # several frames share an utterance
    counts = Counter(word for text in spoken.values() for word in set(text.split()))
    return {word: count for word, count in sorted(counts.items()) if _is_noun(word)}


def _is_noun(word: str) -> bool:
    known = lexicon().get(word, ())
    return bool(re.fullmatch(r"[a-z]+", word)) and any(one.kind == "thing" and not one.plural for one in known)


def _draw(
    counts: Mapping[str, int], generator: ImageGenerator, nouns: Path, method: str, prompt: str, seed: int
) -> list[str]:
    """Draw the missing pictures; return the nouns that have one."""
    (nouns / method).mkdir(parents=True, exist_ok=True)
    drawn = []
    for word in track(counts, "drawing nouns", console=Console(stderr=True)):
        path = nouns / method / f"{word}.png"
        if draw_missing(generator, path, word, prompt.format(phrase=word), seed, path):
            drawn.append(word)
    return drawn


def pairs_by_frequency(counts: Mapping[str, int], style: str) -> list[dict[str, str]]:
    """Return an item for each noun, whose negative is the next noun of its frequency bin, around a circle.

    >>> [item["image_negative"] for item in pairs_by_frequency({"cup": 2, "dog": 3, "sun": 9}, "x")]
    ['x/dog.png', 'x/cup.png']

    Args:
        counts: of the nouns in training.
        style: folder of the pictures.
    """
    by_bin: dict[int, list[str]] = {}
    for word in sorted(counts):
        by_bin.setdefault(counts[word].bit_length() - 1, []).append(word)
    return [
        {
            "word": word,
            "caption_positive": word,
            "image_positive": f"{style}/{word}.png",
            "image_negative": f"{style}/{words[(place + 1) % len(words)]}.png",
            "frequency_bin": f"[{1 << exponent},{2 << exponent})",
        }
        for exponent, words in sorted(by_bin.items())
        if len(words) > 1
        for place, word in enumerate(words)
    ]
