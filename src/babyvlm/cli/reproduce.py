"""Evaluate models on the authors' lists and print the results next to the published ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from babyvlm.benchmarks.intervals import dependence, mean_interval, units_of
from babyvlm.errors import UserError
from babyvlm.io.artifacts import sha256_file
from babyvlm.io.files import write_csv
from babyvlm.io.printing import echo
from babyvlm.report.paper import BABYCL, BABYCL_SEEDS, NUMBERS

if TYPE_CHECKING:
    from babyvlm.benchmarks.base import Benchmark

# Names of the authors' lists (babylmms-eval @82118a8, `dataset/`), and the measure that is published.
LISTS = {
    "labeled_s": ("labeled_s.csv", "accuracy"),
    "vtwt": ("vtwt.csv", "accuracy"),
    "baby_winoground": ("baby_winoground.csv", "overall"),
    "caption": ("SAYCam_caption.csv", "meteor_nltk"),
}
# Where the weights of a row are published, for messages. The others must be trained anew.
PUBLISHED_WEIGHTS = {
    "CLIP-large": "ViT-L-14-quickgelu/openai",
    "LLaVA-v1.5-7B": "llava-hf/llava-1.5-7b-hf",
    "BabyLLaVA-GPT2-filtered": "wsashawn/babyllava_resnext_gpt2@COMMIT",
    "BabyLLaVA-GPT2-filtered-aug": "wsashawn/babyllava_resnext_gpt2_aug@COMMIT",
    "BabyLLaVA-Llama-filtered": "wsashawn/babyllava_vit_tinyllama@COMMIT",
    "CVCL-original": "wkvong/cvcl_s_dino_resnext50_embedding@COMMIT",
}


class Line(NamedTuple):
    """A result next to a published one."""

    model: str
    benchmark: str
    ours: float
    low: float
    high: float
    published: float
    source: str
    prior: str

    @property
    def cells(self) -> dict[str, str]:
        """The line as a table's row. The interval of the difference is ours, since the published value has none."""
        return {
            "model": self.model,
            "benchmark": self.benchmark,
            "ours": f"{self.ours:.3f} [{self.low:.3f}, {self.high:.3f}]",
            "published": f"{self.published:.3f}",
            "difference": f"{self.ours - self.published:+.3f} [{self.low - self.published:+.3f}, "
            f"{self.high - self.published:+.3f}]",
            "within the interval": "yes" if self.low <= self.published <= self.high else "no",
            "prior, no image": self.prior,
            "source": self.source,
        }


def reproduce(
    models: dict[str, str],
    trials: Path,
    out: Path,
    images: Path | None = None,
    labeled_s_images: Path | None = None,
    negative_images: Path | None = None,
    device: str = "cpu",
    batch_size: int = 64,
    allow_missing: bool = False,
) -> None:
    r"""Evaluate models on the authors' lists and print ours, the published value, the difference and its interval.

    Published values are those of the paper (arXiv 2504.09426) and, for CVCL as it was first published, of BabyCL (arXiv
    2606.05115). The interval is the 95% interval over the items of a list. Other seeds of a model that is
    trained anew add to it.

    For example:
        python -m babyvlm reproduce --models '{CVCL-filtered: lightning_logs/CVCL-filtered/version_0}' \
            --trials data/saycam/trials --out reproduction

    Args:
        models: row of the paper -> a run, an exported folder, a folder with a published checkpoint, or ORG/NAME@COMMIT
            on the Hugging Face hub; for CLIP-large an open_clip model, for LLaVA-v1.5-7B a LLaVA. Further rows:
            `CVCL-original`.
        trials: folder with the authors' lists, by their own names; those that are missing are left out.
        out: folder for the results of each item and the table. Models that are complete there are not evaluated again.
        images: folder of the SAYCam frames; by default `trials`.
        labeled_s_images: folder of Labeled-S, with a folder per category; by default `images`.
        negative_images: folder of the negative images of Baby Winoground; by default `images`.
        device: where the models run, for example `cuda`.
        batch_size: images encoded at once.
        allow_missing: leave out trials whose images are missing.

    Raises:
        UserError: a row or a list is unknown or missing, or a model cannot be loaded.
    """
    unknown = sorted(models.keys() - (NUMBERS | BABYCL).keys())
    if unknown or not models:
        known = "; ".join(f"{row} ({PUBLISHED_WEIGHTS.get(row, 'trained anew')})" for row in (*NUMBERS, *BABYCL))
        raise UserError(f"--models: {unknown[0] + ' is not a published row' if unknown else 'is empty'}. Rows: {known}")
    frames = images or trials
    folders: dict[str, Path | list[Path]] = {
        "labeled_s": labeled_s_images or frames,
        "baby_winoground": [frames, negative_images or frames],
    }
    benchmarks = list(_benchmarks(trials, frames, folders, allow_missing=allow_missing))
    if not benchmarks:
        names = ", ".join(name for name, _ in LISTS.values())
        raise UserError(f"--trials {trials}: none of {names} found")
    lines = [
        line
        for row, source in models.items()
        for line in _evaluate(row, source, benchmarks, out / row, device=device, batch_size=batch_size)
    ]
    if not lines:
        raise UserError("--models: nothing is published about these rows on these lists")
    cells = [line.cells for line in lines]
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "reproduction.csv", [list(cells[0]), *(list(row.values()) for row in cells)])
    _print(cells)
    if any(line.model == "CVCL-original" or line.model not in PUBLISHED_WEIGHTS for line in lines):
        echo(
            f"Models trained anew also differ by their seeds: {BABYCL_SEEDS * 100:.2f} points on Labeled-S "
            "(offline CVCL, arXiv 2606.05115)."
        )
    echo(f"{out / 'reproduction.csv'}: the table. The results of each item are in the same folder")


def _benchmarks(
    trials: Path, frames: Path, folders: dict[str, Path | list[Path]], *, allow_missing: bool
) -> Iterator[Benchmark]:
    from babyvlm.benchmarks import VTWT, BabyWinoground, LabeledS, SAYCamCaption

    kinds: dict[str, Callable[..., Benchmark]] = {
        kind.name: kind for kind in (LabeledS, VTWT, BabyWinoground, SAYCamCaption)
    }
    for name, (file, _) in LISTS.items():
        if (trials / file).is_file():
            yield kinds[name](trials / file, folders.get(name, frames), allow_missing=allow_missing)
        else:
            echo(f"{trials / file}: not found, left out")


def _evaluate(
    row: str, source: str, benchmarks: list[Benchmark], folder: Path, *, device: str, batch_size: int
) -> Iterator[Line]:
    """Yield a row's results on the benchmarks that have a published value for it; results on disk are reused."""
    from babyvlm.benchmarks.evaluate import evaluate
    from babyvlm.benchmarks.results import result_table, write_results

    published = NUMBERS.get(row) or BABYCL[row]
    model: object = None
    for benchmark in benchmarks:
        if benchmark.name not in published:
            continue
        file = folder / f"{benchmark.name}-test.parquet"
        inputs = f"{_identity(source)} {sha256_file(benchmark.path)} {benchmark.images} {benchmark.allow_missing}"
        key = hashlib.sha256(inputs.encode()).hexdigest()
        if not file.is_file() or _metadata(file).get("reproduce") != key:
            if model is None:
                echo(f"{row}: loading {source}")
                model = _load(row, source, device)
            result = evaluate(model, benchmark, batch_size=batch_size, controls=False, device=device)
            write_results(file, result_table(result.results, {**result.facts, "reproduce": key}))
        yield _line(row, benchmark.name, file, published[benchmark.name])


def _line(row: str, name: str, file: Path, published: float) -> Line:
    table = pq.read_table(file).to_pylist()
    measure = LISTS[name][1]
    chosen = [one for one in table if one["measure"] == measure and not one["control"]]
    if not chosen:
        raise UserError(f"{file}: has no {measure}; NLTK's METEOR needs its data (docs/how-to/evaluation.md)")
    credit_N = np.array([one["credit"] for one in chosen])
    units = [units_of(one["item"], one["group"] or "", one.get("images") or ()) for one in chosen]
    low, high = mean_interval(credit_N, dependence(units))
    prior = _metadata(file).get("prior")
    source = "arXiv 2504.09426" if row in NUMBERS else "arXiv 2606.05115"
    shown = "-" if prior is None else f"{float(prior):.3f}"
    return Line(row, name, float(credit_N.mean()), low, high, published, source, shown)


def _metadata(file: Path) -> dict[str, str]:
    found = pq.read_schema(file).metadata or {}
    return {key.decode(): value.decode() for key, value in found.items()}


def _identity(source: str) -> str:
    """Return a text that changes with a model's files: their names, sizes and times."""
    folder = Path(source)
    if not folder.exists():
        return source
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else [folder]
    return repr([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def _load(row: str, source: str, device: str) -> object:
    from babyvlm.models.hub import load
    from babyvlm.models.zero_shot import HFVisionLanguage, OpenClip

    if row == "CLIP-large":
        return OpenClip(source).to(device).eval()
    if row == "LLaVA-v1.5-7B":
        return HFVisionLanguage(source, "float16" if device != "cpu" else "float32").to(device).eval()
    name, _, revision = source.partition("@")
    is_folder = Path(source).is_dir()
    return load(source if is_folder else name, device, revision=None if is_folder else revision or None)


def _print(cells: list[dict[str, str]]) -> None:
    heading = list(cells[0])
    rows = [heading, *([row[name] for name in heading] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
