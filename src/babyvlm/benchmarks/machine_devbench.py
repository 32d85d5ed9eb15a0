"""Machine-DevBench (EgoBabyVLM): minimal pairs of generated pictures, by frequency of the word and by grammar.

The format is that of facebookresearch/egobabyvlm @33ce498 (``evaluation/data/machine_devbench.py``; CC BY-NC, read for
the names of its fields only). Its files are a release of that repository.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from babyvlm.benchmarks.base import ForcedChoice, Judgement, Measure, ScoreBenchmark
from babyvlm.benchmarks.intervals import Credits, effective_items, linearized
from babyvlm.benchmarks.object_trials import read_json
from babyvlm.benchmarks.trials import Row, Trial, split_of
from babyvlm.benchmarks.winoground import BabyWinoground
from babyvlm.errors import UserError
from babyvlm.types import TrialResult

if TYPE_CHECKING:
    import torch

    from babyvlm.benchmarks.controls import Views

SUITE = "Machine-DevBench"
LOWEST_BINS = ("[1,2)", "[2,4)")  # one bin in the published results (`metrics.py`)
MERGED = "[1,4)"


class _Manifests(ScoreBenchmark):
    """A list of one or several manifests, whose image paths start from the folder of each.

    Args:
        trials: a manifest, or a folder with manifests at any depth.
        images: folder that image paths start from; by default that of each manifest.
        dev_fraction: as in ``Benchmark``.
        allow_missing: as in ``Benchmark``.
        style: of the pictures, for a folder.
        variant: as in ``Benchmark``.
    """

    suite = SUITE

    def __init__(
        self,
        trials: Path | str,
        images: Path | str | None = None,
        dev_fraction: float | None = None,
        allow_missing: bool = False,
        style: str = "realistic",
        variant: str = "",
    ) -> None:
        self.style = style
        super().__init__(trials, images or folder_of(Path(trials)), dev_fraction, allow_missing, variant)
        self._own_images = images is not None

    def _image(self, image: str, manifest: Path) -> str:
        """Return an image's path below ``images``."""
        return image if self._own_images else (manifest.parent.relative_to(self.images) / image).as_posix()


class MachineDevBenchLexical(_Manifests, ForcedChoice):
    """Correct if the picture of the caption scores higher than that of a word of the same kind. Chance: 1/2.

    ``bin_mean`` is the published number: the mean over word classes of the mean over frequency bins of the accuracy.
    It is a weighted mean, whose credits are ``linearized``.

    Args:
        trials: a manifest, ``manifest_nouns_realistic.json``, or a folder with manifests at any depth (``Lexical``).
        images: folder that image paths start from; by default that of each manifest.
        dev_fraction: as in ``Benchmark``.
        allow_missing: as in ``Benchmark``.
        style: of the pictures, for a folder.
        variant: as in ``Benchmark``.
    """

    name = "machine_devbench_lexical"
    title = "Lexical"
    order = 300
    measures: Mapping[str, Measure] = {"accuracy": Measure(chance=1 / 2), "bin_mean": Measure("mean over bins", 1 / 2)}
    category = "frequency bin"

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each item; its id begins with the word class.

        Raises:
            UserError: there is no manifest, or an item lacks a field.
        """
        trials = []
        for word_class, manifest in manifests(path, "manifest_", self.style).items():
            for number, entry in enumerate(items_of(manifest)):
                fields = ("image_positive", "image_negative", "caption_positive")
                right, wrong, caption = (field(entry, name, number, manifest) for name in fields)
                item = f"{word_class}:{number}"
                label = str(entry.get("frequency_bin") or "")
                pair = tuple((self._image(one, manifest), caption) for one in (right, wrong))
                split = split_of(Row(number, _half(entry)), item, self.dev_fraction, manifest)
                trials.append(Trial(item, split, MERGED if label in LOWEST_BINS else label, pair))
        return trials

    def judge_view(self, trials: Sequence[Trial], scores: Sequence[tuple[float, ...]]) -> list[list[Judgement]]:
        """Return the accuracy, and its credit weighted such that every bin of every word class counts the same."""
        accuracies = [self.judge(trial, values)[0] for trial, values in zip(trials, scores, strict=True)]
        credit_N = linearized(np.array([one.credit for one in accuracies]), bin_weights(trials))
        return [
            [one, Judgement("bin_mean", credit, one.choice)]
            for one, credit in zip(accuracies, credit_N.tolist(), strict=True)
        ]

    def results(self, model: object, views: Views, *, device: torch.device, batch_size: int) -> list[TrialResult]:
        """Judge each trial; how many items are effective depends on the split."""
        bin_mean = replace(self.measures["bin_mean"], effective=effective_items(bin_weights(views[""])))
        self.measures = {**self.measures, "bin_mean": bin_mean}
        return super().results(model, views, device=device, batch_size=batch_size)


class MachineDevBenchGrammatical(_Manifests, BabyWinoground):
    """Correct if the sum of both right pairs exceeds that of both wrong pairs (2 x 2). Chance: 1/2.

    ``accuracy`` is the published number; a tie counts 1/2. The other measures are those of Baby Winoground, which are
    stricter: each image and each caption must choose by itself.

    Args:
        trials: a manifest, ``manifest_grammatical_negation_realistic.json``, or a folder with manifests at any depth
            (``Grammatical``).
        images: folder that image paths start from; by default that of each manifest.
        dev_fraction: as in ``Benchmark``.
        allow_missing: as in ``Benchmark``.
        style: of the pictures, for a folder.
        variant: as in ``Benchmark``.
    """

    name = "machine_devbench_grammatical"
    title = "Grammatical"
    order = 310
    measures: Mapping[str, Measure] = {
        "accuracy": Measure(chance=1 / 2),
        "overall": Measure("overall", 1 / 6, main=False),
        "text": Measure("text", 1 / 4, main=False),
        "image": Measure("image", 1 / 4, main=False),
    }
    category = "construction"

    def read(self, path: Path) -> list[Trial]:
        """Return one trial for each item; its options are (i0,a), (i0,b), (i1,a), (i1,b).

        Raises:
            UserError: there is no manifest, or an item lacks a field.
        """
        trials = []
        for construction, manifest in manifests(path, "manifest_grammatical_", self.style).items():
            for number, entry in enumerate(items_of(manifest)):
                shown = [field(entry, name, number, manifest) for name in ("image_0", "image_1")]
                captions = [field(entry, name, number, manifest) for name in ("caption_a", "caption_b")]
                item = f"{construction}:{number}"
                pairs = tuple((self._image(image, manifest), caption) for image in shown for caption in captions)
                split = split_of(Row(number, _half(entry)), item, self.dev_fraction, manifest)
                trials.append(Trial(item, split, construction, pairs, group=" / ".join(sorted(captions))))
        return trials

    def judge(self, trial: Trial, scores: tuple[float, ...]) -> list[Judgement]:
        """Return the credit by each measure."""
        right, wrong = scores[0] + scores[3], scores[1] + scores[2]
        accuracy = Judgement("accuracy", 0.5 if right == wrong else float(right > wrong))
        return [accuracy, *(one for one in super().judge(trial, scores) if one.measure in self.measures)]


def folder_of(path: Path) -> Path:
    """Return a folder itself, or the folder of a file."""
    return path if path.is_dir() else path.parent


def bin_weights(trials: Sequence[Trial]) -> Credits:
    """Return (N,) weights with mean 1, by which every bin of every word class counts the same."""
    bin_of = [(trial.item.partition(":")[0], trial.category) for trial in trials]
    sizes = Counter(bin_of)
    bins, classes = Counter(word_class for word_class, _ in sizes), len({one for one, _ in sizes})
    return np.array([len(trials) / (classes * bins[key[0]] * sizes[key]) for key in bin_of])


def manifests(path: Path, prefix: str, style: str) -> dict[str, Path]:
    """Return a manifest, or those of a style in a folder, by word class or construction.

    Raises:
        UserError: the folder has no such manifest, or two of the same class.
    """
    found: dict[str, Path] = {}
    pattern, grammatical = f"{prefix}*_{style}.json", "manifest_grammatical_"
    for file in sorted(path.rglob(pattern)) if path.is_dir() else [path]:
        if path.is_dir() and file.name.startswith(grammatical) != (prefix == grammatical):
            continue
        name = file.stem.removeprefix(prefix).rpartition("_")[0] or file.stem
        if name in found:
            raise UserError(f"{path}: {found[name]} and {file} are both about {name}. Pass one of their folders")
        found[name] = file
    if not found:
        raise UserError(f"{path}: has no {pattern}. Check the style")
    return found


def items_of(manifest: Path) -> list[Any]:
    """Return the items of a manifest.

    Raises:
        UserError: it has none.
    """
    content = read_json(manifest)
    items = content.get("items") if isinstance(content, dict) else None
    if not isinstance(items, list) or not items:
        raise UserError(f"{manifest}: has no items")
    return items


def field(entry: Any, name: str, number: int, manifest: Path) -> str:  # noqa: ANN401 - of a JSON file
    """Return a field of an item.

    Raises:
        UserError: it is missing or empty.
    """
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{manifest}: item {number} has no {name}")
    return value


def _half(entry: dict[str, object]) -> dict[str, str]:
    return {"half": str(entry["half"])} if "half" in entry else {}
