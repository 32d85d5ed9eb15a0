"""Time and memory of exact matching, compared with scipy's dense solver and with one pass of the matrix product.

    python perf/matching.py --size small     # 2k x 16k; also medium (10k x 80k) and paper (67k x 558k, without scipy)

Each run is a process of its own, so that its peak memory can be measured. Reported are medians over --repeats.
--num_threads applies to our solver and to scipy's matrix product; scipy's solver uses one thread.
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
from common import describe_machine, make_parser
from numpy.typing import NDArray

Rows = NDArray[np.floating]
Figures = dict[str, float]

SIZES = {"small": (2_000, 16_000), "medium": (10_000, 80_000), "paper": (67_000, 558_000)}
WIDTH = 512
BLOCK_ROWS = 16_384


def unit(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def simulate(n: int, m: int, folder: Path, seed: int = 0) -> None:
    """Write CLIP-like embeddings: 5,000 targets have about 370 distinct nearest candidates among 80,000.

    All embeddings share a mean and a decaying spectrum. Candidates cover many topics; targets come in runs of
    near-duplicates (consecutive cosine 0.97) within few scenes.
    """
    random = np.random.default_rng(seed)
    spectrum = unit((1 + np.arange(WIDTH))[None] ** -0.5).astype(np.float32)

    def noise(rows: int) -> Rows:
        return random.standard_normal((rows, WIDTH), np.float32) * spectrum

    mean, topics = unit(random.standard_normal((1, WIDTH), np.float32)), noise(max(8, m // 200))
    candidates = np.lib.format.open_memmap(folder / "candidates.npy", "w+", np.float16, (m, WIDTH))
    for start in range(0, m, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, m - start)
        about = topics[random.integers(len(topics), size=rows)]
        candidates[start : start + rows] = unit(0.9 * mean + 0.7 * about + 0.7 * noise(rows))
    scenes = 0.8 * topics[random.integers(len(topics) // 4 + 1, size=n // 250 + 1)] + 0.5 * noise(n // 250 + 1)
    runs = scenes[random.integers(len(scenes), size=n // 25 + 1)] + 0.35 * noise(n // 25 + 1)
    of_run = np.sort(random.integers(len(runs), size=n))
    targets = np.lib.format.open_memmap(folder / "targets.npy", "w+", np.float16, (n, WIDTH))
    for start in range(0, n, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, n - start)
        targets[start : start + rows] = unit(1.15 * mean + runs[of_run[start : start + rows]] + 0.15 * noise(rows))


def run_ours(targets: Rows, candidates: Rows) -> Figures:
    """Match, and measure the time of the matrix products: divided by the passes, it is the cost of one pass."""
    import numba

    from babyvlm.curation.matching import top_k
    from babyvlm.curation.matching.match import match

    score = top_k.TopKSearch._score
    seconds = []

    def timed_score(*arguments: object) -> None:
        started = time.perf_counter()
        score(*arguments)
        seconds.append(time.perf_counter() - started)

    top_k.TopKSearch._score = timed_score
    matching = match(targets, candidates, progress=False)
    return {
        "seconds": matching.seconds,
        "bytes": matching.peak_memory,
        "primal": matching.primal,
        "gap": matching.gap,
        "passes": matching.passes,
        "pass_seconds": sum(seconds) / numba.config.NUMBA_NUM_THREADS / matching.passes,
    }


def run_scipy(targets: Rows, candidates: Rows) -> Figures:
    """Run the dense solver as a user would, on float32 scores (scipy makes a float64 copy)."""
    from scipy.optimize import linear_sum_assignment

    from babyvlm.curation.matching.match import peak_memory

    started = time.perf_counter()
    scores = targets.astype(np.float32) @ candidates.astype(np.float32).T
    rows, index = linear_sum_assignment(scores, maximize=True)
    seconds = time.perf_counter() - started
    pairs = targets[rows].astype(np.float64), candidates[index].astype(np.float64)
    return {"seconds": seconds, "bytes": peak_memory(), "primal": float(np.einsum("nd,nd->", *pairs))}


RUNS = {"ours": run_ours, "scipy": run_scipy}


def measure(solver: str, folder: Path, repeats: int, num_threads: int) -> Figures:
    """Run one solver in new processes and return the medians."""
    command = [sys.executable, __file__, "--run", solver, "--folder", str(folder)]
    # Threads are set in the environment because numba and OpenBLAS read it when they are imported.
    environment = os.environ | {"NUMBA_NUM_THREADS": str(num_threads), "OPENBLAS_NUM_THREADS": str(num_threads)}
    runs = []
    for _ in range(repeats):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        runs.append(json.loads(done.stdout))
        print(f"  {solver}: {runs[-1]}", file=sys.stderr)
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def compare(size: str, repeats: int, scipy_repeats: int, num_threads: int, folder: Path) -> None:
    """Run both solvers and print the ratios."""
    n, m = SIZES[size]
    if not (folder / "targets.npy").exists():
        simulate(n, m, folder)
    print(f"{n:,} x {m:,} x {WIDTH}, medians of {repeats} (scipy: {scipy_repeats}); {describe_machine(num_threads)}")
    ours = measure("ours", folder, repeats, num_threads)
    print(
        f"ours: {ours['seconds']:.2f} s, {ours['bytes'] / 1e9:.2f} GB, {ours['passes']:.3f} passes over all pairs, "
        f"relative duality gap {ours['gap']:.1e}"
    )
    print(f"ours / one pass of the matrix product: time {ours['seconds'] / ours['pass_seconds']:.3f}")
    if size == "paper":
        print("scipy: not run, because its score matrix would need 0.3 TB")
        return
    scipy = measure("scipy", folder, scipy_repeats, num_threads)
    print(f"scipy: {scipy['seconds']:.2f} s, {scipy['bytes'] / 1e9:.2f} GB")
    print(
        f"ours / scipy: time {ours['seconds'] / scipy['seconds']:.3f}, memory {ours['bytes'] / scipy['bytes']:.3f}, "
        f"relative difference of the total similarity {abs(ours['primal'] / scipy['primal'] - 1):.1e}"
    )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scipy_repeats", type=int, help="default: as --repeats; medium takes minutes and 16 GB each")
    parser.add_argument("--folder", type=Path, help="where to keep the embeddings (default: a temporary folder)")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if args.run:
            arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("targets", "candidates")]
            print(json.dumps(RUNS[args.run](*arrays)))
        else:
            compare(args.size, args.repeats, args.scipy_repeats or args.repeats, args.num_threads, folder)


if __name__ == "__main__":
    main()
