"""Coverage of the 95% intervals of scores and differences on simulated results, for docs/how-to/report.md.

Credits are simulated with random images, items, seeds and worlds, of a size as in the authors' lists (babylmms-eval:
2,200 Labeled-S trials, 967 VTWT items, 365 Baby Winoground instances), and the intervals are those of
``report/estimates.py``. Prints a Markdown table: columns are seeds x worlds and the standard deviation between seeds,
cells are the coverage of a score and of a difference of two rows. It takes two minutes.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import ndtri

from babyvlm.benchmarks.intervals import Dependence, dependence
from babyvlm.report.estimates import Term, combine_means

Array = npt.NDArray[np.float64]
BLOCK = 25  # simulations that are drawn at once
FOIL = 0.3  # effect of the image of a foil, relative to that of the right image


class Design(NamedTuple):
    """A list of items.

    Attributes:
        title: as the table shows it.
        weights_NI: sparse matrix of the weight of each image (or group) in each item.
        related: which items depend on each other.
    """

    title: str
    weights_NI: csr_array
    related: Dependence


class Truth(NamedTuple):
    """Standard deviations on the scale of the decision variable (probit); that of the residual is 1.

    Attributes:
        image: of images, the same for all seeds of a row.
        item: of items, likewise.
        seed: of the means of seeds.
        world: of the means of a row's worlds.
        common: share of the variances of images and items that two rows have in common.
    """

    image: float = 0.8
    item: float = 0.8
    seed: float = 0.0
    world: float = 0.0
    common: float = 0.5


def labeled_s(trials: int, images: int, draw: np.random.Generator) -> Design:
    """Return trials of one target and three foils, each image the target of as many trials."""
    target_N = np.resize(np.arange(images), trials)
    shift_N3 = draw.random((trials, images - 1)).argpartition(3)[:, :3] + 1  # three different images, not the target
    images_N4 = np.column_stack([target_N, (target_N[:, None] + shift_N3) % images])
    return _design(f"Labeled-S, {trials:,} trials of {images:,} images", images_N4, [1, FOIL, FOIL, FOIL])


def pairs(title: str, items: int, size: int) -> Design:
    """Return items in groups of one size, such as mirrored pairs."""
    grouping = f" in groups of {size}" if size > 1 else ""
    return _design(f"{title}, {items:,} items{grouping}", (np.arange(items) // size)[:, None], [1])


def _design(title: str, images_NM: npt.NDArray[np.int64], weights: list[float]) -> Design:
    items, count = images_NM.shape
    entries = np.tile(weights, items), (np.repeat(np.arange(items), count), images_NM.ravel())
    return Design(title, csr_array(entries), dependence([set(own) for own in images_NM.tolist()]))


def simulate(
    design: Design, share: float, truth: Truth, *, seeds: int, worlds: int, times: int, draw: np.random.Generator
) -> Array:
    """Return (T, W, 2, S, N) credits of two rows in T simulations; ``share`` is the expected mean of both."""
    items, images = design.weights_NI.shape

    def normal(sd: float, *shape: int) -> npt.NDArray[np.float32]:
        return np.float32(sd) * draw.standard_normal((times, worlds, *shape), np.float32)

    def effect(sd: float, count: int) -> npt.NDArray[np.float32]:
        return normal(sd * truth.common**0.5, 1, count) + normal(sd * (1 - truth.common) ** 0.5, 2, count)

    image_KI = effect(truth.image, images).reshape(-1, images)
    shown_TW2N = (design.weights_NI @ image_KI.T).T.reshape(times, worlds, 2, items)
    item_TW2N = shown_TW2N + effect(truth.item, items)
    level_TW2S = normal(truth.world, 2, 1) + normal(truth.seed, 2, seeds)
    own = truth.image**2 * float((design.weights_NI**2).sum()) / items + truth.item**2 + 1
    center = ndtri(share) * (own + truth.seed**2 + truth.world**2) ** 0.5
    latent_TW2SN = item_TW2N[..., None, :] + level_TW2S[..., None] + normal(1, 2, seeds, items)
    return (latent_TW2SN > -center).astype(np.float64)


def coverage(
    design: Design, share: float, truth: Truth, *, seeds: int, worlds: int, times: int, draw: np.random.Generator
) -> tuple[float, float]:
    """Return how often intervals contain the truth: of a score, and of the difference of two rows with equal truth.

    With a single seed (or world), its effect is fixed, and the truth is that of the trained model: then the simulation
    has no such effect.
    """
    fixed = truth._replace(seed=truth.seed if seeds > 1 else 0.0, world=truth.world if worlds > 1 else 0.0)
    covered = np.zeros(2)
    for start in range(0, times, BLOCK):
        block = min(BLOCK, times - start)
        for credit_W2SN in simulate(design, share, fixed, seeds=seeds, worlds=worlds, times=block, draw=draw):
            one = [[Term(1.0, "a", a_SN, design.related)] for a_SN, _ in credit_W2SN]
            both = [
                [*terms, Term(-1.0, "b", b_SN, design.related)]
                for terms, (_, b_SN) in zip(one, credit_W2SN, strict=True)
            ]
            score, difference = combine_means(one, "share").interval(), combine_means(both).interval()
            covered += [score.low <= share <= score.high, difference.low <= 0 <= difference.high]
    return float(covered[0]) / times, float(covered[1]) / times


def designs(draw: np.random.Generator) -> list[Design]:
    """Return lists of the authors' sizes and of Playroom's, in which no two targets share an image, and small ones."""
    return [
        labeled_s(2200, 440, draw),
        labeled_s(2200, 2200, draw),
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
    (1, 3, 0.05, 0.05),
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
    print(f"\nStandard error of a cell at 0.95: {(0.95 * 0.05 / options.times) ** 0.5:.4f}")


if __name__ == "__main__":
    main()
