"""The command that makes a Playroom."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import track

from babyvlm.errors import UserError
from babyvlm.io import artifacts
from babyvlm.io.processes import process_pool
from babyvlm.playroom import home, trials, web
from babyvlm.playroom.world import CREDIT, WORLD_VERSION, labeled_things

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SHARD = 500  # items of a piece of work; pictures take about 2 ms each


@dataclass(frozen=True)
class Sizes:
    """How much of everything; what is "a half" is made once for dev and once for test.

    Attributes:
        videos: home recordings.
        rows: turns of talk in a recording.
        web: web items, divided evenly over the three forms.
        clean: clean scenes.
        labeled_images: pictures of a category in a half.
        labeled_trials: trials of a category in a half.
        vtwt_pairs: mirrored pairs of items in a half.
        winoground_pairs: mirrored pairs of instances in a half.
        captions: items in a half.
    """

    videos: int
    rows: int
    web: int
    clean: int
    labeled_images: int
    labeled_trials: int
    vtwt_pairs: int
    winoground_pairs: int
    captions: int


# default: the authors' counts of trials, and as much training data as can be made in a minute on two cores.
SIZES = {
    "tiny": Sizes(3, 16, 150, 300, 3, 2, 10, 6, 10),
    "default": Sizes(72, 50, 12_000, 6_000, 25, 50, 244, 92, 148),
    "large": Sizes(360, 50, 60_000, 30_000, 50, 50, 244, 92, 148),  # the tests stay as long as the authors'
}


@dataclass(frozen=True)
class _Job:
    tree: str  # which list its rows belong to; "" if it has none
    run: Callable[[], Any]


@artifacts.one_at_a_time
def playroom(
    out: Path,
    size: Literal["tiny", "default", "large"] = "default",
    seed: int = 0,
    num_workers: int = 2,
    in_view: float = 0.4,
) -> None:
    """Make Playroom: home videos with transcripts, a web corpus, clean scenes, and the four tests.

    A small world that is drawn, and free to share, in the raw formats of the real data: every stage can be tried on it.
    `OUT/home` has videos and transcripts as SAYCam's, `OUT/web` captioned images as tars, LLaVA's list and Parquet,
    `OUT/trials` the tests' lists and images. The same size, seed and share give the same bytes, whatever the number of
    workers.

    For example:
        python -m babyvlm playroom --size tiny --out data/playroom/world

    Args:
        out: the folder to make.
        size: tiny (seconds), default (under a minute on two cores) or large (five times the training data).
        seed: all chance comes from it.
        num_workers: processes that draw.
        in_view: share of the parent's sentences that name something which can be seen, at most 0.68.

    Raises:
        UserError: a value is out of range, or ``out`` was made from others.
    """
    if not 0 <= in_view <= home.MOST_IN_VIEW:
        raise UserError(f"in_view: {in_view} is out of range; give a share from 0 to {home.MOST_IN_VIEW:.2f}")
    if num_workers < 1:
        raise UserError(f"--num_workers {num_workers} is too few; give 1 or more")
    arguments = {"size": size, "seed": seed, "in_view": in_view, "world_version": WORLD_VERSION}
    if artifacts.is_complete(out, "playroom", arguments):
        print(f"{out}: already complete, skipping")
        return
    manifest: artifacts.Manifest = {"arguments": arguments, "sizes": asdict(SIZES[size]), "credit": CREDIT}
    with artifacts.create(out, "playroom", manifest) as partial_out:
        _make_folders(partial_out)
        jobs = _jobs(partial_out, SIZES[size], seed, in_view)
        rows: dict[str, list[Any]] = {}
        for job, made in zip(jobs, _run(jobs, num_workers), strict=True):
            if job.tree:
                rows.setdefault(job.tree, []).extend(made)
        rows["labeled_s"] = trials.labeled_trials(seed, SIZES[size].labeled_images, SIZES[size].labeled_trials)
        _write_lists(partial_out, rows)
        manifest["counts"] = _counts(rows, SIZES[size])
        manifest["checksums"] = {tree: tree_checksum(partial_out / tree) for tree in ("home", "web", "clean", "trials")}
        manifest["checksums"]["truth.csv"] = artifacts.sha256_file(partial_out / "truth.csv")
    print(f"{out}: Playroom {WORLD_VERSION}, pictures by {CREDIT}")
    for name, count in manifest["counts"].items():
        print(f"  {count:>7,}  {name}")


def tree_checksum(folder: Path) -> str:
    """Hash over the names and contents of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()} {artifacts.sha256_file(path)}\n".encode())
    return total.hexdigest()


def _make_folders(out: Path) -> None:
    for name in (
        "home/videos",
        "home/transcripts",
        "web/tars",
        "web/llava/images",
        "web/parquet",
        "clean",
        "trials/labeled_s",
        "trials/vtwt",
        "trials/baby_winoground",
        "trials/caption",
    ):
        (out / name).mkdir(parents=True)


def _jobs(out: Path, sizes: Sizes, seed: int, in_view: float) -> list[_Job]:
    jobs = [
        _Job("truth", partial(home.write_video, out / "home", seed, index, sizes.rows, in_view))
        for index in range(sizes.videos)
    ]
    third = sizes.web // 3
    for shard, start, count in _shards(third):
        tar = out / "web" / "tars" / f"{shard:05d}.tar"
        jobs.append(_Job("", partial(web.write_tar_shard, tar, seed, shard, start, count)))
    for shard, start, count in _shards(third):
        jobs.append(_Job("llava", partial(web.write_llava_part, out / "web" / "llava", seed, shard, start, count)))
    for shard, _, count in _shards(sizes.web - 2 * third):
        parquet = out / "web" / "parquet" / f"{shard:05d}.parquet"
        jobs.append(_Job("", partial(web.write_parquet_shard, parquet, seed, shard, count)))
    for shard, start, count in _shards(sizes.clean):
        tar = out / "clean" / f"{shard:05d}.tar"
        jobs.append(_Job("", partial(web.write_clean_shard, tar, seed, shard, start, count)))
    tests = out / "trials"
    for category in range(len(labeled_things())):
        jobs.append(_Job("", partial(trials.write_labeled_images, tests, seed, category, sizes.labeled_images)))
    for half in trials.HALVES:
        jobs.append(_Job("vtwt", partial(trials.write_vtwt, tests, seed, half, sizes.vtwt_pairs)))
        jobs.append(_Job("winoground", partial(trials.write_winoground, tests, seed, half, sizes.winoground_pairs)))
        jobs.append(_Job("caption", partial(trials.write_captions, tests, seed, half, sizes.captions)))
    return jobs


def _shards(total: int) -> list[tuple[int, int, int]]:
    """Number, first item and count of each shard."""
    return [(shard, start, min(_SHARD, total - start)) for shard, start in enumerate(range(0, total, _SHARD))]


def _do(job: _Job) -> Any:  # noqa: ANN401 - what a job returns is the job's business
    return job.run()


def _run(jobs: list[_Job], workers: int) -> Iterator[Any]:
    """Do the jobs; results come in the jobs' order."""
    bar = partial(track, description="drawing", total=len(jobs), console=Console(stderr=True))
    with process_pool(workers, [__name__]) as run:
        yield from bar(run(_do, jobs))


def _write_lists(out: Path, rows: dict[str, list[Any]]) -> None:
    (out / "web" / "llava" / "list.json").write_text(json.dumps(rows["llava"], indent=1) + "\n")
    tests = out / "trials"
    _write_csv(tests / "labeled_s.csv", trials.LABELED_COLUMNS, rows["labeled_s"])
    _write_csv(tests / "vtwt.csv", trials.VTWT_COLUMNS, rows["vtwt"])
    _write_csv(tests / "baby_winoground.csv", trials.WINOGROUND_COLUMNS, rows["winoground"])
    _write_csv(tests / "caption.csv", trials.CAPTION_COLUMNS, rows["caption"])
    _write_csv(out / "truth.csv", home.TRUTH_COLUMNS, rows["truth"])


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(columns)
        out.writerows(rows)


def _counts(rows: dict[str, list[Any]], sizes: Sizes) -> dict[str, int]:
    said = [dict(zip(home.TRUTH_COLUMNS, row, strict=True)) for row in rows["truth"]]
    theirs = [row for row in said if row["caregiver"]]
    return {
        "home videos": sizes.videos,
        "caregiver utterances": len(theirs),
        "caregiver utterances that name what is in view": sum(row["in_view"] for row in theirs),
        "web items": sizes.web,
        "clean scenes": sizes.clean,
        "labeled_s trials": len(rows["labeled_s"]) // 4,
        "labeled_s images": 2 * sizes.labeled_images * len(labeled_things()),
        "vtwt items": len(rows["vtwt"]),
        "baby_winoground instances": len(rows["winoground"]) // 2,
        "caption items": len(rows["caption"]),
    }
