"""Coverage of the 95% intervals of scores and differences on simulated results, for docs/how-to/report.md.

Credits are simulated with random images, items, seeds and worlds, of a size as in the authors' lists (babylmms-eval:
2,200 Labeled-S trials, 967 VTWT items, 365 Baby Winoground instances), and the intervals are those of
``report/estimates.py``. Prints a Markdown table: columns are seeds x worlds and the standard deviation between seeds,
cells are the coverage of a score and of a difference of two rows.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from babyvlm.benchmarks.intervals import Dependence, dependence
from babyvlm.report.estimates import Term, combine_means

Array = npt.NDArray[np.float64]


class Design(NamedTuple):
    """A list of items.

    Attributes:
        title: as the table shows it.
        images_NM: images that each item depends on, the right one first.
        related: which items depend on each other.
        weights_M: share of each image's effect.
    """

    title: str
    images_NM: npt.NDArray[np.int64]
    related: Dependence
    weights_M: Array


class Truth(NamedTuple):
    """Standard deviations on the scale of the decision variable (probit); that of the residual is 1.

    Attributes:
        image: of images, the same for all seeds and rows.
        item: of items, likewise.
        seed: of the means of seeds.
        world: of the means of worlds.
    """

    image: float = 0.8
    item: float = 0.8
    seed: float = 0.0
    world: float = 0.0


def labeled_s(trials: int, images: int, draw: np.random.Generator) -> Design:
    """Return trials of one target and three foils, each image the target of as many trials."""
    images_NM = np.stack([np.resize(np.arange(images), trials), *(draw.integers(0, images, (3, trials)))], axis=1)
    units = [{int(image) for image in own} for own in images_NM]
    return Design(
        f"Labeled-S, {trials:,} trials of {images:,} images", images_NM, dependence(units), np.array([1, 0.3, 0.3, 0.3])
    )


def pairs(title: str, items: int, size: int) -> Design:
    """Return items in groups of one size, such as mirrored pairs."""
    images_N1 = (np.arange(items) // size)[:, None]
    units = [{int(group)} for group in images_N1[:, 0]]
    grouping = f" in groups of {size}" if size > 1 else ""
    return Design(f"{title}, {items:,} items{grouping}", images_N1, dependence(units), np.array([1.0]))


def simulate(design: Design, share: float, truth: Truth, seeds: int, worlds: int, draw: np.random.Generator) -> Array:
    """Return (W, S, N) credits of one row; ``share`` is their expected mean."""
    from scipy.stats import norm

    count = int(design.images_NM.max()) + 1
    sd = np.sqrt(1 + truth.item**2 + (truth.image * design.weights_M) @ design.weights_M * truth.image)
    spread = np.sqrt(sd**2 + truth.seed**2 + truth.world**2)
    center = norm.ppf(share) * spread
    world_W11 = draw.normal(0, truth.world, (worlds, 1, 1))
    seed_WS1 = draw.normal(0, truth.seed, (worlds, seeds, 1))
    image_WI = draw.normal(0, truth.image, (worlds, count))
    item_W1N = draw.normal(0, truth.item, (worlds, 1, len(design.images_NM)))
    shown_W1N = (image_WI[:, design.images_NM] @ design.weights_M)[:, None]
    residual_WSN = draw.normal(0, 1, (worlds, seeds, len(design.images_NM)))
    return (center + world_W11 + seed_WS1 + item_W1N + shown_W1N + residual_WSN > 0).astype(np.float64)


def coverage(
    design: Design, share: float, truth: Truth, *, seeds: int, worlds: int, times: int, draw: np.random.Generator
) -> tuple[float, float]:
    """Return how often intervals contain the truth: of a score, and of the difference of two rows with equal truth.

    With a single seed (or world), its effect is fixed, and the truth is that of the trained model: then the simulation
    has no such effect.
    """
    fixed = truth._replace(seed=truth.seed if seeds > 1 else 0.0, world=truth.world if worlds > 1 else 0.0)
    covered = np.zeros(2)
    for _ in range(times):
        a_WSN, b_WSN = (simulate(design, share, fixed, seeds, worlds, draw) for _ in range(2))
        one = [[Term(1.0, "a", a_SN, design.related)] for a_SN in a_WSN]
        both = [[*terms, Term(-1.0, "b", b_SN, design.related)] for terms, b_SN in zip(one, b_WSN, strict=True)]
        score, difference = combine_means(one, "share").interval(), combine_means(both).interval()
        covered += [score.low <= share <= score.high, difference.low <= 0 <= difference.high]
    return float(covered[0]) / times, float(covered[1]) / times


def designs(draw: np.random.Generator) -> list[Design]:
    """Return lists of the authors' sizes, and small ones."""
    return [
        labeled_s(2200, 440, draw),
        labeled_s(550, 110, draw),
        pairs("VTWT", 967, 1),
        pairs("Baby Winoground", 364, 2),
        pairs("a small list", 50, 1),
    ]


CONDITIONS = (  # seeds, worlds, standard deviations of seeds and worlds on the probit scale (0.03 is 0.01 of accuracy)
    (1, 1, 0.0, 0.0),
    (3, 1, 0.0, 0.0),
    (3, 1, 0.05, 0.0),
    (5, 1, 0.15, 0.0),
    (3, 3, 0.05, 0.05),
)
SHARES = (0.6, 0.95)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1000, help="simulations per cell")
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    heading = [f"{seeds} x {worlds}, {seed:g}" for seeds, worlds, seed, _ in CONDITIONS]
    print("| list | share |", " | ".join(heading), "|")
    print("|---|---|" + "---|" * len(CONDITIONS))
    for design in designs(draw):
        for share in SHARES:
            cells = [
                coverage(
                    design,
                    share,
                    Truth(seed=seed, world=world),
                    seeds=seeds,
                    worlds=worlds,
                    times=options.times,
                    draw=draw,
                )
                for seeds, worlds, seed, world in CONDITIONS
            ]
            print(
                f"| {design.title} | {share} |",
                " | ".join(f"{one:.3f} / {both:.3f}" for one, both in cells),
                "|",
                flush=True,
            )


if __name__ == "__main__":
    main()
