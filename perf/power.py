"""Power of the tests of findings on simulated studies whose truth is the paper's table, for docs/how-to/report.md.

The studies are as large as the authors' lists, and vary as the numbers below ``planning`` in ``report/findings.yaml``.
For the rate of wrong verdicts, every effect is at its threshold. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from babyvlm.report.columns import PAPER
from babyvlm.report.findings import HYPOTHESES, MARGINS, RULES, evaluate_findings
from babyvlm.report.paper import NUMBERS
from babyvlm.report.runs import Results, Row, Run, Scores

Array = npt.NDArray[np.float64]
PLANNING: dict[str, Any] = RULES["planning"]
WORD_CLASSES = ("noun", "verb", "adjective", "both")
Rates = dict[tuple[str, str, str], float]  # (benchmark, measure, control) -> accuracy; VTWT's word classes as measures
LIMIT = 0.8


def paper_rates(row: str) -> Rates:
    """Return a row's accuracies in the paper; where it gives none, those of ``planning``."""
    numbers, gain = NUMBERS[row], PLANNING["word_class_gain"]
    return {
        ("labeled_s", "accuracy", ""): numbers["labeled_s"],
        ("baby_winoground", "overall", ""): numbers["baby_winoground"],
        ("baby_winoground", "positive_strict", ""): PLANNING["positive_context"],
        ("baby_winoground", "negative_strict", ""): PLANNING["negative_context"],
        ("vtwt", "accuracy", "blank"): PLANNING["blank"],
        ("vtwt", "accuracy", "text_only"): PLANNING["blank"],
        # A quarter of the items has each class, so that their mean is the paper's.
        **{("vtwt", name, ""): numbers["vtwt"] + gain * (0.75 if name == "noun" else -0.25) for name in WORD_CLASSES},
    }


def threshold_rates(row: str) -> Rates:
    """Return accuracies at which every statement of every finding is at its threshold."""
    larger, upper = "Llama" in row, NUMBERS[row].get("vtwt", 0) > 0.75
    more = MARGINS["no_better"] * larger + MARGINS["far_ahead"] * upper
    return {
        ("labeled_s", "accuracy", ""): 0.5 + more,
        ("baby_winoground", "overall", ""): 0.2 + more,
        ("baby_winoground", "positive_strict", ""): 1 / 3,
        ("baby_winoground", "negative_strict", ""): 1 / 3,
        ("vtwt", "accuracy", "blank"): 0.5 + MARGINS["near_chance"],
        ("vtwt", "accuracy", "text_only"): 0.5 + MARGINS["near_chance"],
        **{("vtwt", name, ""): 0.65 + more for name in WORD_CLASSES},
    }


class Study:
    """A simulated study.

    Args:
        rates: row -> its accuracies.
        items: number of items of each benchmark.
        draw: random numbers.
    """

    def __init__(self, rates: dict[str, Rates], items: dict[str, int], draw: np.random.Generator) -> None:
        self.rates, self.items, self.draw = rates, items, draw
        self.names = {name: tuple(f"{name}{item}" for item in range(count)) for name, count in items.items()}
        self.classes = np.resize(np.arange(len(WORD_CLASSES)), items["vtwt"])
        self.category = {
            "vtwt": dict(zip(self.names["vtwt"], np.array(WORD_CLASSES)[self.classes].tolist(), strict=True))
        }
        # Different phrases in each item, so that an image-blind model is not at chance by construction.
        self.texts = {item: (f"right {item}", f"wrong {item}") for item in self.names["vtwt"]}
        self.shared: dict[tuple[str, str], Array] = {}

    def rows(self, seeds: int) -> list[Row]:
        """Return all rows, with new results of each seed; upper bounds have one."""
        self.shared.clear()
        return [self._row(name, seeds) for name in self.rates]

    def _row(self, name: str, seeds: int) -> Row:
        trained = NUMBERS[name].get("vtwt", 0) < 0.75
        of_row = {key: self.draw.normal(size=self.items[key[0]]) for key in self.rates[name]}
        runs = [self._run(name, seed, of_row, trained=trained) for seed in range(seeds if trained else 1)]
        row = Row(runs)
        row.trained = trained
        return row

    def _run(self, name: str, seed: int, of_row: dict[tuple[str, str, str], Array], *, trained: bool) -> Run:
        shift = self.draw.normal(0, PLANNING["seed_sd"]) if trained else 0.0
        credit: dict[str, dict[tuple[str, str], Scores]] = {benchmark: {} for benchmark in self.items}
        by_class = np.zeros((len(WORD_CLASSES), self.items["vtwt"]))
        for (benchmark, measure, control), rate in self.rates[name].items():
            drawn = self._credit((benchmark, measure, control), rate + shift, of_row)
            if measure in WORD_CLASSES:
                by_class[WORD_CLASSES.index(measure)] = drawn
            else:
                credit[benchmark][measure, control] = Scores(self.names[benchmark], drawn)
        vtwt = by_class[self.classes, np.arange(len(self.classes))]
        credit["vtwt"]["accuracy", ""] = Scores(self.names["vtwt"], vtwt)
        run = Run(Path(name, f"seed_{seed}"))
        run.__dict__["config"] = {"seed_everything": seed}
        run.__dict__["results"] = {
            benchmark: Results(
                PAPER[benchmark],
                {},
                "",
                scores,
                self.category.get(benchmark, dict.fromkeys(self.names[benchmark], "")),
                {},
                {},
                self.texts if benchmark == "vtwt" else {},
                {},
            )
            for benchmark, scores in credit.items()
        }
        return run

    def _credit(self, key: tuple[str, str, str], rate: float, of_row: dict[tuple[str, str, str], Array]) -> Array:
        """Return choices with the given mean, which rows and seeds share to the planned extent."""
        rows, seeds = PLANNING["rows_correlation"], PLANNING["seeds_correlation"]
        count = self.items[key[0]]
        everywhere = self.shared.setdefault(key[::2], self.draw.normal(size=count))
        own = self.draw.normal(size=count)
        latent = rows**0.5 * everywhere + (seeds - rows) ** 0.5 * of_row[key] + (1 - seeds) ** 0.5 * own
        return (latent < ndtri(np.clip(rate, 0.001, 0.999))).astype(np.float64)


def rates_of_verdicts(
    rates: dict[str, Rates], seeds: int, times: int, draw: np.random.Generator, items: dict[str, int] | None = None
) -> dict[str, Counter[str]]:
    """Return how often each finding got each verdict."""
    counts = {hypothesis.name: Counter[str]() for hypothesis in HYPOTHESES}
    study = Study(rates, items or PLANNING["items"], draw)
    for _ in range(times):
        for finding in evaluate_findings(study.rows(seeds)):
            counts[finding.hypothesis.name][finding.verdict] += 1
    return counts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200, help="simulated studies per number of seeds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 5, 10, 20])
    options = parser.parse_args()
    draw, seeds = np.random.default_rng(0), options.seeds
    power = {
        count: rates_of_verdicts({row: paper_rates(row) for row in NUMBERS}, count, options.times, draw)
        for count in seeds
    }
    wrong = rates_of_verdicts({row: threshold_rates(row) for row in NUMBERS}, 3, options.times, draw)
    _print(["finding", *(f"{count} seeds" for count in seeds), "for 80%", "wrong verdicts, 3 seeds"])
    for hypothesis in HYPOTHESES:
        name = hypothesis.name
        found = [power[count][name] for count in seeds]
        cells = [f"{one['supported'] / options.times:.2f} / {one['contradicted'] / options.times:.2f}" for one in found]
        enough = [count for count, one in zip(seeds, found, strict=True) if one["supported"] >= LIMIT * options.times]
        decided = wrong[name]["supported"] + wrong[name]["contradicted"]
        _print([name, *cells, str(enough[0]) if enough else f"more than {seeds[-1]}", f"{decided / options.times:.3f}"])


def _print(cells: Sequence[str]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
