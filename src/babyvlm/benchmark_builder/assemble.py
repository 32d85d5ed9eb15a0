"""The step that puts the parts together: a benchmark folder that a model can be tested on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from babyvlm.benchmark_builder import card
from babyvlm.benchmark_builder.agreement import agreement
from babyvlm.benchmark_builder.items import LABELED_COLUMNS, VTWT_COLUMNS, WINOGROUND_COLUMNS, Item, Items
from babyvlm.benchmark_builder.labeled_s import LIST as LABELED
from babyvlm.benchmark_builder.review import accepted, verdicts_of
from babyvlm.benchmark_builder.verdicts import read_all
from babyvlm.benchmarks.phrases import balanced
from babyvlm.benchmarks.trials import read_rows
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import write_csv

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CLASSES = {"labeled_s": "LabeledS", "vtwt": "VTWT", "baby_winoground": "BabyWinoground"}


@dataclass
class _Parts:
    """What the folder is made of so far: lists by name, images by their name in it, and facts for the card."""

    lists: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    images: dict[str, Path] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    licensed: bool = False
    playroom: bool = False
    ancestors: dict[str, artifacts.Manifest] = field(default_factory=dict)


@artifacts.one_at_a_time
def assemble(
    out: Path,
    labeled_s: Path | None = None,
    pairs: Path | None = None,
    verdicts: Path | None = None,
    negatives: Path | None = None,
    negative_verdicts: Path | None = None,
    reviewers: int = 1,
    images: Literal["copy", "hashes"] = "copy",
) -> None:
    """Put what was sampled, proposed, reviewed and drawn together to a benchmark folder.

    It has lists in the authors' columns, the images or only their hashes, a card that says how it was made, and
    `eval.yaml`, an overlay for `python -m babyvlm test`. Of what reviewers accepted as many items are kept as leave
    every phrase as often the negative as the positive.

    For example:
        python -m babyvlm benchmark build assemble --pairs build/pairs --negatives build/negatives --out my-benchmark

    Args:
        out: folder to make.
        labeled_s: what `labeled-s` made.
        pairs: what `phrase-pairs` made.
        verdicts: answers on the pairs; `<pairs>.verdicts` if not given.
        negatives: what `negatives` made of these pairs.
        negative_verdicts: answers on the negative images; `<negatives>.verdicts` if that is there. Without answers the
            CLIP check alone decides.
        reviewers: how many must have said yes to an item; none may have said no.
        images: `hashes` leaves the images out, so that a benchmark of licensed images can be passed on; who has them
            finds them by `images.csv`.

    Raises:
        UserError: there is no part, a part does not belong to another, or nothing of it is accepted.
    """
    parts = _Parts()
    if labeled_s:
        _add_labeled(parts, labeled_s)
    if pairs:
        source, answers = Items(pairs), verdicts or verdicts_of(pairs)
        names = accepted(source, answers, reviewers)
        _add_pairs(parts, source, answers, names)
        if negatives:
            judged = negative_verdicts or verdicts_of(negatives)
            _add_negatives(parts, source, names, Items(negatives), judged, reviewers)
    if not parts.lists or (negatives and not pairs):
        raise UserError("name the parts: --labeled_s, --pairs, and --negatives with the --pairs that they belong to")
    arguments = {
        "command": "assemble",
        "images": images,
        "lists": card.digest(parts.lists),
        "facts": card.digest(parts.facts),
        "made_of": list(parts.ancestors),
    }
    if artifacts.is_complete(out, "benchmark", arguments):
        print(f"{out}: already complete, skipping")
        return
    manifest: artifacts.Manifest = {
        "arguments": arguments,
        "facts": parts.facts,
        "licensed": parts.licensed,
        "world": "playroom" if parts.playroom else "real",
        "ancestors": parts.ancestors,
    }
    with artifacts.create(out, "benchmark", manifest) as folder:
        hashes = _write_images(parts, folder, copy=images == "copy")
        for name, rows in parts.lists.items():
            write_csv(folder / f"{name}.csv", rows)
        manifest["sha256"] = hashes | {
            f"{name}.csv": artifacts.sha256_file(folder / f"{name}.csv") for name in parts.lists
        }
        (folder / "eval.yaml").write_text(_overlay(parts.lists, out))
        (folder / "card.md").write_text(card.card(manifest))
    print(card.card(manifest))


def _add_labeled(parts: _Parts, path: Path) -> None:
    manifest = artifacts.read_manifest(path, "labeled-s")
    rows = [[row[column] for column in LABELED_COLUMNS] for row in read_rows(path / LABELED, LABELED_COLUMNS)]
    parts.lists["labeled_s"] = [LABELED_COLUMNS, *rows]
    parts.images |= {row[-1]: path / row[-1] for row in rows}
    parts.facts["labeled_s"] = {
        "trials": manifest["trials"],
        "categories": len(manifest["categories"]),
        "images": manifest["funnel"],
        "seed": manifest["arguments"]["seed"],
    }
    parts.licensed |= manifest["licensed"]
    parts.playroom |= manifest["world"] == "playroom"
    parts.ancestors |= artifacts.lineage(path, "labeled-s")


def _add_pairs(parts: _Parts, source: Items, verdicts: Path, names: list[str]) -> None:
    items = _balanced(source.rows[name] for name in names)
    for item in items:
        parts.images[f"vtwt/{Path(item.image).name}"] = source.path / item.image
    rows = [(f"vtwt/{Path(item.image).name}", item.positive, item.negative, item.word_class) for item in items]
    parts.lists["vtwt"] = [VTWT_COLUMNS, *rows]
    manifest = source.manifest
    parts.facts["vtwt"] = {
        "proposer": manifest["arguments"]["proposer"],
        "seed": manifest["arguments"]["seed"],
        "proposed": manifest["proposed"],
        "with mirrored": manifest["funnel"]["in"],
        "checked": len(source.rows),
        **_reviewed(source, verdicts),
        "accepted": len(names),
        "kept": len(items),
        "word classes": card.counted(item.word_class for item in items),
    }
    parts.licensed |= source.licensed
    parts.ancestors |= artifacts.lineage(source.path, "items")


def _add_negatives(
    parts: _Parts, pairs: Items, names: list[str], source: Items, verdicts: Path, reviewers: int
) -> None:
    arguments = source.manifest["arguments"]
    if arguments.get("pairs") != pairs.fingerprint:
        raise UserError(f"{source.path}: was made of other pairs than {pairs.path}; make it of these")
    reviewed = any(verdicts.glob("*.jsonl"))
    sound = accepted(source, verdicts, reviewers) if reviewed else list(source.rows)
    items = _balanced(pairs.rows[name] for name in names if name in set(sound))
    rows = []
    for item in items:
        own = {"positive": (item.image, pairs.path), "negative": (source.rows[item.name].image, source.path)}
        for tag, (image, root) in own.items():
            name = f"baby_winoground/{item.name}_{tag}{Path(image).suffix}"
            parts.images[name] = root / image
            rows.append((item.name, item.positive, item.negative, name, tag))
    parts.lists["baby_winoground"] = [WINOGROUND_COLUMNS, *rows]
    parts.facts["baby_winoground"] = {
        **{name: arguments[name] for name in ("method", "model", "prompt", "seed", "clip") if arguments[name] != ""},
        "accepted pairs": source.manifest["funnel"]["in"],
        "fit by CLIP": len(source.rows),
        **(_reviewed(source, verdicts) if reviewed else {}),
        "accepted": len(sound),
        "kept": len(items),
    }
    parts.playroom |= arguments["method"] == "playroom"
    parts.licensed |= source.licensed
    parts.ancestors |= artifacts.lineage(source.path, "items")


def _reviewed(items: Items, verdicts: Path) -> dict[str, object]:
    given = read_all(verdicts, items.fingerprint)
    return {"reviewed": len({name for mine in given.values() for name in mine}), "agreement": agreement(given)}


def _balanced(items: Iterable[Item]) -> list[Item]:
    items = list(items)
    keep = balanced([(item.positive, item.negative) for item in items])
    kept = [item for item, wanted in zip(items, keep, strict=True) if wanted]
    if not kept:
        raise UserError("of the accepted pairs none is balanced by others; review more of them")
    return kept


def _write_images(parts: _Parts, folder: Path, *, copy: bool) -> dict[str, str]:
    hashes = {name: artifacts.sha256_file(path) for name, path in parts.images.items()}
    if copy:
        for name, path in parts.images.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    write_csv(folder / "images.csv", [("image", "sha256"), *sorted(hashes.items())])
    return hashes if copy else {}


def _overlay(lists: Iterable[str], out: Path) -> str:
    """Return an overlay that evaluates on the lists, with paths from where the command was run."""
    benchmarks = [
        {"class_path": f"babyvlm.benchmarks.{CLASSES[name]}", "init_args": {"trials": str(out / f"{name}.csv")}}
        for name in lists
    ]
    callback = {"class_path": "babyvlm.benchmarks.EvaluationCallback", "init_args": {"benchmarks": benchmarks}}
    return "# Evaluates a model on this folder. Pass it as the last --config of `python -m babyvlm test`.\n" + (
        yaml.safe_dump({"trainer": {"callbacks+": [callback]}}, sort_keys=False)
    )
