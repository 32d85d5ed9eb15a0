"""Power of the tests of findings on simulated studies whose truth is the paper's table, for docs/how-to/report.md.

The studies are as large as the authors' lists, and vary as the numbers below ``planning`` in ``report/findings.yaml``.
Their seeds are trained on one world, or on three as in the study on Playroom; then accuracies also vary between worlds,
by ``--world_sd``. For the rate of wrong verdicts, every effect is at its threshold. Prints a Markdown table. It takes
four minutes.
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
from babyvlm.report.findings import ALPHA, HYPOTHESES, MARGINS, RULES, evaluate_findings
from babyvlm.report.paper import NUMBERS
from babyvlm.report.runs import Results, Row, Run, Scores

Array = npt.NDArray[np.float64]
PLANNING: dict[str, Any] = RULES["planning"]
WORD_CLASSES = ("noun", "verb", "adjective", "both")
Rates = dict[tuple[str, str, str], float]  # (benchmark, measure, control) -> accuracy; VTWT has one of each word class
LIMIT = 0.8
# Standard deviation of a row's accuracy between worlds. Our choice: about as large as between seeds (``planning``).
# What the rows of a world have in common, such as difficult exemplars, cancels in differences and is not simulated.
WORLD_SD = 0.01
SEEDS = (3, 5, 10, 20)  # in one world; from one seed, there is no verdict
THREE_WORLDS = [(1, 3), (3, 3)]  # seeds x worlds


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
        world_sd: standard deviation of a row's accuracy between worlds, if there are several.
    """

    def __init__(
        self, rates: dict[str, Rates], items: dict[str, int], draw: np.random.Generator, world_sd: float = WORLD_SD
    ) -> None:
        self.items, self.draw, self.world_sd = items, draw, world_sd
        self.names = {name: tuple(f"{name}{item}" for item in range(count)) for name, count in items.items()}
        classes = np.resize(np.array(WORD_CLASSES), items["vtwt"]).tolist()
        self.category = {name: dict.fromkeys(items, "") for name, items in self.names.items()}
        self.category["vtwt"] = dict(zip(self.names["vtwt"], classes, strict=True))
        # Different phrases in each item, so that an image-blind model is not at chance by construction.
        self.texts = {item: (f"right {item}", f"wrong {item}") for item in self.names["vtwt"]}
        self.rates: dict[str, dict[tuple[str, str, str], Array]] = {}  # of one number, or one for each item
        for row, own in rates.items():
            self.rates[row] = {key: np.array([rate]) for key, rate in own.items() if key[1] not in WORD_CLASSES}
            self.rates[row]["vtwt", "accuracy", ""] = np.array([own["vtwt", word_class, ""] for word_class in classes])
        self.cache: dict[object, Any] = {}  # how items depend on each other, which is the same in all rows and studies

    def rows(self, seeds: int, worlds: int = 1) -> list[Row]:
        """Return all rows, with new results of each seed and world; upper bounds have one seed.

        The seeds of different worlds are different, too.
        """
        runs: dict[str, list[Run]] = {name: [] for name in self.rates}
        for world in range(worlds):
            everywhere: dict[tuple[str, str], Array] = {}
            for name in runs:
                runs[name] += self._runs(name, seeds, world, worlds > 1, everywhere)
        rows = []
        for name, of_row in runs.items():
            row = Row(of_row)
            row.trained, row.cache = _is_trained(name), self.cache
            rows.append(row)
        return rows

    def _runs(
        self, name: str, seeds: int, world: int, is_random: bool, everywhere: dict[tuple[str, str], Array]
    ) -> list[Run]:
        """Return a row's runs in one world."""
        sd = PLANNING["seed_sd"] if _is_trained(name) else 0.0
        count = seeds if _is_trained(name) else 1
        shift_S1 = self.draw.normal(0, sd, (count, 1)) + (self.draw.normal(0, self.world_sd) if is_random else 0.0)
        credit = {key: self._credit(key, rate + shift_S1, everywhere) for key, rate in self.rates[name].items()}
        facts = {"world_seed": str(world)} if is_random else {}
        return [self._run(name, world * seeds + seed, facts, seed, credit) for seed in range(count)]

    def _run(
        self, name: str, number: int, facts: dict[str, str], seed: int, credit: dict[tuple[str, str, str], Array]
    ) -> Run:
        run = Run(Path(name, f"seed_{number}"))
        run.__dict__["config"] = {"seed_everything": number}
        run.__dict__["results"] = {
            benchmark: Results(
                PAPER[benchmark],
                facts,
                "",
                {key[1:]: Scores(items, found[seed]) for key, found in credit.items() if key[0] == benchmark},
                self.category[benchmark],
                {},
                {},
                self.texts if benchmark == "vtwt" else {},
                {},
            )
            for benchmark, items in self.names.items()
        }
        return run

    def _credit(self, key: tuple[str, str, str], rate: Array, everywhere: dict[tuple[str, str], Array]) -> Array:
        """Return (S, N) choices with the given means, which rows and seeds share to the planned extent."""
        rows, seeds = PLANNING["rows_correlation"], PLANNING["seeds_correlation"]
        count = self.items[key[0]]
        common = everywhere.setdefault(key[::2], self.draw.normal(size=count))
        of_row = self.draw.normal(size=count)
        own = self.draw.normal(size=(len(rate), count))
        latent = rows**0.5 * common + (seeds - rows) ** 0.5 * of_row + (1 - seeds) ** 0.5 * own
        return (latent < ndtri(np.clip(rate, 0.001, 0.999))).astype(np.float64)


def _is_trained(row: str) -> bool:
    return NUMBERS[row].get("vtwt", 0) < 0.75


def rates_of_verdicts(
    rates: dict[str, Rates],
    seeds: int,
    times: int,
    draw: np.random.Generator,
    items: dict[str, int] | None = None,
    worlds: int = 1,
    world_sd: float = WORLD_SD,
) -> dict[str, Counter[str]]:
    """Return how often each finding got each verdict."""
    counts = {hypothesis.name: Counter[str]() for hypothesis in HYPOTHESES}
    study = Study(rates, items or PLANNING["items"], draw, world_sd)
    for _ in range(times):
        for finding in evaluate_findings(study.rows(seeds, worlds)):
            counts[finding.hypothesis.name][finding.verdict] += 1
    return counts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200, help="simulated studies per number of seeds and worlds")
    parser.add_argument("--times_wrong", type=int, default=500, help="the same for the rate of wrong verdicts")
    parser.add_argument("--world_sd", type=float, default=WORLD_SD, help="standard deviation between worlds")
    options = parser.parse_args()
    truth, threshold = ({row: rates(row) for row in NUMBERS} for rates in (paper_rates, threshold_rates))

    def simulate(
        rates: dict[str, Rates], times: int, designs: Sequence[tuple[int, int]]
    ) -> list[dict[str, Counter[str]]]:
        found = []
        for seeds, worlds in designs:
            draw = np.random.default_rng((seeds, worlds))
            found.append(rates_of_verdicts(rates, seeds, times, draw, worlds=worlds, world_sd=options.world_sd))
        return found

    one_world = [(seeds, 1) for seeds in SEEDS]
    power = simulate(truth, options.times, one_world + THREE_WORLDS)
    wrong = simulate(threshold, options.times_wrong, [(3, 1), *THREE_WORLDS])
    headings = [f"{seeds} x {worlds}" for seeds, worlds in one_world + THREE_WORLDS]
    tested = [f"wrong, {seeds} x {worlds}" for seeds, worlds in [(3, 1), *THREE_WORLDS]]
    _print(["finding", *headings, "seeds for 80%", *tested])
    for hypothesis in HYPOTHESES:
        name = hypothesis.name
        found = [one[name] for one in power]
        cells = [f"{one['supported'] / options.times:.2f} / {one['contradicted'] / options.times:.2f}" for one in found]
        enough = [seeds for seeds, one in zip(SEEDS, found, strict=False) if one["supported"] >= LIMIT * options.times]
        decided = [one[name]["supported"] + one[name]["contradicted"] for one in wrong]
        errors = [f"{count / options.times_wrong:.3f}" for count in decided]
        _print([name, *cells, str(enough[0]) if enough else f"more than {SEEDS[-1]}", *errors])
    largest, at_rate = (p * (1 - p) for p in (0.5, ALPHA))
    print(f"\nStandard errors: of power at most {(largest / options.times) ** 0.5:.3f}; ", end="")
    print(f"of a rate of wrong verdicts, at {ALPHA}, {(at_rate / options.times_wrong) ** 0.5:.3f}")


def _print(cells: Sequence[str]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
