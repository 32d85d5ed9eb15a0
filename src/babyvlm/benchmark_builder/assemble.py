"""Assemble what was sampled, proposed, reviewed and generated into a benchmark folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from babyvlm.benchmark_builder.items import LABELED_COLUMNS, VTWT_COLUMNS, WINOGROUND_COLUMNS, Item, Items
from babyvlm.benchmark_builder.labeled_s import LIST as LABELED
from babyvlm.benchmark_builder.review import accepted, verdicts_of
from babyvlm.benchmark_builder.verdicts import agreement, agreement_text, read_all
from babyvlm.benchmarks.phrases import balance
from babyvlm.benchmarks.trials import read_rows
from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.files import resolve_inside, write_csv
from babyvlm.io.images import BrokenImageError, open_rgb
from babyvlm.playroom.credit import CREDIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CLASSES = {"labeled_s": "LabeledS", "vtwt": "VTWT", "baby_winoground": "BabyWinoground"}
TITLES = {"labeled_s": "Labeled-S", "vtwt": "Visual Two-Word Test", "baby_winoground": "Baby Winoground"}
# Numbers of items after each step, in the order of the steps.
STEPS = (
    "proposed",
    "with reversed pairs",
    "accepted pairs",
    "passed checks",
    "passed CLIP check",
    "reviewed",
    "accepted",
    "kept",
)


@dataclass
class _Parts:
    """Content of the benchmark folder: lists by name, images by their path in the folder, and facts for the card."""

    lists: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    images: dict[str, Path] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    licensed: bool = False
    playroom: bool = False
    ancestors: dict[str, artifacts.Manifest] = field(default_factory=dict)


@stage
def assemble(
    out: Path,
    labeled_s: Path | None = None,
    pairs: Path | None = None,
    verdicts: Path | None = None,
    negatives: Path | None = None,
    negative_verdicts: Path | None = None,
    reviewers: int = 1,
    copy_images: bool = True,
) -> Stage:
    """Assemble a benchmark folder from sampled trials, reviewed phrase pairs and negative images.

    The folder contains lists with the columns of the authors' lists, the images or only their hashes, a card that
    documents how it was built, and `eval.yaml`, an overlay for `python -m babyvlm test`. Of the accepted items, the
    largest subset is kept in which every phrase is the negative as often as the positive.

    For example:
        python -m babyvlm benchmark build assemble --pairs build/pairs --negatives build/negatives --out my-benchmark

    Args:
        out: folder to create.
        labeled_s: output of `labeled-s`.
        pairs: output of `phrase-pairs`.
        verdicts: verdicts on the pairs; `<pairs>.verdicts` by default.
        negatives: output of `negatives` for these pairs.
        negative_verdicts: verdicts on the negative images; `<negatives>.verdicts` by default. Without verdicts, only
            the CLIP check decides.
        reviewers: minimum number of reviewers who must have answered yes; none may have answered no.
        copy_images: copy the images. If false, only their hashes are stored in `images.csv`, for others who have the
            images. The phrases of a licensed store remain licensed.

    Raises:
        UserError: no part is given, parts do not belong together, or no item is accepted.
    """
    parts = _Parts()
    if labeled_s:
        _add_labeled(parts, labeled_s)
    if pairs:
        source, answers = Items(pairs), verdicts or verdicts_of(pairs)
        names = accepted(source, answers, reviewers)
        _add_pairs(parts, source, answers, names)
        if negatives:
            answers = negative_verdicts or verdicts_of(negatives)
            _add_negatives(parts, source, names, Items(negatives), answers, reviewers)
    if not parts.lists or (negatives and not pairs):
        raise UserError("pass the parts: --labeled_s, --pairs, or --negatives together with its --pairs")
    arguments = {
        "command": "assemble",
        "copy_images": copy_images,
        "lists": _digest(parts.lists),
        "facts": _digest(parts.facts),
        "parts": list(parts.ancestors),
    }
    manifest: artifacts.Manifest = {
        "facts": parts.facts,
        "licensed": parts.licensed,
        "world": "playroom" if parts.playroom else "real",
    }
    artifact = Artifact("benchmark", arguments, manifest=manifest, ancestors=parts.ancestors)
    folder = yield artifact
    for path in parts.images.values():
        _require_image(path)
    hashes = {name: artifacts.sha256_file(path) for name, path in parts.images.items()}
    if copy_images:
        for name, path in parts.images.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    write_csv(folder / "images.csv", [("image", "sha256"), *sorted(hashes.items())])
    for name, rows in parts.lists.items():
        write_csv(folder / f"{name}.csv", rows)
    lists = {f"{name}.csv": artifacts.sha256_file(folder / f"{name}.csv") for name in parts.lists}
    artifact.manifest["sha256"] = (hashes if copy_images else {}) | lists
    (folder / "eval.yaml").write_text(_overlay(parts.lists, out))
    (folder / "card.md").write_text(card := _card(artifact.manifest))
    return f"{', '.join(TITLES[name] for name in parts.lists)}\n\n{card}"


def _add_labeled(parts: _Parts, path: Path) -> None:
    manifest = artifacts.read_manifest(path, "labeled-s")
    rows = [[row[column] for column in LABELED_COLUMNS] for row in read_rows(path / LABELED, LABELED_COLUMNS)]
    parts.lists["labeled_s"] = [LABELED_COLUMNS, *rows]
    for *_, name in rows:
        image = resolve_inside(path, name)
        if image is None or not name.startswith("labeled_s/"):
            raise UserError(f"{path / LABELED}: image {name!r} is not in {path / 'labeled_s'}")
        parts.images[name] = image
    parts.facts["labeled_s"] = {
        "trials": manifest["trials"],
        "categories": len(manifest["categories"]),
        "images": manifest["funnel"],
        "seed": manifest["arguments"]["seed"],
    }
    parts.licensed |= artifacts.is_licensed(manifest)
    parts.playroom |= manifest["world"] == "playroom"
    parts.ancestors |= artifacts.lineage(path, "labeled-s")


def _require_image(path: Path) -> None:
    """Check that a file that a list names is an image, so that nothing else is copied into a benchmark."""
    try:
        open_rgb(path)
    except BrokenImageError as error:
        raise UserError(f"{path}: is not an image that can be copied ({error})") from None


def _add_pairs(parts: _Parts, source: Items, verdicts: Path, names: list[str]) -> None:
    items = _balanced(source.rows[name] for name in names)
    for item in items:
        name, image = f"vtwt/{Path(item.image).name}", source.path / item.image
        if parts.images.setdefault(name, image) != image:
            raise UserError(f"{source.path}: {item.image} and {parts.images[name]} have the same name. Rename one")
    rows = [(f"vtwt/{Path(item.image).name}", item.positive, item.negative, item.word_class) for item in items]
    parts.lists["vtwt"] = [VTWT_COLUMNS, *rows]
    manifest = source.manifest
    parts.facts["vtwt"] = {
        "proposer": manifest["arguments"]["proposer"],
        "seed": manifest["arguments"]["seed"],
        "proposed": manifest["proposed"],
        "with reversed pairs": manifest["funnel"]["in"],
        "passed checks": len(source.rows),
        **_reviewed(source, verdicts),
        "accepted": len(names),
        "kept": len(items),
        "word classes": dict(Counter(item.word_class for item in items).most_common()),
    }
    parts.licensed |= source.licensed
    parts.playroom |= any(ancestor.get("world") == "playroom" for ancestor in source.lineage.values())
    parts.ancestors |= source.lineage


def _add_negatives(
    parts: _Parts, pairs: Items, names: list[str], source: Items, verdicts: Path, reviewers: int
) -> None:
    arguments = source.manifest["arguments"]
    if arguments.get("pairs") != pairs.fingerprint:
        raise UserError(f"{source.path}: was built from other pairs than {pairs.path}. Build it from these")
    reviewed = any(verdicts.glob("*.jsonl"))
    approved = accepted(source, verdicts, reviewers) if reviewed else list(source.rows)
    items = _balanced(pairs.rows[name] for name in names if name in set(approved))
    rows = []
    for item in items:
        images = {"positive": (item.image, pairs.path), "negative": (source.rows[item.name].image, source.path)}
        for tag, (image, root) in images.items():
            name = f"baby_winoground/{item.name}_{tag}{Path(image).suffix}"
            parts.images[name] = root / image
            rows.append((item.name, item.positive, item.negative, name, tag))
    parts.lists["baby_winoground"] = [WINOGROUND_COLUMNS, *rows]
    parts.facts["baby_winoground"] = {
        **{name: arguments[name] for name in ("method", "model", "prompt", "seed", "clip") if arguments[name] != ""},
        "accepted pairs": source.manifest["funnel"]["in"],
        "passed CLIP check": len(source.rows),
        **(_reviewed(source, verdicts) if reviewed else {}),
        "accepted": len(approved),
        "kept": len(items),
    }
    parts.playroom |= arguments["method"] == "playroom"
    parts.licensed |= source.licensed
    parts.ancestors |= source.lineage


def _reviewed(items: Items, verdicts: Path) -> dict[str, object]:
    given = read_all(verdicts, items.fingerprint)
    return {"reviewed": len({name for own in given.values() for name in own}), "agreement": agreement(given)}


def _balanced(items: Iterable[Item]) -> list[Item]:
    items = list(items)
    keep = balance([(item.positive, item.negative) for item in items])
    kept = [item for item, wanted in zip(items, keep, strict=True) if wanted]
    if not kept:
        raise UserError("no subset of the accepted pairs is balanced. Review more pairs")
    return kept


def _digest(value: object) -> str:
    """Hash a value that JSON can represent."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _overlay(lists: Iterable[str], out: Path) -> str:
    """Return an overlay that evaluates on the lists, with paths relative to where the command was run."""
    benchmarks = [
        {"class_path": f"babyvlm.benchmarks.{CLASSES[name]}", "init_args": {"trials": str(out / f"{name}.csv")}}
        for name in lists
    ]
    callback = {"class_path": "babyvlm.benchmarks.EvaluationCallback", "init_args": {"benchmarks": benchmarks}}
    return "# Evaluates a model on this folder. Pass it as the last --config of `python -m babyvlm test`.\n" + (
        yaml.safe_dump({"trainer": {"callbacks+": [callback]}}, sort_keys=False)
    )


def _card(manifest: Mapping[str, Any]) -> str:
    """Return the card as Markdown: how the benchmark was built, counts of each step, agreement of reviewers."""
    lines = ["# Benchmark", ""]
    if manifest["world"] == "playroom":
        lines += [f"Built from Playroom, a synthetic substitute for SAYCam. Images: {CREDIT}.", ""]
    if manifest["licensed"]:
        lines += [
            "**Images and phrases of licensed data: they must stay on this machine**, unless the license allows you to "
            "share them. `--copy_images false` leaves out the images.",
            "",
        ]
    for name, facts in manifest["facts"].items():
        lines += [f"## {TITLES[name]}", ""]
        steps = [f"{facts[step]:,} {step}" for step in STEPS if step in facts]
        lines += [" -> ".join(steps), ""] if steps else []
        lines += [f"- {key}: {_fact_text(value)}" for key, value in facts.items() if key not in STEPS]
        lines.append("")
    return "\n".join(lines)


def _fact_text(value: object) -> str:
    if isinstance(value, dict) and "kappa" in value:
        return f"{agreement_text(value).removeprefix('agreement: ')} ({', '.join(value['reviewers'])})"
    if isinstance(value, dict) and "dropped" in value:
        dropped = "".join(f", {count} {reason}" for reason, count in value["dropped"].items())
        return f"{value['kept']:,} of {value['in']:,}{dropped}"
    if isinstance(value, dict):
        return ", ".join(f"{count} {key}" for key, count in value.items())
    return f"`{value}`"
