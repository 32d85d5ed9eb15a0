"""The command ``playroom``: create the synthetic world."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.progress import track

from babyvlm.curation.stage import Artifact, Stage, stage
from babyvlm.errors import UserError, require_at_least
from babyvlm.io import artifacts
from babyvlm.io.printing import Console
from babyvlm.io.processes import process_pool
from babyvlm.playroom import home, trials, web
from babyvlm.playroom.credit import CREDIT
from babyvlm.playroom.topics import WORLD_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SHARD = 250  # items per job; an image takes about 5 ms


@dataclass(frozen=True)
class WorldSize:
    """Size of the world. The benchmarks have two splits, dev and test; the dev split has a fifth of the items.

    Attributes:
        videos: number of home recordings.
        rows: turns per recording.
        web: number of web items, divided evenly among the three formats.
        clean: number of clean scenes, for training CLIP.
        labeled: Labeled-S images, and trials, per category in the test split.
        vtwt: pairs of mirrored VTWT items, and half the number of items at natural frequencies, in the test split.
        winoground: pairs of Baby Winoground instances in the test split.
        captions: caption images in the test split.
        objects: pictures per category of single objects.
    """

    videos: int
    rows: int
    web: int
    clean: int
    labeled: int
    vtwt: int
    winoground: int
    captions: int
    objects: int


# The benchmarks of `default`, of which the study has three worlds, have at least the authors' number of items (2,200,
# 967, 365, and 294); `large` has 4,400, 4,000, 2,000, and 1,200. `clean` is what the shipped CLIP is trained on: five
# times as many images as `default` has pairs after the CLIP filter.
SIZES = {
    "tiny": WorldSize(3, 48, 330, 90, 2, 8, 4, 8, 1),
    "default": WorldSize(120, 60, 12_000, 0, 100, 484, 183, 294, 10),
    "large": WorldSize(600, 60, 60_000, 0, 200, 2_000, 1_000, 1_200, 20),
    "clean": WorldSize(0, 0, 0, 24_000, 0, 0, 0, 0, 0),
}


@dataclass(frozen=True)
class _Job:
    table: str  # the list that its rows belong to; "" if it has none
    run: Callable[[], Any]


@stage
def playroom(
    out: Path,
    size: Literal["tiny", "default", "large", "clean"] = "default",
    seed: int = 0,
    num_workers: int = 2,
    in_view: float = 0.4,
    lag: int = 1,
    style_gap: float = 1.0,
) -> Stage:
    """Generate Playroom: home videos with transcripts, a web corpus, and the four benchmarks.

    Playroom is a small synthetic dataset that may be shared, in the raw file formats of the real data, so that every
    stage can be tried on it. `OUT/home` contains videos and transcripts like SAYCam's; `OUT/web` contains captioned
    images as tar files, as LLaVA's list and as Parquet; `OUT/trials` contains the lists and images of the benchmarks,
    and in `objects` pictures of single things.
    The output depends only on size, seed, in_view, lag, and style_gap, not on the number of processes.

    For example:
        python -m babyvlm playroom --size tiny --out data/playroom/world

    Args:
        out: folder to create.
        size: tiny (seconds), default (about two minutes on two cores), large (five times the training data), or clean
            (only scenes for training Playroom's CLIP).
        seed: random seed.
        num_workers: number of processes.
        in_view: share of the parent's sentences that name a visible object before `lag` is applied, at most 0.6. With
            the default lag, about three quarters of it.
        lag: by how many turns a sentence may precede or follow its object.
        style_gap: how much web images differ in style from home videos, from 0 to 1.

    Raises:
        UserError: an option is out of range, or ``out`` was created with different ones.
    """
    if not 0 <= in_view <= home.MAX_IN_VIEW:
        raise UserError(f"--in_view {in_view}: must be between 0 and {home.MAX_IN_VIEW:.2f}")
    if not 0 <= style_gap <= 1:
        raise UserError(f"--style_gap {style_gap}: must be between 0 and 1")
    require_at_least(1, num_workers=num_workers)
    require_at_least(0, lag=lag)
    arguments: dict[str, object] = {"size": size, "seed": seed, "in_view": in_view, "lag": lag, "style_gap": style_gap}
    arguments["world_version"] = WORLD_VERSION
    artifact = Artifact("playroom", arguments, manifest={"sizes": asdict(SIZES[size]), "credit": CREDIT})
    folder = yield artifact
    _make_folders(folder)
    jobs = _jobs(folder, SIZES[size], seed, in_view, lag, style_gap)
    rows: defaultdict[str, list[Any]] = defaultdict(list)
    for job, job_rows in zip(jobs, _run(jobs, num_workers), strict=True):
        if job.table:
            rows[job.table].extend(job_rows)
    rows["labeled_s"] = trials.labeled_trials(seed, SIZES[size].labeled)
    _write_lists(folder, rows)
    counts = _counts(rows, SIZES[size])
    checksums = {tree: tree_checksum(folder / tree) for tree in ("home", "web", "clean", "trials")}
    checksums["truth.csv"] = artifacts.sha256_file(folder / "truth.csv")
    artifact.manifest |= {"counts": counts, "checksums": checksums}
    summary = [f"Playroom version {WORLD_VERSION}, images by {CREDIT}"]
    return "\n".join(summary + [f"  {count:>7,}  {name}" for name, count in counts.items()])


def tree_checksum(folder: Path) -> str:
    """Return a hash of the names and contents of all files below a folder."""
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
        "trials/objects",
        "trials/vtwt",
        "trials/vtwt_natural",
        "trials/baby_winoground",
        "trials/caption",
    ):
        (out / name).mkdir(parents=True)


def _jobs(out: Path, sizes: WorldSize, seed: int, in_view: float, lag: int, style_gap: float) -> list[_Job]:
    jobs = [
        _Job("truth", partial(home.write_video, out / "home", seed, index, sizes.rows, in_view, lag))
        for index in range(sizes.videos)
    ]
    third = sizes.web // 3
    for shard, start, count in _shards(third):
        tar = out / "web" / "tars" / f"{shard:05d}.tar"
        jobs.append(_Job("", partial(web.write_tar_shard, tar, seed, shard, start, count, style_gap)))
    llava = out / "web" / "llava"
    for shard, start, count in _shards(third):
        jobs.append(_Job("llava", partial(web.write_llava_shard, llava, seed, shard, start, count, style_gap)))
    for shard, _, count in _shards(sizes.web - 2 * third):
        parquet = out / "web" / "parquet" / f"{shard:05d}.parquet"
        jobs.append(_Job("", partial(web.write_parquet_shard, parquet, seed, shard, count, style_gap)))
    for shard, start, count in _shards(sizes.clean):
        tar = out / "clean" / f"{shard:05d}.tar"
        jobs.append(_Job("", partial(web.write_clean_shard, tar, seed, shard, start, count)))
    folder = out / "trials"
    for category in range(trials.CATEGORIES):
        jobs.append(_Job("", partial(trials.write_labeled_images, folder, seed, category, sizes.labeled)))
    if sizes.objects:
        jobs += [
            _Job("", partial(trials.write_object_images, folder, seed, category, sizes.objects))
            for category in range(len(trials.object_nouns()))
        ]
    writers = {
        "vtwt": (trials.write_vtwt, sizes.vtwt),
        "vtwt_natural": (trials.write_vtwt_natural, 2 * sizes.vtwt),
        "baby_winoground": (trials.write_winoground, sizes.winoground),
        "caption": (trials.write_captions, sizes.captions),
    }
    for table, (write, total) in writers.items():
        for split, items in (("dev", -(-total // 5)), ("test", total)):
            for _, start, count in _shards(items):
                jobs.append(_Job(table, partial(write, folder, seed, split, start, count)))
    return jobs


def _shards(total: int) -> list[tuple[int, int, int]]:
    """Return number, first item and number of items of each shard."""
    return [(shard, start, min(_SHARD, total - start)) for shard, start in enumerate(range(0, total, _SHARD))]


def _do(job: _Job) -> Any:  # noqa: ANN401 - jobs return different rows
    return job.run()


def _run(jobs: list[_Job], workers: int) -> Iterator[Any]:
    """Run the jobs and yield their results in order."""
    progress = partial(track, description="drawing Playroom", total=len(jobs), console=Console(stderr=True))
    with process_pool(workers, [__name__]) as run:
        yield from progress(run(_do, jobs))


def _write_lists(out: Path, rows: dict[str, list[Any]]) -> None:
    (out / "web" / "llava" / "list.json").write_text(json.dumps(rows["llava"], indent=1) + "\n")
    trials_folder = out / "trials"
    _write_csv(trials_folder / "labeled_s.csv", trials.LABELED_COLUMNS, rows["labeled_s"])
    _write_csv(trials_folder / "vtwt.csv", trials.VTWT_COLUMNS, rows["vtwt"])
    _write_csv(trials_folder / "vtwt_natural.csv", trials.VTWT_COLUMNS, rows["vtwt_natural"])
    _write_csv(trials_folder / "baby_winoground.csv", trials.WINOGROUND_COLUMNS, rows["baby_winoground"])
    _write_csv(trials_folder / "caption.csv", trials.CAPTION_COLUMNS, rows["caption"])
    _write_csv(out / "truth.csv", home.TRUTH_COLUMNS, rows["truth"])


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(columns)
        out.writerows(rows)


def _counts(rows: dict[str, list[Any]], sizes: WorldSize) -> dict[str, int]:
    sentences = [dict(zip(home.TRUTH_COLUMNS, row, strict=True)) for row in rows["truth"]]
    caregiver = [row for row in sentences if row["caregiver"]]
    return {
        "home videos": sizes.videos,
        "caregiver utterances": len(caregiver),
        "caregiver utterances that name what is in view": sum(row["in_view"] for row in caregiver),
        "web items": sizes.web,
        "clean scenes": sizes.clean,
        "labeled_s trials": len(rows["labeled_s"]) // 4,
        "vtwt items": len(rows["vtwt"]),
        "vtwt items at natural frequencies": len(rows["vtwt_natural"]),
        "baby_winoground instances": len(rows["baby_winoground"]) // 2,
        "pictures of single objects": sizes.objects * len(trials.object_nouns()),
        "caption images": len(rows["caption"]) // trials.REFERENCES,
    }
