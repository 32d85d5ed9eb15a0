"""The lists that runs were tested on: where they are, what their items ask, and which items depend on each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from babyvlm.benchmarks.intervals import Dependence, dependence, units_of
from babyvlm.benchmarks.trials import group_rows, read_rows
from babyvlm.benchmarks.vtwt import phrase_prior_credits
from babyvlm.errors import UserError
from babyvlm.report.columns import VTWT, VTWT_NATURAL, Column
from babyvlm.report.runs import Row, Run, is_file

CLASSES = {  # benchmark classes, also those that older versions saved in configs
    "LabeledS": "labeled_s",
    "VTWT": "vtwt",
    "NaturalVTWT": "vtwt_natural",
    "VisualTwoWord": "vtwt",
    "BabyWinoground": "baby_winoground",
    "SAYCamCaption": "caption",
    "Caption": "caption",
}
Phrases = dict[str, tuple[str, str]]  # item -> the phrase that fits the image, the other phrase


class TrialList(NamedTuple):
    """A benchmark's CSV list and the folder that its image paths start from."""

    trials: Path
    image_root: Path


class Question(NamedTuple):
    """What a test item asks: its text, its images with the right one first, and its two phrases, if it has two."""

    text: str
    images: list[str]
    phrases: tuple[str, ...] = ()


def trial_list(run: Run, benchmark: str) -> TrialList | None:
    """Return the list that a run's results or config name for a benchmark; None if they name none."""
    metadata = run.metadata(benchmark)
    if "trials" in metadata:
        images = metadata.get("images") or Path(metadata["trials"]).parent
        return TrialList(run.located(metadata["trials"]), run.located(images))
    for test in _configured_benchmarks(run):
        if CLASSES.get(str(test.get("class_path")).rpartition(".")[2]) == benchmark:
            options = test.get("init_args")
            if isinstance(options, dict) and isinstance(options.get("trials"), str):
                trials = options["trials"]
                images = options.get("image_root") or options.get("images") or str(Path(trials).parent)
                return TrialList(run.located(trials), run.located(images)) if isinstance(images, str) else None
    return None


def _configured_benchmarks(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the benchmarks in a run's config: callbacks of older versions, or below the evaluation callback."""
    trainer = run.config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(callback, dict):
            yield callback
            options = callback.get("init_args")
            inner = options.get("benchmarks") if isinstance(options, dict) else None
            yield from (test for test in inner if isinstance(test, dict)) if isinstance(inner, list) else ()


def vtwt_phrases(rows: Iterable[Row], items: Sequence[str], world: str = "", name: str = "vtwt") -> Phrases | None:
    """Return the phrases of VTWT's items; None if neither the results nor a list on this machine contain them all."""
    for run in (run for row in rows for run in row.runs if run.world == world and name in run.results):
        texts = run.results[name].texts
        if not texts:
            found = trial_list(run, name)
            texts = {} if found is None or not is_file(found.trials) else _listed_phrases(found.trials)
        if all(item in texts for item in items):
            return {item: (texts[item][0], texts[item][1]) for item in items}
    return None


def _listed_phrases(trials: Path) -> dict[str, tuple[str, ...]]:
    return {item: one.phrases for item, one in _listed_questions(VTWT.benchmark, trials).items()}


def dependence_of(rows: Sequence[Row], column: Column, items: Sequence[str], world: str = "") -> Dependence:
    """Return which items of a world depend on each other: those with a common image or group.

    Results list images and groups. For results of older versions they are those of the list, if it is on this machine;
    otherwise the items that no group is known of count as independent.
    """
    units = _units(rows, column.benchmark, world)
    return dependence([units.get(item) or {("item", item)} for item in items])


def shows_images(row: Row, benchmark: str) -> bool:
    """Return whether the items of a benchmark show images; results say so if they do not."""
    return all(
        run.results[benchmark].metadata.get("has_images") != "False" for run in row.runs if benchmark in run.results
    )


def knows_images(row: Row, benchmark: str) -> bool:
    """Return whether it is known which images the items of a benchmark show, in all worlds, or that they show none."""
    if not shows_images(row, benchmark):
        return True
    worlds = dict.fromkeys(run.world for run in row.runs if benchmark in run.results)
    return all(
        any(kind == "image" for own in _units([row], benchmark, world).values() for kind, _ in own) for world in worlds
    )


def images_of(rows: Sequence[Row], benchmark: str, world: str, items: Iterable[str]) -> set[str]:
    """Return the images that items of a benchmark show in a world; none if they are not known."""
    units = _units(rows, benchmark, world)
    return {name for item in items for kind, name in units.get(item, ()) if kind == "image"}


def prior_credits(rows: Sequence[Row], benchmark: str, world: str) -> dict[str, float]:
    """Return item -> credit of the phrases' prior in a world; empty without a list of phrase pairs that is known."""
    if benchmark not in (VTWT.benchmark, VTWT_NATURAL.benchmark):
        return {}
    tested = (run for row in rows for run in row.runs if run.world == world and benchmark in run.results)
    items = max((run.results[benchmark].category for run in tested), key=len, default={})
    phrases = vtwt_phrases(rows, list(items), world, benchmark) if items else None
    return dict(zip(phrases, phrase_prior_credits([*phrases.values()]), strict=True)) if phrases else {}


def _units(rows: Sequence[Row], benchmark: str, world: str) -> Mapping[str, set[tuple[str, str]]]:
    for row in rows:
        if (benchmark, world) in row.cache:
            return cast("dict[str, set[tuple[str, str]]]", row.cache[benchmark, world])
    units: dict[str, set[tuple[str, str]]] = {}
    for run in (run for row in rows for run in row.runs if run.world == world and benchmark in run.results):
        results = run.results[benchmark]
        if not results.images:
            found = trial_list(run, benchmark)
            listed = {} if found is None or not is_file(found.trials) else _listed_questions(benchmark, found.trials)
            if not units and (listed or results.groups):
                asked = {item: listed.get(item, Question("", [])) for item in results.category}
                units = {
                    item: units_of(item, results.groups.get(item) or " / ".join(sorted(one.phrases)), one.images)
                    for item, one in asked.items()
                }
            continue
        units = {item: units_of(item, results.groups.get(item, ""), own) for item, own in results.images.items()}
        break
    rows[0].cache[benchmark, world] = units
    return units


def _listed_questions(benchmark: str, trials: Path) -> Mapping[str, Question]:
    try:
        return _read_questions(benchmark, trials.resolve(), trials.stat().st_mtime_ns)
    except (OSError, RuntimeError):  # the list has vanished, or is a loop of links
        return {}


@lru_cache(maxsize=16)
def _read_questions(benchmark: str, trials: Path, _changed_ns: int) -> Mapping[str, Question]:
    return questions(benchmark, trials)


def without_balanced_phrases(phrases: Phrases) -> list[str]:
    """Return the items whose two phrases do not occur equally often in both orders.

    An image-blind model always prefers the same of two phrases, so it scores exactly 0.5 on the other items.
    """
    counts = Counter(phrases.values())
    return [item for item, (right, wrong) in phrases.items() if counts[right, wrong] != counts[wrong, right]]


def questions(benchmark: str, trials: Path) -> dict[str, Question]:
    """Return item -> question for a list of one of the paper's benchmarks; empty for other lists."""
    try:
        if benchmark == "caption":
            rows = read_rows(trials, ("image", "text"))
            listed = {row.item: Question(row["text"], [row["image"]]) for row in rows}  # older results: each row
            for same in group_rows(rows, "image").values():
                listed[same[0].item] = Question(" / ".join(row["text"] for row in same), [same[0]["image"]])
            return listed
        if benchmark == "labeled_s":
            rows = read_rows(trials, ("trial_id", "target_category", "real_category", "image"))
            return {
                item: Question(
                    options[0]["target_category"],
                    [
                        row["image"]
                        for row in sorted(options, key=lambda row: row["real_category"] != row["target_category"])
                    ],
                )
                for item, options in group_rows(rows, "trial_id").items()
            }
        if benchmark in (VTWT.benchmark, VTWT_NATURAL.benchmark):
            rows = read_rows(trials, ("image", "positive_phrase", "negative_phrase"))
            return {row.item: Question(_choice(row.cells), [row["image"]], _phrases(row.cells)) for row in rows}
        if benchmark == "baby_winoground":
            rows = read_rows(trials, ("instance_id", "positive_phrase", "negative_phrase", "image", "image_tag"))
            return {
                item: Question(
                    _choice(pair[0].cells),
                    [row["image"] for row in sorted(pair, key=lambda row: row["image_tag"] != "positive")],
                    _phrases(pair[0].cells),
                )
                for item, pair in group_rows(rows, "instance_id").items()
            }
    except (UserError, KeyError):  # the list was replaced by another one
        pass
    return {}


def _phrases(cells: Mapping[str, str]) -> tuple[str, str]:
    return cells["positive_phrase"], cells["negative_phrase"]


def _choice(cells: Mapping[str, str]) -> str:
    return f"{cells['positive_phrase']}, not {cells['negative_phrase']}"
