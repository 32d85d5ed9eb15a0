"""Stand-ins for benchmarks whose files cannot be shipped: lists in their formats, from any folder of pictures."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from babyvlm.benchmark_builder.labeled_s import UNUSED, image_digests, usable_images
from babyvlm.benchmarks.devbench import GRADES
from babyvlm.benchmarks.devcv import NUMBERS
from babyvlm.benchmarks.object_trials import sample_trials
from babyvlm.benchmarks.results import world_of
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.rewrite.rules.lexicon import plural_of
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.errors import UserError
from babyvlm.io.files import write_csv
from babyvlm.io.images import open_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TILE = 64  # side of a picture in a mosaic, in pixels; a mosaic has 3 x 3 cells
CELLS = 9
MOST = 6  # things in a mosaic, of 9 cells: our choice, so that no mosaic is full
AGES = (2, 4, 8)  # of the simulated children, in years
GRAY = (124, 116, 104)


@dataclass(frozen=True)
class Pictures:
    """Pictures by category, and where they are.

    Attributes:
        root: their folder.
        names: paths below ``root`` of each category.
    """

    root: Path
    names: Mapping[str, Sequence[str]]

    def open(self, name: str) -> Image.Image:
        """Return a picture as a square tile."""
        return ImageOps.fit(open_rgb(self.root / name), (TILE, TILE))

    def draw(self, rng: random.Random, category: str) -> Image.Image:
        """Return a random picture of a category."""
        return self.open(rng.choice(self.names[category]))

    def mosaic(self, rng: random.Random, counts: Mapping[str, int]) -> Image.Image:
        """Return a picture with a number of things of each category in random cells, on gray."""
        side = 3 * TILE
        image, cells = Image.new("RGB", (side, side), GRAY), rng.sample(range(CELLS), sum(counts.values()))
        for category in (name for name, count in counts.items() for _ in range(count)):
            cell = cells.pop()
            image.paste(self.draw(rng, category), (cell % 3 * TILE, cell // 3 * TILE))
        return image


@stage
def stand_ins(
    category_folders: Path,
    out: Path,
    items: int = 100,
    exclude: tuple[str, ...] = UNUSED,
    seed: int = 0,
    licensed: bool = True,
) -> Stage:
    """Build lists in the formats of DevCV Toolbox, Machine-DevBench, and DevBench from folders of pictures.

    They show that a model can be scored on these benchmarks. They are not these benchmarks: their pictures are mosaics
    of the given ones, and the responses of children in them are simulated.

    For example:
        python -m babyvlm benchmark build stand-ins --category_folders labeled_s --out build/stand-ins

    Args:
        category_folders: folder with one subfolder of pictures per category; at least four.
        out: folder to create: `devcv/<task>/data.json`, `machine_devbench/Grammatical`, and `devbench`.
        items: number of items of each list.
        exclude: categories to leave out.
        seed: random seed.
        licensed: mark the pictures as licensed, so that they never leave this machine.

    Raises:
        UserError: there are fewer than four categories, or a category has no usable picture.
    """
    if items < 1:
        raise UserError(f"--items {items}: must be 1 or more")
    digests = image_digests(category_folders, exclude)
    funnel = Funnel("stand-ins", unit="images")
    arguments = {"command": "stand-ins", "images": digests, "items": items, "seed": seed, "licensed": licensed}
    artifact = Artifact("benchmark", arguments, funnel)
    folder = yield artifact
    pictures = Pictures(category_folders, usable_images(category_folders, digests, funnel))
    for name, make in _DEVCV.items():
        _write_devcv(folder / "devcv" / name, make, pictures, items, random.Random(f"{seed} {name}"))
    _write_grammatical(folder, pictures, items, random.Random(f"{seed} grammatical"))
    _write_devbench(folder / "devbench", pictures, items, random.Random(f"{seed} devbench"))
    artifact.manifest |= {"licensed": licensed, "world": world_of(category_folders / "any")}
    return f"{len(_DEVCV) + 3} lists of {items:,} items, 2 about {len(pictures.names)} categories"


Question = tuple[str, str, "list[Image.Image]"]  # the human's turn, the answer, the images


def _picture_vocabulary(pictures: Pictures, rng: random.Random) -> Question:
    rows = list(sample_trials(pictures.names, 1, rng.randrange(1 << 30)))[:4]
    target = next(category for _, target, category, _ in rows if category == target)
    letter = "ABCD"[[category for _, _, category, _ in rows].index(target)]
    options = " ".join(f"({one})<image>" for one in "ABCD")
    return f"Touch the image of '{_word(target)}' {options}", letter, [pictures.open(name) for *_, name in rows]


def _localize(pictures: Pictures, rng: random.Random) -> Question:
    chosen = rng.sample(sorted(pictures.names), 4)
    image, place = Image.new("RGB", (2 * TILE, 2 * TILE)), rng.randrange(4)
    for cell, category in enumerate(chosen):
        image.paste(pictures.draw(rng, category), (cell % 2 * TILE, cell // 2 * TILE))
    options = "(A) top left or (B) top right or (C) bottom left or (D) bottom right"
    question = f"<image> Point at the {_word(chosen[place])}. Is it in the {options} of the image?"
    return question, "ABCD"[place], [image]


def _count(pictures: Pictures, rng: random.Random) -> Question:
    category, number = rng.choice(sorted(pictures.names)), rng.randint(1, MOST)
    question = f"<image> How many {plural_of(_word(category))} do you see?"
    return question, str(number), [pictures.mosaic(rng, {category: number})]


def _compare(pictures: Pictures, rng: random.Random) -> Question:
    category, numbers = rng.choice(sorted(pictures.names)), rng.sample(range(1, MOST + 1), 2)
    question = f"Which image has more {plural_of(_word(category))}? (A) <image> (B) <image>"
    images = [pictures.mosaic(rng, {category: number}) for number in numbers]
    return question, "AB"[numbers.index(max(numbers))], images


def _left_right(pictures: Pictures, rng: random.Random) -> Question:
    category = rng.choice(sorted(pictures.names))
    query = pictures.draw(rng, category)
    options = [query, ImageOps.mirror(query), ImageOps.flip(query)]
    order = rng.sample(range(3), 3)
    question = "<image> Which of the following is the same as this? (A) <image> (B) <image> (C) <image>"
    return question, "ABC"[order.index(0)], [query, *(options[place] for place in order)]


_DEVCV: dict[str, Callable[[Pictures, random.Random], Question]] = {
    "picture_vocabulary": _picture_vocabulary,
    "localize": _localize,
    "count": _count,
    "compare_synthetic": _compare,
    "leftright": _left_right,
}


def _write_devcv(
    folder: Path,
    make: Callable[[Pictures, random.Random], Question],
    pictures: Pictures,
    items: int,
    rng: random.Random,
) -> None:
    (folder / "images").mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for number in range(items):
        question, answer, images = make(pictures, rng)
        names = [f"images/{folder.name}_{number:04d}_{place}.png" for place in range(len(images))]
        for name, image in zip(names, images, strict=True):
            image.save(folder / name)
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        entries.append({"id": f"{folder.name}_{number}", "conversations": turns, "image": names})
    _write_json(folder / "data.json", entries)


def _write_grammatical(out: Path, pictures: Pictures, items: int, rng: random.Random) -> None:
    """Write pairs of pictures whose captions have the same words: `two cups and one dog`, `one cup and two dogs`."""
    folder = out / "machine_devbench" / "Grammatical" / "gram_number"
    entries = []
    for number in range(items):
        counts, pair = rng.sample(range(1, MOST // 2 + 1), 2), rng.sample(sorted(pictures.names), 2)
        place = Path("imgs", "realistic", f"seq_{number:02d}")
        (folder / place).mkdir(parents=True)
        entry = {"seq": place.name, "word": NUMBERS[max(counts) - 1], "freq_bin": "[1,2)"}
        for index, (side, order) in enumerate({"a": counts, "b": counts[::-1]}.items()):
            pictures.mosaic(rng, dict(zip(pair, order, strict=True))).save(folder / place / f"img_{index}.png")
            entry[f"image_{index}"] = (place / f"img_{index}.png").as_posix()
            entry[f"caption_{side}"] = " and ".join(_phrase(one, count) for one, count in zip(pair, order, strict=True))
        entries.append(entry)
    _write_json(folder / "manifest_grammatical_number_realistic.json", {"metadata": {}, "items": entries})


def _write_devbench(out: Path, pictures: Pictures, items: int, rng: random.Random) -> None:
    """Write DevBench's layout, in which simulated children of three ages know most, and the older ones more."""
    for task, options in (("lex-lwl", 2), ("lex-viz_vocab", 4)):
        _write_choices(out, task, options, pictures, items, rng)
    folder = out / "assets" / "sem-viz_obj_cat"
    (folder / "images").mkdir(parents=True)
    rows = [("text1", "image1")]
    for category in sorted(pictures.names):
        for number in range(3):
            name = f"images/{category}{number}.png"
            pictures.draw(rng, category).save(folder / name)
            rows.append((category, name))
    write_csv(folder / "manifest.csv", rows)
    count = len(pictures.names)
    for age in AGES:
        shares = [[rng.random() for _ in range(count)] for _ in range(count)]
        matrix = [[1.0 if i == j else shares[max(i, j)][min(i, j)] for j in range(count)] for i in range(count)]
        write_csv(folder / f"human-{age}.csv", [[f"{value:.4f}" for value in row] for row in matrix])
    words, norms = sorted(map(_word, pictures.names)), [("cue", "response", *GRADES)]
    for cue in words:
        for response in rng.sample([word for word in words if word != cue], min(3, len(words) - 1)):
            norms.append((cue, response, *(str(rng.randint(1, children // 3)) for _, children in GRADES.values())))
    (out / "assets" / "sem-wat").mkdir()
    write_csv(out / "assets" / "sem-wat" / "entwisle_norms.csv", norms)


def _write_choices(out: Path, task: str, options: int, pictures: Pictures, items: int, rng: random.Random) -> None:
    folder, evals = out / "assets" / task, out / "evals" / task
    (folder / "images").mkdir(parents=True)
    evals.mkdir(parents=True)
    columns = [f"image{place + 1}" for place in range(options)]
    rows, people = [(*columns, "text1")], [("text1", "age_bin", "trial", *columns)]
    if options == 2:
        people = [("age_bin", "prop", "trial")]
    for number in range(1, items + 1):
        chosen = rng.sample(sorted(pictures.names), options)
        names = [f"images/{number:04d}_{place}.png" for place in range(options)]
        for name, category in zip(names, chosen, strict=True):
            pictures.draw(rng, category).save(folder / name)
        rows.append((*names, _word(chosen[0])))
        for age in AGES:
            weights = [10 * rng.random() * age, *(rng.random() for _ in chosen[1:])]
            shares = [f"{weight / sum(weights):.4f}" for weight in weights]
            cells = (shares[0], str(number)) if options == 2 else (str(number), *shares)
            people.append((str(age), *cells) if options == 2 else (_word(chosen[0]), str(age), *cells))
    write_csv(folder / "manifest.csv", rows)
    write_csv(evals / "human.csv", people)


def _phrase(category: str, count: int) -> str:
    word = _word(category)
    return f"{NUMBERS[count - 1]} {word if count == 1 else plural_of(word)}"


def _word(category: str) -> str:
    return category.replace("_", " ")


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
