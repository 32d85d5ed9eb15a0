"""Build trials of held-out utterances by age and child from a pair store."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from babyvlm.benchmarks.held_out import COLUMNS, OPTIONS
from babyvlm.curation.funnel import Funnel
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.curation.store.pair_store import AGE, CHILD, PairStore
from babyvlm.errors import UserError
from babyvlm.io.files import write_csv
from babyvlm.io.images import image_suffix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIST = "held_out.csv"
MAX_TRIES = 100  # of drawing three distractors with other texts


@stage
def held_out(
    store: Path,
    out: Path,
    by: Literal["age", "child", "child-and-age"] = "age",
    months: float = 3.0,
    per_category: int = 200,
    split: Literal["val", "test"] = "test",
    seed: int = 0,
) -> Stage:
    """Sample trials of held-out utterances: which of four frames of the same age or child belongs to an utterance?

    Input: a store with the columns `child` and `age_months`. Output: `held_out.csv` and the frames, for the benchmark
    `HeldOutUtterances`, whose results are reported by age span or child. The distractors of a trial are frames of other
    utterances with other texts, from the same category. Use the same trials for all models.

    For example:
        python -m babyvlm benchmark build held-out --store stores/filtered --by child-and-age --out held-out

    Args:
        store: pair store.
        out: folder to create.
        by: what a category is: an age span, a child, or both.
        months: length of an age span; spans begin at multiples of it.
        per_category: maximum number of trials per category.
        split: split of the store to take utterances from.
        seed: random seed.

    Raises:
        UserError: the store does not know ages or children, or no category has four different utterances.
    """
    if months <= 0 or per_category < 1:
        raise UserError(f"--months {months:g}, --per_category {per_category}: both must be above 0")
    source = PairStore(store)
    missing = [name for name in (CHILD, AGE) if name not in source.extra_fields and (name == CHILD or by != "child")]
    if missing:
        raise UserError(f"{store}: has no column {missing[0]}. Add it: python -m babyvlm curate add-recordings")
    funnel = Funnel("held-out", unit="utterances")
    arguments = {
        "command": "held-out",
        "store": source,
        "by": by,
        "months": months,
        "per_category": per_category,
        "split": split,
        "seed": seed,
    }
    folder = yield (artifact := Artifact("benchmark", arguments, funnel))
    found = _utterances(source, by, months, split, funnel)
    rng = random.Random(seed)
    number = count()
    rows: list[tuple[int, str, str, int, int]] = []
    for category, utterances in sorted(found.items()):
        chosen = utterances if len(utterances) <= per_category else rng.sample(utterances, per_category)
        for row, text in chosen:
            trial = next(number)
            options = [(row, 1), *((other, 0) for other in _distractors(utterances, text, rng))]
            rng.shuffle(options)
            rows += [(trial, text, category, option, correct) for option, correct in options]
    if not rows:
        raise UserError(f"{store}: no category has {OPTIONS} different utterances. {funnel}".replace("\n", ";"))
    wanted = np.unique([row[3] for row in rows])
    name_of: dict[int, str] = {}
    (folder / "frames").mkdir()
    for position, pair in source.take(wanted):
        name_of[position] = f"frames/{position:09d}.{image_suffix(pair['image'])}"
        (folder / name_of[position]).write_bytes(pair["image"])
    cells = ([str(trial), text, category, name_of[row], str(correct)] for trial, text, category, row, correct in rows)
    write_csv(folder / LIST, [COLUMNS, *cells])
    worlds = [manifest["world"] for manifest in source.lineage.values() if "world" in manifest]
    artifact.manifest |= {"licensed": source.licensed, "world": worlds[0] if worlds else "real"}
    return f"{len(rows) // OPTIONS:,} trials: {', '.join(sorted(found))}"


Utterance = tuple[int, str]  # row of its first frame, and text


def _utterances(
    source: PairStore, by: str, months: float, split: str, funnel: Funnel
) -> Mapping[str, Sequence[Utterance]]:
    """Return the utterances of each category that has enough different ones."""
    known = [name for name in (CHILD, AGE) if name in source.extra_fields]
    found: dict[str, dict[str, Utterance]] = {}
    for row, pair in enumerate(source.columns("group", "utterance", "split", *known).to_pylist()):
        if pair["split"] == split and (category := _category(pair, by, months)):
            found.setdefault(category, {}).setdefault(pair["group"], (row, pair["utterance"]))
        elif pair["split"] == split:
            funnel.drop("child or age not known")
    usable: dict[str, list[Utterance]] = {}
    for category, by_group in found.items():
        if len({text for _, text in by_group.values()}) < OPTIONS:
            funnel.drop(f"fewer than {OPTIONS} different utterances in the category", len(by_group))
        else:
            funnel.keep(len(by_group))
            usable[category] = list(by_group.values())
    return usable


def _category(pair: Mapping[str, Any], by: str, months: float) -> str:
    """Return the category of a pair; empty if it is not known."""
    age, child = pair.get(AGE), pair.get(CHILD)
    start = None if age is None else age // months * months
    span = "" if start is None else f"{start:g}-{start + months:g} months"
    by_name: dict[str, list[str]] = {"age": [span], "child": [child or ""], "child-and-age": [child or "", span]}
    parts = by_name[by]
    return ", ".join(parts) if all(parts) else ""


def _distractors(utterances: Sequence[Utterance], text: str, rng: random.Random) -> list[int]:
    """Return the rows of three utterances with other texts, all different."""
    chosen: dict[str, int] = {}
    for _ in range(MAX_TRIES):
        row, other = rng.choice(utterances)
        if other != text:
            chosen.setdefault(other, row)
        if len(chosen) == OPTIONS - 1:
            return list(chosen.values())
    for row, other in utterances:  # one text is much more frequent than the others
        if other != text and len(chosen) < OPTIONS - 1:
            chosen.setdefault(other, row)
    return list(chosen.values())
