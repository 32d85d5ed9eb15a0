"""Times and memory of the exact matching beside scipy's dense solver, and beside one pass of matrix product.

`python perf/matching.py --size small` (2k x 16k), `medium` (10k x 80k), `paper` (67k x 558k, without scipy).
Every run has a process of its own, so that its peak memory is its own. Medians over `--repeats`.
Threads: `NUMBA_NUM_THREADS` for ours, `OPENBLAS_NUM_THREADS` for scipy's product (its solver has one).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.floating]
Figures = dict[str, float]

SIZES = {"small": (2_000, 16_000), "medium": (10_000, 80_000), "paper": (67_000, 558_000)}
WIDTH = 512
PART = 16_384


def unit(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def simulate(n: int, m: int, folder: Path, seed: int = 0) -> None:
    """Write CLIP-like embeddings: 5,000 targets have some 370 distinct first choices among 80,000 candidates.

    All share a mean, the spectrum falls, candidates are about many topics, and targets come in runs of near-duplicates
    (consecutive cosine 0.97) within few scenes.
    """
    random = np.random.default_rng(seed)
    spectrum = unit((1 + np.arange(WIDTH))[None] ** -0.5).astype(np.float32)

    def noise(rows: int) -> Rows:
        return random.standard_normal((rows, WIDTH), np.float32) * spectrum

    mean, topics = unit(random.standard_normal((1, WIDTH), np.float32)), noise(max(8, m // 200))
    candidates = np.lib.format.open_memmap(folder / "candidates.npy", "w+", np.float16, (m, WIDTH))
    for start in range(0, m, PART):
        rows = min(PART, m - start)
        about = topics[random.integers(len(topics), size=rows)]
        candidates[start : start + rows] = unit(0.9 * mean + 0.7 * about + 0.7 * noise(rows))
    scenes = 0.8 * topics[random.integers(len(topics) // 4 + 1, size=n // 250 + 1)] + 0.5 * noise(n // 250 + 1)
    runs = scenes[random.integers(len(scenes), size=n // 25 + 1)] + 0.35 * noise(n // 25 + 1)
    of_run = np.sort(random.integers(len(runs), size=n))
    targets = np.lib.format.open_memmap(folder / "targets.npy", "w+", np.float16, (n, WIDTH))
    for start in range(0, n, PART):
        rows = min(PART, n - start)
        targets[start : start + rows] = unit(1.15 * mean + runs[of_run[start : start + rows]] + 0.15 * noise(rows))


def run_ours(targets: Rows, candidates: Rows) -> Figures:
    """Match; the time spent in matrix products, over the passes they made, is what one pass costs here and now."""
    import numba

    from babyvlm.curation.matching import top_k
    from babyvlm.curation.matching.match import match

    product = top_k.TopKSearch._score
    spent = []

    def timed(*arguments: object) -> None:
        started = time.perf_counter()
        product(*arguments)
        spent.append(time.perf_counter() - started)

    top_k.TopKSearch._score = timed
    found = match(targets, candidates, progress=False)
    return {
        "seconds": found.seconds,
        "bytes": found.peak_memory,
        "primal": found.primal,
        "gap": found.gap,
        "passes": found.passes,
        "pass_seconds": sum(spent) / numba.config.NUMBA_NUM_THREADS / found.passes,
    }


def run_scipy(targets: Rows, candidates: Rows) -> Figures:
    """The dense solver as a user would call it, on float32 scores (scipy makes its float64 copy)."""
    from scipy.optimize import linear_sum_assignment

    from babyvlm.curation.matching.match import peak_memory

    started = time.perf_counter()
    scores = targets.astype(np.float32) @ candidates.astype(np.float32).T
    rows, index = linear_sum_assignment(scores, maximize=True)
    seconds = time.perf_counter() - started
    pairs = targets[rows].astype(np.float64), candidates[index].astype(np.float64)
    return {"seconds": seconds, "bytes": peak_memory(), "primal": float(np.einsum("nd,nd->", *pairs))}


RUNS = {"ours": run_ours, "scipy": run_scipy}


def measure(who: str, folder: Path, repeats: int) -> Figures:
    """Run one competitor in processes of its own; medians."""
    call = [sys.executable, __file__, "--run", who, "--folder", str(folder)]
    clean = {name: value for name, value in os.environ.items() if name not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    runs = []
    for _ in range(repeats):
        done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True, env=clean)
        runs.append(json.loads(done.stdout))
        print(f"  {who}: {runs[-1]}", file=sys.stderr)
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def compare(size: str, repeats: int, scipy_repeats: int, folder: Path) -> None:
    """Run both and print the ratios."""
    n, m = SIZES[size]
    if not (folder / "targets.npy").exists():
        simulate(n, m, folder)
    threads = {
        name: os.environ.get(name, f"default, {os.cpu_count()} cores")
        for name in ("OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    }
    print(
        f"{n:,} x {m:,} x {WIDTH}, medians of {repeats} (scipy: {scipy_repeats}); threads: {threads}; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    ours = measure("ours", folder, repeats)
    print(
        f"ours: {ours['seconds']:.2f} s = {ours['seconds'] / ours['pass_seconds']:.3f} x the time of one pass of "
        f"matrix product, {ours['passes']:.3f} passes, {ours['bytes'] / 1e9:.2f} GB, gap {ours['gap']:.1e}"
    )
    if size == "paper":
        print("scipy: not run, its costs alone would take 0.3 TB")
        return
    scipy = measure("scipy", folder, scipy_repeats)
    print(f"scipy: {scipy['seconds']:.2f} s, {scipy['bytes'] / 1e9:.2f} GB")
    print(
        f"ours / scipy: time {ours['seconds'] / scipy['seconds']:.3f}, memory {ours['bytes'] / scipy['bytes']:.3f}, "
        f"sums differ by a relative {abs(ours['primal'] / scipy['primal'] - 1):.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scipy-repeats", type=int, help="if not as many: medium takes minutes and 16 GB each time")
    parser.add_argument("--folder", type=Path, help="where to keep the embeddings (default: a temporary folder)")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.run:
            arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("targets", "candidates")]
            print(json.dumps(RUNS[given.run](*arrays)))
        else:
            compare(given.size, given.repeats, given.scipy_repeats or given.repeats, folder)


if __name__ == "__main__":
    main()
