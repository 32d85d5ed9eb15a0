"""Data scaling: how scores grow with home pairs, and how many home pairs a transferred pair is worth.

Rows of a model that were trained on different numbers of home pairs, without and with web pairs, lie on one curve if w
web pairs count as ``rate * w`` home pairs (the exchange rate)::

    score = intercept + slope * log2(home pairs + rate * web pairs)

The same with ``log(1 - score)`` in place of the score is a power law of the error; its interval is reported, too.
Kept by hand: the curve is linear but for one parameter, so that a search over it finds the best fit of every resample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from babyvlm.benchmarks.intervals import LEVEL, Dependence
from babyvlm.report.columns import Column
from babyvlm.report.comparisons import score
from babyvlm.report.estimates import Estimate
from babyvlm.report.figures import CURVE_INCHES, Chart, Layout, figure_with_panels, on_pages, with_legend
from babyvlm.report.runs import Row, main_columns, shared
from babyvlm.report.tables import Table, count_items, range_text
from babyvlm.report.trial_lists import dependence_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
Law = Literal["logarithm", "power"]
RESAMPLES = 2000  # our choice
MIN_SIZES = 3  # numbers of home pairs; with two, a line fits them exactly
MAX_RATE = 16.0  # our choice: the search ends here, and an interval that reaches it is open
LEAST_ERROR = 1e-3  # of the power law: a score of 1 has no logarithm
NOTE = (
    "A line in log2 of (home pairs + rate x web pairs) is fitted to all rows of a model with the same kind of web "
    "pairs: gain per doubling is its slope, and a web pair is worth `rate` home pairs. 95% intervals: percentiles of "
    f"{RESAMPLES:,} fits to resampled scores, in which items and seeds are random (with t, since there are few seeds). "
    "Worlds have intercepts of their own. Undetermined: the gain per doubling is not significantly positive, so that "
    "home pairs have no measurable value to compare with. Power law: the same, fitted to log(1 - score). Spread: root "
    "mean square distance of the rows from the line. The intervals are not corrected for the number of benchmarks."
)


class Point(NamedTuple):
    """A row in one world: pairs that it was trained on.

    Attributes:
        row: the row.
        world: its world.
        home: home pairs.
        web: web pairs.
        kind: names of the stores of the web pairs; empty without any.
    """

    row: Row
    world: str
    home: float
    web: float
    kind: str


@dataclass(frozen=True)
class Fit:
    """A curve that was fitted to the rows of a model.

    Attributes:
        model: name of the model.
        column: what was measured.
        kind: stores of the web pairs.
        points: the rows.
        means: mean score of each point.
        intercepts: by world.
        slope: gain per doubling of the home pairs, with its interval.
        rate: home pairs that a web pair is worth, with its interval; ends beyond the search are infinite.
        power_rate: the same by a power law of the error.
        spread: root mean square of the residuals.
    """

    model: str
    column: Column
    kind: str
    points: list[Point]
    means: Floats
    intercepts: dict[str, float]
    slope: Estimate
    rate: Estimate
    power_rate: Estimate
    spread: float

    @property
    def determined(self) -> bool:
        """Whether home pairs have a measurable value, in which that of web pairs can be expressed."""
        return self.slope.low > 0

    def curve(self, home_N: Floats, web: float, world: str) -> Floats:
        """Return the fitted score at N numbers of home pairs, with some web pairs."""
        effective_N = home_N + self.rate.mean * web
        curve_N: Floats = self.intercepts[world] + self.slope.mean * np.log2(np.maximum(effective_N, 1))
        return curve_N


def scaling_fits(rows: Sequence[Row]) -> list[Fit]:
    """Return the fits of all models, kinds of web pairs and columns of the main table that have enough rows."""
    by_model: dict[str, list[Point]] = {}
    for row in rows:
        for point in _points(row):
            by_model.setdefault(str(row.runs[0].config.get("name") or ""), []).append(point)
    fits = []
    for model, points in by_model.items():
        for kind in dict.fromkeys(point.kind for point in points if point.kind and point.home):
            for column in main_columns(rows):
                own = [one for one in points if one.kind in ("", kind) and one.home and one.row.tested(column)]
                # Within a world: worlds differ a little in their number of home pairs, which is no scaling.
                sizes = Counter(world for world, _ in {(one.world, round(one.home)) for one in own if not one.kind})
                if max(sizes.values(), default=0) >= MIN_SIZES and any(point.kind for point in own):
                    with suppress(ValueError):  # fewer than two independent items
                        fits.append(_fit(model, kind, own, column))
    return fits


def is_partial(row: Row) -> bool:
    """Return whether a row was trained on a share of the home pairs, for scaling only."""
    home = row.runs[0].settings("data").get("home")
    fraction = home.get("fraction") if isinstance(home, dict) else None
    return isinstance(fraction, int | float) and fraction < 1


def _points(row: Row) -> Iterator[Point]:
    """Yield the row in each of its worlds, with its mean number of pairs over seeds, if its runs recorded them."""
    for world in dict.fromkeys(run.world for run in row.runs):
        counts = []
        for run in row.runs:
            contents = (run.provenance.get("mix") or {}).get("contents") or []
            home = run.settings("data").get("validation")
            if run.world == world and contents and home:
                web = {part["store"]: part["items"] for part in contents if part["store"] != home}
                own = sum(part["items"] for part in contents if part["store"] == home)
                counts.append((own, sum(web.values()), " and ".join(web)))
        if counts and len({kind for _, _, kind in counts}) == 1:
            home_S, web_S = np.array([count[:2] for count in counts], float).T
            yield Point(row, world, float(home_S.mean()), float(web_S.mean()), counts[0][2])


def _fit(model: str, kind: str, points: list[Point], column: Column) -> Fit:
    worlds = list(dict.fromkeys(point.world for point in points))
    world_K = np.array([worlds.index(point.world) for point in points])
    home_K, web_K = (np.array([getattr(point, name) for point in points]) for name in ("home", "web"))
    mean_K, resampled_BK = _means(points, column)
    logarithm = fit_curve(mean_K, home_K, web_K, world_K)
    drawn = fit_curve(resampled_BK, home_K, web_K, world_K)
    power, power_drawn = (fit_curve(one, home_K, web_K, world_K, "power") for one in (mean_K, resampled_BK))
    return Fit(
        model,
        column,
        kind,
        points,
        mean_K,
        {world: float(logarithm.intercept_BW[0, number]) for number, world in enumerate(worlds)},
        _interval(logarithm.slope_B[0], drawn.slope_B, len(points)),
        _interval(logarithm.rate_B[0], drawn.rate_B, len(points), logarithm.bounds),
        _interval(power.rate_B[0], power_drawn.rate_B, len(points), power.bounds),
        float(np.sqrt(np.mean(logarithm.residual_BK[0] ** 2))),
    )


class Curves(NamedTuple):
    """The best curves through B sets of K scores, in W worlds.

    Attributes:
        intercept_BW: by world.
        slope_B: change of the score, or of the logarithm of the error, per doubling of the home pairs.
        rate_B: home pairs that a web pair is worth.
        residual_BK: scores less the curve, on the scale of the law.
        bounds: least and greatest rate of the search.
    """

    intercept_BW: Floats
    slope_B: Floats
    rate_B: Floats
    residual_BK: Floats
    bounds: tuple[float, float]


def fit_curve(
    score_BK: Floats,
    home_K: Floats,
    web_K: Floats,
    world_K: npt.NDArray[np.int64] | None = None,
    law: Law = "logarithm",
) -> Curves:
    """Fit ``score = intercept[world] + slope * log2(home + rate * web)`` by least squares.

    For a given rate this is a linear regression, so that the rate is found by a search over a grid, refined once.

    >>> home_K, web_K = np.array([100.0, 200, 400, 800, 100, 200, 400, 800]), np.array([0.0] * 4 + [400] * 4)
    >>> fit = fit_curve(0.2 + 0.05 * np.log2(home_K + 0.25 * web_K), home_K, web_K)
    >>> round(float(fit.rate_B[0]), 3), round(float(fit.slope_B[0]), 3)
    (0.25, 0.05)

    Args:
        score_BK: B sets of scores of K rows, or one set (K,).
        home_K: home pairs of each row, above 0.
        web_K: web pairs of each row.
        world_K: number of the world of each row, from 0; one world by default.
        law: ``power`` fits the logarithm of ``1 - score``, a power law of the error.
    """
    target_BK = np.atleast_2d(score_BK)
    if law == "power":
        target_BK = np.log2(np.maximum(1 - target_BK, LEAST_ERROR))
    world_K = np.zeros(len(home_K), int) if world_K is None else world_K
    member_KW = np.eye(int(world_K.max()) + 1)[world_K]
    least = -0.95 * float((home_K[web_K > 0] / web_K[web_K > 0]).min())  # home + rate * web stays positive
    negative = np.linspace(least, 0, 60, endpoint=False)
    grid_R = np.concatenate([negative, [0.0], np.geomspace(1e-3, MAX_RATE, 240)])

    def errors(rate_R: Floats) -> tuple[Floats, Floats]:
        """Return the (R, B) squared errors and slopes."""
        error_RB, slope_RB = np.empty((2, len(rate_R), len(target_BK)))
        centered_BK = _without_world_means(target_BK, member_KW)
        total_B = (centered_BK**2).sum(1)
        for number, rate in enumerate(rate_R):
            x_K = _without_world_means(np.log2(home_K + rate * web_K)[None], member_KW)[0]
            slope_RB[number] = centered_BK @ x_K / max(float(x_K @ x_K), 1e-12)
            error_RB[number] = total_B - slope_RB[number] ** 2 * float(x_K @ x_K)
        return error_RB, slope_RB

    error_RB, _ = errors(grid_R)
    best_B = error_RB.argmin(0)
    fine = np.linspace(0, 1, 9)
    rate_B = grid_R[best_B]
    for place in np.unique(best_B):  # between its neighbors
        low, high = grid_R[max(place - 1, 0)], grid_R[min(place + 1, len(grid_R) - 1)]
        around_R = low + (high - low) * fine
        chosen = best_B == place
        rate_B[chosen] = _vertex(around_R, errors(around_R)[0][:, chosen])
    x_BK = np.log2(home_K + rate_B[:, None] * web_K)
    centered_BK, x_centered_BK = _without_world_means(target_BK, member_KW), _without_world_means(x_BK, member_KW)
    slope_B = (centered_BK * x_centered_BK).sum(1) / np.maximum((x_centered_BK**2).sum(1), 1e-12)
    intercept_BW = (target_BK - slope_B[:, None] * x_BK) @ member_KW / member_KW.sum(0)
    residual_BK = target_BK - intercept_BW[:, world_K] - slope_B[:, None] * x_BK
    return Curves(intercept_BW, slope_B, rate_B, residual_BK, (float(grid_R[0]), MAX_RATE))


def _vertex(rate_R: Floats, error_RB: Floats) -> Floats:
    """Return the place of the least error, by a parabola through the best rate and its neighbors."""
    place_B = np.clip(error_RB.argmin(0), 1, len(rate_R) - 2)
    column_B = np.arange(error_RB.shape[1])
    below_B, at_B, above_B = (error_RB[place_B + step, column_B] for step in (-1, 0, 1))
    curvature_B = below_B - 2 * at_B + above_B
    shift_B = np.where(curvature_B > 0, (below_B - above_B) / (2 * np.maximum(curvature_B, 1e-300)), 0.0)
    step = rate_R[1] - rate_R[0]
    vertex_B: Floats = rate_R[place_B] + np.clip(shift_B, -1, 1) * step
    return vertex_B


def _without_world_means(value_BK: Floats, member_KW: Floats) -> Floats:
    mean_BW = value_BK @ member_KW / member_KW.sum(0)
    centered_BK: Floats = value_BK - mean_BW @ member_KW.T
    return centered_BK


def _means(points: Sequence[Point], column: Column) -> tuple[Floats, Floats]:
    """Return the K mean scores, and B resamples of them.

    The items of a world are common to its rows, so that their errors are drawn together, from a normal distribution
    with the covariance over items, in which items with a common image depend on each other. The seeds of each row are
    trainings of their own; their errors have a t distribution, since there are few.
    """
    draw = np.random.default_rng(0)
    mean_K, resampled_BK = np.empty(len(points)), np.empty((RESAMPLES, len(points)))
    for world in dict.fromkeys(point.world for point in points):
        places = [number for number, point in enumerate(points) if point.world == world]
        rows = [points[place].row for place in places]
        items = shared([row.items(column, "", world) for row in rows])
        credits = [row.credits(column, "", world, items) for row in rows]
        related = dependence_of(rows, column, items, world)
        item_KN = np.array([credit_SN.mean(0) for credit_SN in credits])
        drawn_BK = _drawn(draw, _covariance(item_KN, related))
        over_seeds_K = np.array(
            [credit_SN.mean(1).var(ddof=1) / len(credit_SN) if len(credit_SN) > 1 else 0.0 for credit_SN in credits]
        )
        freedom = sum(len(credit_SN) - 1 for credit_SN in credits)
        if freedom:
            scale_B1 = (freedom / draw.chisquare(freedom, (RESAMPLES, 1))) ** 0.5
            drawn_BK += draw.standard_normal(drawn_BK.shape) * scale_B1 * over_seeds_K**0.5
        mean_K[places] = item_KN.mean(1)
        resampled_BK[:, places] = mean_K[places] + drawn_BK
    return mean_K, resampled_BK


def _covariance(value_KN: Floats, related: Dependence) -> Floats:
    """Return the (K, K) covariance of K means over the same items, from the variances of their sums."""
    count, variance_of_mean = len(value_KN), related.variance_of_mean
    own_K = variance_of_mean(value_KN)
    first, second = np.triu_indices(count, 1)
    sums = variance_of_mean(value_KN[first] + value_KN[second])
    covariance_KK = np.diag(own_K)
    covariance_KK[first, second] = covariance_KK[second, first] = (sums - own_K[first] - own_K[second]) / 2
    return covariance_KK


def _drawn(draw: np.random.Generator, covariance_KK: Floats) -> Floats:
    """Return (B, K) normal draws; small negative eigenvalues, which estimates may have, count as 0."""
    value_K, vector_KK = np.linalg.eigh(covariance_KK)
    half_KK = vector_KK * np.sqrt(np.maximum(value_K, 0))
    drawn_BK: Floats = draw.standard_normal((RESAMPLES, len(covariance_KK))) @ half_KK.T
    return drawn_BK


def _interval(value: float, drawn_B: Floats, points: int, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
    """Return percentiles of the draws; ends at the bounds of the search are infinite."""
    low, high = (float(end) for end in np.percentile(drawn_B, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]))
    low = -np.inf if low <= bounds[0] * (1 - 1e-3 * np.sign(bounds[0])) else low
    high = np.inf if high >= bounds[1] * 0.999 else high
    return Estimate(float(value), low, high, points)


def rate_text(fit: Fit, rate: Estimate) -> str:
    """Return an exchange rate with its interval as a table shows it."""
    if not fit.determined:
        return "undetermined"
    high = f"> {MAX_RATE:g}" if np.isinf(rate.high) else f"{rate.high:.2f}"
    low = "negative" if np.isinf(rate.low) else f"{rate.low:.2f}"
    return f"{rate.mean:.2f} [{low}, {high}]"


def scaling_table(fits: Sequence[Fit]) -> Table | None:
    """Return what a web pair is worth, by model, benchmark and kind of web pairs; None if nothing was fitted."""
    heading = [
        *("model", "benchmark", "web pairs", "home pairs", "gain per doubling"),
        *("home pairs per web pair", "by power law", "spread", "rows", "items", "images", "seeds", "worlds"),
    ]
    body = [
        [
            fit.model,
            fit.column.title,
            f"{fit.kind} ({max(point.web for point in fit.points):,.0f})",
            f"{min(point.home for point in fit.points):,.0f} to {max(point.home for point in fit.points):,.0f}",
            fit.slope.text("+"),
            rate_text(fit, fit.rate),
            rate_text(fit, fit.power_rate),
            f"{fit.spread:.3f}",
            str(len(fit.points)),
            *count_items([point.row for point in fit.points], fit.column),
            range_text([len(point.row.seeds) for point in fit.points]),
            str(len(fit.intercepts)),
        ]
        for fit in fits
    ]
    return Table("Data scaling: home pairs that a web pair is worth", heading, body, NOTE) if body else None


def scaling_chart(fits: Sequence[Fit]) -> Chart | None:
    """Return the curves, a panel for each model and benchmark; None if nothing was fitted."""
    if not fits:
        return None
    alt = "; ".join(f"{fit.model}, {fit.column.title}, {fit.kind}: {rate_text(fit, fit.rate)}" for fit in fits)
    caption = (
        "Scores by the number of home pairs, without and with web pairs, with 95% CIs, and the fitted curves. The "
        "horizontal distance between two curves is what the web pairs are worth in home pairs."
    )
    return Chart("scaling", caption, f"Home pairs that a web pair is worth: {alt}", partial(_draw, list(fits)))


COLORS = {"": "#000000", "aug": "#0072B2", "random": "#D55E00"}
OTHER_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def _draw(fits: Sequence[Fit], layout: Layout) -> list[Figure]:
    panels = list(dict.fromkeys((fit.model, fit.column) for fit in fits))
    kinds = [kind for kind in dict.fromkeys(fit.kind for fit in fits) if kind not in COLORS]
    colors = COLORS | {kind: OTHER_COLORS[number % len(OTHER_COLORS)] for number, kind in enumerate(kinds)}
    across, height = min(len(panels), layout.across), 2.9
    return [_draw_page(fits, page, colors, across, height, layout) for page in on_pages(panels, across, height, layout)]


def _draw_page(
    fits: Sequence[Fit],
    panels: Sequence[tuple[str, Column]],
    colors: Mapping[str, str],
    across: int,
    height: float,
    layout: Layout,
) -> Figure:
    width = layout.width or CURVE_INCHES * across
    figure, axes = figure_with_panels(len(panels), across, width, height, layout)
    for ax, (model, column) in zip(axes, panels, strict=True):
        own = [fit for fit in fits if (fit.model, fit.column) == (model, column)]
        for fit in own:
            for kind in ("", fit.kind) if fit is own[0] else (fit.kind,):
                for world in fit.intercepts:
                    _draw_curve(ax, fit, kind, world, colors[kind])
        if column.chance is not None:
            ax.axhline(column.chance, color="#888888", linestyle="--", linewidth=0.8)
        ax.set_xscale("log", base=2)
        ax.set_title(f"{model}\n{column.title}", parse_math=False)
        ax.set_xlabel("home pairs")
        ax.grid(color="#dddddd", linewidth=0.6)
    return with_legend(figure, axes, across, layout)


def _draw_curve(ax: Axes, fit: Fit, kind: str, world: str, color: str) -> None:
    """Draw the rows with one kind of web pairs in one world, and their curve."""
    points = sorted((one for one in fit.points if (one.kind, one.world) == (kind, world)), key=lambda one: one.home)
    if not points:
        return
    home_N = np.geomspace(points[0].home, points[-1].home, 50)
    ax.plot(home_N, fit.curve(home_N, points[0].web, world), color=color, linewidth=1.2)
    label = f"home and {kind} pairs" if kind else "home pairs"
    for point in points:
        found = score(point.row, fit.column)
        if found is not None:
            ends = [[found.mean - found.low], [found.high - found.mean]]
            ax.errorbar(point.home, found.mean, ends, fmt="o", label=label, color=color, markersize=4, elinewidth=0.8)
